"""Resizing, warping and colors of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from .table import Rule, Tensor, constant, floating, rule, tensors


def _resized(images: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Multiply images (batch, height, width, channels) by matrices (new height, height) and (new width, width)."""
    import tensorflow as tf

    images = tf.cast(images, tf.float32)
    height, width, channels = images.shape[1:]
    x = tf.matmul(rows[None], tf.reshape(images, (-1, height, width * channels)))
    x = tf.matmul(columns[None], tf.reshape(x, (-1, width, channels)))
    return tf.reshape(x, (-1, len(rows), len(columns), channels))


def _weights(operation: str, before: int, after: int, **options: Any) -> np.ndarray:
    """Return the matrix (after, before) that an operation resizes a column of pixels with: its result for the columns
    of the identity, which are the channels of one image."""
    import tensorflow as tf

    with tf.init_scope():
        one = np.eye(before, dtype="float32")[None, :, None]
        return getattr(tf.raw_ops, operation)(images=one, size=[after, 1], **options).numpy()[0, :, 0]


def _resize(operation: str) -> Rule:
    def resize(images: Tensor, size: Tensor, align_corners: bool = False, half_pixel_centers: bool = False) -> Any:
        (images,), sides = tensors(images), constant(size)
        if sides is None or None in images.shape[1:]:
            return None
        options = {"align_corners": bool(align_corners)}
        options |= {"half_pixel_centers": bool(half_pixel_centers)} if operation == "ResizeBicubic" else {}
        known = zip(images.shape[1:3], (int(side) for side in sides), strict=True)
        return _resized(images, *(_weights(operation, *pair, **options) for pair in known))

    return resize


rule("ResizeBicubic")(_resize("ResizeBicubic"))
rule("ResizeArea")(_resize("ResizeArea"))


@rule("ScaleAndTranslate")
def _scale_and_translate(
    images: Tensor,
    size: Tensor,
    scale: Tensor,
    translation: Tensor,
    kernel_type: str = "lanczos3",
    antialias: bool = True,
) -> Tensor | None:
    (images,) = tensors(images)
    sides, scales, moves = constant(size), constant(scale), constant(translation)
    if sides is None or scales is None or moves is None or None in images.shape[1:]:
        return None
    found = []
    for axis in range(2):
        options = {"scale": [scales[axis], 1.0], "translation": [moves[axis], 0.0]}
        options |= {"kernel_type": kernel_type, "antialias": antialias}
        found.append(_weights("ScaleAndTranslate", images.shape[1 + axis], int(sides[axis]), **options))
    return _resized(images, *found)


# ---- warping ---------------------------------------------------------------------------------------------------------


@rule("ImageProjectiveTransformV3")
def _projective_transform(
    images: Tensor,
    transforms: Tensor,
    output_shape: Tensor,
    fill_value: Tensor,
    interpolation: str,
    fill_mode: str = "CONSTANT",
) -> Tensor | None:
    """Look up the pixels of every place of the result, as TensorFlow's kernel does."""
    import tensorflow as tf

    (images,), (transforms,), sides = tensors(images), tensors(transforms), constant(output_shape)
    if sides is None or None in images.shape or not floating(images):
        return None
    batch, height, width, channels = images.shape
    y, x = (tf.constant(grid.reshape(1, -1), tf.float32) for grid in np.mgrid[: int(sides[0]), : int(sides[1])])
    t = [transforms[:, i : i + 1] for i in range(8)]  # (batch or 1, 1)
    depth = t[6] * x + t[7] * y + 1.0
    mode = fill_mode.decode() if isinstance(fill_mode, bytes) else fill_mode
    across = _mapped((t[0] * x + t[1] * y + t[2]) / depth, width, mode)
    down = _mapped((t[3] * x + t[4] * y + t[5]) / depth, height, mode)
    fill = tf.cast(fill_value, tf.float32)
    pixels = tf.reshape(images, (batch * height * width, channels))
    first = tf.constant(np.arange(batch)[:, None] * (height * width), tf.int32)  # (batch, 1)

    def read(rows: Tensor, columns: Tensor) -> Tensor:  # (batch or 1, places) floats to (batch, places, channels)
        inside = (rows >= 0.0) & (rows <= height - 1.0) & (columns >= 0.0) & (columns <= width - 1.0)
        rows, columns = tf.clip_by_value(rows, 0.0, height - 1.0), tf.clip_by_value(columns, 0.0, width - 1.0)
        place = tf.cast(rows, tf.int32) * width + tf.cast(columns, tf.int32) + first
        return tf.where(inside[..., None], tf.gather(pixels, place), fill)

    if interpolation in ("NEAREST", b"NEAREST"):
        result = read(_rounded(down), _rounded(across))
    else:
        top, left = tf.floor(down), tf.floor(across)
        right = (across - left)[..., None]
        upper = (1.0 - right) * read(top, left) + right * read(top, left + 1.0)
        lower = (1.0 - right) * read(top + 1.0, left) + right * read(top + 1.0, left + 1.0)
        below = (down - top)[..., None]
        result = (1.0 - below) * upper + below * lower
    result = tf.where(tf.equal(depth, 0.0)[..., None], fill, result)
    return tf.reshape(result, (batch, int(sides[0]), int(sides[1]), channels))


def _rounded(x: Tensor) -> Tensor:
    """Round halves away from zero."""
    import tensorflow as tf

    return tf.sign(x) * tf.floor(tf.abs(x) + 0.5)


def _mapped(x: Tensor, size: int, mode: str) -> Tensor:
    """Return the coordinate in an image of this size that stands for a coordinate outside."""
    import tensorflow as tf

    def whole(x: Tensor, divisor: float) -> Tensor:
        return tf.floor(x / divisor)

    if mode == "CONSTANT":
        return x
    if mode == "REFLECT" and size > 1:
        low = x + 2.0 * size * whole(-x, 2.0 * size)
        low = tf.where(low < -float(size), low + 2.0 * size, -low - 1.0)
        high = x - 2.0 * size * whole(x, 2.0 * size)
        high = tf.where(high >= float(size), 2.0 * size - high - 1.0, high)
        x = tf.where(x < 0.0, low, tf.where(x > size - 1.0, high, x))
    if mode == "WRAP" and size > 1:
        low = x + size * (whole(-x, size - 1.0) + 1.0)
        high = x - size * whole(x, size - 1.0)
        x = tf.where(x < 0.0, low, tf.where(x > size - 1.0, high, x))
    return tf.clip_by_value(x, 0.0, size - 1.0)


# ---- colors ----------------------------------------------------------------------------------------------------------


@rule("RGBToHSV")
def _rgb_to_hsv(images: Tensor) -> Tensor | None:
    import tensorflow as tf

    (images,) = tensors(images)
    if not floating(images):
        return None
    red, green, blue = tf.unstack(images, axis=-1)
    value = tf.reduce_max(images, axis=-1)
    span = value - tf.reduce_min(images, axis=-1)
    saturation = tf.where(value > 0.0, span / tf.where(value > 0.0, value, tf.ones_like(value)), tf.zeros_like(value))
    factor = 1.0 / (6.0 * tf.where(span > 0.0, span, tf.ones_like(span)))
    of_green, of_blue = factor * (blue - red) + 2.0 / 6.0, factor * (red - green) + 4.0 / 6.0
    hue = tf.where(tf.equal(green, value), of_green, of_blue)
    hue = tf.where(tf.equal(red, value), factor * (green - blue), hue)
    hue = tf.where(span > 0.0, hue, tf.zeros_like(hue))
    return tf.stack([tf.where(hue < 0.0, hue + 1.0, hue), saturation, value], axis=-1)


@rule("HSVToRGB")
def _hsv_to_rgb(images: Tensor) -> Tensor | None:
    import tensorflow as tf

    (images,) = tensors(images)
    if not floating(images):
        return None
    hue, saturation, value = tf.unstack(images, axis=-1)
    six = 6.0 * hue
    shares = (tf.abs(six - 3.0) - 1.0, 2.0 - tf.abs(six - 2.0), 2.0 - tf.abs(six - 4.0))
    parts = [(1.0 - saturation + saturation * tf.clip_by_value(share, 0.0, 1.0)) * value for share in shares]
    return tf.stack(parts, axis=-1)


@rule("AdjustContrastv2")
def _adjust_contrast(images: Tensor, contrast_factor: Tensor) -> Tensor | None:
    import tensorflow as tf

    (images,) = tensors(images)
    if not floating(images):
        return None
    mean = tf.reduce_mean(images, axis=(-3, -2), keepdims=True)
    return (images - mean) * tf.cast(contrast_factor, tf.float32) + mean


@rule("AdjustSaturation")
def _adjust_saturation(images: Tensor, scale: Tensor) -> Tensor | None:
    import tensorflow as tf

    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(images), axis=-1)
    saturation = tf.clip_by_value(saturation * tf.cast(scale, tf.float32), 0.0, 1.0)
    return tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=-1))


@rule("AdjustHue")
def _adjust_hue(images: Tensor, delta: Tensor) -> Tensor | None:
    import tensorflow as tf

    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(images), axis=-1)
    hue = tf.math.floormod(hue + tf.cast(delta, tf.float32), 1.0)
    return tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=-1))
