"""The families, their presets and their files. Importing this imports no Keras; asking for a class does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registry import create, list_models

if TYPE_CHECKING:
    from ..finetuning.optimizers import LayerwiseDecay, WarmupLinearDecay
    from ..text.tokenizer import Tokenizer
    from .bert import BERT, BERTConfig
    from .gpt import GPT, GPTConfig
    from .keras_hub import from_keras_hub, to_keras_hub
    from .loading import load
    from .saving import save, to_huggingface
    from .seq2seq import Seq2Seq, Seq2SeqConfig
    from .transformer import Transformer, TransformerConfig
    from .vit import ViT, ViTConfig

_HOMES = {
    "GPT": ".gpt",
    "GPTConfig": ".gpt",
    "BERT": ".bert",
    "BERTConfig": ".bert",
    "ViT": ".vit",
    "ViTConfig": ".vit",
    "Transformer": ".transformer",
    "TransformerConfig": ".transformer",
    "Seq2Seq": ".seq2seq",
    "Seq2SeqConfig": ".seq2seq",
    "load": ".loading",
    "save": ".saving",
    "to_huggingface": ".saving",
    "LayerwiseDecay": "..finetuning.optimizers",
    "Tokenizer": "..text.tokenizer",
    "WarmupLinearDecay": "..finetuning.optimizers",
    "from_keras_hub": ".keras_hub",
    "to_keras_hub": ".keras_hub",
}

__all__ = [
    "BERT",
    "GPT",
    "BERTConfig",
    "GPTConfig",
    "LayerwiseDecay",
    "Seq2Seq",
    "Seq2SeqConfig",
    "Tokenizer",
    "Transformer",
    "TransformerConfig",
    "ViT",
    "ViTConfig",
    "WarmupLinearDecay",
    "create",
    "from_keras_hub",
    "list_models",
    "load",
    "save",
    "to_huggingface",
    "to_keras_hub",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
