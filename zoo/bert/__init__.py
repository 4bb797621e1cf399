"""BERT: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

import keras

from . import checkpoints
from .config import BERTConfig
from .model import BERT

__all__ = ["BERT", "BERTConfig", "checkpoints"]
