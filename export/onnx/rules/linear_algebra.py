"""Systems of linear equations, and matrices with a given diagonal."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...frontend import linear_algebra
from .base import Call, rule
from .selection import select


@rule("MatrixInverse")
def _inverse(call: Call) -> Any:
    (a,) = call.inputs
    return linear_algebra.inverse(a, adjoint=call.attr("adjoint")) if linear_algebra.is_small(a) else None


@rule("MatrixSolve")
def _solve(call: Call) -> Any:
    a, b = call.inputs
    return linear_algebra.solved(a, b, adjoint=call.attr("adjoint")) if linear_algebra.is_small(a) else None


@rule("MatrixTriangularSolve")
def _triangular_solve(call: Call) -> Any:
    a, b = call.inputs
    if not linear_algebra.is_small(a):
        return None
    return linear_algebra.solved_triangular(a, b, lower=call.attr("lower"), adjoint=call.attr("adjoint"))


@rule("LogMatrixDeterminant")
def _log_determinant(call: Call) -> Any:
    (a,) = call.inputs
    return linear_algebra.log_determinant(a) if linear_algebra.is_small(a) else None


@rule("Cholesky")
def _cholesky(call: Call) -> Any:
    (a,) = call.inputs
    return linear_algebra.cholesky(a) if linear_algebra.is_small(a) else None


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
