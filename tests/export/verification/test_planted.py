"""Planted faults: ``verify`` finds each of them, in every format and precision."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import FAULTS, Planting, cells, found_by, placed
from planted.fault import ALL, PRECISIONS

QUICK = (
    ("64 bytes are 0xFF", "tflite", "fp32"),
    ("one number of a word off by a step", "onnx", "int4"),
    ("another eos_token_id in the metadata", "onnxruntime", "fp32"),
    ("another model's encoder beside the decoder", "onnx", "fp32"),
    ("a window one token too wide", "onnx", "int8"),
    ("other buckets of relative positions", "onnx", "fp32"),
    ("a cache slot is written one too early", "tflite", "fp32"),
    ("GenAI: another template", "genai", "fp32"),
    ("LiteRT-LM: another prompt prefix", "litertlm", "fp32"),
)


@pytest.fixture(scope="module")
def planting(tmp_path_factory: pytest.TempPathFactory) -> Planting:
    return Planting(tmp_path_factory.mktemp("planting"))


@pytest.mark.parametrize(("name", "format", "precision"), QUICK)
def test_a_fault_is_found(name: str, format: str, precision: str, planting: Planting) -> None:
    assert found_by(planting, name, format, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("format", ALL)
def test_all_faults_are_found_and_most_are_placed(format: str, precision: str, tmp_path: Path) -> None:
    planting = Planting(tmp_path)
    found = {name: found_by(planting, name, format, precision) for name, *_ in cells(format, precision)}
    assert [name for name, said in found.items() if not said] == []
    with_place = [name for name in found if FAULTS[name].place]
    assert sum(placed(name, found[name]) for name in with_place) >= 0.8 * len(with_place)


def test_there_are_more_than_sixty_faults() -> None:
    assert len(FAULTS) >= 60 and all(len({name for name, *_ in cells(format)}) >= 35 for format in ALL)
