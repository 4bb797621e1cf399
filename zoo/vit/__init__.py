"""ViT: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

# Keras comes first: its import registers the classes of all families, which a module half imported would prevent.
import keras

from . import checkpoints
from .model import ViT, ViTConfig

__all__ = ["ViT", "ViTConfig", "checkpoints"]
