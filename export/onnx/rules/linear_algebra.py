"""Systems of linear equations with small matrices of known size, solved step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Call, rule
from .selection import select

Tensor = Any

LARGEST = 32  # rows; each one is a step of about ten nodes


def _size(matrix: Tensor) -> int | None:
    """Return the number of rows, or None if it is unknown or too large."""
    rows = matrix.shape[-1]
    return rows if rows is not None and rows <= LARGEST and matrix.dtype.is_floating else None


def _eliminated(a: Tensor, b: Tensor, *, singular: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Solve a x = b by Gauss-Jordan elimination with partial pivoting.

    With `singular`, the determinant of singular matrices is computed too, for which there is no solution.

    Returns:
        The solution, and of the determinant of `a` the sign and the logarithm of the absolute value.
    """
    import tensorflow as tf

    size = a.shape[-1]
    both: Any = tf.concat([a, b + tf.zeros_like(a[..., :1])], axis=-1)  # one matrix `b` may serve all of `a`
    rows = tf.range(size)
    sign, logarithm = tf.ones_like(a[..., 0, 0]), tf.zeros_like(a[..., 0, 0])
    for k in range(size):
        column = select(tf.less(rows, k), tf.constant(-1.0, a.dtype), tf.abs(both[..., k]))
        best: Any = tf.argmax(column, axis=-1, output_type=tf.int32)
        chosen = tf.equal(rows, best[..., None])[..., None]  # (·, n, 1)
        pivot_row: Any = tf.reduce_sum(select(chosen, both, tf.zeros((), a.dtype)), axis=-2, keepdims=True)
        pivot = pivot_row[..., k : k + 1]
        both = select(chosen, both[..., k : k + 1, :], both)  # the other half of the exchange follows below
        one = tf.constant(1.0, a.dtype)
        pivot_row = pivot_row / (select(tf.equal(pivot, 0.0), one, pivot) if singular else pivot)
        both = select(tf.equal(rows, k)[:, None], pivot_row, both - both[..., k : k + 1] * pivot_row)
        pivot = pivot[..., 0, 0]
        sign = sign * tf.sign(pivot) * select(tf.equal(best, k), tf.constant(1.0, a.dtype), tf.constant(-1.0, a.dtype))
        logarithm = logarithm + tf.math.log(tf.abs(pivot))
    return both[..., size:], sign, logarithm


def _identity(a: Tensor) -> Tensor:
    """Return an identity matrix for each matrix of `a`."""
    import tensorflow as tf

    return tf.zeros_like(a) + tf.eye(a.shape[-1], dtype=a.dtype)


def _turned(a: Tensor) -> Tensor:
    import tensorflow as tf

    rank = a.shape.rank
    return tf.transpose(a, [*range(rank - 2), rank - 1, rank - 2])


@rule("MatrixInverse")
def _inverse(call: Call) -> Any:
    (a,) = call.inputs
    if _size(a) is None:
        return None
    a = _turned(a) if call.attr("adjoint") else a
    return _eliminated(a, _identity(a))[0]


@rule("MatrixSolve")
def _solve(call: Call) -> Any:
    a, b = call.inputs
    if _size(a) is None:
        return None
    return _eliminated(_turned(a) if call.attr("adjoint") else a, b)[0]


@rule("MatrixTriangularSolve")
def _triangular_solve(call: Call) -> Any:
    import tensorflow as tf

    a, b = call.inputs
    if _size(a) is None:
        return None
    rows = tf.range(a.shape[-1])
    kept = tf.greater_equal(rows[:, None], rows) if call.attr("lower") else tf.less_equal(rows[:, None], rows)
    a = select(kept, a, tf.zeros((), a.dtype))
    return _eliminated(_turned(a) if call.attr("adjoint") else a, b)[0]


@rule("LogMatrixDeterminant")
def _log_determinant(call: Call) -> Any:
    (a,) = call.inputs
    if _size(a) is None:
        return None
    _, sign, logarithm = _eliminated(a, a[..., :1], singular=True)
    return [sign, logarithm]


@rule("MatrixDiagV3")
def _diagonal(call: Call) -> Any:
    """Write vectors on the diagonals of square matrices. tf2onnx drops a first dimension of 1."""
    import tensorflow as tf

    x, *options = call.inputs
    place, rows, columns, filling = (tf.get_static_value(option) for option in options)
    if place is None or np.any(place) or rows != -1 or columns != -1 or filling is None or filling != 0:
        return None
    size = x.shape[-1] or tf.shape(x)[-1]
    inside = tf.equal(tf.range(size)[:, None], tf.range(size))
    return select(inside, tf.broadcast_to(x[..., None], tf.concat([tf.shape(x), [size]], 0)), tf.zeros((), x.dtype))


@rule("Cholesky")
def _cholesky(call: Call) -> Any:
    """Subtract the product of each column with itself from the rest."""
    import tensorflow as tf

    (a,) = call.inputs
    if _size(a) is None:
        return None
    rows, columns = tf.range(a.shape[-1]), []
    for k in range(a.shape[-1]):
        column = a[..., k] / tf.sqrt(a[..., k, k])[..., None]
        column = select(tf.less(rows, k), tf.zeros((), a.dtype), column)
        a = a - column[..., :, None] * column[..., None, :]
        columns.append(column)
    return tf.stack(columns, axis=-1)
