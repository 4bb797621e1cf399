"""The primitives that all layers are written with and all exporters know.

Each primitive is implemented with ``keras.ops``. An exporter may install a *lowering* of some of them while it traces a
model, so that a layer is defined once and each file format gets the operators of its runtime::

    with lowering({"layer_norm": emit_layer_normalization}):
        trace(model)

Outside such a block (in training and inference, on every backend), a primitive is the same as its ``keras.ops``.

Masks are boolean everywhere, ``True`` = attend. They are combined as booleans, and converted to floating point only
where attention weights are computed.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from keras import ops
from keras.backend import backend, standardize_dtype

from . import gradients

Tensor = Any  # a tensor of the current Keras backend

PRIMITIVES: dict[str, Callable[..., Any]] = {}
CHUNKS, LEAST = 4, 128  # parts of causal attention with JAX, and the length from which on it has parts
MASKED = -1e9  # added to float32 scores; finite, so that rows without any key have finite gradients

_active = threading.local()


def primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function` replaceable with :func:`lowering`. ``PRIMITIVES`` keeps the original."""
    name = function.__name__
    PRIMITIVES[name] = function

    @functools.wraps(function)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        return lowered().get(name, function)(*args, **kwargs)

    return dispatch


@contextmanager
def lowering(table: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replace the primitives named in `table` within the block, in this thread only.

    The previous lowerings are restored at the end of the block, also after an error.

    Raises:
        ValueError: a name in `table` is not that of a primitive.
    """
    if unknown := sorted(set(table) - set(PRIMITIVES)):
        raise ValueError(f"table: no such primitives {unknown}; accepted: {sorted(PRIMITIVES)}")
    previous = lowered()
    _active.table = dict(table)
    try:
        yield
    finally:
        _active.table = previous


def lowered() -> Mapping[str, Callable[..., Any]]:
    """Return the lowerings installed in this thread, by the name of the primitive."""
    return getattr(_active, "table", {})


def _gradients_by_hand() -> bool:
    return backend() == "tensorflow" and not lowered()  # an exported graph has no gradients


def at_least_float32(x: Tensor) -> Tensor:
    """Cast `x` to float32, unless it is float64: half precision is too coarse for softmax, for example."""
    return x if standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


@primitive
def dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    """Return ``inputs @ kernel + bias``, (..., out).

    Args:
        inputs: (..., in).
        kernel: (in, out), or (out, in) with `transpose_kernel`, the layout of a tied embedding table.
        bias: (out,) or None.
    """
    shape = ops.shape(inputs)
    x = ops.reshape(inputs, (-1, shape[-1]))  # (N, in): one large MatMul is faster than many small ones
    x = ops.matmul(x, ops.transpose(kernel) if transpose_kernel else kernel)  # (N, out)
    if bias is not None:
        x = ops.add(x, bias)
    return ops.reshape(x, (*shape[:-1], x.shape[-1]))


@primitive
def embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    """Return the rows of `table` (rows, width) at the integer `ids` (...), as (..., width)."""
    return take_rows(table, ops.cast(ids, "int32"))


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Return ``table[index]`` with a dense gradient of `table`, in which the gradients of a repeated row are added.

    TensorFlow's own gradient of a lookup has one entry for each use of a row. Keras' optimizers square these entries
    one by one instead of their sum, so that Adam's step for a row that is used n times would be √n times too long.

    Args:
        table: (rows, ...).
        index: (...), int32.
    """
    if backend() == "tensorflow" and None not in table.shape:  # as of every weight
        table = ops.reshape(table, table.shape)  # costs nothing; its gradient is dense, also under XLA
    return ops.take(table, index, axis=0)


@primitive
def layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor | None, *, epsilon: float) -> Tensor:
    """Apply layer normalization over the last axis, statistics in float32 (Ba et al. 2016, arXiv:1607.06450).

    The output has the shape and dtype of `inputs`. There is no offset if `beta` is None.
    """
    if not _gradients_by_hand():
        return ops.layer_normalization(inputs, gamma, beta, axis=-1, epsilon=epsilon)
    x = at_least_float32(inputs)
    x = gradients.standardize(x, epsilon=epsilon) * ops.cast(gamma, x.dtype)
    return ops.cast(x if beta is None else x + ops.cast(beta, x.dtype), inputs.dtype)


@primitive
def rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    """Apply RMS normalization over the last axis, in float32 or float64 (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    x = at_least_float32(inputs)
    x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + epsilon)
    return ops.cast(x * ops.cast(scale, x.dtype), inputs.dtype)


@primitive
def gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    """Apply GELU (arXiv:1606.08415), exact or, with `approximate`, by tanh: ``gelu_new`` of Hugging Face."""
    if _gradients_by_hand():
        return gradients.gelu(inputs, approximate=approximate)
    return ops.gelu(inputs, approximate=approximate)


@primitive
def rotary(inputs: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate pairs of features by position (Su et al. 2021, arXiv:2104.09864).

    Feature i is paired with i + D/2, as in Hugging Face's Llama ("half-split"), or with `interleaved` feature 2i with
    2i + 1, as in the paper. Weights trained with one pairing give wrong results with the other.

    Args:
        inputs: (batch, heads, length, D), D even.
        cos, sin: (batch or 1, 1, length, D/2), from :class:`~attention_zoo.layers.RotaryEmbedding`.

    Returns:
        (batch, heads, length, D).
    """
    if interleaved:
        batch, heads, length, width = ops.shape(inputs)
        pairs = ops.reshape(inputs, (batch, heads, -1, 2))  # (B, H, T·D/2, 2): at most rank 4, for the runtimes
        first, second = (ops.reshape(pairs[..., i], (batch, heads, length, width // 2)) for i in range(2))
        turned = [first * cos - second * sin, second * cos + first * sin]  # (B, H, T, D/2) each
        flat = [ops.reshape(part, (batch, heads, -1, 1)) for part in turned]
        return ops.reshape(ops.concatenate(flat, axis=-1), (batch, heads, length, width))
    first, second = ops.split(inputs, 2, axis=-1)  # (B, H, T, D/2) each
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


@primitive
def cache_update(cache: Tensor, update: Tensor, index: Any) -> Tensor:
    """Return `cache` (batch, heads, slots, D) with `update` (batch, heads, T, D) in the slots from `index` on."""
    return ops.slice_update(cache, (0, 0, index, 0), ops.cast(update, cache.dtype))


@primitive
def split_heads(inputs: Tensor, heads: int) -> Tensor:
    """Reshape (batch, length, heads · D) to (batch, heads, length, D)."""
    batch, length, width = ops.shape(inputs)
    return ops.transpose(ops.reshape(inputs, (batch, length, heads, width // heads)), (0, 2, 1, 3))


@primitive
def merge_heads(inputs: Tensor) -> Tensor:
    """Reshape (batch, heads, length, D) to (batch, length, heads · D)."""
    batch, heads, length, width = ops.shape(inputs)
    return ops.reshape(ops.transpose(inputs, (0, 2, 1, 3)), (batch, length, heads * width))


def boolean_mask(mask: Tensor, argument: str) -> Tensor:
    """Cast a boolean or integer (0/1) `mask` to booleans.

    Floats are rejected as ambiguous: 0.0 means "keep" in an additive mask and "drop" in a multiplicative one.

    Raises:
        ValueError: `mask` has a floating-point dtype; the message names `argument`.
    """
    mask = ops.convert_to_tensor(mask)
    dtype = standardize_dtype(mask.dtype)
    if "float" in dtype:
        raise ValueError(
            f"{argument}: got dtype {dtype}; accepted: bool, or integers 0/1, where True or 1 means 'attend'. "
            "An additive mask must be passed as a boolean one."
        )
    return ops.cast(mask, "bool")


def causal_mask(query_length: Any, key_length: Any) -> Tensor:
    """Return a boolean mask (1, 1, query, key): query i attends to keys up to i + `key_length` - `query_length`."""
    rows = ops.expand_dims(ops.arange(query_length), 1) + (key_length - query_length)  # (T, 1)
    columns = ops.expand_dims(ops.arange(key_length), 0)  # (1, S)
    return ops.expand_dims(ops.expand_dims(columns <= rows, 0), 0)


def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """Return the logical "and" of the masks that are not None; None if all are."""
    given = [mask for mask in masks if mask is not None]
    return functools.reduce(ops.logical_and, given) if given else None


def softcapped(scores: Tensor, softcap: float | None) -> Tensor:
    """Return ``softcap · tanh(scores / softcap)``, whose magnitude is below `softcap`; `scores` if it is None."""
    return scores if softcap is None else ops.tanh(scores * (1 / softcap)) * softcap


def softmax(scores: Tensor, mask: Tensor | None, sinks: Tensor | None = None) -> Tensor:
    """Apply softmax over the last axis, restricted to where `mask` is True.

    A row of `mask` without any True does not give zeros: multiply the result by :func:`any_true`.

    Args:
        scores: (batch, heads, T, S).
        mask: boolean, broadcastable to `scores`, or None.
        sinks: (heads,), the score of one more key in every row, whose weight is not returned. The weights of a row
            then add up to less than 1. None for no such key.
    """
    if mask is not None:
        scores = scores + _addend(ops.cast(ops.logical_not(mask), scores.dtype) * MASKED)
    if sinks is not None:
        sink = ops.reshape(ops.cast(sinks, scores.dtype), (1, -1, 1, 1)) + ops.zeros_like(scores[..., :1])
        return ops.softmax(ops.concatenate([scores, sink], axis=-1), axis=-1)[..., :-1]
    # The weight of a single key is 1. Keras would warn about a softmax over one element.
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def _addend(x: Tensor) -> Tensor:
    """Return `x` as (T, S) if it is (1, 1, T, S), the same for all rows and heads.

    In inference on CPUs with oneDNN, TensorFlow's graph optimizer fuses a 4-D addend with the matrix multiplication
    before it. The fused kernel is faster for (batch, 1, T, S), but about 80 times slower for (1, 1, T, S). It is not
    used for matrices.
    """
    if len(x.shape) == 4 and x.shape[0] == x.shape[1] == 1 and x.shape[2] != 1:
        return ops.squeeze(x, axis=(0, 1))
    return x


def any_true(mask: Tensor) -> Tensor:
    """Return a boolean (..., 1): whether each row of `mask` has any key. Weights and outputs are multiplied by it."""
    return ops.any(mask, axis=-1, keepdims=True)


def _fuses(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> bool:
    """Return whether Keras' fused attention computes this: with half precision on a GPU, and never a row without keys.

    Its kernels keep no scores (Dao et al. 2022, arXiv:2205.14135). They align the first query with the first key, and
    take keys and values of one width.
    """
    same = query.shape[2] is not None and query.shape[2] == key.shape[2]
    half = standardize_dtype(query.dtype) in ("float16", "bfloat16")
    return half and (same or not causal) and key.shape[3] == value.shape[3] and on_gpu(query)


def on_gpu(x: Tensor) -> bool:
    """Return whether `x` is computed on a GPU, with the JAX or PyTorch backend."""
    if backend() == "jax":
        import jax  # pyright: ignore[reportMissingImports]

        return jax.default_backend() == "gpu"
    return backend() == "torch" and x.device.type == "cuda"


def _splits(query: Tensor, key: Tensor) -> bool:
    """Return whether causal attention is computed in `CHUNKS` parts, which skip 3/8 of the scores that are masked.

    XLA gains by it what it would lose in TensorFlow's graphs, whose operators are not fused.
    """
    length = query.shape[2]
    return length is not None and length == key.shape[2] and length >= LEAST


def _in_parts(query: Tensor, key: Tensor, value: Tensor, mask: Any, bias: Any, options: dict[str, Any]) -> Tensor:
    """Return the causal attention of `CHUNKS` parts of the queries, each to the keys up to its end."""
    ends = [query.shape[2] * (i + 1) // CHUNKS for i in range(CHUNKS)]
    parts = [
        dot_product_attention(
            query[:, :, start:end],
            key[:, :, :end],
            value[:, :, :end],
            mask=_part(mask, start, end),
            bias=_part(bias, start, end),
            causal=True,
            **options,
        )
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return ops.concatenate(parts, axis=2)


def _part(x: Any, start: int, end: int) -> Any:
    """Return the rows from `start` to `end` and the columns to `end` of `x` (..., T or 1, S or 1)."""
    if x is None:
        return None
    x = x if x.shape[-2] == 1 else x[..., start:end, :]
    return x if x.shape[-1] == 1 else x[..., :end]


@primitive
def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    return_scores: bool = False,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return ``softmax(scale · query keyᵀ + bias) value`` (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1).

    For a query without any key to attend to, the output and the weights are zeros, with finite gradients.

    Args:
        query: (batch, heads, T, D).
        key: (batch, kv_heads, S, D); `kv_heads` divides `heads`, and query head h reads key head
            ``h // (heads // kv_heads)`` (grouped-query attention, arXiv:2305.13245).
        value: (batch, kv_heads, S, V).
        mask: boolean, broadcastable to (batch, heads, T, S), True = attend.
        bias: values added to the scores, broadcastable to (batch, heads, T, S).
        scale: factor on the scores. Default: D^-1/2.
        causal: query i attends to keys up to i; the last query is aligned with the last key.
        softcap: if given, replace the scaled scores s by ``softcap · tanh(s / softcap)`` before `bias` is added
            (Gemma 2, arXiv:2408.00118, section 2).
        sinks: (heads,), a score for each head that takes part in the softmax and that no value belongs to (gpt-oss;
            compare Xiao et al. 2023, arXiv:2309.17453). None for no sinks.
        return_scores: also return the attention weights, (batch, heads, T, S).
        dropout: function applied to the weights before the multiplication with the values.

    Returns:
        (batch, heads, T, V), and with `return_scores` a tuple of it and the weights, both in the dtype of `value`.
        Softmax is computed in float32, or in float64 for float64 inputs.
    """
    plain = all(each is None for each in (mask, bias, softcap, sinks, dropout)) and not return_scores
    if plain and _fuses(query, key, value, causal):
        parts = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (B, length, heads, D)
        return ops.transpose(ops.dot_product_attention(*parts, scale=scale, is_causal=causal), (0, 2, 1, 3))
    if causal and not return_scores and backend() == "jax" and _splits(query, key):
        options: dict[str, Any] = {"scale": scale, "softcap": softcap, "sinks": sinks, "dropout": dropout}
        return _in_parts(query, key, value, mask, bias, options)
    heads, kv_heads = query.shape[1], key.shape[1]
    batch, _, length, head_dim = ops.shape(query)
    source = ops.shape(key)[2]
    # Zeroing the rows without keys may be skipped only if every query is known to have a key.
    static = query.shape[2] is not None and key.shape[2] is not None
    complete = mask is None and (not causal or (static and query.shape[2] <= key.shape[2]))
    if causal:
        mask = combine_masks(causal_mask(length, source), mask)

    query = query * ops.cast(head_dim**-0.5 if scale is None else scale, query.dtype)
    grouped = heads != kv_heads
    if grouped:  # (B, KV, G·T, D): the group is merged into the length axis, so that no key is copied
        query = ops.reshape(query, (batch, kv_heads, -1, head_dim))
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))  # (B, KV, G·T, S)
    if grouped:
        scores = ops.reshape(scores, (batch, heads, length, source))  # (B, H, T, S)

    scores = softcapped(at_least_float32(scores), softcap)
    if bias is not None:
        scores = scores + _addend(ops.cast(bias, scores.dtype))
    any_key = None if complete else any_true(mask)
    weights = ops.cast(softmax(scores, mask, sinks), value.dtype)  # (B, H, T, S)
    if return_scores and any_key is not None:
        weights = weights * ops.cast(any_key, weights.dtype)
    dropped = weights if dropout is None else dropout(weights)

    if grouped:
        dropped = ops.reshape(dropped, (batch, kv_heads, -1, source))  # (B, KV, G·T, S)
    output = ops.matmul(dropped, value)  # (B, KV, G·T, V)
    if grouped:
        output = ops.reshape(output, (batch, heads, length, value.shape[-1]))  # (B, H, T, V)
    if any_key is not None:
        output = output * ops.cast(any_key, output.dtype)
    return (output, weights) if return_scores else output
