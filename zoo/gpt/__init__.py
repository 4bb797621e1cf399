"""GPT: the model is in ``model.py``, the dialects of third-party checkpoints are in the other modules.

Importing ``checkpoints`` and ``keras_hub`` sets ``GPT.dialects`` and ``GPT.keras_hub_dialects``.
"""

# Keras comes first: its import registers the classes of all families, which a module half imported would prevent.
import keras

from . import checkpoints, keras_hub  # isort: skip
from .model import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "checkpoints", "keras_hub"]
