"""Every public function of ``keras.ops`` in both formats: the file computes what Keras computes, or is refused.

NaN and infinities must be at the same places, integers and booleans equal, and floats within the tolerance of the case.
The inputs are fed to the files directly; what the exports check themselves has tests of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ops_cases import CASES, EXEMPT, PUBLIC
from ops_values import Case
from sweep import batch_of, groups, outcome, run

from attention_zoo import export

EXPORTS: dict[str, Any] = {"onnx": export.to_onnx, "tflite": export.to_tflite}

# Cases that are refused, as patterns of their names, and what the refusal says: the operator.
DECOMPOSITIONS = {
    "(pinv|lstsq|matrix_rank|svd|norm-matrix-(nuc|2$)).*": "Svd",
    "qr-.*": "Qr",
    "eigh-.*": "SelfAdjointEig",
    "eig-.*": "Eig",
    "lu_factor-.*": "Lu",
}
REFUSED: dict[str, dict[str, str]] = {
    "onnx": {
        **DECOMPOSITIONS,
        "nextafter-.*": "NextAfter",
        "view-int32": "Bitcast",
        "ctc_loss-.*": "a call of a TensorFlow function",
        "image.elastic_transform-.*": "random numbers",
    },
    "tflite": {
        **DECOMPOSITIONS,
        "nextafter-.*": "NextAfter",
        "segment_(max|min|prod)-sorted": "Segment",
        "scatter_update-(max|min)": "TensorScatter",
        "switch-tensor": "Case",
        "ctc_decode-.*": "CTCGreedyDecoder",
        "einsum-trace-float32": "Einsum",
        "image.elastic_transform-.*": "random numbers",
    },
}
# Cases whose files differ from Keras, as patterns, because of a kernel of the runtime.
DIFFERENT: dict[str, dict[str, str]] = {
    "onnx": {},
    "tflite": {
        "selu-float32": "LiteRT's ELU of NaN is -1",
        "clip-tensors": "LiteRT's MAXIMUM passes over NaN",
        "logsumexp-edges": "LiteRT's REDUCE_MAX passes over NaN",
        "power-half": "LiteRT's POW of -inf is NaN",
    },
}


def refusal(case: Case, form: str) -> str | None:
    """Return the word that the refusal of a case contains, or None if the case is exported."""
    return next((word for pattern, word in REFUSED[form].items() if re.fullmatch(pattern, case.name)), None)


def different(case: Case, form: str) -> bool:
    return any(re.fullmatch(pattern, case.name) for pattern in DIFFERENT[form])


def right(form: str) -> list[Case]:
    return [case for case in CASES if refusal(case, form) is None and not different(case, form)]


def quick(form: str) -> list[list[Case]]:
    """Return the cases of a few models: the first case of every second function, other functions for each format."""
    first = list({case.op: case for case in reversed(right(form))}.values())[::-1]
    models = groups(first[0 if form == "onnx" else 1 :: 2], form, 40)
    return [max(models, key=len)]  # other batch sizes have few cases


def models() -> Iterator[Any]:
    """Yield a format and the cases of one model: a few in the quick suite, and all."""
    for form in EXPORTS:
        for cases in quick(form):
            yield pytest.param(form, cases, id=f"{form}-{cases[0].name}-quick")
        for cases in groups(right(form), form):
            yield pytest.param(form, cases, id=f"{form}-{cases[0].name}", marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Export without the check of the file, which draws inputs of its own."""
    with (
        mock.patch("attention_zoo.export.onnx.exporter.quick_check", return_value=0.0),
        mock.patch("attention_zoo.export.tflite.exporter.quick_check", return_value=0.0),
    ):
        yield


@pytest.mark.parametrize(("form", "cases"), models())
def test_as_keras(form: str, cases: list[Case], tmp_path: Path) -> None:
    found = run(EXPORTS[form], cases, tmp_path / f"m.{form}", batch_of(cases[0], form))
    wrong = {case.name: said for case, said in zip(cases, found, strict=True) if said}
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("form", EXPORTS)
def test_refused_in_one_line(form: str, tmp_path: Path) -> None:
    """A case that is refused names its operator; a case that is listed here and exported fails, too."""
    wrong = {}
    for case in CASES:
        if (word := refusal(case, form)) is not None:
            said = outcome(EXPORTS[form], case, tmp_path / f"m.{form}", batch_of(case, form))
            if not (said.startswith("refused: ") and word in said):
                wrong[case.name] = said
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form, cases in DIFFERENT.items() if cases])
def test_differs_still(form: str, tmp_path: Path) -> None:
    """A case that is listed as different and is right fails, so that the list stays short."""
    for case in CASES:
        if different(case, form):
            assert run(EXPORTS[form], [case], tmp_path / f"m.{form}", batch_of(case, form)) != [""], case.name


def test_every_function_has_a_case() -> None:
    covered = {case.op for case in CASES}
    assert sorted(covered | set(EXEMPT)) == PUBLIC
    assert not covered & set(EXEMPT)
    assert len({case.name for case in CASES}) == len(CASES)
