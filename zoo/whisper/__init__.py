"""Whisper: the model is in ``model.py``, the dialect of Hugging Face's checkpoints in ``checkpoints.py``."""

import keras

from . import checkpoints
from .model import Whisper, WhisperConfig

__all__ = ["Whisper", "WhisperConfig", "checkpoints"]
