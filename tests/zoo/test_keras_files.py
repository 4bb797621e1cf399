"""``.keras`` files restore a model with its companions, and ``load`` reads them without executing code in them.

The names of weights do not depend on where a model is created.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import attention_zoo as az
from attention_zoo.weights.rules import by_name
from helpers import ROOT, close, numpy, run, tiny

GOLDENS = ROOT / "tests" / "goldens"


def same(one: Any, other: Any) -> None:
    assert one.config == other.config
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        close(numpy(mine), numpy(theirs), atol=0)


def test_what_came_along_survives(tmp_path: Path) -> None:
    model = az.load(GOLDENS / "sentence-mean")
    model.tokenizer = az.load(GOLDENS / "llama-gguf" / "q8_0.gguf").tokenizer
    model.preprocessor = {"size": 3}
    model.save(tmp_path / "m.keras")
    for again in (keras.saving.load_model(tmp_path / "m.keras"), az.load(tmp_path / "m.keras")):
        same(again, model)
        assert again.huggingface == model.huggingface and again.preprocessor == {"size": 3}
        assert again.sentences == model.sentences and again.sentences["max_seq_length"] == 32
        assert again.tokenizer.encode("abab").ids == model.tokenizer.encode("abab").ids
        assert {k: v.tobytes() for k, v in again.unused.items()} == {k: v.tobytes() for k, v in model.unused.items()}
        assert len(again.unused) == 2


def test_chat_template_survives(tmp_path: Path) -> None:
    model = az.load(GOLDENS / "llama-gguf" / "q8_0.gguf")
    model.tokenizer.chat_templates = {"default": "{{ messages[0].content }}!"}
    model.save(tmp_path / "m.keras")
    assert az.load(tmp_path / "m.keras").tokenizer.apply_chat_template([{"role": "user", "content": "a"}]) == "a!"


def test_with_overrides(tmp_path: Path) -> None:
    model = tiny("bert", "masked_lm")
    model.save(tmp_path / "m.keras")
    assert az.load(tmp_path / "m.keras", dtype="mixed_bfloat16", dropout=0.25).config.dropout == 0.25
    with pytest.warns(UserWarning, match="classifier/kernel.* keep their initial values"):
        again = az.load(tmp_path / "m.keras", head="token_classification", num_classes=3)
    close(numpy(again.embedding.embeddings), numpy(model.embedding.embeddings), atol=0)
    with pytest.raises(ValueError, match="does not fit its config"):
        az.load(tmp_path / "m.keras", num_layers=5)


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "executed",)

    file = tmp_path / "m.keras"
    with pytest.raises(ValueError, match=r"path: .*m.keras cannot be read: .*accepted: a .keras file"):
        az.load(file)
    tiny("gpt", "gpt2").save(file)
    whole = file.read_bytes()
    for content in (b"", whole[:1000], whole[: len(whole) // 2], pickle.dumps(Evil())):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"path: .*m.keras cannot be read: .*accepted: a .keras file"):
            az.load(file)
    keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x)]).save(file)
    with pytest.raises(ValueError, match=r"path: .*has a .*accepted: one of \['attention_zoo>BERT'"):
        az.load(file)
    tiny("gpt", "gpt2").save(file)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    raw = json.loads(parts["config.json"])
    raw["config"]["num_layers"] = "two"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**parts, "config.json": json.dumps(raw).encode()}.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="num_layers: got 'two'"):
        az.load(file)
    assert not (tmp_path / "executed").exists()


# Where a model is created


@keras.saving.register_keras_serializable("test_keras_files")
class Outer(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first = az.create("gpt", **az.GPT.tiny()["gpt2"])

    def build(self, _: Any = None) -> None:
        self.second = az.create("gpt", **az.GPT.tiny()["llama"])

    def call(self, ids: Any) -> Any:
        return self.first(ids) + self.second(ids)


def test_names_do_not_depend_on_where_a_model_is_made(tmp_path: Path, rng: Any) -> None:
    outer = Outer(name="outer")
    outer.build()
    with keras.name_scope("a"), keras.name_scope("b"):
        scoped = tiny("gpt", "gpt2")
        adapted = tiny("gpt", "gpt2")
        adapted.enable_lora(2)
    plain = {variable.path for variable in tiny("gpt", "gpt2").weights}
    assert {variable.path for variable in scoped.weights} == plain
    for number, model in enumerate((outer.first, outer.second, scoped, adapted)):
        same(az.load(az.save(model, tmp_path / str(number))), model.without_adapters())
    ids = rng.integers(0, 90, (1, 4)).astype("int32")
    outer.save(tmp_path / "outer.keras")
    again = keras.saving.load_model(tmp_path / "outer.keras")
    close(numpy(again(ids)), numpy(outer(ids)), atol=1e-6)
    scoped.save(tmp_path / "scoped.keras")
    close(
        run(az.load(tmp_path / "scoped.keras"), {"input_ids": ids})["logits"], run(scoped, {"input_ids": ids})["logits"]
    )


def test_weights_of_models_that_are_none_of_ours() -> None:
    """In a third-party model, the first component of a weight's path names a layer, not the model."""
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")])
    assert set(by_name(other)) == {"a/kernel", "a/bias", "b/kernel", "b/bias"}
    with pytest.raises(ValueError, match="two weights of the name"):
        by_name(Namesakes())


class Namesakes:
    name = "namesakes"
    weights = (keras.Variable(np.zeros(1), name="x"), keras.Variable(np.zeros(1), name="x"))
