"""Transformer: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

import keras

from . import checkpoints
from .config import TransformerConfig
from .model import Transformer

__all__ = ["Transformer", "TransformerConfig", "checkpoints"]
