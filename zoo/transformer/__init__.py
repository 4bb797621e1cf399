"""Transformer: ``model.py`` reads aloud, ``checkpoints.py`` says how others name its weights."""

from . import checkpoints
from .model import Transformer, TransformerConfig

__all__ = ["Transformer", "TransformerConfig", "checkpoints"]
