"""Seq2Seq: ``model.py`` reads aloud, ``checkpoints.py`` says how others name its weights."""

from . import checkpoints
from .model import Seq2Seq, Seq2SeqConfig

__all__ = ["Seq2Seq", "Seq2SeqConfig", "checkpoints"]
