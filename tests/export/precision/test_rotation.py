"""Rotated activations: against closed forms, and in a decoder with planted large features that plain int8 breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from attention_zoo import export
from attention_zoo.export.precision.rotation import (
    RoundingError,
    block_of,
    hadamard,
    rotated,
    rounded_rows,
    worth_rotating,
)
from attention_zoo.runtime.tflite.flatbuffer import unpacked

CACHE: dict[str, Any] = {"prefill": [4], "max_length": 24}
LARGE, FEATURE = 80.0, 7


def decoder(planted: bool) -> Any:
    """Return a small Llama with random weights. `planted`: one feature of each block's inputs is `LARGE` times as large
    as the others, and is multiplied by weights that are smaller by as much."""
    options: dict[str, Any] = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
    model = az.GPT(vocab_size=97, num_layers=2, num_heads=2, hidden_dim=64, max_length=40, **options)
    rng = np.random.default_rng(3)
    for variable in model.weights:
        wide = len(variable.shape) == 2
        variable.assign(rng.normal(size=variable.shape) * (0.1 if wide else 0.05) + (0.0 if wide else 1.0))
    scale = np.where(np.arange(64) == FEATURE, LARGE, 1.0)
    for block in model.blocks if planted else []:
        attention, feedforward = block.attention, block.feedforward
        for norm in (block.attention_norm, block.feedforward_norm):
            norm.scale.assign(np.asarray(norm.scale) * scale)
        for dense in (
            attention.query_dense,
            attention.key_dense,
            attention.value_dense,
            feedforward.up,
            feedforward.gate,
        ):
            dense.kernel.assign(np.asarray(dense.kernel) / scale[:, None])
    return model


def divergence(model: Any, file: Path, rotation: int | None) -> float:
    precision = export.Precision("int8", rotation=rotation)
    result = export.to_tflite(model, file, precision=precision, least_cosine=0.0, **CACHE)
    assert result.accuracy is not None and result.accuracy.divergence is not None
    return result.accuracy.divergence


def test_rotation_is_orthogonal_and_its_own_inverse() -> None:
    x = np.random.default_rng(0).normal(size=(5, 96)).astype("float32")
    for size in (8, 16, 32):
        signs = np.array([[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)])
        np.testing.assert_allclose(hadamard(size) * np.sqrt(size), signs, atol=1e-6)
        blocks = np.einsum("rbi,ij->rbj", x.reshape(5, -1, size).astype("float64"), signs / np.sqrt(size))
        np.testing.assert_allclose(rotated(x, size), blocks.reshape(x.shape), atol=1e-5)
        np.testing.assert_allclose(rotated(rotated(x, size), size), x, atol=1e-5)
    assert [block_of(width, 64) for width in (576, 1536, 96, 44, 8, 0)] == [64, 64, 32, 0, 8, 64]


def test_rounding_of_rows() -> None:
    """Every value is at most half a step from its row's, and zero stays zero."""
    x = np.random.default_rng(0).normal(size=(6, 50)).astype("float32") * 10.0 ** np.arange(-3, 3)[:, None]
    x[:, 0] = 0
    steps = (x.max(-1) - x.min(-1)) / 255
    assert (np.abs(rounded_rows(x) - x) <= steps[:, None] * 1.01).all() and (rounded_rows(x)[:, 0] == 0).all()


def test_the_fewest_rotations_are_chosen() -> None:
    errors = {
        "large": RoundingError(1.0, 0.1, 1),
        "wide": RoundingError(0.9, 0.1, 1),
        "small": RoundingError(0.001, 0.0001, 1),
        "useless": RoundingError(2.0, 1.9, 1),
    }
    products = [(["large"], 64), (["useless"], 64), (["small"], 64), (["wide"], 640), (["unmeasured"], 64)]
    assert worth_rotating(errors, products) == [0, 3], "the rest is less than a thousandth"
    assert worth_rotating(errors, products[1:3]) == [1]


@pytest.mark.slow
def test_large_features_are_rotated_by_default(tmp_path: Path) -> None:
    model, file = decoder(planted=True), tmp_path / "m.tflite"
    plain = divergence(model, file, 0)
    assert "rotated" not in export.load(file).precision_details
    mended = divergence(model, file, None)
    details = export.load(file).precision_details
    assert details["rotation"] == 64 and details["rotated"] >= 4, "both inputs of both blocks"
    assert mended < plain / 2, (mended, plain)
    assert export.verify(model, file).passed
    with pytest.raises(export.AccuracyError):
        export.to_tflite(model, file, precision=export.Precision("int8", rotation=0), **CACHE)
    assert export.to_tflite(model, file, precision="int8", **CACHE).accuracy.passed  # pyright: ignore


@pytest.mark.slow
def test_without_large_features_little_is_rotated(tmp_path: Path) -> None:
    """The inputs that were rotated with the planted features stay as they are without them."""
    model, file = decoder(planted=False), tmp_path / "m.tflite"
    divergence(model, file, None)
    assert export.load(file).precision_details.get("rotated", 0) <= 4, "at most down and output, of 9 inputs"


def test_rotated_weights_in_the_file(tmp_path: Path) -> None:
    """A kernel in the file is the model's, rotated along its inputs, to half a step of each output."""
    model, file = decoder(planted=True), tmp_path / "m.tflite"
    divergence(model, file, 16)
    stored = unpacked(bytearray(file.read_bytes()))
    name = b"block_1/feedforward/down/kernel"
    tensor = next(t for graph in stored.subgraphs for t in graph.tensors if t.name.startswith(name) and t.type == 9)
    scales = np.asarray(tensor.quantization.scale)[:, None]
    found = np.asarray(stored.buffers[tensor.buffer].data, "uint8").view("int8").reshape(tensor.shape) * scales
    kernel = np.asarray(model.blocks[1].feedforward.down.kernel, "float64")  # (in, out)
    wanted = np.einsum("bio,ij->bjo", kernel.reshape(-1, 16, 64), hadamard(16)).reshape(kernel.shape).T
    assert (np.abs(found - wanted) <= 0.51 * scales).all()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"embedding": "int8"}, {"head": "fp32"}, {"keep": ("*/gate/kernel",)}])
def test_rotated_files_pass_with_other_options(options: dict[str, Any], tmp_path: Path) -> None:
    model, file = decoder(planted=True), tmp_path / "m.tflite"
    precision = export.Precision("int8", rotation=32, **options)
    result = export.to_tflite(model, file, precision=precision, **CACHE)  # refuses a cosine below 0.97
    assert result.accuracy is not None and result.accuracy.cosine > 0.97
    assert export.verify(model, file).passed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "int8", "rotation": 24}, "precision.rotation: got 24"),
        ({"name": "fp16", "rotation": 16}, "precision.rotation: got 16"),
        ({"name": "int8", "activations": "float", "rotation": 16}, "precision.rotation: got 16 with activations"),
        ({"name": "int4", "rotation": 16}, "precision.rotation: got 16 for int4"),
        ({"name": "int8", "method": "gptq"}, "precision.method: got 'gptq' for int8"),
        ({"name": "int8", "activations": "dynamic", "head": "int4"}, "precision.head: got 'int4'"),
        ({"name": "int8", "activations": "static", "embedding": "int4"}, "precision.embedding: got 'int4'"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        export.Precision(**options)


def test_rotation_is_for_tflite(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"precision.rotation: got 16"):
        export.to_onnx(decoder(False), tmp_path / "m.onnx", precision=export.Precision("int8", rotation=16))
