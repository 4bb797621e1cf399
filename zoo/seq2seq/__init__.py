"""Seq2Seq: the model is in ``model.py``; ``checkpoints.py`` has no dialects."""

import keras

from . import checkpoints
from .model import Seq2Seq, Seq2SeqConfig

__all__ = ["Seq2Seq", "Seq2SeqConfig", "checkpoints"]
