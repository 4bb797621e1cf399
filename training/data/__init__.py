"""Data for training: texts and conversations as batches for ``model.fit``."""

import keras
