"""BERT: ``model.py`` reads aloud, ``checkpoints.py`` says how others name its weights."""

from . import checkpoints
from .model import BERT, BERTConfig

__all__ = ["BERT", "BERTConfig", "checkpoints"]
