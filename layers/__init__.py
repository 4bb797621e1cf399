"""Keras layers for Transformers: attention, position encodings, key/value caches and blocks, each usable on its own."""

import keras

from .attention import MultiHeadAttention
from .audio import LogMelSpectrogram, TimeConvolution
from .blocks import LayerScale, TransformerBlock
from .cache import DynamicCache, StaticCache
from .core import Dense, LayerNormalization, RMSNormalization
from .disentangled import DisentangledAttention, RelativeEmbeddings
from .dropout import Dropout
from .embedding import PatchEmbedding, TokenEmbedding
from .experts import MixtureOfExperts
from .feedforward import FeedForward
from .grid import RotaryEmbedding2D, WindowPositionBias
from .images import ImageProcessor
from .pooling import AttentionPooling
from .position import ALiBi, LearnedPositions, RelativePositionBias, SinusoidalPositions, SinusoidalPositions2D
from .recurrent import GRU, LSTM
from .recurrent_attention import AdditiveAttention, MultiplicativeAttention
from .rotary import RotaryEmbedding

__all__ = [
    "GRU",
    "LSTM",
    "ALiBi",
    "AdditiveAttention",
    "AttentionPooling",
    "Dense",
    "DisentangledAttention",
    "Dropout",
    "DynamicCache",
    "FeedForward",
    "ImageProcessor",
    "LayerNormalization",
    "LayerScale",
    "LearnedPositions",
    "LogMelSpectrogram",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "PatchEmbedding",
    "RMSNormalization",
    "RelativeEmbeddings",
    "RelativePositionBias",
    "RotaryEmbedding",
    "RotaryEmbedding2D",
    "SinusoidalPositions",
    "SinusoidalPositions2D",
    "StaticCache",
    "TimeConvolution",
    "TokenEmbedding",
    "TransformerBlock",
    "WindowPositionBias",
]
