"""Weights as files store them, float32 twins of files in every precision, and limits for single positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from planted.fault import decoder
from planted.files import rewrite, says

from attention_zoo import export
from attention_zoo.export.precision.blocks import to_blocks, to_rows
from attention_zoo.export.precision.cosine import cosines
from attention_zoo.export.precision.spread import Spread, farthest, spread_of
from attention_zoo.export.verification.comparison import Closeness, compare
from attention_zoo.export.verification.places import first_difference
from attention_zoo.export.verification.stored import Stored, fault, unpacked_nibbles
from attention_zoo.export.verification.twin_tflite import parts_of
from attention_zoo.runtime.metadata import MEASURED
from helpers import tiny

# ---- numbers ---------------------------------------------------------------------------------------------------------


def by_rows(rng: np.random.Generator, **changes: Any) -> Stored:
    """Return rows of 8-bit integers, with the scales of the largest weights."""
    weight = rng.normal(size=(6, 40)).astype("float32")
    scales = np.abs(weight).max(1) / 127
    values = np.rint(weight / scales[:, None]).astype("int32")
    return Stored("w", **{"values": values, "expected": weight, "scales": scales, "limits": (-128, 127), **changes})


def test_nearest_integers_are_right(rng: np.random.Generator) -> None:
    right = by_rows(rng, bits=8)
    assert fault(right) is None
    for row, column in ((0, 3), (5, 39)):
        values = right.values.copy()
        values[row, column] += -1 if values[row, column] > 0 else 1
        said = fault(by_rows(np.random.default_rng(0), values=values, expected=right.expected, scales=right.scales))
        assert said is not None and said.startswith(f"w, row {row}: weight")


@pytest.mark.parametrize("factor", [2.0, 1.1, 0.5, -1.0, 0.0, np.nan, np.inf])
def test_scales_that_are_wrong(factor: float, rng: np.random.Generator) -> None:
    right = by_rows(rng, bits=8)
    assert right.scales is not None
    scales = right.scales.copy()
    scales[4] *= np.float32(factor)
    said = fault(by_rows(rng, values=right.values, expected=right.expected, scales=scales, bits=8))
    assert said is not None and said.startswith("w, row 4")


def test_a_scale_must_fit_although_its_integers_are_the_nearest(rng: np.random.Generator) -> None:
    """Integers that are nearest for a scale four times too large waste two bits; too small, they cut weights off."""
    weight = rng.normal(size=(3, 64)).astype("float32")
    for factor in (4.0, 0.05):
        scales = factor * np.abs(weight).max(1) / 127
        values = np.clip(np.rint(weight / scales[:, None]), -128, 127)
        said = fault(Stored("w", values, weight, scales, None, 8, (-128, 127)))
        assert said is not None and "times the one that its weights need" in said


@pytest.mark.parametrize("method", ["rtn", "search"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_blocks_of_every_kind_are_right(
    bits: int, symmetric: bool, method: str, spread: float, rng: np.random.Generator
) -> None:
    weight = (spread * rng.standard_t(3, size=(32, 96))).astype("float32")
    weight[3], weight[4] = 0, np.abs(weight[4])
    made = to_blocks(weight, bits, 32, symmetric=symmetric, method=method)
    zeros = np.full(made.scales.shape, 2.0 ** (bits - 1)) if made.zeros is None else made.zeros.astype("float32")
    told: dict[str, Any] = {"bits": bits, "limits": (0, 2**bits - 1), "blocks": 3}
    parts = made.values.reshape(-1, 32), weight.reshape(-1, 32), made.scales.reshape(-1), zeros.reshape(-1)
    assert fault(Stored("w", *parts, **told)) is None
    off = fault(Stored("w", *parts[:3], parts[3] + 1, **told))
    assert off is not None and off.startswith("w, row 0, block 0")
    other = parts[0].copy()
    other[16] = other[16][::-1]
    assert str(fault(Stored("w", other, *parts[1:], **told))).startswith("w, row 5, block 1")


def test_rows_that_leave_room_for_sums_are_right(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(16, 50)).astype("float32")
    values, scales = to_rows(weight, reduce_range=True)
    assert fault(Stored("w", values, weight, scales, None, 8, (-128, 127))) is None


def test_floats_are_compared_bit_by_bit(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(4, 8)).astype("float32")
    assert fault(Stored("w", weight, weight)) is None
    assert fault(Stored("w", weight.astype("float16"), weight)) is None
    other = weight.copy()
    other[2, 1] = np.nextafter(other[2, 1], np.float32(9))
    assert str(fault(Stored("w", other, weight))).startswith("w, row 2: 1 numbers differ")
    assert fault(Stored("w", weight, None)) == "w is no weight of the model"


def test_nibbles_and_names() -> None:
    assert unpacked_nibbles(np.array([[0x21, 0xF3]])).tolist() == [[1, 2, 3, 15]]
    known = ["a/query/kernel", "a/key/kernel", "a/up/kernel", "b/x/up", "b/y/up"]
    assert parts_of("a/query+key/kernel", dict.fromkeys(known)) == known[:2]
    assert parts_of("a/up/kernel", dict.fromkeys(known)) == ["a/up/kernel"]
    assert parts_of("b/x+y/up", dict.fromkeys(known)) == known[3:]
    assert parts_of("a/query+value/kernel", dict.fromkeys(known)) == []


# ---- files -----------------------------------------------------------------------------------------------------------


def plain(**fields: Any) -> Any:
    """Return a decoder without a tokenizer, of which the answers would take time."""
    model = decoder(**fields)
    model.tokenizer = None
    return model


def exported(ours: Any, format: str, folder: Path, **options: Any) -> Path:
    to: Any = export.to_onnx if format == "onnx" else export.to_tflite
    to(ours, file := folder / f"m.{format}", cache=True, **options)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_a_file_does_not_set_its_own_limits(format: str, tmp_path: Path) -> None:
    """A float32 file of other weights, which says that it is in int4 and that any accuracy will do."""
    ours = plain(max_length=24)
    file = exported(ours, format, tmp_path)
    says("int4")(ours, file)
    report = export.verify(ours, file)
    assert [check.name for check in report.checks if not check.passed] == ["precision"]
    assert "FAILED in 1 of" in report.to_markdown() and report.to_markdown().count("\n") == 4
    other = plain(max_length=24)
    for weight in other.weights:
        weight.assign(weight + 0.1 * keras.random.normal(weight.shape, seed=1))
    failed = export.verify(other, file)
    assert {"weights", "precision"} < {check.name for check in failed.checks if not check.passed}
    assert failed.to_markdown().count("\n") < 16


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_the_first_layer_that_differs(format: str, tmp_path: Path) -> None:
    ours = plain()
    file = exported(ours, format, tmp_path)
    assert first_difference(ours, export.load(file)) == ""
    layer = ours.blocks[1].feedforward.down
    layer.kernel.assign(layer.kernel * 1.01)
    assert "block_1/feedforward/down" in first_difference(ours, export.load(file))
    layer = ours.blocks[0].attention.key_dense
    layer.kernel.assign(layer.kernel * 1.01)
    assert "block_0/attention/key" in first_difference(ours, export.load(file))


# ---- single positions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_the_export_measures_every_position(format: str, tmp_path: Path) -> None:
    ours = plain()
    file = exported(ours, format, tmp_path, precision="int8")
    (of,) = spread_of(export.load(file)).values()
    assert of.positions > 200 and 0 < np.exp(of.mean) < of.worst < 0.05 and 0 < of.deviation < 2
    report = export.verify(ours, file)
    assert report.passed and "bytes" in {check.name for check in report.checks}, report.to_markdown()


def test_positions_are_not_averaged(rng: np.random.Generator) -> None:
    right = rng.normal(size=(2, 40, 32)).astype("float32")
    near = {"x": right + 0.01 * rng.normal(size=right.shape).astype("float32")}
    of = Spread.of(cosines(right, near["x"]).ravel())
    limit = Closeness(0.97, farthest({"x": of}, "int8"))
    assert compare("", near, {"x": right}, lambda _: {}, limit).passed
    near["x"][1, 3:9] += 0.1 * rng.normal(size=(6, 32))
    check = compare("", near, {"x": right}, lambda _: {}, limit)
    assert not check.passed and "positions 1 - cosine is" in check.detail
    assert compare("", near, {"x": right}, lambda _: {}, Closeness(0.97)).passed, "the mean hides it"


def test_a_file_only_makes_its_own_limits_stricter(tmp_path: Path) -> None:
    ours = tiny("bert", "backbone")
    export.to_onnx(ours, file := tmp_path / "m.onnx", precision="int8")
    known = {name: [of.worst, of.mean, of.deviation, of.positions] for name, of in spread_of(export.load(file)).items()}
    assert set(known) == {"last_hidden_state", "pooler_output"}

    def says_measured(numbers: Any) -> list[str]:
        rewrite(file, lambda entries: entries.update({MEASURED: json.dumps(numbers)}))
        return [check.detail for check in export.verify(ours, file).checks if not check.passed]

    assert not says_measured({name: [2.0, 0.0, 9.0, 10] for name in known}), "the limits of int8 remain"
    stricter = says_measured({name: [1e-9, -21.0, 0.1, 10] for name in known})
    assert stricter and all("positions 1 - cosine" in detail for detail in stricter)
    with pytest.raises(ValueError, match=r"path: the measured in .* cannot be read: got \[1\]; accepted: "):
        says_measured({name: [1] for name in known})


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_outputs_that_are_too_short_to_have_a_direction(format: str, tmp_path: Path) -> None:
    """With a row without any token, of which nothing is compared."""
    ours = tiny("bert", "token_classification", num_classes=3)
    to: Any = {"onnx": export.to_onnx, "tflite": export.to_tflite}[format]
    result = to(ours, tmp_path / f"m.{format}", precision="int8", least_cosine=0.5)
    report = export.verify(ours, result.path, least_cosine=0.5)
    assert report.passed, report.to_markdown()
