"""Preprocessing of decoded images for vision transformers, as part of the graph."""

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
LANCZOS, BILINEAR, BICUBIC = 1, 2, 3  # of PIL.Image.Resampling; NEAREST depends on Pillow's own rounding errors
_CLIP_MEAN, _CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_CLIP = {
    "size": {"shortest_edge": 224},
    "resample": BICUBIC,
    "do_center_crop": True,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
}
# Defaults of Hugging Face's processors for keys that are not in the file; old files contain little more than the size.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "DeiT": {"size": {"height": 256, "width": 256}, "resample": BICUBIC, "do_center_crop": True},
    "Bit": _CLIP,  # used by DINOv2
    "CLIP": _CLIP,
    "Siglip": {"resample": BICUBIC},
    "Beit": {"resample": BICUBIC},
    "DINOv3ViT": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
}
# Keys that do not change the result: class names, and the format and device of the pixels.
_IGNORED = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "auto_map",
    "default_to_square",  # read in from_huggingface
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
    """Resizing, center crop, rescaling and normalization: Hugging Face's ``preprocessor_config.json`` as a layer.

    The input is (batch, height, width, channels), uint8 or float with values from 0 to 255; height and width may be
    dynamic. The output is (batch, height, width, channels), float32 unless `dtype` is given, with the height and width
    of `crop_size` if the layer crops, else of `size` if it resizes.

    Resampling reproduces Pillow's ``Image.resize``: the kernel is widened when an image shrinks (antialiasing), bicubic
    has a = -0.5, the width is resampled before the height, and each pass is rounded to integer pixel values. (Pillow 13
    resamples the height first when it shrinks far more than the width; the results then differ by up to one pixel
    level.) It consists of two matrix multiplications, so the exported graph has no resize operator.

    Args:
        do_resize: whether to resize the image to `size`.
        size: ``{"height": …, "width": …}``, ``{"shortest_edge": …}`` (keeps the aspect ratio), or one integer for a
            square.
        resample: Pillow's number of the kernel: 1 Lanczos, 2 bilinear, 3 bicubic.
        do_center_crop: whether to crop the center to `crop_size`; parts of the crop outside of the image are black.
        crop_size: ``{"height": …, "width": …}``, or one integer for a square.
        do_rescale: whether to multiply by `rescale_factor`.
        do_normalize: whether to subtract `image_mean` and divide by `image_std`.
        image_mean, image_std: one number, or one for each channel.
        round_pixels: whether to round and clip resized pixels to 0, 1, …, 255, as in an image file.

    Raises:
        ValueError: an option has a value that is not accepted, or an input has another rank, no fixed number of
            channels, or another number of channels than `image_mean` and `image_std`.
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
        kwargs.setdefault("dtype", "float32")  # whatever the model's dtype: half precision is too coarse
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
        """Return the layer described by a preprocessor_config.json.

        Args:
            path: the file, or the Hugging Face folder that contains it.

        Raises:
            ValueError: the file does not exist or is not JSON, it describes an unsupported processor, or it has a key
                that would change the result and that this layer does not support.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        return cls.from_huggingface(read_json(file))

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any], name: str | None = None) -> ImageProcessor:
        """Return the layer described by `config`, the content of a preprocessor_config.json.

        Raises:
            ValueError: as ``from_file``, for the content of the file.
        """
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor")
        model = kind.removesuffix("Fast").removesuffix("Pil")
        model = model.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
        if model not in _DEFAULTS:
            accepted = ", ".join(f"{known}ImageProcessor" for known in _DEFAULTS)
            raise ValueError(f"image_processor_type: got {kind!r}; accepted: {accepted}")
        maps = {"do_reduce_labels", "reduce_labels"} if model == "Beit" else set[str]()  # of segmentation
        own = {option for option in _OPTIONS if option != "round_pixels"}
        # An unknown option that is off does not change the result.
        unknown = sorted(key for key in set(config) - own - _IGNORED - maps if config[key] not in (None, False))
        if unknown:
            raise ValueError(f"config: got {unknown}, which would change the result; accepted: {sorted(own)}")
        options = {**_DEFAULTS[model], **{key: config[key] for key in own if config.get(key) is not None}}
        square = config.get("default_to_square")
        if square is None:
            square = "shortest_edge" not in _DEFAULTS[model].get("size", {})
        if isinstance(options.get("size"), int) and not square:
            options["size"] = {"shortest_edge": options["size"]}
        layer = cls(**options, name=name)
        layer.round_pixels = model != "DINOv3ViT"  # whose processor resizes numbers from 0 to 1
        return layer

    def to_huggingface(self) -> dict[str, Any]:
        """Return the equivalent content of a preprocessor_config.json, for ``json.dump``."""
        kind = "BitImageProcessor" if self.do_center_crop or "shortest_edge" in self.size else "ViTImageProcessor"
        kind = kind if self.round_pixels else "DINOv3ViTImageProcessor"
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
            # The width first, as in Pillow: the order matters because of the rounding in between.
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
        """Resample axis 1 from `old` to `new` and crop it: (batch, old, other, channels) to (batch, crop, ...)."""
        if isinstance(old, int) and old == new == crop:
            return x
        # Equal to (new - crop) // 2, but never divides a negative number, which ONNX would round towards zero.
        start = (new + crop) // 2 - crop
        weights = _resampling_matrix(old, new, start, crop, self.resample)
        batch = ops.shape(x)[0]
        x = ops.matmul(ops.expand_dims(weights, 0), ops.reshape(x, (batch, old, other * channels)))
        if self.do_resize and self.round_pixels:
            x = ops.floor(ops.clip(x, 0.0, 255.0) + 0.5)
        return ops.reshape(x, (batch, crop, other, channels))

    def _resized(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Return the height and width after resizing."""
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
    """Return `value` as a float or a list of floats."""
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim > 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {value!r}; accepted: a number, or one for each channel")
    return array.tolist()


def _resampling_matrix(old: Any, new: Any, start: Any, rows: Any, resample: int) -> Tensor:
    """Return `rows` rows, from row `start` on, of the matrix that resamples `old` pixels to `new` as Pillow does.

    The result is (rows, old); rows outside of the new image are zero. Distances are integers up to the last division,
    so large images are resampled as accurately as small ones. int32 is enough if 2 · old · new fits into it.
    """
    # Known sizes give a constant, computed in float64. Dynamic sizes put the same operations into the graph.
    known = all(isinstance(size, int) for size in (old, new, start, rows))
    xp: Any = np if known else ops
    places, points = xp.arange(rows) + start, xp.arange(old)
    inside = xp.expand_dims(xp.logical_and(places >= 0, places < new), 1)
    places = xp.minimum(xp.maximum(places, 0), new - 1)
    # From the center of each new pixel to that of each old one, in units of 1/(2·new) old pixels: (rows, old).
    distance = xp.expand_dims((2 * points + 1) * new, 0) - xp.expand_dims((2 * places + 1) * old, 1)
    larger = max(old, new) if known else xp.maximum(old, new)  # the kernel is widened by old/new if that is above 1
    weights = _KERNELS[resample](xp.divide(xp.absolute(distance), 2 * larger), xp)
    weights = xp.where(inside, weights / xp.sum(weights, axis=1, keepdims=True), 0.0)
    return ops.convert_to_tensor(weights, "float32") if known else ops.cast(weights, "float32")


def _bilinear(t: Any, xp: Any) -> Any:
    return xp.maximum(1 - t, 0)


def _bicubic(t: Any, xp: Any) -> Any:
    a = -0.5  # Keys 1981; PyTorch, and so the interpolation of positions, uses -0.75
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return xp.where(t < 1, near, xp.where(t < 2, far, 0.0))


def _lanczos(t: Any, xp: Any) -> Any:
    angle = np.pi * xp.maximum(t, 1e-6)  # sin(x)/x rounds to 1 at 1e-6
    return xp.where(t < 3, 3 * xp.sin(angle) * xp.sin(angle / 3) / (angle * angle), 0.0)


_KERNELS: dict[int, Callable[[Any, Any], Any]] = {
    LANCZOS: _lanczos,
    BILINEAR: _bilinear,
    BICUBIC: _bicubic,
}
