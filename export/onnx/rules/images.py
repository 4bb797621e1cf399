"""Resizing as products with two matrices, colors, and transformations of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..markers import markers
from .base import Call, rule
from .selection import select

Tensor = Any

TABLE = 1024  # TensorFlow reads the weights of bicubic resizing from a table of this size


def _cubic(distance: Tensor, a: float = -0.5) -> Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return _within(distance, 1.0, near, _within(distance, 2.0, far, 0.0))


def _within(distance: Tensor, limit: float, inside: Tensor, outside: Any) -> Tensor:
    import tensorflow as tf

    return select(tf.less(distance, limit), inside, tf.convert_to_tensor(outside, distance.dtype))


def _lanczos(radius: float) -> Callable[[Tensor], Tensor]:
    import tensorflow as tf

    def kernel(distance: Tensor) -> Tensor:
        angle = math.pi * select(tf.less(distance, 1e-3), tf.ones_like(distance), distance)
        value = radius * tf.sin(angle) * tf.sin(angle / radius) / (angle * angle)
        return _within(distance, 1e-3, tf.ones_like(distance), _within(distance, radius, value, 0.0))

    return kernel


def _triangle(distance: Tensor) -> Tensor:
    return _within(distance, 1.0, 1.0 - distance, 0.0)


def _box(distance: Tensor) -> Tensor:
    import tensorflow as tf

    inside = _within(distance, 0.5, tf.ones_like(distance), 0.0)
    return select(tf.equal(distance, 0.5), tf.fill(tf.shape(distance), 0.5), inside)


def _gaussian(distance: Tensor) -> Tensor:
    import tensorflow as tf

    return _within(distance, 1.5, tf.exp(-distance * distance / (2 * 0.5 * 0.5)), 0.0)


def _mitchell(distance: Tensor) -> Tensor:
    near = ((7.0 / 6.0) * distance - 2.0) * distance * distance + 8.0 / 9.0
    far = (((-7.0 / 18.0) * distance + 2.0) * distance - 10.0 / 3.0) * distance + 16.0 / 9.0
    return _within(distance, 1.0, near, _within(distance, 2.0, far, 0.0))


# As tensorflow/core/kernels/image/sampling_kernels.h: each kernel, a function of the distance, and its radius.
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "lanczos1": _lanczos(1.0),
    "lanczos3": _lanczos(3.0),
    "lanczos5": _lanczos(5.0),
    "gaussian": _gaussian,
    "box": _box,
    "triangle": _triangle,
    "keyscubic": _cubic,
    "mitchellcubic": _mitchell,
}


def _columns(size: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.cast(tf.range(size), tf.float32)


def _normalized(weights: Tensor) -> Tensor:
    import tensorflow as tf

    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    usable = tf.greater(tf.abs(total), 1000 * 1.1754944e-38)
    return select(usable, weights / select(usable, total, tf.ones_like(total)), tf.zeros_like(weights))


def _along(matrix: Tensor, images: Tensor, axis: int) -> Tensor:
    """Multiply images (batch, height, width, channels) along an axis."""
    import tensorflow as tf

    if axis == 2:  # (W, w) x (B, h, w, C)
        return tf.matmul(matrix, images)
    channels_inside = tf.transpose(images, (0, 2, 1, 3))  # (B, w, h, C)
    return tf.transpose(tf.matmul(matrix, channels_inside), (0, 2, 1, 3))


@rule("ResizeBicubic")
def _bicubic(call: Call) -> Any:
    import tensorflow as tf

    images, size = call.inputs
    if not call.attr("half_pixel_centers"):
        return None
    result = tf.cast(images, tf.float32)
    for axis in (1, 2):
        old, new = tf.shape(images)[axis], size[axis - 1]
        scale = tf.cast(old, tf.float32) / tf.cast(new, tf.float32)
        place = (_columns(new) + 0.5) * scale - 0.5
        whole = tf.floor(place)
        place = whole + tf.round((place - whole) * TABLE) / TABLE
        weights = _cubic(tf.abs(place[:, None] - _columns(old)))
        result = _along(_normalized(weights), result, axis)
    return result


@rule("ScaleAndTranslate")
def _scale_and_translate(call: Call) -> Any:
    import tensorflow as tf

    images, size, scales, shifts = call.inputs
    kernel = KERNELS.get(call.attr("kernel_type"))
    if kernel is None:
        return None
    result = tf.cast(images, tf.float32)
    for axis in (1, 2):
        old = tf.shape(images)[axis]
        inverse = 1.0 / scales[axis - 1]
        width = tf.maximum(inverse, 1.0) if call.attr("antialias") else tf.ones_like(inverse)
        place = (_columns(size[axis - 1]) + 0.5) * inverse - shifts[axis - 1] * inverse
        weights = kernel(tf.abs(_columns(old) + 0.5 - place[:, None]) / width)
        inside = tf.logical_and(tf.greater_equal(place, 0.0), tf.less_equal(place, tf.cast(old, tf.float32)))
        weights = select(inside[:, None], _normalized(weights), tf.zeros_like(weights))
        result = _along(weights, result, axis)
    return result


@rule("RGBToHSV")
def _rgb_to_hsv(call: Call) -> Any:
    import tensorflow as tf

    (images,) = call.inputs
    r, g, b = (images[..., i] for i in range(3))
    value, least = tf.reduce_max(images, axis=-1), tf.reduce_min(images, axis=-1)
    spread = value - least
    norm = 1.0 / (6.0 * select(tf.greater(spread, 0.0), spread, tf.ones_like(spread)))
    hue = select(
        tf.equal(r, value), norm * (g - b), select(tf.equal(g, value), norm * (b - r) + 2 / 6, norm * (r - g) + 4 / 6)
    )
    hue = select(tf.greater(spread, 0.0), hue, tf.zeros_like(hue))
    hue = select(tf.less(hue, 0.0), hue + 1.0, hue)
    saturation = select(tf.greater(value, 0.0), spread / value, tf.zeros_like(value))
    return tf.stack([hue, saturation, value], axis=-1)


@rule("HSVToRGB")
def _hsv_to_rgb(call: Call) -> Any:
    import tensorflow as tf

    (images,) = call.inputs
    hue, saturation, value = (images[..., i] for i in range(3))
    parts = [tf.abs(hue * 6.0 - 3.0) - 1.0, 2.0 - tf.abs(hue * 6.0 - 2.0), 2.0 - tf.abs(hue * 6.0 - 4.0)]
    return tf.stack(
        [((1.0 - saturation) + saturation * tf.clip_by_value(part, 0.0, 1.0)) * value for part in parts], axis=-1
    )


@rule("ImageProjectiveTransformV3")
def _projective(call: Call) -> Any:
    """Read, for each pixel of the result, the image at the transformed place."""
    import tensorflow as tf

    images, transforms, size, fill = call.inputs
    mode, nearest = call.attr("fill_mode"), call.attr("interpolation") == "NEAREST"
    old = tf.shape(images)
    batch, height, width = old[0], old[1], old[2]
    y = tf.cast(tf.range(size[0]), tf.float32)[None, :, None]
    x = tf.cast(tf.range(size[1]), tf.float32)[None, None, :]
    t = [transforms[:, i, None, None] for i in range(8)]
    under = t[6] * x + t[7] * y + 1.0
    places = [(t[3] * x + t[4] * y + t[5]) / under, (t[0] * x + t[1] * y + t[2]) / under]
    nowhere = tf.equal(under, 0.0)
    places = [
        _into(select(nowhere, tf.fill(tf.shape(place), -1.0), place), tf.cast(length, tf.float32), mode)
        for place, length in zip(places, (height, width), strict=True)
    ]
    rows = tf.broadcast_to(tf.range(batch)[:, None, None], tf.concat([[batch], size], 0))
    full = tf.shape(rows)
    places = [tf.broadcast_to(place, full) for place in places]

    def pixel(y: Tensor, x: Tensor) -> Tensor:
        inside = (y >= 0.0) & (y < tf.cast(height, tf.float32)) & (x >= 0.0) & (x < tf.cast(width, tf.float32))
        place = [
            tf.cast(tf.clip_by_value(at, 0.0, tf.cast(length - 1, tf.float32)), tf.int32)
            for at, length in ((y, height), (x, width))
        ]
        found = tf.gather_nd(images, tf.stack([rows, *place], axis=-1))
        return select(inside[..., None], found, tf.cast(fill, found.dtype))

    if nearest:
        result = pixel(*(tf.sign(place) * tf.floor(tf.abs(place) + 0.5) for place in places))  # halves away from zero
    else:
        y0, x0 = (tf.floor(place) for place in places)
        dy, dx = (place - low for place, low in zip(places, (y0, x0), strict=True))
        dy, dx = dy[..., None], dx[..., None]
        upper = (1.0 - dx) * pixel(y0, x0) + dx * pixel(y0, x0 + 1.0)
        lower = (1.0 - dx) * pixel(y0 + 1.0, x0) + dx * pixel(y0 + 1.0, x0 + 1.0)
        result = (1.0 - dy) * upper + dy * lower
    missing = tf.broadcast_to(nowhere, full)[..., None]
    return select(missing, tf.cast(fill, result.dtype), result)


def _into(place: Tensor, length: Tensor, mode: str) -> Tensor:
    """Map places outside of the image into it, as TensorFlow's MapCoordinate does."""
    import tensorflow as tf

    last, double = length - 1.0, 2.0 * length
    if mode == "CONSTANT":
        return place
    if mode == "NEAREST":
        return tf.clip_by_value(place, 0.0, last)
    if mode == "REFLECT":  # d c b a | a b c d | d c b a
        below = place + double * tf.floor(-place / double)
        below = select(below < -length, below + double, -below - 1.0)
        above = place - double * tf.floor(place / double)
        above = select(above >= length, double - above - 1.0, above)
    else:  # a b c d | a b c d | a b c d
        period = tf.maximum(last, 1.0)
        below = place + length * (tf.floor(-place / period) + 1.0)
        above = place - length * tf.floor(place / period)
    moved = select(place < 0.0, below, select(place > last, above, place))
    return tf.clip_by_value(select(length <= 1.0, tf.zeros_like(place), moved), 0.0, last)


@rule("ExtractImagePatches")
def _patches(call: Call) -> Any:
    """Take the pixels at each place of a patch as a strided slice; patches side by side are a transposition."""
    import tensorflow as tf

    (x,) = call.inputs
    kernel, steps, rates = (call.attr(name)[1:3] for name in ("ksizes", "strides", "rates"))
    counts: list[Any] = []
    sides: list[Any] = []
    for axis, (taken, step, rate) in enumerate(zip(kernel, steps, rates, strict=True), 1):
        size, extent = x.shape[axis] or tf.shape(x)[axis], (taken - 1) * rate + 1
        if call.attr("padding") == "SAME":
            count = -(-size // step)
            missing = tf.maximum((count - 1) * step + extent - size, 0)
            sides.append([missing // 2, missing - missing // 2])
        else:
            count = (size - extent) // step + 1
        counts.append(count)
    if sides:
        x = tf.pad(x, tf.convert_to_tensor([[0, 0], *sides, [0, 0]]))
    depth, (rows, columns) = x.shape[3], counts
    if list(kernel) == list(steps) and set(rates) == {1}:
        x = x[:, : rows * kernel[0], : columns * kernel[1]]
        x = tf.reshape(x, [-1, rows, kernel[0], columns, kernel[1], depth])
        return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, rows, columns, kernel[0] * kernel[1] * depth])
    (top, left), parts = steps, []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            down, right = i * rates[0], j * rates[1]
            below, beyond = down + (rows - 1) * top + 1, right + (columns - 1) * left + 1
            parts.append(x[:, down:below:top, right:beyond:left])
    return tf.concat(parts, axis=3)


@rule("ResizeNearestNeighbor")
def _nearest(call: Call) -> Any:
    """Read the pixel that contains the center of the new one. tf2onnx writes a mode that opset 13 removed."""
    import tensorflow as tf

    images, size = call.inputs
    if not call.attr("half_pixel_centers"):
        return None
    first = tf.transpose(images, (0, 3, 1, 2))
    sizes = tf.cast(tf.concat([tf.shape(first)[:2], size], 0), tf.int64)
    resized = markers(
        "Resize",
        [first, None, None, sizes],
        [[*first.shape[:2], *call.op.outputs[0].shape[1:3]]],
        mode="nearest",
        coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
    )
    return tf.transpose(resized[0], (0, 2, 3, 1))
