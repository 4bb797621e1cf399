"""Lowering of the primitives for the TFLite converter.

A primitive is lowered where the converter gives a better result for another formulation: lookups that become
EMBEDDING_LOOKUP (the only form that can be quantized later), layer normalization in fewer operators, and loops that
write each output to its place.
"""

from __future__ import annotations

from typing import Any

from ...layers import functional as F

Tensor = Any


def _dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    if transpose_kernel:  # only a multiplication of two matrices reads the table without a transpose
        rows = tf.reshape(inputs, (-1, inputs.shape[-1]))
        output = tf.matmul(rows, kernel, transpose_b=True)
        output = tf.reshape(output, (*_sizes(inputs)[:-1], kernel.shape[0]))
    else:
        output = tf.matmul(inputs, kernel)
    return output if bias is None else tf.add(output, tf.convert_to_tensor(bias))


def _embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    import tensorflow as tf

    def gather(value: Tensor, lookup: Tensor) -> Tensor:
        return tf.gather(value, lookup)

    # The converter recognizes this name and writes EMBEDDING_LOOKUP.
    lookup = tf.function(gather, experimental_implements="embedding_matmul")
    table = tf.convert_to_tensor(table)
    rows = lookup(table, tf.reshape(tf.cast(ids, tf.int32), [-1]))
    return tf.reshape(rows, (*_sizes(ids), table.shape[-1]))


def _sizes(x: Tensor) -> list[Any]:
    """Return the dimensions of `x`: integers if they are known, which keeps the graph in one partition, and tensors
    otherwise."""
    import tensorflow as tf

    return [tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape)]


def _layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor | None, *, epsilon: float) -> Tensor:
    import tensorflow as tf

    centred = inputs - tf.reduce_mean(inputs, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    # `gamma` comes first: the converter would multiply a last factor into the kernel of the dense layer that follows,
    # and an embedding table that is also the head would be stored twice.
    scaled = centred * tf.convert_to_tensor(gamma)
    scaled = scaled * tf.math.rsqrt(variance + epsilon)
    return scaled if beta is None else scaled + tf.convert_to_tensor(beta)


def _rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    import tensorflow as tf

    # `scale` comes first for the same reason as `gamma` in `_layer_norm`.
    mean = tf.reduce_mean(tf.square(inputs), axis=-1, keepdims=True)
    return inputs * tf.convert_to_tensor(scale) * tf.math.rsqrt(mean + epsilon)


def _recurrent(layer: Any, inputs: Tensor, state: Any, mask: Tensor | None, training: Any) -> tuple[Tensor, ...]:
    """Emit one step, or a loop over a fixed number of time steps that writes each output to its place."""
    import tensorflow as tf

    if not layer.textbook:
        return F.PRIMITIVES["recurrent"](layer, inputs, state, mask, training)
    cell, width = layer.cell, layer.units
    if layer.go_backwards:
        inputs = tf.reverse(inputs, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    batch, length = inputs.shape[:2]
    recurrent = tf.convert_to_tensor(cell.recurrent_kernel)
    biases = tf.convert_to_tensor(cell.bias)
    lstm, gru = (layer.cell_kind == kind for kind in ("lstm", "gru"))
    projected = tf.matmul(inputs, tf.convert_to_tensor(cell.kernel)) + (biases[0] if gru else biases)  # (B, T, gates)

    def advance(x: Tensor, h: Tensor, *rest: Tensor) -> list[Tensor]:
        if lstm:
            i, f, c, o = tf.split(x + tf.matmul(h, recurrent), 4, axis=-1)
            new = tf.sigmoid(f) * rest[0] + tf.sigmoid(i) * tf.tanh(c)
            return [tf.sigmoid(o) * tf.tanh(new), new]
        if not gru:
            return [tf.tanh(x + tf.matmul(h, recurrent))]
        (xz, xr, xh), (z, r, n) = tf.split(x, 3, -1), tf.split(tf.matmul(h, recurrent) + biases[1], 3, -1)
        z = tf.sigmoid(xz + z)
        return [z * h + (1 - z) * tf.tanh(xh + tf.sigmoid(xr + r) * n)]

    states = list(state) if state is not None else [tf.zeros((batch, width))] * (2 if lstm else 1)
    if length == 1 and mask is None:
        states = advance(projected[:, 0], *states)
        return tf.expand_dims(states[0], 1), *states

    kept = tf.ones((batch, length)) if mask is None else tf.cast(mask, tf.float32)

    def body(t: Tensor, outputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x = tf.reshape(tf.slice(projected, [0, t, 0], [batch, 1, projected.shape[-1]]), (batch, -1))
        keep = tf.slice(kept, [0, t], [batch, 1])  # (B, 1)
        moved = [keep * new + (1 - keep) * old for new, old in zip(advance(x, *states), states, strict=True)]
        step = tf.reshape(moved[0], (batch, 1, width))
        return t + 1, _write_step(outputs, step, t), *moved

    start = (tf.constant(0), tf.zeros((batch, length, width)), *states)
    _, outputs, *last = tf.while_loop(lambda t, *_: t < length, body, start)
    return outputs, *last


def _grouped_dense(inputs: Tensor, experts: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Look up the rows of the kernels that are used: only such a table can be quantized."""
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    _, width, outputs = kernel.shape
    stacked = kernel.op.type == "Reshape" and kernel.op.inputs[0].shape.rank == 2  # see ``conversion``
    table = kernel.op.inputs[0] if stacked else tf.reshape(kernel, (-1, outputs))  # (E·in, out)
    rows = tf.expand_dims(experts * width, 1) + tf.range(width, dtype=experts.dtype)  # (G, in)
    output = tf.matmul(inputs, _embedding_lookup(table, rows))
    return output if bias is None else output + tf.expand_dims(tf.gather(tf.convert_to_tensor(bias), experts), 1)


def _write_step(outputs: Tensor, step: Tensor, t: Tensor) -> Tensor:
    from keras import ops

    return ops.slice_update(outputs, (0, t, 0), step)  # DYNAMIC_UPDATE_SLICE


LOWERINGS = {
    "dense": _dense,
    "embedding_lookup": _embedding_lookup,
    "grouped_dense": _grouped_dense,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "recurrent": _recurrent,
}
