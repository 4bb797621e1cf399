"""Third-party checkpoints: loaded, saved again, exported, and compared with their reference implementations.

transformers wrote the folders of tests/goldens together with its results; see the README there.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (makes bfloat16 a dtype that NumPy knows)
import numpy as np
import pytest
from safetensors import safe_open

import attention_zoo as az
from attention_zoo import export
from attention_zoo.zoo.loading import model_types
from helpers import ROOT, close, numpy, run

GOLDENS = ROOT / "tests" / "goldens"
DIALECTS = sorted(folder.name for folder in GOLDENS.iterdir() if (folder / "config.json").is_file())
GGUF = sorted(file.stem for file in (GOLDENS / "llama-gguf").glob("*.gguf") if file.stem != "blocks")
TOLERANCE = 1e-4
# One checkpoint of each architecture; the others differ in names and sizes, but not in operators.
EXPORTED = (
    "bert",
    "deit-teacher",
    "dinov2-registers",
    "gpt2",
    "llama-llama3",
    "marian",
    "m2m-100",
    "qwen3",
    "roberta",
    "umt5",
)
QUICKLY = ("dinov2-registers", "qwen3")  # exported in the fast tests too


@functools.cache
def cases(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays by case and name, with pixels in Keras' channels-last layout."""
    stored = np.load(GOLDENS / name / "golden.npz")
    found: dict[str, dict[str, np.ndarray]] = {}
    for key in stored.files:
        case, _, array = key.partition("/")
        found.setdefault(case, {})[array] = stored[key]
    for arrays in found.values():
        if "pixel_values" in arrays:
            arrays["pixel_values"] = arrays["pixel_values"].transpose(0, 2, 3, 1)
        if "input_features" in arrays:
            arrays["input_features"] = arrays["input_features"].transpose(0, 2, 1)
    return found


@functools.cache
def loaded(name: str) -> Any:
    return az.load(GOLDENS / name)


def inputs_of(model: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [spec.name for spec in model.signature.inputs if spec.name in arrays]
    return {name: arrays[name] for name in names if name != "position_ids"}


def difference(results: dict[str, Any], arrays: dict[str, np.ndarray]) -> float:
    """Return the greatest difference at tokens that are not padding; fail if there is nothing to compare."""
    mask = arrays.get("decoder_attention_mask" if "decoder_input_ids" in arrays else "attention_mask")
    known = sorted(set(results) & set(arrays))
    assert known
    worst = 0.0
    for name in known:
        result, expected = results[name], arrays[name]
        assert np.isfinite(result).all() and np.std(expected) > 1e-2
        if mask is not None and result.shape[:2] == mask.shape:
            result, expected = result[mask == 1], expected[mask == 1]
        worst = max(worst, float(np.abs(result - expected).max()))
    return worst


@pytest.mark.parametrize("name", DIALECTS)
def test_results_are_theirs(name: str, record_property: Any) -> None:
    """Cover padding on either side, rows of unequal lengths, and images of other sizes."""
    model = loaded(name)
    for case, arrays in cases(name).items():
        if case == "generate":
            continue
        worst = difference(run(model, inputs_of(model, arrays)), arrays)
        record_property(case, worst)
        assert worst <= TOLERANCE, (case, worst)


@pytest.mark.parametrize("name", ["llama", "roberta", "gemma", "nemotron", "cohere"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("bfloat16", 0.2)])
def test_results_in_half_precision(name: str, dtype: str, tolerance: float) -> None:
    """Models loaded in half precision, with padding on the left, agree with the float32 reference."""
    model, arrays = az.load(GOLDENS / name, dtype=dtype), cases(name)["left"]
    assert model.weights[0].dtype == dtype
    most = max(1.0, float(np.abs(arrays["logits"]).max()) / 3) if "logits" in arrays else 1.0
    assert difference(run(model, inputs_of(model, arrays)), arrays) <= tolerance * most


def test_every_dialect_has_a_golden() -> None:
    known = {json.loads((GOLDENS / name / "config.json").read_text())["model_type"] for name in DIALECTS}
    assert known | {"mt5"} == set(model_types())  # mt5 in test_dialects.py, from the numbers of t5


CONTINUED = [name for name in DIALECTS if "generate" in cases(name)]
CONTINUED_QUICKLY = ("qwen3", "gemma3", "falcon", "t5", "bart")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in CONTINUED_QUICKLY else pytest.mark.slow) for n in CONTINUED]
)
def test_greedy_continuation_is_theirs(name: str) -> None:
    arrays = cases(name)["generate"]
    written = loaded(name).generate(
        arrays["input_ids"],
        arrays["attention_mask"],
        max_new_tokens=8,
        stop_tokens=[],
        temperature=0,
        forced_eos_token_id=None,
    )
    np.testing.assert_array_equal(written[:, -8:], arrays["tokens"])


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    return found


BUFFERS = ("position_ids", "inv_freq", ".attn.bias", "masked_bias")


def unstacked(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors of a Mixtral with those of each expert by themselves."""
    found = {}
    for key, value in tensors.items():
        name = key.replace(".mlp.", ".block_sparse_moe.")
        layer, stacked, kind = name.partition(".experts.")
        if not stacked:
            found[name] = value
            continue
        for j, rows in enumerate(value):
            parts = {"w2": rows} if kind == "down_proj" else dict(zip(("w1", "w3"), np.split(rows, 2), strict=True))
            found |= {f"{layer}.experts.{j}.{part}.weight": array for part, array in parts.items()}
    return found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, n in enumerate(DIALECTS)]
)
def test_round_trip_is_byte_equal(name: str, tmp_path: Path) -> None:
    """Names, dtypes and bytes of all tensors except buffers are kept, and the saved config loads as the same config."""
    model = loaded(name)
    az.to_huggingface(model, tmp_path)
    theirs, ours = tensors_of(GOLDENS / name), tensors_of(tmp_path)
    theirs = {key: value for key, value in theirs.items() if not any(part in key for part in BUFFERS)}
    if name.endswith("published"):  # saved under the current names
        prefix = "transformer." if name.startswith("gpt2") else ""
        theirs = {
            prefix + key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): v
            for key, v in theirs.items()
        }
    if name.endswith("stacked"):  # saved with tensors for each expert, as transformers does
        theirs = unstacked(theirs)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype, key
        assert ours[key].tobytes() == value.tobytes(), key
    again = az.load(tmp_path)
    assert again.config == model.config
    before = json.loads((GOLDENS / name / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    derived = ("dtype", "rope_scaling", "use_mask_token", "max_window_layers", "layer_types", "hidden_act", "n_inner")
    changed = {key for key in before if after.get(key) != before[key]} - set(derived)
    if name == "llama-yarn":  # extended to the length that the scaling is for
        changed -= {"max_position_embeddings"}
    if name == "mpt":  # whose object has entries without any effect
        changed -= {"attn_config"}
    assert not changed - {"rope_parameters", "activation", "activation_function", "eos_token_id"}, changed


@pytest.mark.parametrize("name", [n for n in DIALECTS if (GOLDENS / n / "config.hub.json").is_file()])
def test_config_in_the_words_of_the_hub(name: str, tmp_path: Path) -> None:
    """Cover rope_theta, rope_scaling and torch_dtype, as written before transformers 5."""
    shutil.copytree(GOLDENS / name, tmp_path / name)
    (tmp_path / name / "config.json").write_bytes((GOLDENS / name / "config.hub.json").read_bytes())
    assert az.load(tmp_path / name).config == loaded(name).config


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICKLY else pytest.mark.slow) for n in DIALECTS])
def test_exports_compute_what_they_compute(name: str, tmp_path: Path, record_property: Any) -> None:
    """ONNX and TFLite files produce the reference results."""
    model = loaded(name)
    arrays = next(arrays for case, arrays in cases(name).items() if case != "generate")
    given = inputs_of(model, arrays)
    cached: Any = {"cache": False} if model.generates else {}
    export.to_onnx(model, tmp_path / "m.onnx", **cached)
    worst = {"onnx": difference(export.load(tmp_path / "m.onnx").run(given), arrays)}
    if "input_features" in given:  # compared in test_whisper.py, with generated tokens
        pass
    elif "decoder_input_ids" in given:  # an encoder and a decoder with a cache: compare generated tokens
        export.to_tflite(model, tmp_path / "m.tflite")
        asked = cases(name)["generate"]
        written = export.load(tmp_path / "m.tflite").generate(
            asked["input_ids"], asked["attention_mask"], max_new_tokens=8, stop_tokens=[], forced_eos_token_id=None
        )
        np.testing.assert_array_equal(written[:, -8:], asked["tokens"])
    else:
        sizes: dict[str, Any] = {"batch_size": len(next(iter(given.values())))}
        if {"input_ids", "pixel_values"} <= {*given}:
            sizes["batch_size"] = {"text_batch": len(given["input_ids"]), "image_batch": len(given["pixel_values"])}
        if "input_ids" in given:
            sizes |= {"cache": False} if model.generates else {}
            sizes |= {"sequence_length": given["input_ids"].shape[-1]}
        export.to_tflite(model, tmp_path / "m.tflite", **sizes)
        worst["tflite"] = difference(export.load(tmp_path / "m.tflite").run(given), arrays)
    for kind, value in worst.items():
        record_property(kind, value)
        assert value <= TOLERANCE, (kind, value)


@pytest.mark.parametrize("name", GGUF)
def test_gguf(name: str) -> None:
    """Cover every type of block; the reference was computed from the same dequantized values."""
    arrays = {k: v for case, found in cases("llama-gguf").items() if case == name for k, v in found.items()}
    model = az.load(GOLDENS / "llama-gguf" / f"{name}.gguf")
    assert difference(run(model, inputs_of(model, arrays)), arrays) <= TOLERANCE
    assert model.tokenizer is not None


def test_gguf_keeps_nothing_that_transformers_cannot_read(tmp_path: Path) -> None:
    """A quantized file is saved as a Hugging Face Llama with the same weights."""
    model = az.load(GOLDENS / "llama-gguf" / "q8_0-linear.gguf")
    az.to_huggingface(model, tmp_path)
    again = az.load(tmp_path)
    assert again.config == model.config and again.huggingface["model_type"] == "llama"
    for one, other in zip(again.weights, model.weights, strict=True):
        close(numpy(one), numpy(other), atol=0)


def test_gguf_brings_its_tokenizer() -> None:
    """The command line can encode a prompt with the file alone."""
    from attention_zoo.text.prompts import continue_prompts

    model = az.load(GOLDENS / "llama-gguf" / "f16.gguf")
    (row,) = continue_prompts(model, ["ab"], [], max_new_tokens=4, stop_tokens=[])
    ids = np.array([model.tokenizer.encode("ab").ids])
    written = model.generate(ids, max_new_tokens=4, stop_tokens=[])[0, ids.shape[1] :].tolist()
    assert row == {"ids": written, "text": model.tokenizer.decode(written), "finish_reason": "length"}
    assert model.stop_tokens == sorted({model.config.eos_token_id, model.tokenizer.eos_token_id})


def test_our_folders_keep_what_came_along(tmp_path: Path) -> None:
    model = loaded("bert-sequence")
    again = az.load(az.save(model, tmp_path))
    assert again.huggingface == model.huggingface and again.config == model.config
    for one, other in zip(again.weights, model.weights, strict=True):
        close(numpy(one), numpy(other), atol=0)


@pytest.mark.parametrize("name", ["bert-backbone", "bert", "roberta", "distilbert-qa", "bert-sequence"])
def test_another_head(name: str, recwarn: Any) -> None:
    """The body is loaded and the head is new, which a warning reports."""
    model = az.load(GOLDENS / name, head="sequence_classification", num_classes=7)
    told = [str(warning.message) for warning in recwarn if "keep their initial values" in str(warning.message)]
    assert len(told) == 1 and "classifier/kernel" in told[0]
    bodies = [{w.path.partition("/")[2]: numpy(w) for w in m.weights} for m in (model, loaded(name))]
    shared = [key for key in bodies[0] if key.startswith(("block", "embedding", "positions", "token_types"))]
    assert len(shared) > 30
    for key in shared:
        close(bodies[0][key], bodies[1][key], atol=0)
    assert numpy(model.classifier.kernel).shape[1] == 7


def test_sizes_and_rates_may_be_overridden() -> None:
    model = az.load(GOLDENS / "llama", dropout=0.25, max_length=16)
    assert (model.config.dropout, model.config.max_length) == (0.25, 16)
    assert az.load(GOLDENS / "llama", dtype="bfloat16").dtype_policy.name == "bfloat16"
    unknown: Any = {"colour": 3}
    with pytest.raises(ValueError, match=r"unknown fields \['colour'\]"):
        az.load(GOLDENS / "llama", **unknown)


def test_labels_survive(tmp_path: Path) -> None:
    before = json.loads((GOLDENS / "vit" / "config.json").read_text())
    az.to_huggingface(loaded("vit"), tmp_path)
    after = json.loads((tmp_path / "config.json").read_text())
    assert after["id2label"] == before["id2label"] and after["label2id"] == before["label2id"]


@pytest.mark.parametrize(
    ("family", "fields", "kind"),
    [
        ("gpt", {}, "gpt2"),
        ("gpt", {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}, "llama"),
        ("bert", {"head": "masked_lm"}, "bert"),
        ("vit", {"layer_scale": 0.1}, "dinov2"),
    ],
)
def test_a_model_of_ones_own_finds_its_model_type(family: str, fields: Any, kind: str, tmp_path: Path) -> None:
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16}
    sizes |= {"vocab_size": 50} if family != "vit" else {"image_size": 16, "patch_size": 8}
    model = az.create(family, **sizes, **fields)
    az.to_huggingface(model, tmp_path)
    again = az.load(tmp_path)
    assert again.huggingface["model_type"] == kind
    for one, other in zip(again.weights, model.weights, strict=True):
        close(numpy(one), numpy(other), atol=0)


def test_what_transformers_cannot_hold(tmp_path: Path) -> None:
    alibi = az.create("gpt", num_layers=1, num_heads=2, hidden_dim=16, vocab_size=50, position="alibi")
    with pytest.raises(
        ValueError, match=r"model: got a config that transformers cannot hold as gpt2 .*position='alibi'"
    ):
        az.to_huggingface(alibi, tmp_path / "m")
    with pytest.raises(ValueError, match=r"model_type: got 'bert'; accepted for gpt: \['gpt2', "):
        az.to_huggingface(alibi, tmp_path / "m", model_type="bert")
    assert not (tmp_path / "m").exists()
