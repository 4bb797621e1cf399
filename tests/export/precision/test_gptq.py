"""GPTQ: compared with the algorithm of the paper in float64, and files that are quantized with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.export.precision.blocks import Blocks, to_blocks
from attention_zoo.export.precision.gptq import DAMPING, order_of, with_feedback
from attention_zoo.export.precision.onnx.moments import Moments
from attention_zoo.export.precision.samples import calibration_of, samples_of
from attention_zoo.export.request import apart
from attention_zoo.export.tflite import exporter as tflite
from attention_zoo.runtime.tflite.flatbuffer import constants as stored
from attention_zoo.runtime.tflite.flatbuffer import unpacked
from helpers import close, randomise, shared, tiny

GPTQ = export.Precision("int4", method="gptq")


def tokens(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Return (count, width) correlated features, some of them large, as in a language model."""
    hidden = rng.normal(size=(count, width // 4)) @ rng.normal(size=(width // 4, width))
    return ((hidden + 0.3 * rng.normal(size=(count, width))) * np.exp(rng.normal(size=width))).astype("float32")


def one_by_one(rows: np.ndarray, blocks: Blocks, moments: np.ndarray) -> np.ndarray:
    """Return values by the algorithm of arXiv:2210.17323, section 3.1, with Gaussian elimination on the inverse."""
    inputs = np.argsort(-np.diag(moments), kind="stable")
    size = blocks.values.shape[-1]
    squares = moments.astype("float64")
    inverse = np.linalg.inv(squares + DAMPING * np.diag(squares).mean() * np.eye(len(squares)))
    left, values = rows.astype("float64"), np.zeros(rows.shape, "uint8")
    for column in inputs:
        scale, zero = (part[:, column // size].astype("float64") for part in (blocks.scales, blocks.zeros))  # type: ignore
        values[:, column] = np.clip(np.rint(left[:, column] / scale + zero), 0, 15)
        error = left[:, column] - (values[:, column] - zero) * scale
        left -= np.outer(error / inverse[column, column], inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return values


@pytest.mark.parametrize("width", [64, 160, 200])  # one and two steps of ``AT_ONCE``; an incomplete last block
def test_it_is_the_paper_s_algorithm(width: int, rng: np.random.Generator) -> None:
    rows, x = rng.normal(size=(24, width)).astype("float32"), tokens(rng, 400, width)
    x[:, 3] = 0  # an input that is always zero
    moments = x.T @ x
    blocks = to_blocks(rows, 4, 32, symmetric=False, method="search")
    found = with_feedback(rows, blocks, order_of(moments))
    expected = one_by_one(rows, blocks, moments)
    # Errors are passed on: one value that float32 rounds differently changes the rest of its row.
    same = (found.values.reshape(24, -1)[:, :width] == expected).all(axis=1)
    assert same.mean() > 0.8
    assert found.scales is blocks.scales and found.zeros is blocks.zeros

    def error(made: Blocks) -> float:
        return float(np.square(x @ (made.numbers(width) - rows).T).sum())

    assert error(found) < 0.6 * error(blocks)


def test_moments_are_those_of_the_inputs_and_not_of_padding(tmp_path: Path, rng: np.random.Generator) -> None:
    x = keras.Input((None, 6), name="x")
    model = keras.Model(x, keras.layers.Dense(5)(keras.layers.Dense(4, activation="relu")(x)))
    export.to_onnx(model, tmp_path / "m.onnx")
    runner = export.load(tmp_path / "m.onnx")
    given = rng.normal(size=(2, 3, 6)).astype("float32")
    graph: Any = runner.graphs["model"]
    found = Moments(tmp_path / "m.onnx", graph, [{"x": given}, {"x": given[:, :1]}])
    flat = np.concatenate([given.reshape(-1, 6), given[:, 0]]).astype("float64")
    inside = np.maximum(flat @ model.layers[1].kernel.numpy() + model.layers[1].bias.numpy(), 0)
    (first, second) = found.widths
    close(found.of(first), flat.T @ flat, 1e-4)
    close(found.of(second), inside.T @ inside, 1e-4)

    bert = shared("bert", "backbone")
    export.to_onnx(bert, tmp_path / "b.onnx")
    graph = export.load(tmp_path / "b.onnx").graphs["model"]  # type: ignore
    ids = np.array([[5, 6, 7, 8]])
    alone = Moments(tmp_path / "b.onnx", graph, [{"input_ids": ids}])
    padded = {"input_ids": np.pad(ids, ((0, 0), (0, 3))), "attention_mask": np.array([[1, 1, 1, 1, 0, 0, 0]])}
    beside = Moments(tmp_path / "b.onnx", graph, [padded])
    for name in alone.widths:
        close(beside.of(name), alone.of(name), 1e-4 * max(1.0, float(np.abs(alone.of(name)).max())))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["standard", "onnxruntime"])
def test_a_file_of_it(target: str, tmp_path: Path) -> None:
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "hidden_dim": 64, "intermediate_dim": 96}
    model = randomise(tiny("gpt", "llama", **sizes))
    file, other = tmp_path / "m.onnx", tmp_path / "search.onnx"
    result = export.to_onnx(model, file, precision=GPTQ, target=target, least_cosine=0.5)
    nearest = export.to_onnx(model, other, precision="int4", target=target, least_cosine=0.5)
    assert result.bytes == pytest.approx(nearest.bytes, rel=1e-2) and file.read_bytes() != other.read_bytes()
    assert result.accuracy is not None and nearest.accuracy is not None
    assert result.accuracy.cosine > nearest.accuracy.cosine
    assert export.verify(model, file).passed
    again = export.to_onnx(model, other, precision=GPTQ, target=target, least_cosine=0.5)
    assert again.bytes == result.bytes and other.read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_a_tflite_file_of_it(tmp_path: Path) -> None:
    """Check that GPTQ is more accurate than the nearest values with the same scales, and changes only 4-bit kernels."""
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "hidden_dim": 64, "intermediate_dim": 96}
    model = randomise(tiny("gpt", "llama", **sizes))
    options: dict[str, Any] = {"prefill": (4, 8), "max_length": 24, "least_cosine": 0.5}
    nearest = export.to_tflite(model, tmp_path / "search.tflite", precision="int4", **options)
    result = export.to_tflite(model, tmp_path / "m.tflite", precision=GPTQ, **options)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.tflite", "search.tflite"]
    assert result.bytes == pytest.approx(nearest.bytes, rel=1e-2) and result.accuracy and nearest.accuracy
    assert result.accuracy.cosine > nearest.accuracy.cosine
    assert export.verify(model, result.path).passed
    scales = [count for name, _, count in stored(unpacked(result.path.read_bytes())) if name.endswith("_scales")]
    assert len(scales) == 8 and not any(scales), "they are not the model's numbers stored twice"
    found, before = (constants(result.path), constants(nearest.path))
    changed = {name.partition(";")[0] for name in found if not np.array_equal(found[name], before[name])}
    assert len(changed) == 2 * 4 and all(name.endswith("/kernel") for name in changed)  # but not their scales
    assert all(np.array_equal(found[name], before[name]) for name in found if "/value/" in name or "_scales" in name)


def constants(file: Path) -> dict[str, np.ndarray]:
    """Return the bytes of all but the small constants of a TFLite file, by the name of the tensor."""
    model = unpacked(file.read_bytes())
    return {
        tensor.name.decode(): np.asarray(data)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if (data := model.buffers[tensor.buffer].data) is not None and len(data) > 64
    }


def test_nothing_is_judged_by_what_it_was_made_with() -> None:
    assert apart([1, 2, 3, 4, 5]) == ([1, 3, 5], [2, 4])
    assert apart({"a": [1, 2, 3], "b": [4, 5, 6]}) == ({"a": [1, 3], "b": [4, 6]}, {"a": [2], "b": [5]})
    for one in ("text", ["text"], {"a": [1]}, {"a": [1, 2], "b": [3]}, {"a": 1}, {}):
        with pytest.raises(
            ValueError, match=r"samples: got one to round by; accepted: several texts, mappings or rows"
        ):
            apart(one)
    for variant in (("bert", "backbone"), ("vit", "images")):
        signature = shared(*variant).signature
        made, measured = (list(part(signature, None)) for part in (calibration_of, samples_of))
        for one in made:
            for other in measured:
                assert not all(np.array_equal(one[name], other.get(name)) for name in one)


def test_what_is_missing_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Check that a missing tf2onnx, which TFLite export needs only for GPTQ, is reported before the conversion."""
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setattr(tflite, "convert", lambda *_: pytest.fail("converted before that"))
    with pytest.raises(ModuleNotFoundError, match=r"tf2onnx is not installed.*attention-zoo\[onnx\]"):
        export.to_tflite(shared("bert", "backbone"), tmp_path / "m.tflite", precision=GPTQ)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variant", "options", "suffix", "said"),
    [
        (("transformer", "marian"), {}, "onnx", "precision.method: got 'gptq' for a model of several graphs"),
        (("bert", "backbone"), {"samples": [{"input_ids": [[1]]}]}, "onnx", "samples: got one to round by"),
        (("transformer", "marian"), {}, "tflite", "precision.method: got 'gptq' for a model of several graphs"),
        (("bert", "backbone"), {"samples": [{"input_ids": [[1]]}]}, "tflite", "samples: got one to round by"),
    ],
)
def test_what_it_is_not_for(variant: Any, options: Any, suffix: str, said: str, tmp_path: Path) -> None:
    write = export.to_onnx if suffix == "onnx" else export.to_tflite
    with pytest.raises(ValueError, match=said):
        write(shared(*variant), tmp_path / f"m.{suffix}", precision=GPTQ, **options)
    assert not list(tmp_path.iterdir())
