"""Transformer: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

# Keras comes first: its import registers the classes of all families, which a module half imported would prevent.
import keras

from . import checkpoints
from .config import TransformerConfig
from .model import Transformer

__all__ = ["Transformer", "TransformerConfig", "checkpoints"]
