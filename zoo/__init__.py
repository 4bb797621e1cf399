"""Model families, presets, and functions to load and save models.

Importing this module does not import Keras. The public names are imported on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..needs import named_extras
from .creation import create
from .presets import FAMILIES
from .registry import list_models

if TYPE_CHECKING:
    from ..finetuning.optimizers import LayerwiseDecay, WarmupLinearDecay
    from ..generation.chat import Conversation
    from ..text.tokenizer import Tokenizer
    from .bert import BERT, BERTConfig
    from .clip import CLIP, CLIPConfig
    from .gguf_writing import to_gguf
    from .gpt import GPT, GPTConfig
    from .keras_hub import from_keras_hub, to_keras_hub
    from .loading import load
    from .saving import save, to_huggingface
    from .seq2seq import Seq2Seq, Seq2SeqConfig
    from .transformer import Transformer, TransformerConfig
    from .vit import ViT, ViTConfig
    from .whisper import Whisper, WhisperConfig

_HOMES = {
    **{name: f".{family}" for family, cls in FAMILIES.items() for name in (cls, f"{cls}Config")},
    "load": ".loading",
    "save": ".saving",
    "to_huggingface": ".saving",
    "from_keras_hub": ".keras_hub",
    "to_gguf": ".gguf_writing",
    "to_keras_hub": ".keras_hub",
    "LayerwiseDecay": "..finetuning.optimizers",
    "WarmupLinearDecay": "..finetuning.optimizers",
    "Conversation": "..generation.chat",
    "Tokenizer": "..text.tokenizer",
}
# Literal, because type checkers read it; a test compares it with ``_HOMES``.
__all__ = [
    "BERT",
    "CLIP",
    "GPT",
    "BERTConfig",
    "CLIPConfig",
    "Conversation",
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
    "Whisper",
    "WhisperConfig",
    "create",
    "from_keras_hub",
    "list_models",
    "load",
    "save",
    "to_gguf",
    "to_huggingface",
    "to_keras_hub",
]


if not TYPE_CHECKING:  # for type checkers every name would exist, misspelled ones too

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            with named_extras():
                return getattr(importlib.import_module(_HOMES[name], __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
