"""Special token ids outside the vocabulary in a checkpoint's config: they are dropped with a single warning."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from attention_zoo.weights.gguf_file import shortest
from helpers import ROOT, close, numpy

GOLDENS = ROOT / "tests" / "goldens"


def changed(name: str, tmp_path: Path, **values: Any) -> Path:
    folder = Path(shutil.copytree(GOLDENS / name, tmp_path / name))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **values}))
    return folder


def loaded(path: Path) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = az.load(path)
    mine = [warning for warning in told if "outside the vocabulary" in str(warning.message)]
    assert all(warning.filename == __file__ for warning in mine)
    return model, [str(warning.message) for warning in mine]


@pytest.mark.parametrize(
    ("name", "given", "left"),
    [
        ("gpt2", {"bos_token_id": 50256, "eos_token_id": 50256}, {"bos_token_id": None, "eos_token_id": None}),
        ("llama", {"pad_token_id": -1}, {"pad_token_id": None}),
        ("llama", {"eos_token_id": [3, 128001, 5]}, {"eos_token_id": (3, 5)}),
        ("llama", {"eos_token_id": [128001, 128009]}, {"eos_token_id": None}),
        ("bert-sequence", {"pad_token_id": 97}, {"pad_token_id": None}),
        ("marian", {"eos_token_id": 10**30, "pad_token_id": -1}, {"eos_token_id": None, "pad_token_id": None}),
        ("t5", {"pad_token_id": -100}, {"pad_token_id": None}),
    ],
)
def test_ids_outside_are_absent(name: str, given: Any, left: Any, tmp_path: Path) -> None:
    model, told = loaded(changed(name, tmp_path, **given))
    assert len(told) == 1 and all(f"{entry}={value}" in told[0] for entry, value in given.items())
    assert {entry: model.config.to_dict()[entry] for entry in left} == left
    plain = az.load(GOLDENS / name)
    for one, other in zip(model.weights, plain.weights, strict=True):
        close(numpy(one), numpy(other), atol=0)
    again, told = loaded(az.to_huggingface(model, tmp_path / "saved"))
    assert not told and again.config == model.config


def test_ids_inside_give_no_warning() -> None:
    assert loaded(GOLDENS / "gpt2")[1] == []


def test_a_config_of_ones_own_is_still_refused() -> None:
    with pytest.raises(ValueError, match="eos_token_id: got 50256; accepted: a token from 0 to 99"):
        az.create("gpt", vocab_size=100, eos_token_id=50256)


def test_floats_of_a_gguf_are_the_shortest() -> None:
    """The file stores 0.001 as float32, which is 0.0010000000474974513; loading returns 0.001."""
    config = az.load(GOLDENS / "llama-gguf" / "q8_0-linear.gguf").config
    assert (config.norm_epsilon, config.rope_theta, config.rope_scaling["factor"]) == (1e-3, 500.0, 2.5)
    assert [shortest(np.float32(value)) for value in (1e-5, 1e-6, 0.1, 10_000.0)] == [1e-5, 1e-6, 0.1, 10_000.0]
