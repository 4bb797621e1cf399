"""Image preprocessing compared with Pillow's resampling of photographs and Hugging Face's processors."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from attention_zoo.layers.images import ImageProcessor
from helpers import close, numpy

KERNELS = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
GREY = {"do_rescale": False, "do_normalize": False}  # the result stays in gray levels


@functools.cache
def photograph(name: str) -> np.ndarray:
    return load_sample_image(name)  # (427, 640, 3)


def pillow(image: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize one axis at a time, so that their order does not depend on the version of Pillow."""
    across = Image.fromarray(image).resize((width, image.shape[0]), resample)
    return np.asarray(across.resize((width, height), resample)).astype("float64")


def as_pillow(actual: Any, expected: np.ndarray) -> None:
    """Check equality, except that values half-way between two gray levels may be rounded either way."""
    difference = np.abs(numpy(actual).astype("float64") - expected)
    assert difference.max() <= 1 + 1e-4  # float32 error after conversion back to gray levels
    assert difference.mean() < 0.01


SIZES = {"down": (224, 224), "odd": (37, 91), "up": (500, 801), "across": (640, 427), "a_row": (1, 7)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_resizing_is_pillows(size: str, kernel: str) -> None:
    height, width = SIZES[size]
    for image in (
        photograph("china.jpg"),
        photograph("flower.jpg")[100:301, 50:383],
        photograph("flower.jpg")[:31, :47],
    ):
        layer = ImageProcessor(size={"height": height, "width": width}, resample=KERNELS[kernel], **GREY)
        result = numpy(layer(image[None]))
        assert result.dtype == "float32"
        assert result.shape == (1, height, width, 3)
        as_pillow(result[0], pillow(image, height, width, KERNELS[kernel]))


def test_resizing_is_pillows_own_call() -> None:
    """If both axes shrink by the same factor, every version of Pillow resizes the width first."""
    image = photograph("china.jpg")
    layer = ImageProcessor(size={"height": 214, "width": 320}, resample=3, **GREY)
    expected = np.asarray(Image.fromarray(image).resize((320, 214), Image.Resampling.BICUBIC))
    as_pillow(layer(image[None])[0], expected.astype("float64"))


def huggingface(image: np.ndarray, edge: int, crop: int, mean: list[float], std: list[float]) -> np.ndarray:
    """Preprocess for CLIP and DINOv2 as ``BitImageProcessor`` does: resize, crop, rescale, normalize."""
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    new_long = int(edge * long / short)
    new_height, new_width = (edge, new_long) if height <= width else (new_long, edge)
    resized = pillow(image, new_height, new_width, 3)
    canvas = np.zeros((max(crop, new_height), max(crop, new_width), 3))
    top, left = (-(-(size - own) // 2) for size, own in zip(canvas.shape, resized.shape[:2], strict=False))
    canvas[top : top + new_height, left : left + new_width] = resized
    top, left = (max(0, (own - crop) // 2) for own in resized.shape[:2])
    return (canvas[top : top + crop, left : left + crop] / 255 - mean) / std


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize("crop", [56, 61, 83])  # smaller than the image, larger than its short side, larger than both
@pytest.mark.parametrize("landscape", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_shortest_edge_and_crop(dynamic: bool, landscape: bool, crop: int) -> None:
    image = photograph("flower.jpg")[100:285, 200:433]
    image = image if landscape else image.transpose(1, 0, 2)
    layer = ImageProcessor(
        size={"shortest_edge": 60}, do_center_crop=True, crop_size=crop, resample=3, image_mean=MEAN, image_std=STD
    )
    call = traced(layer) if dynamic else layer
    expected = huggingface(image, 60, crop, MEAN, STD)
    as_pillow(numpy(call(image[None])[0]) * STD * 255, expected * STD * 255)


def traced(layer: Any) -> Callable[[Any], Any]:
    """Return the layer as a graph with unknown batch size, height and width."""
    tf = pytest.importorskip("tensorflow")
    return tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3), "uint8")])


@pytest.mark.parametrize("kernel", KERNELS.values())
def test_open_sizes(kernel: int) -> None:
    """One graph serves all sizes, and the two images of a batch are resized independently."""
    call = traced(ImageProcessor(size={"height": 45, "width": 96}, resample=kernel, **GREY))
    for image in (photograph("china.jpg"), photograph("china.jpg")[:40, :333], photograph("flower.jpg")[:45, :96]):
        batch = np.stack([image, image[::-1]])
        result = numpy(call(batch))
        for row, one in zip(result, batch, strict=True):
            as_pillow(row, pillow(one, 45, 96, kernel))


def test_arithmetic_without_resizing() -> None:
    """Compare rescaling and normalization alone with float64, for integers and floats."""
    image = photograph("china.jpg")[:8, :9]
    for pixels in (image, image.astype("float32"), image.astype("int32")):
        layer = ImageProcessor(do_resize=False, rescale_factor=1 / 200, image_mean=MEAN, image_std=STD)
        close(layer(pixels[None])[0], (image / 200 - MEAN) / STD, 1e-5)
    close(ImageProcessor(do_resize=False, do_normalize=False)(image[None])[0], image / 255, 1e-6)
    close(
        ImageProcessor(do_resize=False, do_rescale=False, image_mean=3, image_std=2)(image[None])[0], (image - 3.0) / 2
    )
    crop = ImageProcessor(do_resize=False, do_center_crop=True, crop_size={"height": 5, "width": 4}, **GREY)
    close(crop(image[None])[0], image[1:6, 2:6], 0)


def test_rounding_may_be_left_out() -> None:
    """Without rounding, the result is that of float64 triangle weights, and a constant image stays constant."""
    image = photograph("china.jpg")[:64, :64].astype("float32")
    layer = ImageProcessor(size=32, resample=2, round_pixels=False, **GREY)
    weights = np.zeros((32, 64))
    for new in range(32):  # at half the size the weights are 1 3 3 1, without those beyond the edge
        for old, weight in zip(range(2 * new - 1, 2 * new + 3), (1, 3, 3, 1), strict=True):
            if 0 <= old < 64:
                weights[new, old] = weight
    weights /= weights.sum(axis=1, keepdims=True)
    close(layer(image[None])[0], np.einsum("ih,hwc,jw->ijc", weights, image.astype("float64"), weights), 1e-3)
    close(layer(np.full((1, 64, 64, 3), 77.25, "float32")), np.full((1, 32, 32, 3), 77.25), 1e-4)


def test_in_a_model_of_another_dtype(tmp_path: Path) -> None:
    """Pixels stay float32 under a half-precision policy, shapes are inferred, and the saved file reloads unchanged."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = ImageProcessor(size={"shortest_edge": 60}, do_center_crop=True, crop_size=56, resample=3)
        free = ImageProcessor(size={"shortest_edge": 60})
    finally:
        keras.config.set_dtype_policy("float32")
    inputs = keras.Input((None, None, 3), dtype="uint8")
    assert free(inputs).shape == (None, None, None, 3)
    assert free(keras.Input((100, 201, 3), dtype="uint8")).shape == (None, 60, 120, 3)
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, 56, 56, 3)
    image = photograph("flower.jpg")[:100, :201][None]
    expected = huggingface(image[0], 60, 56, [0.5] * 3, [0.5] * 3)
    as_pillow(numpy(model(image)[0]) * 127.5, expected * 127.5)
    model.save(tmp_path / "model.keras")
    close(keras.models.load_model(tmp_path / "model.keras")(image), numpy(model(image)), 0)


DINOV2 = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_processor_type": "BitImageProcessor",
    "image_std": STD,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}


def test_preprocessor_config(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**DINOV2, "do_pad": False, "crop_pct": None}))
    image = photograph("china.jpg")
    expected = huggingface(image, 256, 224, MEAN, STD)
    for path in (tmp_path, tmp_path / "preprocessor_config.json"):
        layer = ImageProcessor.from_file(path)
        as_pillow(numpy(layer(image[None])[0]) * STD * 255, expected * STD * 255)
    same = ImageProcessor.from_huggingface(json.loads(json.dumps(layer.to_huggingface())))
    assert {**same.get_config(), "name": ""} == {**layer.get_config(), "name": ""}
    again = ImageProcessor.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_what_old_files_leave_out() -> None:
    """A single number as size means a square for ViT and DeiT and the shorter edge for CLIP, with different kernels."""

    def read(**config: Any) -> dict[str, Any]:
        return ImageProcessor.from_huggingface(config).get_config()

    vit = read(feature_extractor_type="ViTFeatureExtractor", size=384, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    assert (vit["size"], vit["resample"], vit["do_center_crop"]) == ({"height": 384, "width": 384}, 2, False)
    deit = read(feature_extractor_type="DeiTFeatureExtractor", size=256, crop_size=224, image_mean=MEAN, image_std=STD)
    assert (deit["size"], deit["resample"], deit["do_center_crop"]) == ({"height": 256, "width": 256}, 3, True)
    clip = read(image_processor_type="CLIPImageProcessorFast", size=336, crop_size=336)
    assert (clip["size"], clip["resample"]) == ({"shortest_edge": 336}, 3)
    assert clip["crop_size"] == {"height": 336, "width": 336}
    assert clip["image_mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert read(size=96, default_to_square=False)["size"] == {"shortest_edge": 96}


@pytest.mark.parametrize(
    ("kind", "kernel", "mean", "rounds"),
    [
        ("SiglipImageProcessor", 3, [0.5] * 3, True),
        ("SiglipImageProcessorFast", 3, [0.5] * 3, True),
        ("BeitFeatureExtractor", 3, [0.5] * 3, True),
        ("DINOv3ViTImageProcessorFast", 2, [0.485, 0.456, 0.406], False),
    ],
)
def test_processors_of_other_models(kind: str, kernel: int, mean: list[float], rounds: bool) -> None:
    """DINOv3's resizes numbers from 0 to 1, which are not rounded to gray levels in between."""
    config = {"image_processor_type": kind, "size": {"height": 40, "width": 56}, "do_reduce_labels": "Beit" in kind}
    layer = ImageProcessor.from_huggingface(config)
    assert (layer.resample, layer.image_mean, layer.round_pixels) == (kernel, mean, rounds)
    image = photograph("china.jpg")
    result = (numpy(layer(image[None]))[0] * layer.image_std + layer.image_mean) * 255
    if rounds:
        as_pillow(result, pillow(image, 40, 56, kernel))
        return
    channels = [Image.fromarray(image[..., c].astype("float32")).resize((56, 40), kernel) for c in range(3)]
    close(result, np.stack([np.asarray(channel) for channel in channels], -1), atol=2e-3)
    assert ImageProcessor.from_huggingface(layer.to_huggingface()).get_config()["round_pixels"] is False


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 0}, "size"),
        ({"size": {"longest_edge": 8}}, "size"),
        ({"size": {"height": 8}}, "size"),
        ({"size": True}, "size"),
        ({"crop_size": {"shortest_edge": 8}}, "crop_size"),
        ({"resample": 0}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"do_resize": 1}, "do_resize"),
        ({"image_std": [1, 0, 1]}, "image_std"),
        ({"image_mean": "grey"}, "image_mean"),
        ({"rescale_factor": [1, 2]}, "rescale_factor"),
    ],
)
def test_options_that_are_not_accepted(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: got .*accepted"):
        ImageProcessor(**options)


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 1), (1, 0, 8, 3), (1, 3, 8, 8)])
def test_inputs_that_are_not_accepted(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"inputs: got .*accepted"):
        ImageProcessor()(np.zeros(shape, "uint8"))


def test_files_that_are_not_accepted(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    with pytest.raises(ValueError, match=r"^path: .*accepted"):
        ImageProcessor.from_file(tmp_path)
    for text in ("{", "[]", "\xff"):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"^path: .*accepted"):
            ImageProcessor.from_file(tmp_path)
    for surplus in ({"do_pad": True}, {"crop_pct": 0.9}, {"do_reduce_labels": True}):
        with pytest.raises(ValueError, match=f"{next(iter(surplus))}.*would change the result"):
            ImageProcessor.from_huggingface({**DINOV2, **surplus})
    with pytest.raises(ValueError, match="image_processor_type: got 'LevitImageProcessor'; accepted"):
        ImageProcessor.from_huggingface({"image_processor_type": "LevitImageProcessor"})
