"""GPT: the model is in ``model.py``, the dialects of third-party checkpoints are in the other modules.

Importing ``checkpoints``, ``experts`` and ``keras_hub`` sets ``GPT.dialects`` and ``GPT.keras_hub_dialects``.
"""

from . import checkpoints, keras_hub  # isort: skip
from . import experts
from .model import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "checkpoints", "experts", "keras_hub"]
