"""Export requests: the same options, defaults and error messages in Python and on the command line."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.cli import main
from attention_zoo.export.request import ACCEPTED, DEFAULTS, ExportRequest
from helpers import python, shared

FUNCTIONS = {
    "onnx": export.to_onnx,
    "tflite": export.to_tflite,
    "litertlm": export.to_litertlm,
    "genai": export.to_genai,
    "huggingface": export.to_huggingface_onnx,
}


@pytest.mark.parametrize("format", ACCEPTED)
def test_every_option_of_a_function_is_one_of_the_request(format: str) -> None:
    parameters = dict(inspect.signature(FUNCTIONS[format]).parameters)
    _model, _path = parameters.pop("model"), parameters.pop("folder" if "folder" in parameters else "path")
    assert set(parameters) == set(ACCEPTED[format])
    own = {"precision": "fp32", "data_format": "channels_first" if format == "huggingface" else None}
    for name, parameter in parameters.items():
        assert parameter.default == own.get(name, DEFAULTS[name]), name


def test_a_request_cannot_be_changed() -> None:
    request = ExportRequest.of("onnx", "m.onnx")
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.target = "standard"  # pyright: ignore[reportAttributeAccessIssue]


WRONG: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("m.onnx", {"precision": "int3"}, ("--precision", "int3")),
    ("m.onnx", {"target": "tensorflow"}, ("--target", "tensorflow")),
    ("m.onnx", {"opset": 16}, ("--opset", "16")),
    ("m.onnx", {"index_dtype": "int16"}, ("--index-dtype", "int16")),
    ("m.onnx", {"image_dtype": "int8"}, ("--image-dtype", "int8")),
    ("m.tflite", {"image_dtype": "int8"}, ("--image-dtype", "int8")),
    ("m.onnx", {"least_cosine": 0.9}, ("--least-cosine", "0.9")),
    ("m.tflite", {"least_cosine": 0.9}, ("--least-cosine", "0.9")),
    ("m.tflite", {"precision": "int8", "least_cosine": 1.5}, ("--precision", "int8", "--least-cosine", "1.5")),
    ("m.onnx", {"card": {"licence": "MIT"}}, ("--card", "licence=MIT")),
    ("m.tflite", {"card": {"licence": "MIT"}}, ("--card", "licence=MIT")),
    (
        "m.onnx",
        {"precision": export.Precision("int8", activations="static16")},
        ("--precision", "int8", "--activations", "static16"),
    ),
    (
        "m.tflite",
        {"precision": export.Precision("int4", block_size=16)},
        ("--precision", "int4", "--block-size", "16"),
    ),
]


@pytest.mark.parametrize("name, options, words", WRONG)
def test_python_and_the_command_line_refuse_with_the_same_words(
    name: str, options: dict[str, Any], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check the error messages. The command line checks options before it loads the model, which is missing here."""
    to: Any = export.to_onnx if name.endswith("onnx") else export.to_tflite
    with pytest.raises(ValueError) as refused:
        to(shared("bert", "backbone"), tmp_path / name, **options)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "no model"), str(tmp_path / name), *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"attention-zoo: {refused.value}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "format, options, message",
    [
        ("onnx", {"sequence_length": 128}, "sequence_length: got static sizes for onnx, whose dimensions are open"),
        ("genai", {"batch_size": 2}, "batch_size: got static sizes for genai"),
        ("huggingface", {"target": "standard"}, "target: got 'standard' for huggingface; accepted: none"),
        ("litertlm", {"image_size": 32}, "image_size: got one for a bundle"),
        ("tflite", {"data_format": "channels_first"}, "data_format: got 'channels_first' for tflite; accepted: none"),
    ],
)
def test_options_of_another_format_are_refused(format: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportRequest.of(format, f"m.{format}", **options)
    ExportRequest.of(format, f"m.{format}", **{name: DEFAULTS[name] for name in options})  # default values are accepted


def test_a_file_on_the_way_keeps_what_its_format_has() -> None:
    samples = [{"input_ids": [[1, 2]]}, {"input_ids": [[3, 4]]}]
    request = ExportRequest.of(
        "litertlm", "m.litertlm", precision="int8", samples=samples, prefill=8, max_length=40, stop_tokens=5
    )
    inner = request.for_file("tflite", Path("m.tflite"), cache=True)
    kept = (inner.format, inner.path, inner.prefill, inner.max_length, inner.cache, inner.stop_tokens)
    assert kept == ("tflite", Path("m.tflite"), 8, 40, True, None)
    assert inner.precision == request.precision and inner.evaluation_samples is samples
    assert request.for_file("onnx", Path("m.onnx")).prefill is None


def test_calibration_and_evaluation_samples_are_apart() -> None:
    rows = ["one", "two", "three", "four", "five"]
    static = export.Precision("int8", activations="static")
    request = ExportRequest.of("onnx", "m.onnx", precision=static, samples=rows)
    assert request.calibration_samples == ["one", "three", "five"] and request.evaluation_samples == ["two", "four"]
    request = ExportRequest.of("onnx", "m.onnx", precision="int8", samples=rows)
    assert request.calibration_samples is None and request.evaluation_samples is rows
    assert request.accepted_cosine == 0.97
    assert ExportRequest.of("onnx", "m.onnx", precision="int8", least_cosine=0.5).accepted_cosine == 0.5


def test_numpy_numbers_are_stored_as_those_of_python(tmp_path: Path) -> None:
    """Check that the metadata of a file, which is JSON, can hold them."""
    for name, to in (("m.onnx", export.to_onnx), ("m.tflite", export.to_tflite)):
        result = to(shared("bert", "backbone"), tmp_path / name, precision="int8", least_cosine=np.float32(0.25))
        assert export.load(result.path).precision_details["least_cosine"] == 0.25


def test_the_command_line_refuses_before_keras_is_imported(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from attention_zoo.export.command import export_as

wrong = [
    ("m.onnx", None, "int3", {}),
    ("m.tflite", None, "int8", {"least_cosine": 2}),
    ("h", "huggingface", "int8,int8", {}),
    ("h", "huggingface", "fp32", {"target": "standard"}),
    ("g", "genai", "fp32", {"cache": False}),
]
for name, to, precision, options in wrong:
    try:
        export_as(lambda: sys.exit("loaded"), Path(name), to, precision, {}, options)
    except ValueError as error:
        print(error)
assert not {"keras", "tensorflow"} & {*sys.modules}
"""
    assert len(python(code).splitlines()) == 5
