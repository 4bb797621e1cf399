"""Systems of linear equations with small matrices of known size, as TensorFlow operations that every format has.

They are solved row by row: each row is a step of about ten operations.
"""

from __future__ import annotations

from typing import Any

Tensor = Any

LARGEST = 32  # rows


def is_small(a: Tensor) -> bool:
    """Return whether matrices (..., n, n) are of floats and of a known size that is not too large."""
    rows = a.shape[-1]
    return a.dtype.is_floating and rows is not None and rows <= LARGEST


def solved(a: Tensor, b: Tensor, *, adjoint: bool = False) -> Tensor:
    """Return x (..., n, m) with a x = b, for `a` (..., n, n) and `b` (..., n, m)."""
    return _eliminated(_transposed(a) if adjoint else a, b)[0]


def solved_triangular(a: Tensor, b: Tensor, *, lower: bool, adjoint: bool = False) -> Tensor:
    """Return the solution for the lower or the upper triangle of `a`."""
    import tensorflow as tf

    rows = tf.range(a.shape[-1])
    kept = rows[:, None] >= rows if lower else rows[:, None] <= rows
    return solved(tf.where(kept, a, tf.zeros((), a.dtype)), b, adjoint=adjoint)


def inverse(a: Tensor, *, adjoint: bool = False) -> Tensor:
    """Return the inverse of `a` (..., n, n), or of its transpose."""
    import tensorflow as tf

    return solved(a, tf.zeros_like(a) + tf.eye(a.shape[-1], dtype=a.dtype), adjoint=adjoint)


def log_determinant(a: Tensor) -> list[Tensor]:
    """Return the sign of the determinant of `a` (..., n, n), and the logarithm of its absolute value.

    They are 0 and negative infinity for singular matrices.
    """
    return list(_eliminated(a, a[..., :1], singular=True)[1:])


def cholesky(a: Tensor) -> Tensor:
    """Return the lower triangular L with L Lᵀ = a: subtract the product of each column with itself from the rest."""
    import tensorflow as tf

    rows, columns = tf.range(a.shape[-1]), []
    column: Any
    for k in range(a.shape[-1]):
        column = tf.where(rows < k, tf.zeros((), a.dtype), a[..., k] / tf.sqrt(a[..., k, k])[..., None])
        a = a - column[..., :, None] * column[..., None, :]
        columns.append(column)
    return tf.stack(columns, axis=-1)


def _transposed(a: Tensor) -> Tensor:
    import tensorflow as tf

    rank = a.shape.rank
    return tf.transpose(a, [*range(rank - 2), rank - 1, rank - 2])


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

    size, zero, one = a.shape[-1], tf.zeros((), a.dtype), tf.ones((), a.dtype)
    both: Any = tf.concat([a, b + tf.zeros_like(a[..., :1])], axis=-1)  # one matrix `b` may serve all of `a`
    rows = tf.range(size)
    sign, logarithm = tf.ones_like(a[..., 0, 0]), tf.zeros_like(a[..., 0, 0])
    for k in range(size):
        column = tf.where(rows < k, -one, tf.abs(both[..., k]))
        best: Any = tf.argmax(column, axis=-1, output_type=tf.int32)
        chosen = tf.equal(rows, best[..., None])[..., None]  # (..., n, 1)
        pivot_row: Any = tf.reduce_sum(tf.where(chosen, both, zero), axis=-2, keepdims=True)
        pivot = pivot_row[..., k : k + 1]
        both = tf.where(chosen, both[..., k : k + 1, :], both)  # the other half of the exchange is two lines below
        pivot_row = pivot_row / (tf.where(tf.equal(pivot, zero), one, pivot) if singular else pivot)
        both = tf.where(tf.equal(rows, k)[:, None], pivot_row, both - both[..., k : k + 1] * pivot_row)
        sign = sign * tf.sign(pivot[..., 0, 0]) * tf.where(tf.equal(best, k), one, -one)
        logarithm = logarithm + tf.math.log(tf.abs(pivot[..., 0, 0]))
    return both[..., size:], sign, logarithm
