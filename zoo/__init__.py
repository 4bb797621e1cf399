"""The families, their presets and their files. Importing this imports no Keras; asking for a class does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registry import create, list_models

if TYPE_CHECKING:
    from .bert import BERT, BERTConfig
    from .gpt import GPT, GPTConfig
    from .seq2seq import Seq2Seq, Seq2SeqConfig
    from .transformer import Transformer, TransformerConfig
    from .vit import ViT, ViTConfig
    from .weights import load, save

_HOMES = {
    "GPT": "gpt",
    "GPTConfig": "gpt",
    "BERT": "bert",
    "BERTConfig": "bert",
    "ViT": "vit",
    "ViTConfig": "vit",
    "Transformer": "transformer",
    "TransformerConfig": "transformer",
    "Seq2Seq": "seq2seq",
    "Seq2SeqConfig": "seq2seq",
    "load": "weights",
    "save": "weights",
}

__all__ = [
    "BERT",
    "GPT",
    "BERTConfig",
    "GPTConfig",
    "Seq2Seq",
    "Seq2SeqConfig",
    "Transformer",
    "TransformerConfig",
    "ViT",
    "ViTConfig",
    "create",
    "list_models",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
