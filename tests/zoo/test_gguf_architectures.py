"""GGUF files of architectures other than llama, against transformers, and what they must not say.

tests/goldens/gguf-architectures holds one file for each case, with tensors named by the gguf package.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from attention_zoo.zoo.gguf_tables import ARCHITECTURES
from helpers import ROOT, close, run

GOLDENS = ROOT / "tests" / "goldens" / "gguf-architectures"
FILES = sorted(file.stem for file in GOLDENS.glob("*.gguf"))


def case(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs and the outputs of a case."""
    stored = {
        key.partition("/")[2]: value
        for key, value in np.load(GOLDENS / "golden.npz").items()
        if key.startswith(f"{name}/")
    }
    inputs = {key: value for key, value in stored.items() if key.endswith(("ids", "mask"))}
    return inputs, {key: value for key, value in stored.items() if key not in inputs}


def check(model: Any, name: str, atol: float = 2e-5) -> None:
    inputs, outputs = case(name)
    found = run(model, inputs)
    for key, expected in outputs.items():
        actual = found[key]
        if expected.shape[:2] == inputs["attention_mask"].shape:
            actual = np.where(inputs["attention_mask"][..., None] == 1, actual, 0)
        close(actual, expected, atol=atol)


@pytest.mark.parametrize("name", FILES)
def test_results(name: str, tmp_path: Path) -> None:
    """Also after the model is saved for transformers, which has the same architecture."""
    model = az.load(GOLDENS / f"{name}.gguf")
    check(model, name)
    assert model.tokenizer is None
    check(az.load(az.to_huggingface(model, tmp_path)), name)


def test_heads() -> None:
    """The pooling type of an encoder gives its head; another head gets the body."""
    assert az.load(GOLDENS / "bert.gguf").config.head is None
    model = az.load(GOLDENS / "bert-mean.gguf")
    assert (model.config.head, model.config.pooling) == ("sentence_embedding", "mean")
    assert az.load(GOLDENS / "bert-mean.gguf", normalize=True).config.normalize
    with pytest.warns(UserWarning, match="has no such head: classifier/kernel"):
        assert az.load(GOLDENS / "qwen2.gguf", head="sequence_classification").config.head == "sequence_classification"
    assert az.load(GOLDENS / "bert-mean.gguf", head=None).config.head is None


def changed(tmp_path: Path, name: str, **fields: Any) -> Path:
    """Return a copy of a file with other values in these fields, of the same type."""
    import gguf

    file = Path(shutil.copy(GOLDENS / f"{name}.gguf", tmp_path))
    reader = gguf.GGUFReader(file, "r+")
    for key, value in fields.items():
        field = reader.fields[key.replace("__", ".")]
        field.parts[field.data[0]][0] = value
    reader.data.flush()
    return file


@pytest.mark.parametrize(
    ("name", "fields", "part"),
    [
        ("bert-mean", {"bert__pooling_type": 4}, "bert.pooling_type: got 4; accepted: one of"),
        ("bert", {"bert__attention__causal": True}, "bert.attention.causal: got True; accepted: False"),
        ("qwen3", {"qwen3__attention__value_length": 6}, "attention.value_length: got 6; accepted: 12"),
        ("qwen2", {"qwen2__rope__scaling__factor": -1.0}, "rope.scaling.factor: got -1.0"),
        ("qwen2", {"qwen2__attention__head_count": 0}, "attention.head_count"),
        ("qwen2", {"qwen2__block_count": 3}, "missing blk.2.attn_norm.weight"),
        ("gpt2", {"gpt2__embedding_length": 18}, "token_embd.weight has shape"),
        ("t5", {"t5__decoder_block_count": 2}, "missing dec.blk.1."),
    ],
)
def test_refused(name: str, fields: dict[str, Any], part: str, tmp_path: Path) -> None:
    file = changed(tmp_path, name, **fields)
    with pytest.raises(ValueError) as caught:
        az.load(file)
    message = str(caught.value)
    assert "\n" not in message and str(file) in message and part in message, message


def test_tables() -> None:
    """Every architecture has a family, and no two tensors of it the same name."""
    for name, architecture in ARCHITECTURES.items():
        own = [ours for theirs, ours in architecture.names.items() if not theirs.endswith(".wi")]
        assert len(set(own)) == len(own), name
        assert set(architecture.turned) <= set(architecture.names)


def test_a_llama_under_the_name_of_qwen2_is_refused(tmp_path: Path) -> None:
    """Its heads are stored in pairs, as only those of llama are; Qwen2's files have biases."""
    source = (GOLDENS.parent / "llama-gguf" / "f16.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(source.replace(b"llama", b"qwen2"))
    with pytest.raises(ValueError, match=r"missing blk\.0\.attn_q\.bias"):
        az.load(tmp_path / "m.gguf")
