"""Images as they come from a file, made into what a ViT was trained on, inside the graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ..checks import is_integer
from ..files import read_json

Tensor = Any
FILE = "preprocessor_config.json"
LANCZOS, BILINEAR, BICUBIC = 1, 2, 3  # PIL.Image.Resampling; its nearest hangs on rounding errors of its own
_CLIP_MEAN, _CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_CLIP = {
    "size": {"shortest_edge": 224},
    "resample": BICUBIC,
    "do_center_crop": True,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
}
# What each of Hugging Face's processors does where its file is silent; an old file says hardly more than the size.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "DeiT": {"size": {"height": 256, "width": 256}, "resample": BICUBIC, "do_center_crop": True},
    "Bit": _CLIP,  # DINOv2's
    "CLIP": _CLIP,
}
# Keys of such files that change nothing here: names, and where and as what the pixels are kept.
_IGNORED = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "auto_map",
    "default_to_square",  # read apart
    "do_convert_rgb",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "image_seq_length",
    "_valid_processor_keys",
}


@keras.saving.register_keras_serializable(package="attention_zoo")
class ImageProcessor(keras.layers.Layer):
    """Resize, crop at the centre, rescale and normalise: Hugging Face's ``preprocessor_config.json`` as a layer.

    (batch, height, width, channels) uint8, or float from 0 to 255, to (batch, height, width, channels) float32 of
    `crop_size`, else of `size`. The resampling is Pillow's ``Image.resize``: the kernel widens where an image shrinks
    (antialiasing), bicubic has a = -0.5, the width is resampled before the height, and each is rounded to whole grey
    levels. (Pillow 13 begins with the height where that shrinks far more: other roundings, up to one grey level apart.)
    It is two matrix products, so it exports without a resize operator; height and width may be dynamic.

    Args:
        do_resize: resize at all.
        size: ``{"height": …, "width": …}``, ``{"shortest_edge": …}`` (keeps the aspect ratio), or one integer for a
            square.
        resample: Pillow's number of the kernel: 1 Lanczos, 2 bilinear, 3 bicubic.
        do_center_crop: cut `crop_size` out of the middle; what it has beyond the image is black.
        crop_size: ``{"height": …, "width": …}``, or one integer for a square.
        do_rescale: multiply by `rescale_factor`.
        do_normalize: subtract `image_mean` and divide by `image_std`, a number each or one for each channel.
        round_pixels: round what the resizing gives to 0, 1, …, 255, as an image in a file would be.

    Raises:
        ValueError: an option that is not accepted, or an input of another rank or number of channels.
    """

    def __init__(
        self,
        *,
        do_resize: bool = True,
        size: int | Mapping[str, int] = 224,
        resample: int = BILINEAR,
        do_center_crop: bool = False,
        crop_size: int | Mapping[str, int] = 224,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] = (0.5, 0.5, 0.5),
        image_std: float | Sequence[float] = (0.5, 0.5, 0.5),
        round_pixels: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")  # whatever the model computes in, pixels are counted exactly
        super().__init__(autocast=False, **kwargs)
        self.do_resize = _flag("do_resize", do_resize)
        self.size = _size("size", size, shortest_edge=True)
        if isinstance(resample, bool) or resample not in tuple(_KERNELS):
            raise ValueError(f"resample: got {resample!r}; accepted: 1 Lanczos, 2 bilinear, 3 bicubic")
        self.resample = int(resample)
        self.do_center_crop = _flag("do_center_crop", do_center_crop)
        self.crop_size = _size("crop_size", crop_size)
        self.do_rescale = _flag("do_rescale", do_rescale)
        self.rescale_factor = _numbers("rescale_factor", rescale_factor)
        if isinstance(self.rescale_factor, list):
            raise ValueError(f"rescale_factor: got {rescale_factor!r}; accepted: one number")
        self.do_normalize = _flag("do_normalize", do_normalize)
        self.image_mean = _numbers("image_mean", image_mean)
        self.image_std = _numbers("image_std", image_std)
        if not np.all(np.asarray(self.image_std) > 0):
            raise ValueError(f"image_std: got {image_std!r}; accepted: positive numbers")
        self.round_pixels = _flag("round_pixels", round_pixels)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ImageProcessor:
        """The layer that a Hugging Face folder, or its preprocessor_config.json, describes.

        Raises:
            ValueError: no such file, not JSON, another kind of processor, or a key that would change the result and
                that this layer has not.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        return cls.from_huggingface(read_json(file))

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any], name: str | None = None) -> ImageProcessor:
        """The layer that the content of a preprocessor_config.json describes; errors as in ``from_file``."""
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor")
        model = kind.removesuffix("Fast").removesuffix("Pil")
        model = model.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
        if model not in _DEFAULTS:
            accepted = ", ".join(f"{known}ImageProcessor" for known in _DEFAULTS)
            raise ValueError(f"image_processor_type: got {kind!r}; accepted: {accepted}")
        own = {option for option in _OPTIONS if option != "round_pixels"}
        # An unknown step that is switched off changes nothing.
        unknown = sorted(key for key in set(config) - own - _IGNORED if config[key] not in (None, False))
        if unknown:
            raise ValueError(f"config: got {unknown}, which would change the result; accepted: {sorted(own)}")
        options = {**_DEFAULTS[model], **{key: config[key] for key in own if config.get(key) is not None}}
        square = config.get("default_to_square")
        if square is None:
            square = "shortest_edge" not in _DEFAULTS[model].get("size", {})
        if isinstance(options.get("size"), int) and not square:
            options["size"] = {"shortest_edge": options["size"]}
        return cls(**options, name=name)

    def to_huggingface(self) -> dict[str, Any]:
        """The content of a preprocessor_config.json that says the same; ``json.dump`` writes it."""
        kind = "BitImageProcessor" if self.do_center_crop or "shortest_edge" in self.size else "ViTImageProcessor"
        options = {name: getattr(self, name) for name in _OPTIONS if name != "round_pixels"}
        return {"image_processor_type": kind, **options}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in _OPTIONS}}

    def call(self, inputs: Tensor) -> Tensor:
        x = ops.convert_to_tensor(inputs)
        self._check(x.shape)
        x = ops.cast(x, "float32")
        _, height, width, channels = ops.shape(x)
        if self.do_resize or self.do_center_crop:
            new_height, new_width = self._resized(height, width)
            crop = self.crop_size if self.do_center_crop else {"height": new_height, "width": new_width}
            # The width first, as in Pillow: with a rounding in between, the order shows.
            x = ops.transpose(x, (0, 2, 1, 3))  # (B, w, h, C)
            x = self._resample(x, width, new_width, crop["width"], height, channels)
            x = ops.transpose(x, (0, 2, 1, 3))  # (B, h, w', C)
            x = self._resample(x, height, new_height, crop["height"], crop["width"], channels)
        scale, shift = np.float64(self.rescale_factor if self.do_rescale else 1.0), np.float64(0.0)
        if self.do_normalize:
            mean, std = np.asarray(self.image_mean, "float64"), np.asarray(self.image_std, "float64")
            scale, shift = scale / std, -mean / std
        if self.do_rescale or self.do_normalize:
            x = x * ops.convert_to_tensor(scale, "float32") + ops.convert_to_tensor(shift, "float32")
        return ops.cast(x, self.compute_dtype)

    def _resample(self, x: Tensor, old: Any, new: Any, crop: Any, other: Any, channels: Any) -> Tensor:
        """(batch, old, other, channels) to (batch, crop, other, channels)."""
        if isinstance(old, int) and old == new == crop:
            return x
        # (new - crop) // 2 rounded down, without dividing what may be negative: ONNX rounds that towards zero.
        start = (new + crop) // 2 - crop
        weights = _resampling_matrix(old, new, start, crop, self.resample)
        batch = ops.shape(x)[0]
        x = ops.matmul(ops.expand_dims(weights, 0), ops.reshape(x, (batch, old, other * channels)))
        if self.do_resize and self.round_pixels:
            x = ops.floor(ops.clip(x, 0.0, 255.0) + 0.5)
        return ops.reshape(x, (batch, crop, other, channels))

    def _resized(self, height: Any, width: Any) -> tuple[Any, Any]:
        """The size after the resizing."""
        if not self.do_resize:
            return height, width
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        edge = self.size["shortest_edge"]
        known = isinstance(height, int) and isinstance(width, int)
        shortest = min(height, width) if known else ops.minimum(height, width)
        return edge * height // shortest, edge * width // shortest

    def _check(self, shape: Any) -> None:
        accepted = "accepted: (batch, height, width, channels)"
        if len(shape) != 4:
            raise ValueError(f"inputs: got shape {tuple(shape)}; {accepted}")
        channels = shape[3]
        lengths = {len(value) for value in (self.image_mean, self.image_std) if isinstance(value, list)}
        if channels is None or (self.do_normalize and lengths - {1, channels}):
            raise ValueError(f"inputs: got {channels} channels; {accepted} with {sorted(lengths) or 'fixed'} channels")
        if 0 in tuple(shape)[1:]:
            raise ValueError(f"inputs: got shape {tuple(shape)}; {accepted}, none of them 0")

    def compute_output_shape(self, input_shape: Any) -> Any:
        self._check(input_shape)
        batch, height, width, channels = input_shape
        if self.do_center_crop:
            return batch, self.crop_size["height"], self.crop_size["width"], channels
        if self.do_resize and "shortest_edge" in self.size and (height is None or width is None):
            return batch, None, None, channels
        return (batch, *self._resized(height, width), channels)


_OPTIONS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "round_pixels",
)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}; accepted: True or False")
    return value


def _size(name: str, value: Any, *, shortest_edge: bool = False) -> dict[str, int]:
    if is_integer(value):
        value = {"height": value, "width": value}
    forms = [{"height", "width"}] + [{"shortest_edge"}] * shortest_edge
    found = {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else {}
    whole = all(is_integer(v) and v > 0 for v in found.values())
    if set(found) not in forms or not whole:
        raise ValueError(f"{name}: got {value!r}; accepted: positive integers under {[sorted(form) for form in forms]}")
    return {key: int(found[key]) for key in sorted(found)}


def _numbers(name: str, value: Any) -> Any:
    """A float, or floats."""
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim > 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {value!r}; accepted: a number, or one for each channel")
    return array.tolist()


def _resampling_matrix(old: Any, new: Any, start: Any, rows: Any, resample: int) -> Tensor:
    """(rows, old) weights: rows `start` and after of those that resample `old` pixels to `new`, as Pillow does it.

    A row beyond the new image is zero. Distances are whole numbers until the end, so that large images are resampled
    as exactly as small ones: int32 serves as long as twice the product of both sizes fits.
    """
    # Sizes that are known make a constant, in float64; others the same operations in the graph.
    known = all(isinstance(size, int) for size in (old, new, start, rows))
    xp: Any = np if known else ops
    places, points = xp.arange(rows) + start, xp.arange(old)
    inside = xp.expand_dims(xp.logical_and(places >= 0, places < new), 1)
    places = xp.minimum(xp.maximum(places, 0), new - 1)
    # From the centre of a new pixel to that of an old one, in units of 1/(2·new) old pixels: (rows, old).
    distance = xp.expand_dims((2 * points + 1) * new, 0) - xp.expand_dims((2 * places + 1) * old, 1)
    larger = max(old, new) if known else xp.maximum(old, new)  # the kernel widens by old/new where that is above 1
    weights = _KERNELS[resample](xp.divide(xp.absolute(distance), 2 * larger), xp)
    weights = xp.where(inside, weights / xp.sum(weights, axis=1, keepdims=True), 0.0)
    return ops.convert_to_tensor(weights, "float32") if known else ops.cast(weights, "float32")


def _bilinear(t: Any, xp: Any) -> Any:
    return xp.maximum(1 - t, 0)


def _bicubic(t: Any, xp: Any) -> Any:
    a = -0.5  # Keys 1981; the interpolation of positions, which is PyTorch's, has -0.75
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return xp.where(t < 1, near, xp.where(t < 2, far, 0.0))


def _lanczos(t: Any, xp: Any) -> Any:
    angle = np.pi * xp.maximum(t, 1e-6)  # sin(x)/x is 1 there, to the last digit
    return xp.where(t < 3, 3 * xp.sin(angle) * xp.sin(angle / 3) / (angle * angle), 0.0)


_KERNELS: dict[int, Callable[[Any, Any], Any]] = {
    LANCZOS: _lanczos,
    BILINEAR: _bilinear,
    BICUBIC: _bicubic,
}
