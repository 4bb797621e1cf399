"""Operations that move values, for the dtypes and arguments that LiteRT's operators do not have."""

from __future__ import annotations

from typing import Any

import numpy as np

from .table import RULES, Rule, Tensor, constant, emit, rule, tensors


def _dtype(x: Tensor) -> str:
    return x.dtype.base_dtype.name


def _as(dtype: str, operation: str, operand: str, dtypes: tuple[str, ...], *, pad: str = "") -> Rule:
    """Return a rule that moves values of some dtypes as those of another, which represents all of them."""

    def move(**arguments: Any) -> Any:
        import tensorflow as tf

        (x,) = tensors(arguments[operand])
        own = x.dtype
        if _dtype(x) not in dtypes:
            return None
        changed = {operand: tf.cast(x, dtype)}
        changed |= {pad: tf.cast(arguments[pad], dtype)} if pad in arguments else {}
        return [tf.cast(result, own) for result in emit(operation, **{**arguments, **changed})]

    return move


NARROW = ("bool", "uint8", "int8", "uint16", "int16")
RULES["Split"] = _as("int32", "Split", "value", ("bool",))
RULES["SplitV"] = _as("int32", "SplitV", "value", ("bool",))
RULES["Pad"] = _as("int32", "Pad", "input", NARROW)
RULES["PadV2"] = _as("int32", "PadV2", "input", NARROW, pad="constant_values")
RULES["MirrorPad"] = _as("int32", "MirrorPad", "input", NARROW)
RULES["ResizeNearestNeighbor"] = _as("float32", "ResizeNearestNeighbor", "images", (*NARROW, "int32"))


@rule("Unpack")
def _unpack(value: Tensor, num: int, axis: int = 0) -> list[Tensor] | None:
    (x,) = tensors(value)
    if _dtype(x) not in ("int64", *NARROW):
        return None
    before = (slice(None),) * (axis % x.shape.rank)
    return [x[(*before, i)] for i in range(num)]


@rule("MatrixDiagPartV3")
def _diagonal(input: Tensor, k: Tensor, padding_value: Tensor, align: str = "RIGHT_LEFT") -> Tensor | None:
    """Look up the elements of one diagonal of matrices (…, rows, columns)."""
    import tensorflow as tf

    (x,), offset = tensors(input), constant(k)
    if offset is None or np.size(offset) != 1 or None in x.shape[-2:]:
        return None
    rows, columns = x.shape[-2:]
    down, right = max(0, -int(np.ravel(offset)[0])), max(0, int(np.ravel(offset)[0]))
    steps = np.arange(max(0, min(rows - down, columns - right)))
    flat = tf.reshape(x, tf.concat([tf.shape(x)[:-2], [rows * columns]], 0))
    return tf.gather(flat, ((steps + down) * columns + steps + right).astype("int32"), axis=-1)


@rule("MatrixDiagV3")
def _diagonal_matrix(
    diagonal: Tensor, k: Tensor, num_rows: Tensor, num_cols: Tensor, padding_value: Tensor, align: str = "RIGHT_LEFT"
) -> Tensor | None:
    """Place vectors (…, length) on one diagonal of square matrices."""
    import tensorflow as tf

    (x,), offset = tensors(diagonal), constant(k)
    sizes = constant(num_rows), constant(num_cols)
    if offset is None or np.size(offset) != 1 or x.shape[-1] is None or any(size is None for size in sizes):
        return None
    shift = int(np.ravel(offset)[0])
    side = x.shape[-1] + abs(shift)
    if any(int(size) not in (-1, side) for size in sizes):
        return None
    down, right = max(0, -shift), max(0, shift)
    kept = np.zeros((side, side), bool)
    steps = np.arange(x.shape[-1])
    kept[steps + down, steps + right] = True
    columns = [[0, 0]] * (x.shape.rank - 1) + [[right, side - x.shape[-1] - right]]
    wide = tf.expand_dims(tf.pad(x, columns), -2)
    return tf.where(kept, wide, tf.cast(padding_value, x.dtype))


@rule("Cross")
def _cross(a: Tensor, b: Tensor) -> Tensor:
    import tensorflow as tf

    a, b = tensors(a, b)

    def turned(x: Tensor, by: int) -> Tensor:
        return tf.gather(x, [(i + by) % 3 for i in range(3)], axis=-1)

    return turned(a, 1) * turned(b, 2) - turned(a, 2) * turned(b, 1)


@rule("MatMul")
def _matmul(a: Tensor, b: Tensor, transpose_a: bool = False, transpose_b: bool = False, **_: Any) -> Tensor | None:
    """Multiply matrices of integers, which no operator does."""
    import tensorflow as tf

    a, b = tensors(a, b)
    if not a.dtype.is_integer:
        return None
    a, b = tf.transpose(a) if transpose_a else a, tf.transpose(b) if transpose_b else b
    return tf.reduce_sum(tf.expand_dims(a, 2) * tf.expand_dims(b, 0), axis=1)


@rule("ExtractImagePatches")
def _patches(images: Tensor, ksizes: list[int], strides: list[int], rates: list[int], padding: str) -> Tensor | None:
    """Slice the pixels of every place in a patch, and concatenate them along the channels."""
    import tensorflow as tf

    (x,) = tensors(images)
    if None in x.shape[1:]:
        return None
    starts, counts, widths = [], [], [[0, 0]]
    for axis in (1, 2):
        size, step, whole = x.shape[axis], strides[axis], (ksizes[axis] - 1) * rates[axis] + 1
        same = padding in ("SAME", b"SAME")
        counts.append(-(-size // step) if same else (size - whole) // step + 1)
        missing = max(0, (counts[-1] - 1) * step + whole - size) if same else 0
        widths.append([missing // 2, missing - missing // 2])
        starts.append([place * rates[axis] for place in range(ksizes[axis])])
    x = tf.pad(x, [*widths, [0, 0]])
    ends = [(count - 1) * strides[axis] + 1 for axis, count in enumerate(counts, 1)]
    parts = [
        x[:, row : row + ends[0] : strides[1], column : column + ends[1] : strides[2]]
        for row in starts[0]
        for column in starts[1]
    ]
    return tf.concat(parts, -1)
