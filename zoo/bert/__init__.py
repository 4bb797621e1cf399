"""BERT: the model is in ``model.py``, the dialects of third-party checkpoints are in ``checkpoints.py``."""

from . import checkpoints
from .model import BERT, BERTConfig

__all__ = ["BERT", "BERTConfig", "checkpoints"]
