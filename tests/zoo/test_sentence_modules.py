"""Scores and ranks of a cross-encoder, and layer normalizations behind a pooling, as sentence-transformers has them.

tests/goldens/sentence-modules holds both folders, as sentence-transformers 6.2 writes them, and what it computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import attention_zoo as az
from attention_zoo import export
from helpers import ROOT, close, run, tiny

GOLDENS = ROOT / "tests" / "goldens" / "sentence-modules"
PAIRS: list[list[str]] = json.loads((GOLDENS / "pairs.json").read_text())
STORED = np.load(GOLDENS / "st.npz")


def test_scores_and_ranks(tmp_path: Path) -> None:
    """In Keras, after saving, and from exported files."""
    model = az.load(GOLDENS / "cross_encoder")
    export.to_onnx(model, tmp_path / "m.onnx")
    export.to_tflite(model, tmp_path / "m.tflite", batch_size=3, sequence_length=24)
    files = [export.load(tmp_path / name) for name in ("m.onnx", "m.tflite")]
    again = az.load(az.to_huggingface(model, tmp_path / "theirs"))
    for scorer in (model, again, *files):
        for size in (1, 3, 32):
            close(scorer.predict_pairs(PAIRS, batch_size=size), STORED["scores"], atol=2e-6)
        assert scorer.predict_pairs(tuple(PAIRS[1])) == pytest.approx(STORED["scores"][1], abs=2e-6)
        found = scorer.rank(PAIRS[0][0], [second for _, second in PAIRS], return_documents=True)
        assert [one["corpus_id"] for one in found] == list(STORED["ranked"])
        assert found[0]["text"] == PAIRS[found[0]["corpus_id"]][1] and found[0]["score"] >= found[1]["score"]
        assert scorer.rank(PAIRS[0][0], ["a", "b c", "d"], top_k=2) == scorer.rank(PAIRS[0][0], ["a", "b c", "d"])[:2]
    long = files[1].predict_pairs([("rain", "day " * 50)])  # cut to the 24 tokens of the file
    assert long == pytest.approx(model.predict_pairs([("rain", "day " * 20)]), abs=2e-6)
    assert model.rank("a", []) == []


def test_bad_pairs() -> None:
    model: Any = az.load(GOLDENS / "cross_encoder")
    for call, part in (
        (lambda: model.predict_pairs([]), r"pairs: got \[\]; accepted: a list of pairs of texts"),
        (lambda: model.predict_pairs("text"), "pairs: got 'text'"),
        (lambda: model.predict_pairs([("a", "b"), ("c",)]), r"pairs: got \('c',\)"),
        (lambda: model.predict_pairs([("a", "b")], batch_size=0), "batch_size: got 0"),
        (lambda: model.rank(3, ["a"]), "query: got int"),
        (lambda: model.rank("a", "b"), "documents: got str"),
        (lambda: model.rank("a", ["b"], top_k=0), "top_k: got 0"),
        (lambda: model.rank("a", [3]), r"pairs: got \('a', 3\)"),
    ):
        with pytest.raises(ValueError, match=part):
            call()
    model.tokenizer = None
    with pytest.raises(ValueError, match="tokenizer: got None"):
        model.rank("a", ["b"])
    other = az.load(GOLDENS / "layer_norm")
    with pytest.raises(ValueError, match="model: got head='sentence_embedding'; accepted: sequence_classification"):
        other.predict_pairs(PAIRS)
    several = az.load(GOLDENS / "cross_encoder", head="sequence_classification", num_classes=3)
    assert several.predict_pairs(PAIRS).shape == (4, 3) and several.predict_pairs(PAIRS[0]).shape == (3,)
    with pytest.raises(ValueError, match="model: got one of 3 classes"):
        several.rank("a", ["b"])


def test_layer_norm(tmp_path: Path) -> None:
    model = az.load(GOLDENS / "layer_norm")
    inputs = model.tokenizer([first for first, _ in PAIRS])
    norm: dict[str, Any] = {"norm": "layer_norm"}
    assert [set(one) == {"norm"} for one in model.config.projections] == [True, False, True]
    assert model.config.projections[0] == norm and model.config.embedding_dim == 6
    close(run(model, inputs)["sentence_embedding"], STORED["embeddings"], atol=2e-6)
    folder = az.to_huggingface(model, tmp_path / "theirs")
    for name in ("2_LayerNorm", "3_Dense", "4_LayerNorm"):
        ours, theirs = (load_file(parent / name / "model.safetensors") for parent in (folder, GOLDENS / "layer_norm"))
        assert set(ours) == set(theirs) and all((ours[key] == theirs[key]).all() for key in ours)
    for again in (az.load(folder), az.load(az.save(model, tmp_path / "ours"))):
        close(run(again, inputs)["sentence_embedding"], STORED["embeddings"], atol=2e-6)
    export.to_onnx(model, tmp_path / "m.onnx")
    close(export.load(tmp_path / "m.onnx").run(inputs)["sentence_embedding"], STORED["embeddings"], atol=2e-5)
    with pytest.raises(ValueError, match="projections: norm: got 'rms'"):
        tiny("bert", "backbone", head="sentence_embedding", projections=[{"norm": "rms"}])
