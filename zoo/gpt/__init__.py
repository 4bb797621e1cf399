"""GPT: ``model.py`` reads aloud, ``checkpoints.py`` says how others name its weights."""

from . import checkpoints, keras_hub
from .model import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "checkpoints", "keras_hub"]
