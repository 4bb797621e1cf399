"""Every installed runtime either refuses an exported file with an error, or computes what Keras computes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from environments import FOLDER, RUNTIMES, Runtime
from matrix import Notes, Result, cell, difference, digest, run

# Faults of the runtimes themselves.
KNOWN = {
    # OpenCV 4 computes a depthwise convolution of 3 × 3 weights over an image of one pixel wrongly.
    "opencv-4.12.0": {"keras-mobilenet_v2.static"},
    # MNN writes the result of a sigmoid over its input, also where that is an output.
    "mnn-3.6.1": {"bert-cross_encoder.17"},
    # RKNN-Toolkit2 computes NaN for these GRUs, whose files are right elsewhere.
    "rknn-2.5.0": {"seq2seq-dot.rknn", "seq2seq-luong.rknn"},
}
pytestmark = pytest.mark.runs_together  # the tests share a folder of exported files


@pytest.fixture(scope="module")
def cases() -> Any:
    """Return a function that makes the cases of one form, and returns their folder."""

    def made(form: str) -> Path:
        from cases import make

        folder = FOLDER / digest() / "cases"
        make(folder, (form,))
        return folder

    return made


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_nothing_is_silently_wrong(runtime: Runtime, cases: Any) -> None:
    if runtime.reason:
        pytest.skip(runtime.reason)
    form = runtime.form or "17"
    folder = cases(form)
    found = run(runtime, folder, folder.parent / "results", [form])
    assert found
    known = KNOWN.get(runtime.name, set())
    wrong = {result.case: result.difference for result in found if result.wrong and result.case not in known}
    assert not wrong
    assert any(result.difference is not None for result in found), found[0].reason


def test_differences() -> None:
    expected = np.array([[1.0, -4.0], [2.0, 0.0]], "float32")
    assert difference(expected, expected) == 0
    assert difference(expected + 0.5, expected) == 0.125  # relative to 4
    assert difference(expected * 0.1 + 0.01, expected * 0.1) == pytest.approx(0.01, rel=1e-5)  # not relative below 1
    assert difference(expected[None], expected) == 0
    assert difference(expected.T[:1], expected) == np.inf
    assert difference(np.where(expected > 1, np.nan, expected), expected) == np.inf
    assert difference(expected + np.array([[0], [9]]), expected, np.array([True, False])) == 0


def test_cells() -> None:
    def result(difference: float | None, reason: str = "", form: str = "17") -> Result:
        return Result("onnxruntime-1.17.3", "case", "kind", form, difference, reason)

    notes = Notes()
    assert cell([], notes) == ""
    assert cell([result(2e-7), result(3e-6)], notes) == "3e-06"
    assert cell([result(2e-7), result(0.5)], notes) == "**wrong** 5e-01 (1 of 2)"
    assert cell([result(float("inf"))], notes) == "**wrong** inf (1 of 1)"
    assert cell([result(0.05, form="int8")], notes) == "5e-02"
    assert cell([result(None, "load: no operator X_1"), result(1e-7)], notes) == "1e-07, 1 of 2 no [1]"
    assert cell([result(None, "load: no operator X_2"), result(None, "run: it crashed")], notes) == "no [1, 2]"
