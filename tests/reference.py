"""Reference implementations of the layers in float64 NumPy, written from the papers without code of this package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import erf

Array = np.ndarray


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> tuple[Array, Array]:
    """Return outputs (B, H, T, V) and weights (B, H, T, S), computed query by query over the visible keys only."""
    batch, heads, targets, width = query.shape
    kv_heads, sources = key.shape[1:3]
    group = heads // kv_heads
    scale = 1 / math.sqrt(width) if scale is None else scale
    full = (batch, heads, targets, sources)
    seen = np.ones(full, bool) if mask is None else np.broadcast_to(mask, full).astype(bool)
    added = np.zeros(full) if bias is None else np.broadcast_to(bias, full)
    outputs = np.zeros((batch, heads, targets, value.shape[-1]))
    weights = np.zeros(full)
    for b, h, t in np.ndindex(batch, heads, targets):
        last = t + sources - targets if causal else sources
        kept = [s for s in range(sources) if seen[b, h, t, s] and s <= last]
        if not kept:
            continue
        scores = [scale * float(query[b, h, t] @ key[b, h // group, s]) + added[b, h, t, s] for s in kept]
        exponentials = [math.exp(score - max(scores)) for score in scores]
        for s, exponential in zip(kept, exponentials, strict=True):
            weights[b, h, t, s] = exponential / math.fsum(exponentials)
            outputs[b, h, t] += weights[b, h, t, s] * value[b, h // group, s]
    return outputs, weights


def heads_of(x: Array, heads: int) -> Array:
    """Reshape (B, T, H·D) to (B, H, T, D); the features of each head are contiguous."""
    width = x.shape[-1] // heads
    return np.stack([x[..., h * width : (h + 1) * width] for h in range(heads)], axis=1)


def multi_head_attention(
    weights: Mapping[str, Array],
    query: Array,
    key: Array,
    value: Array,
    *,
    heads: int,
    kv_heads: int,
    rotate: Any = None,
    **kwargs: Any,
) -> tuple[Array, Array]:
    """Compute multi-head attention from weights by name ("query/kernel"); biases may be absent."""

    def dense(name: str, x: Array) -> Array:
        return x @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0.0)

    q = heads_of(dense("query", query), heads)
    k = heads_of(dense("key", key), kv_heads)
    v = heads_of(dense("value", value), kv_heads)
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    output, scores = attention(q, k, v, **kwargs)
    joined = np.concatenate([output[:, h] for h in range(heads)], axis=-1)
    return dense("output", joined), scores


def rotate(x: Array, positions: Array, theta: float = 10000.0) -> Array:
    """Rotate features i and i + D/2 of (B, H, T, D), as one complex number, by the angle position · theta^(-2i/D)."""
    half = x.shape[-1] // 2
    turned = np.empty_like(x)
    for i in range(half):
        angle = positions * theta ** (-2 * i / x.shape[-1])  # (B, T)
        z = (x[..., i] + 1j * x[..., i + half]) * np.exp(1j * angle)[:, None]
        turned[..., i], turned[..., i + half] = z.real, z.imag
    return turned


def sinusoids(positions: Array, width: int, theta: float = 10000.0) -> Array:
    table = np.empty((*positions.shape, width))
    for j in range(width):
        angle = positions / theta ** (2 * (j // 2) / width)
        table[..., j] = np.cos(angle) if j % 2 else np.sin(angle)
    return table


def layer_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return gamma * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) + beta


def rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def gelu(x: Array) -> Array:
    return x / 2 * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def feed_forward(weights: Mapping[str, Array], x: Array, activation: str) -> Array:
    def dense(name: str, x: Array) -> Array:
        return x @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0.0)

    plain = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": lambda x: np.maximum(x, 0), "silu": silu}
    gated = {"swiglu": silu, "geglu": gelu_tanh, "geglu_erf": gelu, "reglu": plain["relu"]}
    if activation in gated:
        return dense("down", gated[activation](dense("gate", x)) * dense("up", x))
    return dense("down", plain[activation](dense("up", x)))


def _cubic(distance: float, a: float = -0.75) -> float:
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    if d < 2:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return 0.0


def bicubic(image: Array, rows: int, columns: int) -> Array:
    """Resize (h, w, D) to (rows, columns, D) with 4 × 4 taps per output pixel, unaligned corners and repeated edges."""
    height, width, depth = image.shape
    resized = np.zeros((rows, columns, depth))
    for i, j in np.ndindex(rows, columns):
        y, x = (i + 0.5) * height / rows - 0.5, (j + 0.5) * width / columns - 0.5
        top, left = math.floor(y), math.floor(x)
        for m in range(top - 1, top + 3):
            for n in range(left - 1, left + 3):
                pixel = image[min(max(m, 0), height - 1), min(max(n, 0), width - 1)]
                resized[i, j] += _cubic(y - m) * _cubic(x - n) * pixel
    return resized


def patches(image: Array, kernel: Array, bias: Array) -> Array:
    """Project the patches of (B, H, W, C), row by row, to (B, patches, D) with a kernel (p, p, C, D)."""
    size = kernel.shape[0]
    batch, height, width, _ = image.shape
    tokens = []
    for top in range(0, height, size):
        for left in range(0, width, size):
            patch = image[:, top : top + size, left : left + size].reshape(batch, -1)
            tokens.append(patch @ kernel.reshape(-1, kernel.shape[-1]) + bias)
    return np.stack(tokens, axis=1)
