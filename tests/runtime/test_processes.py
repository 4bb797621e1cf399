"""Runners in other processes: pickled as their path, and after a fork."""

from __future__ import annotations

import importlib.util
import os
import pickle
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.runtime.litertlm.runner import LiteRTLMRunner
from helpers import shared

pytestmark = pytest.mark.runs_with("bert-backbone")


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_pickled_as_a_path(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared("bert", "backbone")
    monkeypatch.chdir(tmp_path)
    if kind == "onnx":
        export.to_onnx(model, "m.onnx")
    else:
        export.to_tflite(model, "m.tflite", sequence_length=4)
    runner = export.load(f"m.{kind}", threads=1)
    written = pickle.dumps(runner)
    assert len(written) < 1000
    monkeypatch.chdir("/")
    other = pickle.loads(written)
    assert other.opened_with == runner.opened_with and other.opened_with[1] == 1
    ids = {"input_ids": np.array([[1, 2, 3]])}
    for name, value in runner.run(ids).items():
        np.testing.assert_array_equal(other.run(ids)[name], value)
    runner.tokenizer = None
    assert "tokenizer" in pickle.loads(pickle.dumps(runner)).__dict__


@pytest.mark.skipif(importlib.util.find_spec("litert_lm_builder") is None, reason="litert-lm-builder is not installed")
def test_an_engine_is_refused_after_a_fork() -> None:
    runner = LiteRTLMRunner.__new__(LiteRTLMRunner)
    runner.path = Path("m.litertlm")
    runner.__dict__["_engine"] = os.getpid(), "the engine"
    assert runner.engine == "the engine"
    with mock.patch("os.getpid", return_value=1), pytest.raises(ValueError, match=r"before a fork; accepted: load\('m"):
        _ = runner.engine
