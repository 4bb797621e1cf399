"""Systems of linear equations with small matrices of known size, solved row by row."""

from __future__ import annotations

from typing import Any

from .table import Tensor, emit, floating, rule, tensors

LARGEST = 32  # rows; each is a step of about ten operators


def _known(a: Tensor) -> bool:
    return floating(a) and None not in a.shape and a.shape[-1] <= LARGEST


def _eliminated(a: Tensor, b: Tensor, *, singular: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Solve a x = b by Gauss-Jordan elimination with partial pivoting.

    Args:
        a: (..., n, n).
        b: (..., n, m).
        singular: compute the determinant of singular matrices too, for which there is no solution.

    Returns:
        The solution (..., n, m), and of the determinant of `a` the sign and the logarithm of the absolute value.
    """
    import tensorflow as tf

    size = a.shape[-1]
    both: Any = tf.concat([a, b + tf.zeros_like(a[..., :1])], axis=-1)  # one matrix `b` may serve all of `a`
    rows = tf.range(size)
    sign, logarithm = tf.ones_like(a[..., 0, 0]), tf.zeros_like(a[..., 0, 0])
    for k in range(size):
        column = tf.where(rows < k, -1.0, tf.abs(both[..., k]))
        best: Any = tf.argmax(column, axis=-1, output_type=tf.int32)
        chosen = tf.equal(rows, best[..., None])[..., None]  # (..., n, 1)
        pivot_row: Any = tf.reduce_sum(tf.where(chosen, both, 0.0), axis=-2, keepdims=True)
        pivot = pivot_row[..., k : k + 1]
        both = tf.where(chosen, both[..., k : k + 1, :], both)  # the other half of the exchange is two lines below
        pivot_row = pivot_row / (tf.where(tf.equal(pivot, 0.0), 1.0, pivot) if singular else pivot)
        both = tf.where(tf.equal(rows, k)[:, None], pivot_row, both - both[..., k : k + 1] * pivot_row)
        sign = sign * tf.sign(pivot[..., 0, 0]) * tf.where(tf.equal(best, k), 1.0, -1.0)
        logarithm = logarithm + tf.math.log(tf.abs(pivot[..., 0, 0]))
    return both[..., size:], sign, logarithm


@rule("MatrixInverse")
def _inverse(input: Tensor, adjoint: bool = False) -> Tensor | None:
    import tensorflow as tf

    (a,) = tensors(input)
    if not _known(a):
        return None
    a = tf.linalg.matrix_transpose(a) if adjoint else a
    return _eliminated(a, tf.zeros_like(a) + tf.eye(a.shape[-1]))[0]


@rule("MatrixSolve")
def _solve(matrix: Tensor, rhs: Tensor, adjoint: bool = False) -> Tensor | None:
    import tensorflow as tf

    a, b = tensors(matrix, rhs)
    return _eliminated(tf.linalg.matrix_transpose(a) if adjoint else a, b)[0] if _known(a) else None


@rule("MatrixTriangularSolve")
def _triangular_solve(matrix: Tensor, rhs: Tensor, lower: bool = True, adjoint: bool = False) -> Tensor | None:
    import tensorflow as tf

    a, b = tensors(matrix, rhs)
    if not _known(a):
        return None
    rows = tf.range(a.shape[-1])
    a = tf.where(rows[:, None] >= rows if lower else rows[:, None] <= rows, a, 0.0)
    return _eliminated(tf.linalg.matrix_transpose(a) if adjoint else a, b)[0]


@rule("LogMatrixDeterminant")
def _log_determinant(input: Tensor) -> list[Tensor] | None:
    (a,) = tensors(input)
    return list(_eliminated(a, a[..., :1], singular=True)[1:]) if _known(a) else None


@rule("MatrixDeterminant")
def _determinant(input: Tensor) -> Tensor | None:
    import tensorflow as tf

    (a,) = tensors(input)
    if not _known(a):
        return None
    sign, logarithm = emit("LogMatrixDeterminant", input=a)
    return sign * tf.exp(logarithm)


@rule("Cholesky")
def _cholesky(input: Tensor) -> Tensor | None:
    """Subtract the product of each column with itself from the rest."""
    import tensorflow as tf

    (a,) = tensors(input)
    if not _known(a):
        return None
    rows, columns = tf.range(a.shape[-1]), []
    column: Any
    for k in range(a.shape[-1]):
        column = tf.where(rows < k, 0.0, a[..., k] / tf.sqrt(a[..., k, k])[..., None])
        a = a - column[..., :, None] * column[..., None, :]
        columns.append(column)
    return tf.stack(columns, axis=-1)
