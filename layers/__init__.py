"""Attention, positions and blocks as Keras layers, usable alone."""

from .attention import MultiHeadAttention
from .blocks import LayerScale, TransformerBlock
from .dense import Dense, LayerNormalization, RMSNormalization
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
