"""Complex numbers as pairs of floats, and Fourier transforms as products with matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..markers import marker
from .base import Call, Pair, UnsupportedError

Tensor = Any

# Operations that do the same to the real and to the imaginary part.
PARTWISE = [
    "Identity",
    "Reshape",
    "Transpose",
    "StridedSlice",
    "ConcatV2",
    "Pack",
    "Unpack",
    "ExpandDims",
    "Squeeze",
    "Slice",
    "Tile",
    "BroadcastTo",
    "ReverseV2",
    "GatherV2",
    "GatherNd",
    "SelectV2",
    "AddV2",
    "Add",
    "Sub",
    "Neg",
    "AddN",
    "Sum",
    "Mean",
    "Split",
    "SplitV",
    "Pad",
    "ZerosLike",
    "Roll",
    "StopGradient",
    "Cumsum",
]


def is_complex(op: Any) -> bool:
    return any(tensor.dtype.is_complex for tensor in (*op.inputs, *op.outputs))


def of_complex(call: Call) -> Any:
    """Return the outputs of an operation with complex inputs or outputs.

    Raises:
        UnsupportedError: the operation has no rule for complex numbers.
    """
    import tensorflow as tf

    kind = call.op.type
    if kind in COMPLEX:
        return COMPLEX[kind](call)
    if kind == "Const":
        value = tf.get_static_value(call.op.outputs[0])
        return Pair(tf.constant(value.real.astype("float32")), tf.constant(value.imag.astype("float32")))
    if kind in PARTWISE:
        parts = [_part(call, i) for i in range(2)]
        return [Pair(*both) for both in zip(*parts, strict=True)]
    raise UnsupportedError(f"{kind} of complex numbers", call.op.name)


def _part(call: Call, i: int) -> list[Tensor]:
    """Apply an operation to the real parts (0) or to the imaginary parts (1)."""
    import tensorflow as tf

    op = call.op
    inputs = [given[i] if isinstance(given, Pair) else given for given in call.inputs]
    attributes = {name: value for name, value in op.node_def.attr.items() if name != "_output_shapes"}
    for value in attributes.values():
        if value.type and tf.as_dtype(value.type).is_complex:
            value.type = tf.float32.as_datatype_enum
    graph = tf.compat.v1.get_default_graph()
    return list(graph.create_op(op.type, inputs, [tf.float32] * len(op.outputs), attrs=attributes).outputs)


def _product(x: Pair, y: Pair, multiply: Callable[[Tensor, Tensor], Tensor]) -> Pair:
    real = multiply(x.real, y.real) - multiply(x.imaginary, y.imaginary)
    return Pair(real, multiply(x.real, y.imaginary) + multiply(x.imaginary, y.real))


def _multiply(call: Call) -> Pair:
    import tensorflow as tf

    return _product(call.inputs[0], call.inputs[1], tf.multiply)


def _matmul(call: Call) -> Pair:
    import tensorflow as tf

    first, second = ("adj_x", "adj_y") if "Batch" in call.op.type else ("transpose_a", "transpose_b")
    x, y = call.inputs
    if "Batch" in call.op.type:  # adjoint: transposed and conjugated
        x = Pair(x.real, -x.imaginary) if call.attr(first) else x
        y = Pair(y.real, -y.imaginary) if call.attr(second) else y
    turned = {"transpose_a": call.attr(first), "transpose_b": call.attr(second)}
    return _product(x, y, lambda a, b: tf.matmul(a, b, **turned))


def _divide(call: Call) -> Pair:
    import tensorflow as tf

    x, y = call.inputs
    size = tf.square(y.real) + tf.square(y.imaginary)
    above = _product(x, Pair(y.real, -y.imaginary), tf.multiply)
    return Pair(above.real / size, above.imaginary / size)


def _exp(call: Call) -> Pair:
    import tensorflow as tf

    (x,) = call.inputs
    size = tf.exp(x.real)
    return Pair(size * tf.cos(x.imaginary), size * tf.sin(x.imaginary))


def _absolute(call: Call) -> Tensor:
    import tensorflow as tf

    (x,) = call.inputs
    return tf.sqrt(tf.square(x.real) + tf.square(x.imaginary))


def _angle(call: Call) -> Tensor:
    import tensorflow as tf

    return tf.atan2(call.inputs[0].imaginary, call.inputs[0].real)


def _cast(call: Call) -> Any:
    import tensorflow as tf

    (x,) = call.inputs
    if not call.dtype.is_complex:
        return tf.cast(x.real, call.dtype)
    if isinstance(x, Pair):
        return Pair(tf.identity(x.real), tf.identity(x.imaginary))
    real = tf.cast(x, tf.float32)
    return Pair(real, tf.zeros_like(real))


def _negated(call: Call) -> Pair:
    import tensorflow as tf

    return Pair(tf.identity(call.inputs[0].real), -call.inputs[0].imaginary)


# ---- Fourier transforms ----------------------------------------------------------------------------------------------


def _waves(rows: Any, columns: Any, size: Any) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2 pi r c / size for all rows and columns. Full turns are dropped before the division,
    since large angles are inexact."""
    import tensorflow as tf

    # A marker, which tf2onnx does not compute: the file would contain the matrices.
    counts = [marker("Range", [0, tf.cast(count, tf.int32), 1], [None], dtype=tf.int32) for count in (rows, columns)]
    steps = counts[0][:, None] * counts[1]
    size = tf.cast(size, tf.int32)
    whole = tf.math.floormod(steps, size)
    angle = tf.cast(whole, tf.float32) * (2 * math.pi / tf.cast(size, tf.float32))
    return tf.cos(angle), tf.sin(angle)


def _turned(x: Pair, axis: int, sign: float) -> Pair:
    """Transform along the last axis (-1) or the one before it (-2), forward with the sign -1 and backward with 1."""
    import tensorflow as tf

    size = x.real.shape[axis] if x.real.shape[axis] is not None else tf.shape(x.real)[axis]
    cos, sin = _waves(size, size, size)
    waves = Pair(cos, sign * sin)
    if axis == -1:
        return _product(x, waves, tf.matmul)
    return _product(waves, x, tf.matmul)


def _fourier(dims: int, sign: float) -> Callable[[Call], Pair]:
    def transform(call: Call) -> Pair:
        import tensorflow as tf

        (x,) = call.inputs
        for axis in range(-1, -1 - dims, -1):
            vector = x.real.shape.rank == 1  # matrix multiplication needs two dimensions
            x = Pair(x.real[None], x.imaginary[None]) if vector else x
            x = _turned(x, axis, sign)
            if sign > 0:
                size = tf.cast(tf.shape(x.real)[axis], tf.float32)
                x = Pair(x.real / size, x.imaginary / size)
            x = Pair(x.real[0], x.imaginary[0]) if vector else x
        return x

    return transform


def _fitted(x: Tensor, size: Tensor) -> Tensor:
    """Cut the last axis to `size`, or append zeros to it."""
    import tensorflow as tf

    rank, length = x.shape.rank, x.shape[-1]
    known = tf.get_static_value(size)
    if known is not None and length is not None:
        if length >= known:
            return x[..., : int(known)]
        return tf.pad(x, [[0, 0]] * (rank - 1) + [[0, int(known) - length]])
    missing = tf.maximum(size - tf.shape(x)[-1], 0)
    sides = tf.concat([tf.zeros((rank - 1, 2), tf.int32), [tf.stack([0, missing])]], 0)
    padded: Any = tf.pad(x, sides)
    return padded[..., :size]


def _rfft(call: Call) -> Pair:
    import tensorflow as tf

    x, length = call.inputs
    size = length[0]
    x = _fitted(x, size)
    vector = x.shape.rank == 1
    x = x[None] if vector else x
    known = tf.get_static_value(size)
    size = size if known is None else int(known)
    cos, sin = _waves(size, size // 2 + 1, size)
    result = Pair(tf.matmul(x, cos), tf.matmul(x, -sin))
    return Pair(result.real[0], result.imaginary[0]) if vector else result


def _irfft(call: Call) -> Tensor:
    """Sum the waves of half a spectrum: all but the first and the middle one count twice."""
    import tensorflow as tf

    x, length = call.inputs
    size = length[0]
    bins = size // 2 + 1
    real, imaginary = _fitted(x.real, bins), _fitted(x.imaginary, bins)
    vector = real.shape.rank == 1
    real, imaginary = (real[None], imaginary[None]) if vector else (real, imaginary)
    cos, sin = _waves(bins, size, size)
    places = tf.range(bins)
    once = tf.logical_or(tf.equal(places, 0), tf.equal(places * 2, size))
    weight = (2.0 - tf.cast(once, tf.float32)) / tf.cast(size, tf.float32)
    result = tf.matmul(real * weight, cos) - tf.matmul(imaginary * weight, sin)
    return result[0] if vector else result


COMPLEX: dict[str, Callable[[Call], Any]] = {
    "Complex": lambda call: Pair(*call.inputs),
    "Real": lambda call: call.inputs[0].real,
    "Imag": lambda call: call.inputs[0].imaginary,
    "Conj": _negated,
    "ComplexAbs": _absolute,
    "Angle": _angle,
    "Cast": _cast,
    "Mul": _multiply,
    "RealDiv": _divide,
    "Exp": _exp,
    "MatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "RFFT": _rfft,
    "IRFFT": _irfft,
    "FFT": _fourier(1, -1.0),
    "IFFT": _fourier(1, 1.0),
    "FFT2D": _fourier(2, -1.0),
    "IFFT2D": _fourier(2, 1.0),
}
