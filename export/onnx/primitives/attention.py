"""Attention and its heads in ONNX operators: ``Attention`` of opset 23, or matrix multiplications and a softmax."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ....layers import functional as F
from ..markers import marker
from ..rules.base import final

Tensor = Any

HIDDEN = -1.7e38  # half of the lowest float32: hides a key whatever its score, and its sum with a bias is finite
HIDDEN_IN_HALF = -3e4  # the same in float16, where scores have the rest of the range


def split_heads(inputs: Tensor, heads: int) -> Tensor:
    import tensorflow as tf

    width = inputs.shape[-1] // heads
    shape = [*inputs.shape[:2], heads, width]
    split = marker("Reshape", [inputs, np.array([0, 0, heads, width], "int64")], shape)  # 0 keeps a size
    return tf.transpose(split, (0, 2, 1, 3))


def _marked(x: Tensor) -> str:
    """Return the operator that a marker stands for, or "" if `x` is not the output of a marker."""
    return json.loads(x.op.get_attr("token"))["operator"] if x.op.type == "PyFunc" else ""


def _together(x: Tensor) -> Tensor | None:
    """Return the tensor (batch, length, heads · head_dim) that `split_heads` made `x` from, or None if something else
    made `x`."""
    import tensorflow as tf

    if x.op.type != "Transpose" or not np.array_equal(tf.get_static_value(x.op.inputs[1]), (0, 2, 1, 3)):
        return None
    split = x.op.inputs[0]
    if _marked(split) != "Reshape" or split.op.inputs[0].shape.rank != 3:
        return None
    shape = tf.get_static_value(split.op.inputs[1])
    return split.op.inputs[0] if shape is not None and list(shape[:2]) == [0, 0] and len(shape) == 4 else None


def _of_one_length(query: Tensor, key: Tensor) -> bool:
    """Return whether both are heads of projections of the same hidden states."""

    def states(x: Tensor) -> Tensor:
        while _marked(x) == "MatMul" or (x.op.type == "AddV2" and x.op.inputs[1].shape.rank == 1):
            x = x.op.inputs[0]
        return x

    one, other = _together(query), _together(key)
    return one is not None and other is not None and states(one) is states(other)


def merge_heads(inputs: Tensor) -> Tensor:
    import tensorflow as tf

    if (merged := _together(inputs)) is not None:
        return merged
    batch, heads, length, width = inputs.shape
    merged = tf.transpose(inputs, (0, 2, 1, 3))
    return marker("Reshape", [merged, np.array([0, 0, heads * width], "int64")], [batch, length, heads * width])


def _lowering(emit: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return the lowering of ``dot_product_attention`` whose operators `emit` writes.

    `emit` takes queries, keys, values, the bias on the scores that includes the mask (or None), 1.0 for queries that
    have a key and 0.0 for others (or None without a mask), the factor on the scores, the limit of the scores (or None)
    and the score of a key without a value, by head (or None).
    """

    @functools.wraps(emit)
    def lowering(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Any = None,
        scale: float | None = None,
        causal: bool = False,
        softcap: float | None = None,
        sinks: Any = None,
        return_scores: bool = False,
        dropout: Any = None,
        hidden: float = HIDDEN,
    ) -> Any:
        import tensorflow as tf

        if return_scores:
            reference = F.PRIMITIVES["dot_product_attention"]
            options = {"mask": mask, "bias": bias, "scale": scale, "causal": causal, "softcap": softcap, "sinks": sinks}
            return reference(query, key, value, **options, return_scores=True)
        if causal:
            mask = F.combine_masks(F.causal_mask(tf.shape(query)[2], tf.shape(key)[2]), mask)
        any_key: Any = None
        if mask is not None:
            any_key = _any_key(mask)  # (·, ·, T, 1)
            added = (tf.cast(mask, tf.float32) - 1.0) * -hidden  # RKNN has no Not
            bias = added if bias is None else added + bias
        factor = float(query.shape[-1] ** -0.5 if scale is None else scale)
        return emit(query, key, value, bias, any_key, factor, softcap, sinks)

    return lowering


def _attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Any, any_key: Any, scale: float, softcap: Any, sinks: Any
) -> Tensor:
    """Emit ``Attention``.

    The operator has no sinks, and it limits the scores after the bias that includes the mask is added, which would make
    hidden keys visible. Such attention is composed of several operators.
    """
    import tensorflow as tf

    if softcap is not None or sinks is not None:
        return _composed_attention(query, key, value, bias, any_key, scale, softcap, sinks)
    length, source = tf.shape(query)[2], tf.shape(key)[2]
    # The projections before and after compute (batch, length, heads · head_dim), which the operator reads and writes.
    together = [_together(x) for x in (query, key, value)]
    side_by_side = all(x is not None for x in together) and (any_key is None or any_key.shape[1] == 1)
    inputs = together if side_by_side else [query, key, value]
    if bias is not None:
        if bias.shape[3] == 1:  # the operator does not broadcast over keys
            bias = bias * tf.ones(tf.stack([1, 1, 1, source]), bias.dtype)
        # ONNX Runtime's CPU kernel broadcasts the mask over heads and batch, but not over queries. If there are as many
        # queries as keys, their number is read from the mask: it is the same for all layers, which share the result.
        rows = tf.shape(bias)[3] if bias.shape[3] != 1 and _of_one_length(query, key) else length
        inputs.append(bias * tf.ones((1, 1, rows, 1), bias.dtype) if bias.shape[2] == 1 else bias)
    heads = query.shape[1]
    if not side_by_side:
        output = marker("Attention", inputs, [*query.shape[:3], value.shape[3]], scale=scale)
        return output if any_key is None else output * any_key
    shape = [query.shape[0], query.shape[2], heads * value.shape[3]]
    output = marker("Attention", inputs, shape, scale=scale, q_num_heads=heads, kv_num_heads=key.shape[1])
    return split_heads(output if any_key is None else output * tf.squeeze(any_key, 1), heads)


def _composed_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Any, any_key: Any, scale: float, softcap: Any, sinks: Any
) -> Tensor:
    """Emit two matrix multiplications and a softmax, in an order that ONNX Runtime's optimizer fuses.

    It merges the scale and the transpose of the keys into the first multiplication. Heads that share keys are rows of
    one matrix, so that no key is copied.
    """
    import tensorflow as tf

    batch, heads, length, width = query.shape
    kv_heads, source, rows = key.shape[1], key.shape[2], tf.shape(query)[2]
    if heads != kv_heads:
        bias = None if bias is None else _grouped(bias, query, kv_heads)
        query = _reshaped(query, [0, kv_heads, -1, width], [batch, kv_heads, None, width])
    query = query * tf.constant(scale, query.dtype)
    scores = marker("MatMul", [query, _turned(key)], [batch, kv_heads, query.shape[2], source])
    if softcap is not None:
        scores = tf.tanh(scores * (1 / softcap)) * softcap
    if bias is not None:
        scores = scores + bias
    if sinks is not None:
        sink = tf.reshape(tf.cast(sinks, scores.dtype), (1, kv_heads, heads // kv_heads, 1))
        if heads != kv_heads:
            columns = tf.zeros(tf.stack([1, 1, 1, rows]), scores.dtype)
            sink = _reshaped(sink + columns, [0, kv_heads, -1, 1], [1, kv_heads, None, 1])
        scores = tf.concat([scores, sink + tf.zeros_like(scores[..., :1])], axis=-1)
    weights = marker("Softmax", [scores], scores.shape.as_list(), axis=-1)
    weights = weights if sinks is None else weights[..., :-1]
    output = marker("MatMul", [weights, value], [*weights.shape[:3], value.shape[3]])
    if heads != kv_heads:
        output = _reshaped(output, [0, heads, -1, value.shape[3]], [batch, heads, length, value.shape[3]])
    return output if any_key is None else output * any_key


attention, composed_attention = _lowering(_attention), _lowering(_composed_attention)


def _grouped(bias: Tensor, query: Tensor, kv_heads: int) -> Tensor:
    """Return a bias on scores (·, heads or 1, T or 1, ·) for those of ``composed_attention``, whose rows are the
    queries of all heads that share keys, (·, kv_heads or 1, heads // kv_heads · T or 1, ·)."""
    import tensorflow as tf

    heads = query.shape[1]
    if bias.shape[1] == heads:
        if bias.shape[2] == 1 and query.shape[2] != 1:  # a row for each head, for every query
            bias = bias + tf.zeros(tf.stack([1, 1, tf.shape(query)[2], 1]), bias.dtype)
        return _reshaped(bias, [0, kv_heads, -1, 0], [bias.shape[0], kv_heads, None, bias.shape[3]])
    return bias if bias.shape[2] == 1 else tf.concat([bias] * (heads // kv_heads), axis=2)


def _any_key(mask: Tensor) -> Tensor:
    """Return 1.0 for queries that have a key and 0.0 for others, (·, ·, T, 1)."""
    import tensorflow as tf

    return final(tf.reduce_max(tf.cast(mask, tf.float32), axis=-1, keepdims=True))


def _reshaped(x: Tensor, sizes: list[int], shape: list[int | None]) -> Tensor:
    return marker("Reshape", [x, np.array(sizes, "int64")], shape)  # 0 keeps a size


def _turned(key: Tensor) -> Tensor:
    """Return keys (batch, heads, S, D) as (batch, heads, D, S), in one transpose with that of ``split_heads``."""
    import tensorflow as tf

    if key.op.type == "Transpose" and np.array_equal(tf.get_static_value(key.op.inputs[1]), (0, 2, 1, 3)):
        return tf.transpose(key.op.inputs[0], (0, 2, 3, 1))
    return tf.transpose(key, (0, 1, 3, 2))
