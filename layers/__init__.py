"""Attention, positions and blocks as Keras layers, usable alone."""

import keras  # noqa: F401  first: importing Keras may import the families, which need these modules whole

from .attention import MultiHeadAttention
from .blocks import LayerScale, TransformerBlock
from .core import Dense, LayerNormalization, RMSNormalization
from .embedding import PatchEmbedding, TokenEmbedding
from .feedforward import FeedForward
from .position import LearnedPositions, RotaryEmbedding, SinusoidalPositions

__all__ = [
    "Dense",
    "FeedForward",
    "LayerNormalization",
    "LayerScale",
    "LearnedPositions",
    "MultiHeadAttention",
    "PatchEmbedding",
    "RMSNormalization",
    "RotaryEmbedding",
    "SinusoidalPositions",
    "TokenEmbedding",
    "TransformerBlock",
]
