"""Folders for Optimum and transformers.js: names, dimensions and layouts of the files, and outputs compared with Keras.

``benchmarks/peers.py`` shows that both libraries load the folders and compute the same outputs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from attention_zoo import export, zoo
from attention_zoo.export.bundles import huggingface_onnx
from attention_zoo.text.tokenizer import Tokenizer
from helpers import close, inputs_for, numpy, run, shared, tiny

CHECKED = {"gpt": "llama", "bert": "sequence_classification", "vit": "classifier"}


def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def shapes(file: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    opened = session(file)
    return tuple({node.name: list(node.shape) for node in s} for s in (opened.get_inputs(), opened.get_outputs()))  # pyright: ignore


@pytest.mark.parametrize("family", [pytest.param(f, marks=[] if f == "bert" else pytest.mark.slow) for f in CHECKED])
def test_folders(family: str, tmp_path: Path) -> None:
    """Check the files of a folder: the config of ``to_huggingface``, no safetensors weights, and the model in ONNX."""
    model = shared(family, CHECKED[family])
    result = export.to_huggingface_onnx(model, tmp_path / "folder")
    assert (result.path, result.format) == (tmp_path / "folder" / "onnx" / "model.onnx", "huggingface_onnx")
    assert export.verify(model, result.path).passed
    zoo.to_huggingface(model, tmp_path / "theirs")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    theirs = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config == {name: value for name, value in theirs.items() if name != "attention_zoo_config"}
    found = {file.relative_to(tmp_path / "folder").as_posix() for file in result.files}
    assert {"config.json", "onnx/model.onnx"} <= found and not any("safetensors" in name for name in found)
    assert found == {
        file.relative_to(tmp_path / "folder").as_posix() for file in (tmp_path / "folder").rglob("*") if file.is_file()
    }
    inputs, outputs = shapes(result.path)
    assert {dims[0] for dims in (*inputs.values(), *outputs.values())} == {"batch_size"}
    assert set(inputs) >= {"gpt": {"past_key_values.1.value"}, "bert": {"token_type_ids"}}.get(family, set())
    assert "logits" in outputs
    assert not export.verify(tiny(family, CHECKED[family], seed=3), result.path).passed


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["classifier", "features"])
def test_images_come_with_their_channels_first(variant: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = shared("vit", variant)
    model.preprocessor = {"do_rescale": True}
    try:
        result = export.to_huggingface_onnx(model, tmp_path / "first")
    finally:
        model.preprocessor = {}
    assert json.loads((tmp_path / "first" / "preprocessor_config.json").read_text()) == {"do_rescale": True}
    assert not result.warnings
    assert shapes(result.path)[0]["pixel_values"] == ["batch_size", 3, "height", "width"]
    images = rng.normal(size=(2, 15, 25, 3)).astype("float32")
    expected, moved = run(model, {"pixel_values": images}), np.moveaxis(images, -1, 1)
    opened = session(result.path)
    found = dict(zip(expected, opened.run(list(expected), {"pixel_values": moved}), strict=True))
    for name, value in expected.items():
        close(found[name], value, 1e-5)
        close(export.load(result.path).run(moved)[name], value, 1e-5)
    with pytest.raises(ValueError, match="pixel_values: got shape"):
        export.load(result.path).run(images)
    assert export.verify(model, result.path).passed

    last = export.to_huggingface_onnx(model, tmp_path / "last", data_format="channels_last")
    assert shapes(last.path)[0]["pixel_values"] == ["batch_size", "height", "width", 3]
    assert "preprocessor_config.json" in last.warnings[0]
    assert export.verify(model, last.path).passed


def test_sentences_come_with_their_states(tmp_path: Path, rng: np.random.Generator) -> None:
    """Check that the hidden states are those of the model without a head, and the embedding is their masked mean."""
    model = shared("bert", "sentence_embedding")
    result = export.to_huggingface_onnx(model, tmp_path / "folder")
    assert (tmp_path / "folder" / "1_Pooling" / "config.json").is_file()
    assert list(shapes(result.path)[1]) == ["last_hidden_state", "sentence_embedding"]
    inputs = inputs_for(model, rng)
    inputs["attention_mask"] = np.array([[1] * 9, [1] * 4 + [0] * 5])
    body = tiny("bert", "backbone", pooler=False)
    body.transfer_weights(model)
    found = export.load(result.path).run(inputs)
    valid = inputs["attention_mask"] == 1
    close(found["last_hidden_state"][valid], run(body, inputs)["last_hidden_state"][valid], 1e-5)
    kept = valid[..., None].astype("float64")
    mean = (found["last_hidden_state"] * kept).sum(1) / kept.sum(1)
    close(found["sentence_embedding"], mean, 1e-5)
    assert export.verify(model, result.path).passed


@pytest.mark.slow
def test_a_decoder_fed_as_the_loaders_feed_it(tmp_path: Path) -> None:
    """Decode with ONNX Runtime alone: begin with an empty cache, and feed the outputs of the cache back by name."""
    model = tiny("gpt", "llama", eos_token_id=(95, 96), pad_token_id=94)
    model.generation_config = {"temperature": 0.5, "eos_token_id": 93}
    result = export.to_huggingface_onnx(model, tmp_path / "folder")
    said = json.loads((tmp_path / "folder" / "generation_config.json").read_text())
    assert said == {"temperature": 0.5, "eos_token_id": [93, 95, 96], "pad_token_id": 94}
    assert any("width of a head" in text for text in result.warnings), "4 heads of 12 in 32"

    opened = session(result.path)
    caches = {node.name: node.shape for node in opened.get_inputs() if node.name.startswith("past_key_values")}
    assert caches["past_key_values.0.key"] == ["batch_size", 2, "past_sequence", 12]
    ids, mask = np.array([[0, 0, 5], [7, 8, 9]]), np.array([[0, 0, 1], [1, 1, 1]])
    state = {name: np.zeros((2, shape[1], 0, shape[3]), "float32") for name, shape in caches.items()}
    names = [node.name for node in opened.get_outputs()]
    fed, written = ids, []
    for _ in range(8):
        outputs = dict(zip(names, opened.run(names, {"input_ids": fed, "attention_mask": mask, **state}), strict=True))
        fed = np.asarray(outputs["logits"])[:, -1].argmax(-1)[:, None]
        written.append(fed)
        mask = np.concatenate([mask, np.ones((2, 1), "int64")], axis=1)
        state = {name: outputs[name.replace("past_key_values", "present")] for name in caches}
    expected = numpy(model.generate(ids, mask[:, :3], max_new_tokens=8, stop_tokens=[]))[:, 3:]
    assert np.array_equal(np.concatenate(written, 1), expected)


def test_a_chat_template_stands_in_both_places(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    template = "{% for message in messages %}\n{{ message['content'] }} – {% endfor %}"
    model = tiny("gpt", "gpt2")
    model.tokenizer = Tokenizer(backend, chat_template=template)
    result = export.to_huggingface_onnx(model, tmp_path / "folder")
    assert {"chat_template.jinja", "tokenizer.json"} <= {file.name for file in result.files} and not result.warnings
    assert json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())["chat_template"] == template
    assert Tokenizer.load(tmp_path / "folder").to_files() == model.tokenizer.to_files()


@pytest.mark.slow
def test_several_precisions(tmp_path: Path) -> None:
    model = tiny("gpt", "llama", head_dim=8)
    options: dict[str, Any] = {"least_cosine": 0.8}
    results = export.to_huggingface_onnx(
        model, tmp_path / "folder", precision=("fp32", "fp16", "int8", "int4"), **options
    )
    names = ["model.onnx", "model_fp16.onnx", "model_quantized.onnx", "model_q4.onnx"]
    assert [result.path.name for result in results] == names
    assert sorted(file.name for file in (tmp_path / "folder" / "onnx").iterdir()) == sorted(names)
    assert [export.load(result.path).precision for result in results] == [result.precision for result in results]
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["transformers.js_config"] == {"kv_cache_dtype": {"fp16": "float16"}}


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda: shared("transformer", "original"), {}, "model: got a transformer, of several graphs"),
        (lambda: shared("seq2seq", "bahdanau"), {}, "model: got a seq2seq"),
        (lambda: shared("vit", "images"), {}, "model: got one that prepares its images itself"),
        (lambda: shared("gpt", "alibi"), {}, "transformers cannot hold"),
        (lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), {}, "model: got Sequential"),
        (lambda: shared("bert", "backbone"), {"precision": "int3"}, "precision: got 'int3'"),
        (lambda: shared("bert", "backbone"), {"precision": ()}, "precision: got ()"),
        (lambda: shared("bert", "backbone"), {"precision": ["int8", "int8"]}, "precision: got int8 twice"),
        (lambda: shared("bert", "backbone"), {"data_format": "NCHW"}, "data_format: got 'NCHW'"),
        (lambda: shared("bert", "backbone"), {"model_type": "llama"}, "model_type: got 'llama'"),
        (lambda: shared("bert", "backbone"), {"samples": ["a"]}, "samples: got one for 'fp32'"),
    ],
)
def test_refused(make: Any, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accepted") as error:
        export.to_huggingface_onnx(make(), tmp_path / "folder", **options)
    assert said in str(error.value) and "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared("bert", "backbone")
    folder = tmp_path / "folder"
    monkeypatch.setattr(huggingface_onnx, "_rename_dimensions", lambda *_: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):
        export.to_huggingface_onnx(model, folder)
    assert not list(tmp_path.iterdir())
    zoo.to_huggingface(model, folder)  # weights that must not be overwritten
    with pytest.raises(ValueError, match=r"folder: got .*model\.safetensors"):
        export.to_huggingface_onnx(model, folder)
    assert (folder / "model.safetensors").is_file() and [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_command_line_finds_the_file(tmp_path: Path) -> None:
    from attention_zoo.export.bundles.folders import file_in
    from attention_zoo.export.command import export_as

    model, folder = shared("bert", "backbone"), tmp_path / "folder"
    results = export_as(lambda: model, folder, "huggingface", "int8,fp32", {}, {"cache": None})
    assert [result.precision for result in results] == ["int8", "fp32"]
    assert file_in(folder) == folder / "onnx" / "model.onnx"
    (folder / "onnx" / "model.onnx").unlink()
    assert file_in(folder) == folder / "onnx" / "model_quantized.onnx"
    assert file_in(tmp_path) is None
