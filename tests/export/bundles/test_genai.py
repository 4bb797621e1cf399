"""Folders for ONNX Runtime GenAI: genai_config.json compared with the model and with the ONNX file in the folder.

``benchmarks/peers.py`` shows that ONNX Runtime GenAI itself generates the same tokens.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from attention_zoo import export, zoo
from attention_zoo.cli import main
from attention_zoo.export.bundles import genai
from attention_zoo.export.bundles.genai_tokenizer import genai_files, unread
from attention_zoo.text.tokenizer import Tokenizer
from helpers import numpy, shared, tiny

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
FILES = ["chat_template.jinja", "genai_config.json", "model.onnx", "special_tokens_map.json", "tokenizer.json"]
FILES.append("tokenizer_config.json")


def tokenizer(**config: Any) -> Tokenizer:
    backend = Backend(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend, **config)


def of_bytes(*before: Any, **options: Any) -> Tokenizer:
    """Return a byte-level BPE tokenizer with some merges; the pre-tokenizers `before` split texts first."""
    backend = Backend(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, **options)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, level]) if before else level
    text = ["a  b\n\n1. c   22\n\n\n3  it's 4's  55"] * 9
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(text, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet))
    return Tokenizer(backend)


def gpt(variant: str = "llama", **overrides: Any) -> Any:
    model = tiny("gpt", variant, **{"eos_token_id": 96, **overrides})
    model.tokenizer = tokenizer(bos_token="w1", eos_token="w95", pad_token="w94", chat_template=TEMPLATE)
    return model


def settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "genai_config.json").read_text())


def shapes(file: Path) -> dict[str, list[Any]]:
    """Return the shapes of inputs and outputs in the file by name, without the optional inputs."""
    graph = onnx.load(str(file)).graph
    left_out = {tensor.name for tensor in graph.initializer}
    values = [value for value in (*graph.input, *graph.output) if value.name not in left_out]
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_settings_are_the_file_s(variant: str, tmp_path: Path) -> None:
    model = gpt(variant)
    model.generation_config = {"eos_token_id": [93], "temperature": 0.5, "top_k": None, "num_beams": "many", "dola": 1}
    result = export.to_genai(model, tmp_path / "folder", max_length=30)
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == FILES
    assert sorted(file.name for file in result.files) == FILES and all(file.is_file() for file in result.files)
    assert (result.path, result.format) == (tmp_path / "folder" / "model.onnx", "genai")
    assert len(result.warnings) == 1 and "(WordLevel)" in result.warnings[0]

    said, config = settings(tmp_path / "folder"), model.config
    own, decoder, search = said["model"], said["model"]["decoder"], said["search"]
    assert search == {"do_sample": False, "temperature": 0.5, "max_length": 30, "past_present_share_buffer": False}
    assert (own["bos_token_id"], own["pad_token_id"], own["eos_token_id"]) == (1, 94, [93, 95, 96])
    assert (own["vocab_size"], own["context_length"]) == (config.vocab_size, config.max_length)
    sizes = ("hidden_size", "head_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    ours = (config.hidden_dim, config.head_dim, config.num_heads, config.num_kv_heads, config.num_layers)
    assert tuple(decoder[name] for name in sizes) == ours

    found, names = shapes(tmp_path / "folder" / decoder["filename"]), decoder["inputs"] | decoder["outputs"]
    layers = range(decoder["num_hidden_layers"])
    given = [names[key] for key in names if "%d" not in names[key]]
    given += [names[key] % layer for key in names if "%d" in names[key] for layer in layers]
    assert set(given) == set(found)
    past = ["batch", decoder["num_key_value_heads"], "past_sequence", decoder["head_size"]]
    assert found[names["past_key_names"] % 1] == found[names["past_value_names"] % 0] == past
    assert found[names["logits"]][-1] == own["vocab_size"]

    assert export.verify(model, result.path).passed
    read = Tokenizer.load(tmp_path / "folder")
    assert read.to_files() == model.tokenizer.to_files()


def test_search_of_a_generation_config(tmp_path: Path) -> None:
    """The runtime gets what it obeys, with transformers' `top_k` where sampling has none; the rest is a warning."""
    model = gpt()
    obeyed = {"do_sample": True, "temperature": 0.5, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3}
    lost = {"bad_words_ids": [[3]], "min_p": 0.1, "early_stopping": "never", "num_beams": 1, "use_cache": True}
    model.generation_config = {**obeyed, **lost, "max_length": 20, "min_length": 4}
    result = export.to_genai(model, tmp_path / "folder")
    expected = {**obeyed, "top_k": 50, "min_length": 4, "num_beams": 1, "max_length": 20}
    assert settings(tmp_path / "folder")["search"] == {**expected, "past_present_share_buffer": False}
    message = "ONNX Runtime GenAI does not obey these entries of the generation config: bad_words_ids=[[3]], min_p=0.1"
    assert [warning for warning in result.warnings if "generation config" in warning] == [message]


def test_a_tokenizer_that_cuts_digits_gets_other_words_for_it(rng: np.random.Generator) -> None:
    """Check that the equivalent pre-tokenizer gives the same ids for random texts."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    written = of_bytes(digits)
    read = Tokenizer.from_files(genai_files(written))
    assert "Digits" not in repr(read.backend.pre_tokenizer)
    letters = np.array([*"ab  \n\t0123.,'-é東½Ⅷ🙂\u00a0", "'s", "\r\n", " the"], dtype=object)
    for length in rng.integers(1, 20, 500):
        text = "".join(rng.choice(letters, length))
        assert read.encode(text).ids == written.encode(text).ids, text
    assert read.encode("a\n\n1").ids != of_bytes().encode("a\n\n1").ids
    for other in (of_bytes(), of_bytes(pre_tokenizers.Digits()), of_bytes(digits, use_regex=False), tokenizer()):
        assert genai_files(other) == other.to_files()
    assert unread(written) is None and unread(read) is None
    assert "WordLevel" in str(unread(tokenizer()))
    assert "BPE of characters" in str(unread(Tokenizer(Backend(models.BPE({"a": 0}, [])))))


def test_what_ends_a_text(tmp_path: Path) -> None:
    """Check the end tokens: a single id, which also replaces a missing pad token, and the requested ``stop_tokens``."""
    model = tiny("gpt", "llama", eos_token_id=7)
    result = export.to_genai(model, tmp_path / "a")
    own = settings(tmp_path / "a")["model"]
    assert (own["eos_token_id"], own["pad_token_id"]) == (7, 7) and "bos_token_id" not in own
    assert "without a tokenizer" in result.warnings[0] and len(result.files) == 2
    export.to_genai(tiny("gpt", "llama"), tmp_path / "b", stop_tokens=[3, 2])
    assert settings(tmp_path / "b")["model"]["eos_token_id"] == [2, 3]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precisions(precision: str, tmp_path: Path) -> None:
    result = export.to_genai(gpt(), tmp_path / "folder", precision=precision)
    assert result.precision == precision and result.accuracy is not None and result.accuracy.cosine > 0.97
    inputs = {value.name: value for value in onnx.load(str(result.path)).graph.input}
    cache = inputs["past_key_values.0.key"].type.tensor_type.elem_type
    assert cache == (onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT)


def test_a_shared_buffer_is_for_its_operator(tmp_path: Path) -> None:
    """Check that the cache buffer is shared only with GroupQueryAttention, the default for decoders that support it."""
    model = gpt(head_dim=16)
    for target, shared_buffer in ((None, True), ("standard", False)):
        result = export.to_genai(model, tmp_path / "folder", target=target)
        assert ("com.microsoft.GroupQueryAttention" in result.operators) is shared_buffer
        assert settings(tmp_path / "folder")["search"]["past_present_share_buffer"] is shared_buffer


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda: shared("bert", "backbone"), {}, "model: got a bert"),
        (lambda: shared("gpt", "backbone"), {}, "model: got a gpt, which is no causal decoder"),
        (lambda: shared("transformer", "original"), {}, "model: got a transformer"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), {}, "model: got"),
        (lambda: shared("gpt", "llama"), {}, "stop_tokens: got none"),
        (lambda: shared("gpt", "llama"), {"stop_tokens": [97]}, "stop_tokens: got [97]; accepted: ids from 0 to 96"),
        (lambda: shared("gpt", "llama"), {"stop_tokens": ["</s>"]}, "stop_tokens: got ['</s>']"),
        (lambda: shared("gpt", "llama"), {"stop_tokens": 1, "max_length": 41}, "max_length: got 41"),
        (lambda: shared("gpt", "llama"), {"stop_tokens": 1, "max_length": 0}, "max_length: got 0"),
        (lambda: shared("gpt", "llama"), {"stop_tokens": 1, "precision": "int3"}, "precision: got 'int3'"),
    ],
)
def test_refused(make: Any, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = make()
    if isinstance(model, keras.Sequential):
        model.build((None, 3))
    with pytest.raises(ValueError, match="accepted") as error:
        export.to_genai(model, tmp_path / "above" / "folder", **options)
    assert said in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_folders_of_others_stay(tmp_path: Path) -> None:
    model = gpt()
    (tmp_path / "file").write_text("")
    (tmp_path / "used" / "deep").mkdir(parents=True)
    (tmp_path / "used" / "deep" / "notes.txt").write_text("mine")
    for name, said in (("file", "which is a file"), ("used", "which has deep")):
        with pytest.raises(ValueError, match=f"folder: got .*{said}"):
            export.to_genai(model, tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "file", "notes.txt", "used"]


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a failed export leaves nothing, or an earlier folder unchanged, and a successful one replaces it."""
    folder, model = tmp_path / "above" / "folder", gpt()

    def fail(_: Any, request: Any) -> None:
        request.path.write_text("half")
        raise export.AccuracyError("too far")

    with monkeypatch.context() as patched:
        patched.setattr(genai, "export_onnx", fail)
        with pytest.raises(export.AccuracyError):
            export.to_genai(model, folder)
    assert not list(tmp_path.iterdir())
    folder.mkdir(parents=True)  # an empty folder is accepted
    export.to_genai(model, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sorted(before) == FILES
    with monkeypatch.context() as patched:
        patched.setattr(genai, "export_onnx", fail)
        with pytest.raises(export.AccuracyError):
            export.to_genai(model, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    model.tokenizer = None
    export.to_genai(model, folder, stop_tokens=4)
    assert sorted(file.name for file in folder.iterdir()) == ["genai_config.json", "model.onnx"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"], "no temporary folder stays"


@pytest.mark.slow
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Export to a folder, and generate from it with its tokenizer."""
    model = gpt()
    zoo.save(model, tmp_path / "model")

    def cli(*arguments: Any) -> Any:
        out = io.StringIO()
        command = ["attention-zoo", *map(str, arguments)]
        with mock.patch.object(sys, "argv", command), redirect_stdout(out), pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, out.getvalue()

    code, said = cli("export", tmp_path / "model", tmp_path / "folder", "--to", "genai", "--max-length", 33, "--json")
    assert code == 0 and json.loads(said)["path"] == str(tmp_path / "folder" / "model.onnx")
    assert settings(tmp_path / "folder")["search"]["max_length"] == 33
    code, said = cli("generate", tmp_path / "folder", "w5 w7", "--max-new-tokens", 6, "--json")
    expected = numpy(model.generate([[5, 7]], max_new_tokens=6, stop_tokens=model.stop_tokens))[0, 2:].tolist()
    ends = [place for place, number in enumerate(expected) if number in model.stop_tokens]
    assert code == 0 and json.loads(said)[0]["ids"] == expected[: ends[0] if ends else None]
    for options, message in (
        (("folder",), "or --to genai or huggingface"),
        (("folder", "--to", "gguf"), "to: got 'gguf'"),
        (("folder", "--to", "genai", "--no-cache"), "cache: got False for genai"),
        (("folder", "--to", "genai", "--batch-size", 2), "static sizes for genai"),
        (("m.tflite", "--target", "standard"), "target: got 'standard' for tflite"),
    ):
        capsys.readouterr()
        code, _ = cli("export", tmp_path / "model", *options)
        assert code == 2 and message in capsys.readouterr().err
