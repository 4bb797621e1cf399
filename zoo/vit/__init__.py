"""ViT: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

import keras

from . import checkpoints
from .model import ViT, ViTConfig

__all__ = ["ViT", "ViTConfig", "checkpoints"]
