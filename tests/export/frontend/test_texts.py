"""Files with a tokenizer: it is stored with the file and must fit it, and every runtime generates the same text."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import attention_zoo as az
from attention_zoo import export
from helpers import ROOT

pytestmark = pytest.mark.runs_together

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
GGUF = ROOT / "tests" / "goldens" / "llama-gguf" / "q8_0.gguf"


def loaded() -> Any:
    model = az.load(GGUF)
    model.tokenizer.chat_templates = {"default": TEMPLATE}
    return model


@functools.cache
def shared() -> Any:
    """Return one model for all tests that do not change it, so that its generation is compiled once."""
    return loaded()


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The ONNX and the TFLite file of the model, moved to another folder with all files that the result lists."""
    model, found = shared(), {}
    for suffix in ("onnx", "tflite"):
        made, other = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("moved")
        to: Any = getattr(export, f"to_{suffix}")
        result = to(model, made / f"m.{suffix}", cache=True)
        for file in result.files:
            shutil.copy(file, other)
        shutil.rmtree(made)
        found[suffix] = other / f"m.{suffix}"
        assert result.files[0] == made / f"m.{suffix}"
    return found


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.slow
def test_it_goes_with_the_file(moved: dict[str, Path], suffix: str) -> None:
    model, runner = shared(), export.load(moved[suffix])
    assert runner.tokenizer is not None and runner.tokenizer is runner.tokenizer
    assert runner.tokenizer.to_files() == model.tokenizer.to_files()
    assert runner.stop_tokens == model.stop_tokens
    messages = [{"role": "user", "content": "ab"}, {"role": "user", "content": "hello world"}]
    for prompts in ("ab", ["ab", "hello world"], messages):
        options = {"max_new_tokens": 9, "stop_tokens": []}
        assert runner.generate_text(prompts, **options) == model.generate_text(prompts, **options)
    assert "".join(runner.stream_text("ab", max_new_tokens=9)) == model.generate_text("ab", max_new_tokens=9)
    assert export.describe(moved[suffix])["tokenizer"][:2] == ["tokenizer.json", "tokenizer_config.json"]
    report = export.verify(model, moved[suffix])
    assert {check.name: check.passed for check in report.checks}["tokenizer"], report.to_markdown()
    other = loaded()
    other.tokenizer.chat_templates = {}
    failed = [check for check in export.verify(other, moved[suffix]).checks if not check.passed]
    assert [(check.name, check.detail) for check in failed] == [("tokenizer", "differs in: chat_template.jinja")]


@pytest.mark.parametrize("suffix", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_without_keras(moved: dict[str, Path], suffix: str) -> None:
    code = (
        "import sys; from attention_zoo import export; runner = export.load(sys.argv[1])\n"
        "print(runner.generate_text('ab', max_new_tokens=5, stop_tokens=[]), end='')\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(moved[suffix])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shared().generate_text("ab", max_new_tokens=5, stop_tokens=[])


def test_a_tokenizer_that_does_not_fit(moved: dict[str, Path], tmp_path: Path) -> None:
    runner, model = export.load(moved["onnx"]), loaded()
    large = az.Tokenizer.load(GGUF)
    rows = model.config.vocab_size
    large.backend.add_tokens([f"more{i}" for i in range(rows)])
    large = az.Tokenizer(large.backend)
    for one in (runner, model):
        with pytest.raises(ValueError, match=rf"tokenizer: got one of \d+ tokens; accepted: one of at most {rows}"):
            one.generate_text("ab", tokenizer=large)
    model.tokenizer = large
    for to, suffix in ((export.to_onnx, "onnx"), (export.to_tflite, "tflite")):
        with pytest.raises(ValueError, match=r"tokenizer: got one of"):
            to(model, tmp_path / f"m.{suffix}")
    model.tokenizer = "a word"
    with pytest.raises(ValueError, match=r"model.tokenizer: got str; accepted: an attention_zoo.Tokenizer, or None"):
        export.to_onnx(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_texts_and_mappings_given_to_generate(moved: dict[str, Path]) -> None:
    """Check that ``generate`` accepts the output of a tokenizer, and that the error for a text says where texts go."""
    for one in (export.load(moved["onnx"]), shared()):
        inputs = one.tokenizer(["ab", "ab"])
        expected = one.generate(inputs["input_ids"], inputs["attention_mask"], max_new_tokens=4)
        assert (one.generate(inputs, max_new_tokens=4) == expected).all()
        with pytest.raises(ValueError, match=r"input_ids: got a text, 'hello'; accepted: integers; texts go to gen"):
            one.generate("hello")
        with pytest.raises(ValueError, match=r"input_ids: got a text, 'a'"):
            one.generate(["a", "b"])
        with pytest.raises(ValueError, match=r"input_ids: got a mapping of \['attention_mask'\]"):
            one.generate({"attention_mask": inputs["attention_mask"]})


def test_end_tokens_of_a_generation_config(tmp_path: Path) -> None:
    """Check that these tokens end generated texts, and are kept by exports and by every format of saved models."""
    az.to_huggingface(loaded(), tmp_path / "theirs")
    file = tmp_path / "theirs" / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [7, 9], "temperature": 0.6}))
    model = az.load(tmp_path / "theirs")
    assert {7, 9, model.config.eos_token_id} <= set(model.stop_tokens)
    az.to_huggingface(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / file.name).read_text()) == json.loads(file.read_text())
    assert az.load(az.save(model, tmp_path / "ours")).stop_tokens == model.stop_tokens
    model.save(tmp_path / "m.keras")
    assert az.load(tmp_path / "m.keras").stop_tokens == model.stop_tokens
    export.to_onnx(model, tmp_path / "m.onnx")
    assert export.load(tmp_path / "m.onnx").stop_tokens == model.stop_tokens
    first = model.continuations("ab", stop_tokens=[], max_new_tokens=1)[0].ids
    file.write_text(json.dumps({"eos_token_id": first}))
    assert az.load(tmp_path / "theirs").continuations("ab")[0].ids == []
    file.write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(ValueError, match=r"eos_token_id: got '</s>'; accepted: a token, or several"):
        az.load(tmp_path / "theirs")
