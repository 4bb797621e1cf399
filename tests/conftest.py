"""Set before anything imports Keras; the helpers beside this file are importable in every worker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# In importlib mode pytest leaves sys.path alone, and workers would not find helpers.py and reference.py.
sys.path.insert(0, str(Path(__file__).parent))

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it in this process."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
