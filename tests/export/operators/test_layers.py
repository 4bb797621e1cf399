"""Export of every layer of Keras with its options in both formats: equal to Keras, or refused in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pytest
from layer_cases import BATCH, CASES, EXEMPT, GROUPS, REFUSED, Case

from attention_zoo import export
from attention_zoo.export.errors import ExportError

TOLERANCE = 1e-4  # relative to the largest magnitude in a row
SIZE = 16  # cases in one model
EDGES = np.array([0, -0.0, 1, -1, 0.5, -0.5, 1.5, -2.5, 100, -100, 1e-30, 3, -1e4, 1e4, 120, -120, 89, 255], "float32")
POWERS = [sign * (10**k - less) for k in range(19) for less in (0, 1) for sign in (1, -1)]
EXPORTS = {"onnx": export.to_onnx, "tflite": export.to_tflite}


def drawn(cases: Iterable[Case]) -> dict[str, np.ndarray]:
    """Return three rows of each input: normal values, edge values, and a constant; a mask with all kinds of padding."""
    rng = np.random.default_rng(0)
    found = {}
    for group in dict.fromkeys(case.group for case in cases):
        for name, (shape, dtype) in GROUPS[group].items():
            if isinstance(dtype, tuple):
                values = rng.integers(dtype[0], dtype[1], (BATCH, *shape)).astype("int32")
                values[1].flat[0], values[1].flat[-1] = dtype[0], dtype[1] - 1
            elif "int" in dtype:  # all lengths of their texts
                limits = np.iinfo(dtype)
                kept = [value for value in (limits.min, limits.max, *POWERS) if limits.min <= value <= limits.max]
                values = np.resize(np.array(kept, dtype), (BATCH, *shape))
            elif dtype == "bool":
                values = rng.random((BATCH, *shape)) < 0.6
                values[0], values[2].flat[0] = True, True
            else:
                values = rng.normal(size=(BATCH, *shape)).astype("float32")
                values[1] = np.resize(rng.permutation(EDGES) if values[1].size > len(EDGES) else EDGES, shape)
                values[2] = 0.5  # exact in every sum, so that normalizations of it are no noise
            found[f"{group}_{name}"] = values
    return found


def model_of(cases: list[Case]) -> keras.Model:
    """Return a model with random weights whose outputs are those of the cases."""
    inputs = {
        f"{group}_{name}": keras.Input(
            shape, dtype="int32" if isinstance(dtype, tuple) else dtype, name=f"{group}_{name}"
        )
        for group in dict.fromkeys(case.group for case in cases)
        for name, (shape, dtype) in GROUPS[group].items()
    }
    outputs = {}
    keras.utils.set_random_seed(0)
    for i, case in enumerate(cases):
        given = [inputs[f"{case.group}_{name}"] for name in GROUPS[case.group]]
        for j, tensor in enumerate(keras.tree.flatten(case.function(*given))):
            outputs[f"out_{i}_{j}"] = tensor
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        name = variable.path.rpartition("/")[2]
        if "float" in str(variable.dtype) and not re.search(r"/normalization(_\d+)?/", f"/{variable.path}"):
            positive = "variance" in name
            variable.assign(rng.uniform(0.5, 2, variable.shape) if positive else rng.normal(0, 0.3, variable.shape))
    return model


def problem(got: np.ndarray, want: np.ndarray) -> str:
    """Return how an output differs from that of Keras, or ""."""
    if got.shape != want.shape:
        return f"shape {got.shape}; expected {want.shape}"
    if want.dtype.kind in "iub":
        wrong = got.astype("int64") != want.astype("int64")
        return f"{int(wrong.sum())} of {wrong.size} integers differ" if wrong.any() else ""
    got, want = got.astype("float64"), want.astype("float64")
    for row, (one, other) in enumerate(zip(got, want, strict=True)):
        finite = np.isfinite(other)
        scale = float(np.abs(other[finite]).max(initial=1e-3))  # gates near 0 have the rounding error of numbers near 1
        with np.errstate(invalid="ignore"):
            near = finite & (np.abs(one - other) <= TOLERANCE * scale)
        wrong = ~(near | (one == other) | (np.isnan(one) & np.isnan(other)))
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            return f"row {row}: {int(wrong.sum())} of {wrong.size} differ, such as {one[place]} for {other[place]}"
    return ""


def problems(cases: list[Case], form: str, folder: Path) -> dict[str, str]:
    """Export one model of the cases, run the file, and return what differs, by the name of the case.

    A TFLite file in which rows depend on each other runs the first row alone.
    """
    model, inputs = model_of(cases), drawn(cases)
    runner = export.load(EXPORTS[form](model, folder / f"m.{form}").path)

    def results(rows: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        given = {name: values[:rows] for name, values in inputs.items()}
        return runner.run(given), {name: np.asarray(value) for name, value in model(given, training=False).items()}

    try:
        actual, expected = results(BATCH)
    except ValueError as error:
        if "row by row" not in str(error):
            raise
        actual, expected = results(1)
    found = {}
    for i, case in enumerate(cases):
        names = [name for name in expected if name.startswith(f"out_{i}_")]
        wrong = [said for name in names if (said := problem(actual[name], expected[name]))]
        if wrong:
            found[case.name] = "; ".join(wrong)
    return found


def outcome(case: Case, form: str, folder: Path) -> str:
    """Return "" if a case is right, the message of a refusal after "refused: ", or what is wrong."""
    try:
        return problems([case], form, folder).get(case.name, "")
    except (ExportError, ValueError) as error:
        return f"refused: {error}" if "\n" not in str(error) else f"several lines: {error}"


def refusal(case: Case, form: str) -> str | None:
    """Return the words that must occur in the refusal of a case, or None for a case that is exported."""
    return next((words for pattern, words in REFUSED[form].items() if re.search(pattern, case.name)), None)


# On a CPU, TensorFlow has convolutions with the channels first, and transposed ones with dilation, by oneDNN only.
WITHOUT_ONEDNN = pytest.mark.skipif(os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0", reason="oneDNN is switched off")


def models() -> list[object]:
    """Return the parameters of ``test_as_keras``: a format, and cases that are exported in one model."""
    found = []
    for form in EXPORTS:
        right = [case for case in CASES if refusal(case, form) is None]
        marks = [pytest.mark.slow] * (form == "tflite")
        found.append(pytest.param(form, [case for case in right if case.fast], id=f"{form}-fast", marks=marks))
        for group in GROUPS:
            slow = [case for case in right if case.group == group and not case.fast]
            for cases in (slow[i : i + SIZE] for i in range(0, len(slow), SIZE)):
                marks = [pytest.mark.slow, WITHOUT_ONEDNN]
                found.append(pytest.param(form, cases, id=f"{form}-{cases[0].name}", marks=marks))
    return found


@pytest.mark.parametrize(("form", "cases"), models())
def test_as_keras(form: str, cases: list[Case], tmp_path: Path) -> None:
    assert problems(cases, form, tmp_path) == {}


@pytest.mark.slow
@WITHOUT_ONEDNN
@pytest.mark.parametrize(
    ("form", "case"),
    [
        pytest.param(form, case, id=f"{form}-{case.name}")
        for form in EXPORTS
        for case in CASES
        if refusal(case, form) is not None
    ],
)
def test_refused_in_one_line(form: str, case: Case, tmp_path: Path) -> None:
    """Check the reason, so that a case that becomes right, or is refused for another reason, is noticed."""
    said, words = outcome(case, form, tmp_path), refusal(case, form)
    assert said.startswith("refused: ") and words is not None and words in said


def test_every_layer_has_a_case() -> None:
    public = {name for name in dir(keras.layers) if isinstance(getattr(keras.layers, name), type)}
    own = {getattr(keras.layers, case.layer) for case in CASES if hasattr(keras.layers, case.layer)}
    without = {name for name in public if getattr(keras.layers, name) not in own}
    assert without == {*EXEMPT}


def test_cases_have_one_name_each() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len({*names}) > 500
