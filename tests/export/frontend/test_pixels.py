"""Files of image models with uint8 pixels from 0 to 255 as inputs, and files with channels first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.layers import ImageProcessor
from helpers import close, numpy, run, shared, tiny

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STEPS: dict[str, Any] = {"image_mean": MEAN, "image_std": STD, "size": 500, "do_center_crop": True, "crop_size": 400}
WRITERS = {"tflite": export.to_tflite, "onnx": export.to_onnx}


def pixels(model: Any, batch: int = 2) -> np.ndarray:
    sizes = model.signature.defaults
    shape = (batch, sizes["height"], sizes["width"], model.config.num_channels)
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


@pytest.mark.parametrize("form", WRITERS)
def test_pixels_are_normalised_in_the_file(form: str, tmp_path: Path) -> None:
    """Compare with Keras on pixels that NumPy normalizes; the file does not include resizing and cropping."""
    model, file = shared("vit", "classifier"), tmp_path / f"m.{form}"
    WRITERS[form](model, file, image_dtype="uint8", image_processor=STEPS)
    given = pixels(model)
    normalised = (given / 255 - np.array(MEAN)) / np.array(STD)
    runner = export.load(file)
    close(runner.run(given)["logits"], run(model, {"pixel_values": normalised.astype("float32")})["logits"])
    assert runner.signature.inputs[0].dtype == "uint8"
    assert runner.graphs[runner.layout.main].runtime_signature().inputs[0].dtype == "uint8"
    for wrong, message in ((normalised, "accepted: integers"), (given.astype(int) + 1, "from 0 to 255")):
        with pytest.raises(ValueError, match=f"pixel_values: got .*{message}"):
            runner.run(wrong)
    assert export.verify(model, file).passed
    model = tiny("vit", "classifier", seed=1)
    assert not export.verify(model, file).passed


def test_the_models_own_processor(tmp_path: Path) -> None:
    model = tiny("vit", "classifier")
    model.preprocessor = {"image_processor_type": "ViTImageProcessor", "image_mean": 0.25, "rescale_factor": 0.01}
    export.to_tflite(model, tmp_path / "m.tflite", image_dtype="uint8")
    given = pixels(model, 1)
    expected = numpy(model(((given * 0.01 - 0.25) / 0.5).astype("float32")))
    close(export.load(tmp_path / "m.tflite").run(given)["logits"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", WRITERS)
def test_a_model_that_prepares_its_images(form: str, tmp_path: Path) -> None:
    model, file = shared("vit", "images"), tmp_path / f"m.{form}"
    sizes = {"image_size": (24, 32)} if form == "tflite" else {}
    WRITERS[form](model, file, image_dtype="uint8", **sizes)
    given = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), "uint8")
    expected = run(model, {"images": given.astype("float32")})
    for name, value in export.load(file).run(given).items():
        close(value, expected[name])
    assert export.verify(model, file).passed


@pytest.mark.slow
@pytest.mark.parametrize("form", WRITERS)
def test_pixels_in_int8(form: str, tmp_path: Path) -> None:
    model, file = shared("vit", "classifier"), tmp_path / f"m.{form}"
    WRITERS[form](
        model, file, image_dtype="uint8", image_processor=ImageProcessor(), precision="int8", least_cosine=0.9
    )
    assert export.load(file).signature.inputs[0].dtype == "uint8"
    assert export.verify(model, file).passed


@pytest.mark.parametrize(
    ("family", "variant", "options", "message"),
    [
        ("vit", "classifier", {"image_dtype": "int8"}, "image_dtype: got 'int8'"),
        ("vit", "classifier", {"image_dtype": "uint8"}, "image_processor: got none"),
        ("vit", "classifier", {"image_processor": STEPS}, "without image_dtype='uint8'"),
        ("vit", "classifier", {"image_dtype": "uint8", "image_processor": 0.5}, "image_processor: got float"),
        ("vit", "classifier", {"image_dtype": "uint8", "image_processor": {"image_mean": [0.5, 0.5]}}, "channels"),
        ("vit", "images", {"image_dtype": "uint8", "image_processor": STEPS}, "prepares its images itself"),
        ("bert", "backbone", {"image_dtype": "uint8"}, "got 'uint8' for a bert"),
    ],
)
def test_wrong_options(family: str, variant: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    for form, write in WRITERS.items():
        with pytest.raises(ValueError) as raised:
            write(shared(family, variant), tmp_path / f"m.{form}", **options)
        assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_channels_first(tmp_path: Path) -> None:
    model = shared("vit", "classifier")
    file = tmp_path / "m.onnx"
    export.to_onnx(model, file, data_format="channels_first")
    runner = export.load(file)
    images = (pixels(model, 3) / 255).astype("float32")
    expected = run(model, {model.signature.inputs[0].name: images})
    found = runner.run(np.moveaxis(images, -1, 1))
    for name, array in expected.items():
        close(found[name], array)
    assert runner.signature.inputs[0].dims[1] == images.shape[-1]
    assert export.verify(model, file).passed
    with pytest.raises(ValueError, match=r"data_format: got 'channels_first' for a bert"):
        export.to_onnx(shared("bert", "backbone"), file, data_format="channels_first")
    with pytest.raises(ValueError, match=r"without image_dtype='uint8'"):
        steps = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        options = {"image_dtype": "uint8", "image_processor": steps, "data_format": "channels_first"}
        export.to_onnx(model, file, **options)
