"""ViT: ``model.py`` reads aloud, ``checkpoints.py`` says how others name its weights."""

from . import checkpoints
from .model import ViT, ViTConfig

__all__ = ["ViT", "ViTConfig", "checkpoints"]
