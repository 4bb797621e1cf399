"""Systems of linear equations, which LiteRT cannot solve."""

from __future__ import annotations

from ...frontend import linear_algebra
from .table import Tensor, emit, floating, rule, tensors


def _known(a: Tensor) -> bool:
    return floating(a) and None not in a.shape and linear_algebra.is_small(a)


@rule("MatrixInverse")
def _inverse(input: Tensor, adjoint: bool = False) -> Tensor | None:
    (a,) = tensors(input)
    return linear_algebra.inverse(a, adjoint=adjoint) if _known(a) else None


@rule("MatrixSolve")
def _solve(matrix: Tensor, rhs: Tensor, adjoint: bool = False) -> Tensor | None:
    a, b = tensors(matrix, rhs)
    return linear_algebra.solved(a, b, adjoint=adjoint) if _known(a) else None


@rule("MatrixTriangularSolve")
def _triangular_solve(matrix: Tensor, rhs: Tensor, lower: bool = True, adjoint: bool = False) -> Tensor | None:
    a, b = tensors(matrix, rhs)
    return linear_algebra.solved_triangular(a, b, lower=lower, adjoint=adjoint) if _known(a) else None


@rule("LogMatrixDeterminant")
def _log_determinant(input: Tensor) -> list[Tensor] | None:
    (a,) = tensors(input)
    return linear_algebra.log_determinant(a) if _known(a) else None


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
    (a,) = tensors(input)
    return linear_algebra.cholesky(a) if _known(a) else None
