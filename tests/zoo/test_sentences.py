"""Sentence embeddings and cross-encoders: what sentence-transformers computes, saving, and exported files.

tests/goldens/sentences holds one encoder, the other files of each case, and the embeddings that sentence-transformers
6.2 computes from the texts, with the prompts that these files specify.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from attention_zoo import export
from helpers import ROOT, close, numpy, run, tiny

GOLDENS = ROOT / "tests" / "goldens" / "sentences"
STORED = json.loads((GOLDENS / "cases.json").read_text())
TEXTS: list[str] = STORED["texts"]
TOLERANCE = 2e-6


def folder_of(case: str, tmp_path: Path) -> Path:
    """Write the folder of a case."""
    files, folder = STORED["files"][case], tmp_path / case
    shutil.copytree(GOLDENS / "body", folder / files["modules.json"][0]["path"])
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    if "2_Dense/config.json" in files:
        shutil.copy(GOLDENS / "2_Dense" / "model.safetensors", folder / "2_Dense")
    return folder


def embedded(model: Any, **options: Any) -> np.ndarray:
    return run(model, model.tokenizer(TEXTS, **options))["sentence_embedding"]


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] * (i % 2)) for i, name in enumerate(STORED["files"])]
)
def test_embeddings_are_theirs(case: str, tmp_path: Path) -> None:
    """Also after the model is saved in both formats, with all files that the embeddings depend on."""
    expected = np.load(GOLDENS / "embeddings.npz")[case]
    model = az.load(folder_of(case, tmp_path))
    close(embedded(model), expected, atol=TOLERANCE)
    again = az.load(az.to_huggingface(model, tmp_path / "theirs"))
    assert again.config == model.config and again.sentence_options == {
        **model.sentence_options,
        **({"prompts": model.tokenizer.prompts} if model.sentence_options else {}),
    }
    for other in (again, az.load(az.save(model, tmp_path / "ours"))):
        close(embedded(other), expected, atol=TOLERANCE)


def test_decoder(tmp_path: Path) -> None:
    """Qwen3-Embedding: the last token of a decoder, whose tokenizer pads on the left."""
    model = az.load(GOLDENS / "qwen3_embedding")
    expected = np.load(GOLDENS / "qwen3_embedding" / "st.npz")["embedding"]
    close(embedded(model), expected, atol=TOLERANCE)
    close(embedded(az.load(az.to_huggingface(model, tmp_path))), expected, atol=TOLERANCE)
    export.to_onnx(model, tmp_path / "m.onnx")
    runner = export.load(tmp_path / "m.onnx")
    assert runner.tokenizer is not None
    close(runner.run(runner.tokenizer(TEXTS))["sentence_embedding"], expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["new_dense", "old_prompts_excluded"])
def test_exported_files_have_prompts_and_projections(case: str, tmp_path: Path) -> None:
    """The tokenizer in a file prepends the default prompt and masks it in the pooling."""
    model = az.load(folder_of(case, tmp_path))
    expected = np.load(GOLDENS / "embeddings.npz")[case]
    export.to_onnx(model, tmp_path / "m.onnx")
    export.to_tflite(model, tmp_path / "m.tflite", batch_size=4, sequence_length=32)
    for name in ("m.onnx", "m.tflite"):
        runner = export.load(tmp_path / name)
        assert runner.tokenizer is not None
        close(runner.run(runner.tokenizer(TEXTS))["sentence_embedding"], expected, atol=2e-5)
        assert runner.tokenizer.prompts == model.tokenizer.prompts
        assert export.verify(model, tmp_path / name).passed


def test_prompts(tmp_path: Path) -> None:
    tokenizer = az.load(folder_of("old_prompts", tmp_path)).tokenizer
    assert tokenizer.default_prompt_name == "query" and tokenizer.prompts["passage"] == "passage: "
    spelled = {"query": [f"query: {text}" for text in TEXTS], "passage": [f"passage: {text}" for text in TEXTS]}
    for options, texts in (
        ({}, spelled["query"]),
        ({"prompt_name": "passage"}, spelled["passage"]),
        ({"prompt": "passage: "}, spelled["passage"]),
        ({"prompt_name": "document"}, TEXTS),
    ):
        given, plain = tokenizer(TEXTS, **options), tokenizer(texts, prompt="")
        assert set(given) == set(plain) and all((given[name] == plain[name]).all() for name in given)
    pair, spelled_pair = tokenizer(TEXTS[0], TEXTS[1]), tokenizer(spelled["query"][0], TEXTS[1], prompt="")
    assert (pair["input_ids"] == spelled_pair["input_ids"]).all()
    for wrong, part in (
        ({"prompt_name": "no"}, r"prompt_name: got 'no'; accepted: \['document', 'passage', 'query'\]"),
        ({"prompt_name": "query", "prompt": "a"}, "prompt_name: got 'query' with a prompt"),
        ({"prompt": 3}, "prompt: got int; accepted: a text"),
    ):
        with pytest.raises(ValueError, match=part):
            tokenizer(TEXTS, **wrong)
    with pytest.raises(ValueError, match="prompt: got 'query: ' with is_split_into_words"):
        tokenizer([["a", "b"]], is_split_into_words=True)


def test_pooling_mask(tmp_path: Path) -> None:
    """It excludes the tokens of the prompt and the special token before them, also behind padding on the left."""
    tokenizer = az.load(folder_of("old_prompts_excluded", tmp_path)).tokenizer
    for side in ("right", "left"):
        given = tokenizer(TEXTS, padding_side=side)
        for ids, mask, pooled in zip(given["input_ids"], given["attention_mask"], given["pooling_mask"], strict=True):
            prompt = tokenizer.encode("query: ").ids[:-1]
            assert list(ids[(mask == 1) & (pooled == 0)]) == prompt and not (pooled > mask).any()
    assert (tokenizer(TEXTS, prompt="")["pooling_mask"] == tokenizer(TEXTS, prompt="")["attention_mask"]).all()


MASKS = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], "int32")
POOLED = np.array([[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], "int32")


def poolings(x: np.ndarray, attended: np.ndarray, pooled: np.ndarray) -> dict[str, np.ndarray]:
    """Return every pooling of the hidden states `x` (T, D) of one row, in float64."""
    columns = np.flatnonzero(attended * pooled)
    if not len(columns):
        return dict.fromkeys(
            ("first", "last", "max", "mean", "mean_sqrt_length", "weighted_mean"), np.zeros(x.shape[1])
        )
    places, kept = columns + 1 - np.flatnonzero(attended)[0], x[columns]
    return {
        "first": kept[0],
        "last": kept[-1],
        "max": kept.max(0),
        "mean": kept.mean(0),
        "mean_sqrt_length": kept.sum(0) / np.sqrt(len(kept)),
        "weighted_mean": (kept * places[:, None]).sum(0) / places.sum(),
    }


@pytest.mark.parametrize("pooling", ["first", "last", "max", "mean", "mean_sqrt_length", "weighted_mean"])
@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_poolings(family: str, pooling: str, rng: Any) -> None:
    """Against NumPy in float64, with padding on either side, a hole and an empty row."""
    body = tiny(family, "backbone")
    second = "max" if pooling != "max" else "mean"
    fields = {"head": "sentence_embedding", "pooling": (pooling, second), "pool_prompt": False}
    fields |= {"projections": [{"units": 5, "activation": "tanh"}, {"units": 7, "use_bias": False, "residual": True}]}
    model = tiny(family, "backbone", **fields, normalize=True, truncate_dim=3)
    model.transfer_weights(body)
    inputs = {"input_ids": rng.integers(2, 80, MASKS.shape).astype("int32"), "attention_mask": MASKS}
    states = run(body, inputs)["last_hidden_state"].astype("float64")
    rows = [poolings(*row) for row in zip(states, MASKS, POOLED, strict=True)]
    x = np.stack([np.concatenate([row[pooling], row[second]]) for row in rows])
    weights = {variable.path.partition("/")[2]: numpy(variable).astype("float64") for variable in model.weights}
    x = np.tanh(x @ weights["projection/dense_0/kernel"] + weights["projection/dense_0/bias"])
    x = x @ weights["projection/dense_1/kernel"] + x @ weights["projection/residual_1/kernel"]
    x = (x / np.linalg.norm(x, axis=1, keepdims=True))[:, :3]
    close(run(model, {**inputs, "pooling_mask": POOLED})["sentence_embedding"], x, atol=1e-5)


def test_cross_encoder(tmp_path: Path, rng: Any) -> None:
    """A modules.json of a Transformer alone, and the entries of config.json in earlier versions."""
    plain = tiny("bert", "sequence_classification", num_classes=1)
    az.to_huggingface(plain, tmp_path)
    assert az.load(tmp_path).config.score_activation is None
    inputs = {"input_ids": rng.integers(2, 80, (3, 9)).astype("int32")}
    logits = run(plain, inputs)["logits"].astype("float64")
    before = json.loads((tmp_path / "config.json").read_text())
    torch = "torch.nn.modules."

    def scores(**more: Any) -> np.ndarray | None:
        (tmp_path / "config.json").write_text(json.dumps({**before, **more}))
        model = az.load(tmp_path)
        result = run(model, inputs)
        close(result["logits"], logits, atol=1e-5)
        again = az.load(az.to_huggingface(model, tmp_path / "again"))
        assert again.config == model.config
        if "scores" in result:  # sentence-transformers 6 raises KeyError: 'scores' without these
            saved = json.loads((tmp_path / "again" / "sentence_bert_config.json").read_text())
            assert (saved["transformer_task"], saved["module_output_name"]) == ("sequence-classification", "scores")
            assert saved["modality_config"] == {"text": {"method": "forward", "method_output_name": "logits"}}
        return result.get("scores")

    def is_close(actual: Any, expected: Any) -> bool:
        return bool(np.abs(actual - expected).max() < 1e-5)

    sigmoid = 1 / (1 + np.exp(-logits))
    assert is_close(scores(sentence_transformers={"activation_fn": f"{torch}activation.Sigmoid"}), sigmoid)
    assert is_close(scores(sbert_ce_default_activation_function=f"{torch}activation.Tanh"), np.tanh(logits))
    assert scores(sbert_ce_default_activation_function=f"{torch}linear.Identity") is None
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    options = tmp_path / "config_sentence_transformers.json"
    options.write_text(json.dumps({"model_type": "CrossEncoder", "activation_fn": f"{torch}activation.ReLU"}))
    assert is_close(scores(), np.maximum(logits, 0))
    options.write_text(json.dumps({"model_type": "CrossEncoder", "activation_fn": None}))
    assert is_close(scores(), sigmoid)  # the default for one class
    options.write_text(json.dumps({"model_type": "CrossEncoder", "activation_fn": "evil.Module"}))
    with pytest.raises(ValueError, match=r"activation_fn: got 'evil\.Module'; accepted: "):
        az.load(tmp_path)
    options.write_text(json.dumps({"model_type": "CrossEncoder", "activation_fn": f"{torch}linear.Identity"}))
    assert scores() is None and az.load(tmp_path).config.score_activation == "linear"
    assert az.load(tmp_path / "again", score_activation=None).config.score_activation is None
