"""Errors of failed conversions, which name a line of the user's model, not one of the exporter or of a library."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from attention_zoo.export.frontend import diagnostics
from attention_zoo.export.onnx import markers as onnx_operators
from attention_zoo.export.precision.onnx import half
from attention_zoo.export.tflite import operators as tflite_operators


@pytest.mark.parametrize("exporter", [diagnostics, onnx_operators, tflite_operators, half])
def test_frames_of_the_exporter_are_skipped(exporter: object) -> None:
    files = ["/home/ada/train.py", str(exporter.__file__), "/venv/site-packages/tensorflow/python/ops/math.py"]  # pyright: ignore
    frames = [SimpleNamespace(filename=file, lineno=number) for number, file in enumerate(files, 7)]
    operation = SimpleNamespace(name="tagger_1/dense_2/MatMul", traceback=frames)
    assert diagnostics.place(operation) == "layer 'tagger/dense' (/home/ada/train.py:7)"


def test_the_cause_of_an_error_of_keras_is_one_line() -> None:
    text = (
        "Exception encountered when calling Dense.call().\n\n\x1b[1mMatrix size-incompatible: [2,3], [4,5]\x1b[0m\n\n"
        "Arguments received by Dense.call():\n  • inputs=tf.Tensor(shape=(2, 3), dtype=float32)"
    )
    assert diagnostics.cause(ValueError(text)) == "Dense.call(): Matrix size-incompatible: [2,3], [4,5]"
    assert diagnostics.cause(KeyError("mask")) == "KeyError: mask"
    assert not diagnostics.is_plain(ValueError(text)) and not diagnostics.is_plain(IndexError("index"))
    assert diagnostics.is_plain(ValueError("path: got 3; accepted: a text"))
