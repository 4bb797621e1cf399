"""Seq2Seq: the model is in ``model.py``; ``checkpoints.py`` has no dialects."""

# Keras comes first: its import registers the classes of all families, which a module half imported would prevent.
import keras

from . import checkpoints
from .model import Seq2Seq, Seq2SeqConfig

__all__ = ["Seq2Seq", "Seq2SeqConfig", "checkpoints"]
