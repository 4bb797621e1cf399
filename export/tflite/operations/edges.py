"""Functions of inputs of the model, which may be of any size, infinite or NaN.

LiteRT's operators differ from TensorFlow's at these values. What layers compute keeps the bare operators.
"""

from __future__ import annotations

import math
from typing import Any

from .table import RULES, Rule, Tensor, constant, emit_kept, floating, rule, tensors

MOVES = ("Identity", "Cast", "Mul", "Abs", "Neg", "Reshape", "ExpandDims", "Squeeze", "Transpose", "StridedSlice")


def is_input(x: Tensor) -> bool:
    """Return whether `x` is an input of the model, in another shape or multiplied by a constant."""
    import tensorflow as tf

    if not tf.is_tensor(x) or not floating(x):
        return False
    while x.op.type in MOVES and constant(x) is None:
        x = next((operand for operand in x.op.inputs if constant(operand) is None), x.op.inputs[0])
    return x.op.type == "Placeholder" and x.dtype != tf.resource


@rule("Sigmoid")
def _sigmoid(x: Tensor, **_: object) -> Tensor | None:
    """Bound the argument, since LiteRT's LOGISTIC of 1e27 is NaN."""
    import tensorflow as tf

    (x,) = tensors(x)
    return emit_kept("Sigmoid", x=tf.clip_by_value(x, -150.0, 150.0))[0] if is_input(x) else None


@rule("Exp")
def _exp(x: Tensor, **_: object) -> Tensor | None:
    """Square the exponential of the half where LiteRT's EXP overflows too early, and keep NaN, of which it makes 0."""
    import tensorflow as tf

    (x,) = tensors(x)
    if not is_input(x):
        return None
    half, whole = emit_kept("Exp", x=0.5 * x)[0], emit_kept("Exp", x=x)[0]
    return _with_nan(tf.where(x > 88.0, half * half, whole), x)


def _with_nan(result: Tensor, *operands: Tensor) -> Tensor:
    """Return `result`, and NaN where an operand is NaN."""
    import tensorflow as tf

    for operand in operands:
        result = tf.where(tf.math.is_nan(operand), operand, result)
    return result


def _extreme(operation: str) -> Rule:
    """LiteRT's MAXIMUM of a number and NaN is the number."""
    others = RULES[operation]

    def compute(x: Tensor, y: Tensor) -> Tensor | None:
        one, other = tensors(x, y)
        found = [operand for operand in (one, other) if is_input(operand)]
        return _with_nan(emit_kept(operation, x=one, y=other)[0], *found) if found else others(x=x, y=y)

    return compute


def _reduced_extreme(operation: str) -> Rule:
    others = RULES[operation]

    def compute(input: Tensor, reduction_indices: Tensor, keep_dims: bool = False) -> Tensor | None:
        import tensorflow as tf

        (x,) = tensors(input)
        options: dict[str, Any] = {"reduction_indices": reduction_indices, "keep_dims": keep_dims}
        if not is_input(x):
            return others(input=input, **options)
        found = emit_kept(operation, input=x, **options)[0]
        invalid = tf.reduce_any(tf.math.is_nan(x), axis=reduction_indices, keepdims=keep_dims)
        return tf.where(invalid, math.nan, found)

    return compute


def register() -> None:
    """Let these rules come before those for other dtypes, which are registered by then."""
    for operation in ("Maximum", "Minimum"):
        RULES[operation] = _extreme(operation)
    for operation in ("Max", "Min"):
        RULES[operation] = _reduced_extreme(operation)
