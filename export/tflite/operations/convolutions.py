"""Convolutions and poolings with layouts, groups and dilations that LiteRT's operators do not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .table import RULES, Rule, Tensor, constant, emit, rule, tensors


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _last(x: Tensor) -> Tensor:
    """Move the channels from the second place to the last."""
    import tensorflow as tf

    if x.shape.rank == 4 and x.shape[2] == 1 and None not in x.shape[1:]:  # the converter loses a Squeeze after these
        _, channels, _, width = x.shape
        return tf.reshape(tf.transpose(tf.reshape(x, (-1, channels, width)), (0, 2, 1)), (-1, 1, width, channels))
    return tf.transpose(x, (0, *range(2, x.shape.rank), 1))


def _first(x: Tensor) -> Tensor:
    """Move the channels from the last place to the second."""
    import tensorflow as tf

    if x.shape.rank == 4 and x.shape[1] == 1 and None not in x.shape[1:]:
        _, _, width, channels = x.shape
        return tf.reshape(tf.transpose(tf.reshape(x, (-1, width, channels)), (0, 2, 1)), (-1, channels, 1, width))
    return tf.transpose(x, (0, x.shape.rank - 1, *range(1, x.shape.rank - 1)))


def _reordered(values: Sequence[Any]) -> list[Any]:
    """Return values for (batch, channels, …) in the order (batch, …, channels)."""
    return [values[0], *values[2:], values[1]]


def _channels_last(operation: str, inner: Rule | None = None) -> Rule:
    """Return a rule that computes an operation on images or volumes whose channels come first with the channels last.

    The converter's own rearrangement leaves dilated convolutions in a layout that LiteRT cannot run.
    """

    def compute(**arguments: Any) -> Any:
        layout = _text(arguments.get("data_format", "NHWC"))
        if not layout.startswith("NC"):
            return None if inner is None else inner(**arguments)
        changed: dict[str, Any] = {"data_format": layout[0] + layout[2:] + "C"}
        for name in ("input", "value", "out_backprop"):
            if name in arguments:
                changed[name] = _last(tensors(arguments[name])[0])
        for name in ("strides", "dilations", "ksize", "explicit_paddings"):
            if len(arguments.get(name) or ()) == len(layout):
                changed[name] = _reordered(arguments[name])
        if "input_sizes" in arguments:
            sizes = constant(arguments["input_sizes"])
            if sizes is None:
                return None
            changed["input_sizes"] = np.array(_reordered(list(sizes)), "int32")
        return _first(emit(operation, **{**arguments, **changed})[0])

    return compute


# ---- convolutions ----------------------------------------------------------------------------------------------------


def _conv3d(input: Tensor, filter: Tensor, **options: Any) -> Tensor | None:
    """Convolve groups of channels one by one."""
    import tensorflow as tf

    (x,), (kernel,) = tensors(input), tensors(filter)
    groups = x.shape[-1] // kernel.shape[-2]
    if groups == 1:
        return None
    pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([emit("Conv3D", input=part, filter=own, **options)[0] for part, own in pairs], -1)


def _spread(kernel: Tensor, dilations: Sequence[int]) -> Tensor:
    """Return a kernel (…, in, out) with zeros between its elements, which is its dilation."""
    import tensorflow as tf

    for axis, step in enumerate(dilations):
        size = kernel.shape[axis]
        if step == 1 or size == 1:
            continue
        places = np.zeros((1 + step * (size - 1), size), "float32")
        places[step * np.arange(size), np.arange(size)] = 1
        kernel = tf.tensordot(tf.constant(places), kernel, [[1], [axis]])
        order = [*range(1, axis + 1), 0, *range(axis + 1, kernel.shape.rank)]
        kernel = tf.transpose(kernel, order)
    return kernel


def _transposed(operation: str, rank: int) -> Rule:
    def compute(filter: Tensor, dilations: Sequence[int] = (), **options: Any) -> Tensor | None:
        (kernel,) = tensors(filter)
        steps = list(dilations or ())[1 : 1 + rank]
        if all(step == 1 for step in steps):
            return None
        return emit(operation, filter=_spread(kernel, steps), dilations=[1] * (rank + 2), **options)[0]

    return compute


RULES["Conv2D"] = _channels_last("Conv2D")
RULES["DepthwiseConv2dNative"] = _channels_last("DepthwiseConv2dNative")
RULES["Conv3D"] = _channels_last("Conv3D", _conv3d)
RULES["Conv2DBackpropInput"] = _channels_last("Conv2DBackpropInput", _transposed("Conv2DBackpropInput", 2))
RULES["Conv3DBackpropInputV2"] = _channels_last("Conv3DBackpropInputV2", _transposed("Conv3DBackpropInputV2", 3))


# ---- blocks of space, with which TensorFlow dilates convolutions -----------------------------------------------------


@rule("SpaceToBatchND")
def _space_to_batch(input: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor | None:
    """Split axis by axis, where LiteRT's operator does not apply: it knows images with the channels last only."""
    import tensorflow as tf

    (images,), blocks, edges = tensors(input), constant(block_shape), constant(paddings)
    if blocks is None or edges is None or None in images.shape[1:] or (images.shape.rank == 4 and len(blocks) == 2):
        return None
    x: Tensor = tf.pad(images, [[0, 0], *edges.tolist(), *[[0, 0]] * (images.shape.rank - 1 - len(blocks))])
    for axis, block in reversed([*enumerate(blocks.tolist(), 1)]):
        if block > 1:
            sizes = x.shape.as_list()
            before, size, after = math.prod(sizes[1:axis]), sizes[axis] // block, math.prod(sizes[axis + 1 :])
            x = tf.transpose(tf.reshape(x, (-1, before, size, block, after)), (3, 0, 1, 2, 4))
            x = tf.reshape(x, (-1, *sizes[1:axis], size, *sizes[axis + 1 :]))
    return x


@rule("BatchToSpaceND")
def _batch_to_space(input: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor | None:
    import tensorflow as tf

    x: Tensor
    (x,), blocks, edges = tensors(input), constant(block_shape), constant(crops)
    if blocks is None or edges is None or None in x.shape or (x.shape.rank == 4 and len(blocks) == 2):
        return None
    for axis, block in enumerate(blocks.tolist(), 1):
        if block > 1:
            sizes = x.shape.as_list()
            before, size, after = math.prod(sizes[1:axis]), sizes[axis], math.prod(sizes[axis + 1 :])
            x = tf.transpose(tf.reshape(x, (block, -1, before, size, after)), (1, 2, 3, 0, 4))
            x = tf.reshape(x, (sizes[0] // block, *sizes[1:axis], size * block, *sizes[axis + 1 :]))
    start = [0, *edges[:, 0].tolist(), *[0] * (x.shape.rank - 1 - len(blocks))]
    kept = [-1, *(n - sum(edge) for n, edge in zip(x.shape[1:], edges.tolist(), strict=False))]
    return tf.slice(x, start, kept + [-1] * (x.shape.rank - len(kept)))


# ---- poolings --------------------------------------------------------------------------------------------------------


def _pool3d(operation: str) -> Rule:
    """Pool height and width of every slice, and then the depth: maxima and averages of averages are those of all."""

    def pool(input: Tensor, ksize: Sequence[int], strides: Sequence[int], padding: str, **_: Any) -> Tensor | None:
        import tensorflow as tf

        def plane(x: Tensor, size: Sequence[int], steps: Sequence[int]) -> Tensor:
            given = {"value" if operation == "AvgPool" else "input": x}
            given |= {} if operation == "AvgPool" else {"explicit_paddings": []}
            windows = {"ksize": [1, *size, 1], "strides": [1, *steps, 1]}
            return emit(operation, **given, **windows, padding=padding, data_format="NHWC")[0]

        (x,) = tensors(input)
        if None in x.shape[1:]:
            return None
        batch = -1 if x.shape[0] is None else x.shape[0]
        _, depth, height, width, channels = x.shape
        x = tf.reshape(x, (batch * depth, height, width, channels))
        x = plane(x, ksize[2:4], strides[2:4])
        _, height, width, _ = x.shape
        x = plane(tf.reshape(x, (batch, depth, height * width, channels)), (ksize[1], 1), (strides[1], 1))
        return tf.reshape(x, (batch, x.shape[1], height, width, channels))

    return pool


RULES["MaxPool3D"] = _channels_last("MaxPool3D", _pool3d("MaxPool"))
RULES["AvgPool3D"] = _channels_last("AvgPool3D", _pool3d("AvgPool"))
