"""Slices that only add dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Call, rule


@rule("StridedSlice")
def _new_axes(call: Call) -> Any:
    """Add the dimensions of ``x[:, None]`` as such. tf2onnx adds a slice of everything, behind which other runtimes do
    not know the sizes any more."""
    import tensorflow as tf

    x, _, _, strides = call.inputs
    new, full = call.attr("new_axis_mask"), call.attr("begin_mask") & call.attr("end_mask")
    steps = tf.get_static_value(strides)
    if not new or call.attr("ellipsis_mask") or call.attr("shrink_axis_mask") or steps is None:
        return None
    places = range(len(np.ravel(steps)))
    if any(not (new | full) >> i & 1 or (not new >> i & 1 and steps[i] != 1) for i in places):
        return None
    for place in (i for i in places if new >> i & 1):
        x = tf.expand_dims(x, place)
    return x
