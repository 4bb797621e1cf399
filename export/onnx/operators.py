"""Lowering of the primitives to ONNX operators: markers in the trace, which a handler for tf2onnx replaces."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ...layers import functional as F

Tensor = Any

HIDDEN = -1.7e38  # half of the lowest float32: hides a key whatever its score, and its sum with a bias is finite
GATES = {"lstm": (0, 3, 1, 2), "gru": (0, 1, 2), "rnn": (0,)}  # Keras' gates in ONNX's order: i o f c and z r h


def marker(
    operator: str, inputs: list[Tensor], shape: list[int | None] | None, *, dtype: Any = None, **attributes: Any
) -> Tensor:
    """Return the output of a node that `replace_marker` replaces by `operator`. The node itself cannot be run.

    Args:
        operator: the ONNX operator.
        inputs: its inputs.
        shape: the shape of the output; None if its rank is unknown.
        dtype: the dtype of the output. Default: that of the first input.
        attributes: the attributes of the operator.
    """
    return markers(operator, inputs, [shape], dtypes=[dtype] if dtype else None, **attributes)[0]


def markers(
    operator: str,
    inputs: list[Any],
    shapes: list[list[int | None] | None],
    *,
    dtypes: list[Any] | None = None,
    **attributes: Any,
) -> list[Tensor]:
    """Do the same as `marker`, with several outputs. An input is None if the operator omits it."""
    import tensorflow as tf

    given = [tf.convert_to_tensor(tensor) for tensor in inputs if tensor is not None]
    present = [tensor is not None for tensor in inputs]
    token = json.dumps({"operator": operator, "attributes": attributes, "present": present})
    outputs = tf.raw_ops.PyFunc(input=given, token=token, Tout=dtypes or [given[0].dtype] * len(shapes))
    for output, shape in zip(outputs, shapes, strict=True):
        output.set_shape(shape)
    return outputs


def replace_marker(graph: Any, node: Any, name: str, _: Any) -> None:
    meant = json.loads(node.get_attr("token").s)
    shapes = [graph.get_shape(output) for output in node.output]
    dtypes = [graph.get_dtype(output) for output in node.output]
    given, outputs = iter(list(node.input)), list(node.output)
    inputs = [next(given) if there else "" for there in meant["present"]]
    graph.remove_node(node.name)
    graph.make_node(
        meant["operator"],
        inputs,
        attr=meant["attributes"],
        outputs=outputs,
        shapes=shapes,
        dtypes=dtypes,
        name=name,
        skip_conversion=True,
    )


def _dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    if transpose_kernel:
        kernel = tf.transpose(kernel)
    output = marker("MatMul", [inputs, kernel], [*inputs.shape[:-1], kernel.shape[-1]])
    return output if bias is None else tf.add(output, tf.convert_to_tensor(bias))


def _embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    return marker("Gather", [table, ids], [*ids.shape, table.shape[-1]], axis=0)


def _layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float) -> Tensor:
    return marker("LayerNormalization", [inputs, gamma, beta], inputs.shape.as_list(), axis=-1, epsilon=epsilon)


def _rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    return marker("RMSNormalization", [inputs, scale], inputs.shape.as_list(), axis=-1, epsilon=epsilon)


def _gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    return marker("Gelu", [inputs], inputs.shape.as_list(), approximate="tanh" if approximate else "none")


def _split_heads(inputs: Tensor, heads: int) -> Tensor:
    import tensorflow as tf

    width = inputs.shape[-1] // heads
    shape = [*inputs.shape[:2], heads, width]
    split = marker("Reshape", [inputs, np.array([0, 0, heads, width], "int64")], shape)  # 0 keeps a size
    return tf.transpose(split, (0, 2, 1, 3))


def _marked(x: Tensor) -> str:
    """Return the operator that a marker stands for, or "" if `x` is not the output of a marker."""
    return json.loads(x.op.get_attr("token"))["operator"] if x.op.type == "PyFunc" else ""


def _together(x: Tensor) -> Tensor | None:
    """Return the tensor (batch, length, heads · head_dim) that `_split_heads` made `x` from, or None if something else
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


def _merge_heads(inputs: Tensor) -> Tensor:
    import tensorflow as tf

    if (merged := _together(inputs)) is not None:
        return merged
    batch, heads, length, width = inputs.shape
    merged = tf.transpose(inputs, (0, 2, 1, 3))
    return marker("Reshape", [merged, np.array([0, 0, heads * width], "int64")], [batch, length, heads * width])


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Any = None,
    scale: float | None = None,
    causal: bool = False,
    return_scores: bool = False,
    dropout: Any = None,
) -> Any:
    import tensorflow as tf

    if return_scores:
        reference = F.PRIMITIVES["dot_product_attention"]
        return reference(query, key, value, mask=mask, bias=bias, scale=scale, causal=causal, return_scores=True)
    length, source = tf.shape(query)[2], tf.shape(key)[2]
    any_key: Any = None
    mask = F.combine_masks(F.causal_mask(length, source) if causal else None, mask)
    if mask is not None:
        any_key = tf.cast(tf.reduce_any(mask, axis=-1, keepdims=True), query.dtype)  # (·, ·, T, 1)
        added = tf.cast(tf.logical_not(mask), tf.float32) * HIDDEN
        bias = added if bias is None else added + bias
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
    heads, scale = query.shape[1], float(scale or query.shape[-1] ** -0.5)
    if not side_by_side:
        output = marker("Attention", inputs, [*query.shape[:3], value.shape[3]], scale=scale)
        return output if any_key is None else output * any_key
    shape = [query.shape[0], query.shape[2], heads * value.shape[3]]
    output = marker("Attention", inputs, shape, scale=scale, q_num_heads=heads, kv_num_heads=key.shape[1])
    return _split_heads(output if any_key is None else output * tf.squeeze(any_key, 1), heads)


def _reshape_behind(x: Tensor, kept: int, last: list[int]) -> Tensor:
    shape = np.array([0] * kept + list(last), "int64")  # 0 keeps a size
    return marker("Reshape", [x, shape], [*x.shape[:kept], *last])


def _batch_norm(x: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Emit BatchNormalization between transposes. ONNX Runtime cancels them with those of a convolution, and then folds
    the normalization into the convolution."""
    import tensorflow as tf

    first = tf.transpose(x, (0, 3, 1, 2))
    output = marker(
        "BatchNormalization", [first, scale, offset, mean, variance], first.shape.as_list(), epsilon=epsilon
    )
    return tf.transpose(output, (0, 2, 3, 1))


def _image_mean(x: Tensor) -> Tensor:
    import tensorflow as tf

    first = tf.transpose(x, (0, 3, 1, 2))
    output = marker("GlobalAveragePool", [first], [*first.shape[:2], 1, 1])
    return tf.transpose(output, (0, 2, 3, 1))


def _rotary(inputs: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    import tensorflow as tf

    caches = [tf.squeeze(cache, axis=1) for cache in (cos, sin)]  # (B or 1, T, D/2)
    if cos.shape[0] == 1:  # the operator needs one row for each row of the batch
        caches = [tf.tile(cache, tf.stack([tf.shape(inputs)[0], 1, 1])) for cache in caches]
    return marker("RotaryEmbedding", [inputs, *caches], inputs.shape.as_list(), interleaved=int(interleaved))


def _recurrent(layer: Any, inputs: Tensor, state: Any, mask: Tensor | None, training: Any) -> tuple[Tensor, ...]:
    """Emit ONNX's LSTM, GRU or RNN. Its sequences have a length but no gaps, so the kept tokens are moved to the front
    first."""
    import tensorflow as tf

    if not layer.textbook:
        return F.PRIMITIVES["recurrent"](layer, inputs, state, mask, training)
    if layer.go_backwards:
        inputs = tf.reverse(inputs, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    batch, width = tf.shape(inputs)[0], layer.units
    lengths: Any = None
    order: Any = None
    kept: Any = None
    if mask is not None:
        order = _kept_first(mask)  # (B, T, T)
        inputs = tf.matmul(order, inputs)
        lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # (B,)
        kept = tf.cast(tf.reduce_any(mask, axis=1, keepdims=True), tf.float32)  # (B, 1)
        lengths = tf.maximum(lengths, 1)  # ONNX Runtime rejects 0: rows without a token get their states back below

    def gates(weight: Any) -> Tensor:  # (·, gates · units) to (1, gates · units, ·), in ONNX's order
        parts = tf.split(tf.convert_to_tensor(weight), layer.cell_gates, axis=-1)
        return tf.expand_dims(tf.transpose(tf.concat([parts[i] for i in GATES[layer.cell_kind]], -1)), 0)

    cell = layer.cell
    if layer.cell_kind != "gru":  # Keras has one bias, ONNX two: the second is zero
        bias = tf.concat([gates(cell.bias[None])[..., 0], tf.zeros((1, layer.cell_gates * width))], axis=-1)
        attributes: dict[str, Any] = {"hidden_size": width}
    else:
        bias = tf.concat([gates(cell.bias[i : i + 1])[..., 0] for i in range(2)], axis=-1)
        attributes = {"hidden_size": width, "linear_before_reset": 1}
    states = [tf.expand_dims(part, 0) for part in state] if state is not None else []
    one = [1, inputs.shape[0], width]
    shapes: list[Any] = [
        [inputs.shape[1], 1, inputs.shape[0], width],
        *([one] * (2 if layer.cell_kind == "lstm" else 1)),
    ]
    outputs, *last = markers(
        layer.cell_kind.upper(),
        [tf.transpose(inputs, (1, 0, 2)), gates(cell.kernel), gates(cell.recurrent_kernel), bias, lengths, *states],
        shapes,
        **attributes,
    )
    outputs = tf.transpose(tf.squeeze(outputs, 1), (1, 0, 2))  # (B, T, units)
    last = [tf.reshape(part, tf.stack([batch, width])) for part in last]
    if order is not None:
        outputs = tf.matmul(order, outputs, transpose_a=True) * kept[:, :, None]
        before = state if state is not None else [0.0] * len(last)
        last = [kept * new + (1 - kept) * old for new, old in zip(last, before, strict=True)]
    return outputs, *last


def _kept_first(mask: Tensor) -> Tensor:
    """Return the permutation (batch, T, T) that moves kept tokens to the front and preserves the order of the kept and
    of the masked tokens."""
    import tensorflow as tf

    kept = tf.cast(mask, tf.int32)
    place = tf.where(mask, tf.cumsum(kept, 1) - 1, tf.reduce_sum(kept, 1, keepdims=True) + tf.cumsum(1 - kept, 1) - 1)
    rows = tf.range(tf.shape(mask)[1])[None, :, None]  # (1, T, 1)
    return tf.cast(tf.equal(place[:, None, :], rows), tf.float32)


LOWERINGS = {
    "dense": _dense,
    "embedding_lookup": _embedding_lookup,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "gelu": _gelu,
    "split_heads": _split_heads,
    "merge_heads": _merge_heads,
    "dot_product_attention": _attention,
    "rotary": _rotary,
    "reshape_behind": _reshape_behind,
    "batch_norm": _batch_norm,
    "image_mean": _image_mean,
    "recurrent": _recurrent,
    "unrolled": lambda: None,
}
