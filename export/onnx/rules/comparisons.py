"""Comparisons of integers."""

from __future__ import annotations

from typing import Any

from ..markers import marker
from .arithmetic import WIDE, broadcast
from .base import Call, rule


@rule("Less", "Greater")
def _ordered(call: Call) -> Any:
    """Compare integers as such. tf2onnx compares them as float32, in which some beyond 2²⁴ are equal.

    In functions, int32 is left to tf2onnx, which makes the counters of loops int64 and casts the limits in comparisons.
    """
    import tensorflow as tf
    from tensorflow.python.framework.func_graph import FuncGraph

    x, y = call.inputs
    if not x.dtype.is_integer or x.dtype == tf.uint64 or (x.dtype == tf.int32 and isinstance(call.op.graph, FuncGraph)):
        return None
    if x.dtype.name not in WIDE:
        wide = tf.int64 if x.dtype == tf.uint32 else tf.int32
        x, y = tf.cast(x, wide), tf.cast(y, wide)
    return marker(call.op.type, [x, y], broadcast(x, y), dtype=tf.bool)
