"""Weights of a checkpoint that its head does not use: kept and saved again as long as they belong to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import attention_zoo as az
from helpers import ROOT

GOLDENS = ROOT / "tests" / "goldens"
ONE = "model.safetensors"


def unused(folder: Path) -> dict[str, np.ndarray]:
    found = safetensors.numpy.load_file(folder / ONE)
    return {name: array for name, array in found.items() if "pooler" in name or "seq_relationship" in name}


@pytest.mark.parametrize("name", ["sentence-mean", "bert-published"])
def test_through_a_folder_of_ours(name: str, tmp_path: Path) -> None:
    az.save(az.load(GOLDENS / name), tmp_path / "ours")
    az.to_huggingface(az.load(tmp_path / "ours"), tmp_path / "theirs")
    before, after = unused(GOLDENS / name), unused(tmp_path / "theirs")
    assert len(before) >= 2 and {k: v.tobytes() for k, v in after.items()} == {
        k: v.tobytes() for k, v in before.items()
    }


@pytest.mark.slow
def test_a_body_that_is_trained_forgets_them(tmp_path: Path, rng: Any) -> None:
    """Training the body discards the unused pooler, unless the whole body is frozen."""
    model = az.load(GOLDENS / "sentence-mean")
    ids = {"input_ids": rng.integers(0, 90, (2, 5)).astype("int32")}
    model.compile("sgd", "mse")
    model.freeze("*")
    model.fit(ids, np.zeros((2, model.config.hidden_dim), "float32"), verbose=0)
    assert len(model.unused) == 2
    model.trainable = True
    model.compile("sgd", "mse")
    model.unfreeze("*")
    model.fit(ids, np.zeros((2, model.config.hidden_dim), "float32"), verbose=0)
    az.to_huggingface(model, tmp_path)
    assert not unused(tmp_path)


def test_another_head_or_body_is_without_them(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="keep their initial values"):
        model = az.load(GOLDENS / "sentence-mean", head="token_classification")
    az.to_huggingface(model, tmp_path)
    assert not unused(tmp_path)
    model = az.load(GOLDENS / "sentence-mean")
    model.transfer_weights(az.load(GOLDENS / "sentence-mean"))
    assert not model.unused


def test_length_of_sentences(tmp_path: Path) -> None:
    """Saving keeps the length to which sentences are truncated, which is not the number of positions."""
    source = Path(GOLDENS / "sentence-mean")
    said = json.loads((source / "sentence_bert_config.json").read_text())
    model = az.load(source)
    assert said["max_seq_length"] == 32 < model.config.max_length
    for folder in (az.to_huggingface(model, tmp_path / "theirs"), az.save(model, tmp_path / "ours")):
        again = az.to_huggingface(az.load(folder), tmp_path / "again")
        assert json.loads((again / "sentence_bert_config.json").read_text()) == said
    for length in (0, "32", 1.5, True):
        (tmp_path / "theirs" / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
        with pytest.raises(
            ValueError, match=r"sentence_bert_config.json: max_seq_length: got .*; accepted: a positive"
        ):
            az.load(tmp_path / "theirs")
