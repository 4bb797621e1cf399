"""The primitives every layer is written in, and every exporter knows.

Each primitive is plain ``keras.ops``. An exporter may install a *lowering* of some of them for the time of one
trace, so that a layer says once what it means and each file format gets the operator its runtime knows::

    with lowering({"layer_norm": emit_layer_normalization}):
        trace(model)

Outside such a block (training, inference, every backend) nothing here differs from calling ``keras.ops``.

Masks are boolean everywhere, ``True`` = attend. They are combined as booleans and become numbers in one place,
:func:`dot_product_attention`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from keras import ops
from keras.backend import standardize_dtype

Tensor = Any  # a tensor of whichever backend Keras runs on

PRIMITIVES: dict[str, Callable[..., Any]] = {}
MASKED = -1e9  # added to a float32 score; finite, so that a row without any key keeps finite gradients

_active = threading.local()


def primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function` replaceable under :func:`lowering`. The original stays in ``PRIMITIVES``."""
    name = function.__name__
    PRIMITIVES[name] = function

    @functools.wraps(function)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        return lowered().get(name, function)(*args, **kwargs)

    return dispatch


@contextmanager
def lowering(table: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replace primitives by name within the block, in this thread only; restored on leaving, error or not.

    Raises:
        ValueError: a name that is not a primitive.
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
    """The lowerings that are installed in this thread, by the primitive's name."""
    return getattr(_active, "table", {})


def at_least_float32(x: Tensor) -> Tensor:
    """What half precision would spoil, such as a softmax, is computed in float32, and in float64 where all is."""
    return x if standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


@primitive
def dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    """``inputs @ kernel + bias``.

    Args:
        inputs: (..., in).
        kernel: (in, out), or (out, in) with `transpose_kernel`, as a tied token table is stored.
        bias: (out,) or None.
    """
    shape = ops.shape(inputs)
    x = ops.reshape(inputs, (-1, shape[-1]))  # (N, in): one large product is faster than a batch of small ones
    x = ops.matmul(x, ops.transpose(kernel) if transpose_kernel else kernel)  # (N, out)
    if bias is not None:
        x = ops.add(x, bias)
    return ops.reshape(x, (*shape[:-1], x.shape[-1]))


@primitive
def embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of `table` (rows, width) by integer `ids` (...), giving (..., width)."""
    return ops.take(table, ops.cast(ids, "int32"), axis=0)


@primitive
def layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float) -> Tensor:
    """Layer normalisation over the last axis, statistics in float32 (Ba et al. 2016, arXiv:1607.06450)."""
    return ops.layer_normalization(inputs, gamma, beta, axis=-1, epsilon=epsilon)


@primitive
def rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    """Root-mean-square normalisation over the last axis, in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    x = at_least_float32(inputs)
    x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + epsilon)
    return ops.cast(x * ops.cast(scale, x.dtype), inputs.dtype)


@primitive
def gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    """GELU by erf, or with `approximate` by tanh, which Hugging Face calls ``gelu_new`` (arXiv:1606.08415)."""
    return ops.gelu(inputs, approximate=approximate)


@primitive
def rotary(inputs: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate pairs of features by position (Su et al. 2021, arXiv:2104.09864).

    Feature i is paired with i + D/2, as in Hugging Face's Llama ("half-split"), or with `interleaved` feature 2i with
    2i + 1, as in the paper. Weights trained for one pairing are wrong with the other.

    Args:
        inputs: (batch, heads, length, D), D even.
        cos, sin: (batch or 1, 1, length, D/2), from :class:`~attention_zoo.layers.position.RotaryEmbedding`.
    """
    if interleaved:
        batch, heads, length, width = ops.shape(inputs)
        pairs = ops.reshape(inputs, (batch, heads, -1, 2))  # (B, H, T·D/2, 2): runtimes stop at four dimensions
        first, second = (ops.reshape(pairs[..., i], (batch, heads, length, width // 2)) for i in range(2))
        turned = [first * cos - second * sin, second * cos + first * sin]  # (B, H, T, D/2) each
        flat = [ops.reshape(part, (batch, heads, -1, 1)) for part in turned]
        return ops.reshape(ops.concatenate(flat, axis=-1), (batch, heads, length, width))
    first, second = ops.split(inputs, 2, axis=-1)  # (B, H, T, D/2) each
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


@primitive
def cache_update(cache: Tensor, update: Tensor, index: Any) -> Tensor:
    """`cache` (batch, heads, slots, D) with `update` (batch, heads, T, D) in the slots from `index` on."""
    return ops.slice_update(cache, (0, 0, index, 0), ops.cast(update, cache.dtype))


@primitive
def split_heads(inputs: Tensor, heads: int) -> Tensor:
    """(batch, length, heads · D) to (batch, heads, length, D)."""
    batch, length, width = ops.shape(inputs)
    return ops.transpose(ops.reshape(inputs, (batch, length, heads, width // heads)), (0, 2, 1, 3))


@primitive
def merge_heads(inputs: Tensor) -> Tensor:
    """(batch, heads, length, D) to (batch, length, heads · D)."""
    batch, heads, length, width = ops.shape(inputs)
    return ops.reshape(ops.transpose(inputs, (0, 2, 1, 3)), (batch, length, heads * width))


def boolean_mask(mask: Tensor, argument: str) -> Tensor:
    """`mask` as booleans. Integers 0/1 are taken; floats are refused, since 0.0 may mean "keep" (additive) or "drop".

    Raises:
        ValueError: a floating-point mask.
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
    """(1, 1, query, key) booleans: query i sees keys up to i, aligned at the bottom right when there are more keys."""
    rows = ops.expand_dims(ops.arange(query_length), 1) + (key_length - query_length)  # (T, 1)
    columns = ops.expand_dims(ops.arange(key_length), 0)  # (1, S)
    return ops.expand_dims(ops.expand_dims(columns <= rows, 0), 0)


def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """Logical "and" of the masks that are given; None when none is."""
    given = [mask for mask in masks if mask is not None]
    return functools.reduce(ops.logical_and, given) if given else None


def softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Over the last axis, where `mask` is True. A row without any True is not zero yet: see :func:`any_true`."""
    if mask is not None:
        scores = scores + ops.cast(ops.logical_not(mask), scores.dtype) * MASKED
    # One key gets all the attention; Keras warns of a softmax over one number.
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def any_true(mask: Tensor) -> Tensor:
    """(…, 1): does the row have a key at all? What it attends to is multiplied by this."""
    return ops.any(mask, axis=-1, keepdims=True)


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
    return_scores: bool = False,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``softmax(scale · query keyᵀ + bias) value`` (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1).

    A query with no key to attend to gives zeros (output and scores), with finite gradients.

    Args:
        query: (batch, heads, T, D).
        key: (batch, kv_heads, S, D); `kv_heads` divides `heads`, and query head h reads key head
            ``h // (heads // kv_heads)`` (grouped queries, arXiv:2305.13245).
        value: (batch, kv_heads, S, V).
        mask: boolean, broadcastable to (batch, heads, T, S), True = attend.
        bias: numbers added to the scores, broadcastable to (batch, heads, T, S).
        scale: D^-1/2 by default.
        causal: query i sees keys up to i, counted from the end.
        return_scores: also return the attention weights, (batch, heads, T, S).
        dropout: applied to the weights before they meet the values.

    Returns:
        (batch, heads, T, V) in the query's dtype; softmax is computed in float32 at least.
    """
    heads, kv_heads = query.shape[1], key.shape[1]
    batch, _, length, head_dim = ops.shape(query)
    source = ops.shape(key)[2]
    # Only what is known to leave every query a key may skip the last step of zeroing the others.
    static = query.shape[2] is not None and key.shape[2] is not None
    complete = mask is None and (not causal or (static and query.shape[2] <= key.shape[2]))
    if causal:
        mask = combine_masks(causal_mask(length, source), mask)

    query = query * ops.cast(head_dim**-0.5 if scale is None else scale, query.dtype)
    grouped = heads != kv_heads
    if grouped:  # (B, KV, G·T, D): the group joins the length, so no key is ever copied
        query = ops.reshape(query, (batch, kv_heads, -1, head_dim))
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))  # (B, KV, G·T, S)
    if grouped:
        scores = ops.reshape(scores, (batch, heads, length, source))  # (B, H, T, S)

    scores = at_least_float32(scores)
    if bias is not None:
        scores = scores + ops.cast(bias, scores.dtype)
    any_key = None if complete else any_true(mask)
    weights = ops.cast(softmax(scores, mask), value.dtype)  # (B, H, T, S)
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
