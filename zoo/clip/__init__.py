"""CLIP: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

from . import checkpoints
from .model import CLIP, CLIPConfig

__all__ = ["CLIP", "CLIPConfig", "checkpoints"]
