"""Transformer: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

from . import checkpoints
from .model import Transformer, TransformerConfig

__all__ = ["Transformer", "TransformerConfig", "checkpoints"]
