"""LoRA adapters of PEFT, loaded with their base models: results, the folders that are saved, and what is refused.

tests/goldens/adapters holds adapters of other reference checkpoints, as PEFT 0.21 writes them, and the logits that the
adapted models compute.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import attention_zoo as az
from helpers import ROOT, close, numpy, run, tiny

GOLDENS = ROOT / "tests" / "goldens"
NAMES = sorted(folder.name for folder in (GOLDENS / "adapters").iterdir())


def results(model: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    stored = np.load(GOLDENS / "adapters" / name / "golden.npz")
    return run(model, {"input_ids": stored["input_ids"].astype("int32")})["logits"], stored["result"]


@pytest.mark.parametrize("name", NAMES)
def test_adapted(name: str, tmp_path: Path) -> None:
    """The base is found from the adapter's folder; the merged model is saved as any other."""
    model = az.load(GOLDENS / "adapters" / name)
    close(*results(model, name), atol=2e-5)
    close(*results(az.load(az.to_huggingface(model, tmp_path / "theirs")), name), atol=2e-5)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of an adapter, away from its base."""
    return Path(shutil.copytree(GOLDENS / "adapters" / "llama", tmp_path / "adapter"))


def change(folder: Path, **entries: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def rename(folder: Path, new: Callable[[str], str]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({new(name): value for name, value in load_file(file).items()}, file)


def test_base(adapter: Path, tmp_path: Path) -> None:
    """Given as an argument or named by the config; names with or without those of PEFT's and the base's wrappers."""
    close(*results(az.load(adapter, base=GOLDENS / "llama"), "llama"), atol=2e-5)
    change(adapter, base_model_name_or_path=str(GOLDENS / "llama"))
    close(*results(az.load(adapter), "llama"), atol=2e-5)
    rename(adapter, lambda name: name.replace(".weight", ".default.weight"))
    close(*results(az.load(adapter), "llama"), atol=2e-5)
    body = az.load(GOLDENS / "llama", head=None)
    az.to_huggingface(body, tmp_path / "body")  # names without "model."
    merged, plain = (az.load(path, head=None) for path in (adapter, GOLDENS / "llama"))
    rename(adapter, lambda name: name.replace("base_model.model.model.", "base_model.model."))
    change(adapter, alpha_pattern={"layers.1.self_attn.q_proj": 7})
    from_body = az.load(adapter, base=tmp_path / "body", head=None)
    inputs = {"input_ids": np.array([[3, 4, 5]], "int32")}
    assert np.abs(run(merged, inputs)["last_hidden_state"] - run(plain, inputs)["last_hidden_state"]).max() > 0.1
    close(run(from_body, inputs)["last_hidden_state"], run(merged, inputs)["last_hidden_state"], atol=1e-5)


def test_more_rows(adapter: Path) -> None:
    """A table of tokens that was resized is saved as a whole, and so is the output projection."""
    file, base = adapter / "adapter_model.safetensors", load_file(GOLDENS / "llama" / "model.safetensors")
    names = ("model.embed_tokens.weight", "lm_head.weight")
    grown = {f"base_model.model.{name}": np.concatenate([base[name], base[name][:2] + 1]) for name in names}
    save_file({**load_file(file), **grown}, file)
    model = az.load(adapter, base=GOLDENS / "llama")
    logits, expected = results(model, "llama")
    assert model.config.vocab_size == 99
    close(logits[..., :97], expected, atol=2e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora: got True; accepted: null or false, for plain LoRA"),
    "prompt tuning": ({"peft_type": "PROMPT_TUNING"}, "peft_type: got 'PROMPT_TUNING'; accepted: 'LORA'"),
    "no type": ({"peft_type": None}, "peft_type: got None"),
    "biases": ({"bias": "all"}, r"bias: got 'all'; accepted: one of \['none'\]"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: got 'pissa_niter_4'"),
    "a new kind": ({"use_something": True}, "use_something: got True"),
    "replicated": ({"layer_replication": [[0, 2]]}, "layer_replication: got"),
    "rank of text": ({"r": "8"}, "r: got '8'; accepted: a number"),
    "rank 0": ({"rank_pattern": {}, "r": 0}, "rank_pattern: got 0"),
    "another rank": ({"r": 3}, "with rank 3"),
    "a slow pattern": ({"rank_pattern": {"(a+)+b": 3}}, "rank_pattern: got"),
    "base of a number": ({"base_model_name_or_path": 3}, "base_model_name_or_path: got 3"),
    "no base": (
        {"base_model_name_or_path": None},
        "base: got None for the adapter .* base is None; accepted: the path",
    ),
    "a base elsewhere": (
        {"base_model_name_or_path": "/home/them/llama"},
        "whose base is '/home/them/llama': which is not there; accepted: a path or a name of the hub",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, adapter: Path) -> None:
    entries, part = REFUSED[case]
    change(adapter, **entries)
    base = None if "base" in case else GOLDENS / "llama"
    with pytest.raises(ValueError, match=part) as caught:
        az.load(adapter, base=base)
    assert "\n" not in str(caught.value)


def test_bad_files(adapter: Path, tmp_path: Path) -> None:
    llama = GOLDENS / "llama"
    with pytest.raises(ValueError, match=r"base: got .* which is not an adapter of PEFT; accepted: None"):
        az.load(llama, base=llama)
    with pytest.raises(ValueError, match=r"base: got .*adapter; accepted: a Hugging Face folder"):
        az.load(adapter, base=adapter)
    with pytest.raises(ValueError, match=r"adapts .*, which .* lacks; accepted: its base"):
        az.load(adapter, base=GOLDENS / "gpt2")
    with pytest.raises(ValueError, match=r"base: got .* which is not a Hugging Face folder; accepted: one"):
        az.load(adapter, base=az.save(az.load(llama), tmp_path / "ours"))
    file = adapter / "adapter_model.safetensors"
    whole = file.read_bytes()
    tensors = load_file(file)
    first = next(iter(tensors))
    for bad, part in (
        ({**tensors, first: tensors[first][..., :-1]}, "of shapes"),
        ({name: value for name, value in tensors.items() if name != first}, "has only"),
        ({**tensors, first.replace("lora_A", "lora_magnitude_vector"): np.ones(3, "float32")}, "accepted: lora_A and"),
        ({**tensors, "base_model.model.model.layers.0.mlp.extra.weight": np.ones(3, "float32")}, "surplus"),
        ({}, "has no tensors"),
    ):
        save_file(bad, file)
        with pytest.raises(ValueError, match=part):
            az.load(adapter, base=llama)
    file.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors cannot be read"):
        az.load(adapter, base=llama)
    file.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"without adapter_model\.safetensors; accepted: one; pickles"):
        az.load(adapter, base=llama)


def test_tied_table(tmp_path: Path) -> None:
    """An adapter of the table of tokens leaves the output as it is, which a tied model cannot."""
    folder = Path(shutil.copytree(GOLDENS / "adapters" / "bert", tmp_path / "adapter"))
    change(folder, task_type="CAUSAL_LM", rank_pattern={}, lora_alpha=4)
    shape = load_file(GOLDENS / "llama-tied" / "model.safetensors")["model.embed_tokens.weight"].shape
    layer = "base_model.model.model.embed_tokens.lora_embedding_"
    arrays = {f"{layer}A": np.ones((3, shape[0]), "float32"), f"{layer}B": np.ones((shape[1], 3), "float32")}
    save_file(arrays, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapts model\.embed_tokens, which the output shares; accepted"):
        az.load(folder, base=GOLDENS / "llama-tied")


def test_trained_table_of_tied_outputs(tmp_path: Path) -> None:
    """PEFT trains a copy of the table, and the output projection keeps that of the base model."""
    base = tmp_path / "base"
    tied, expected = (tiny("gpt", "llama", tie_embeddings=tie) for tie in (True, False))
    az.to_huggingface(tied, base)
    table = np.random.default_rng(0).normal(size=numpy(tied.embedding.embeddings).shape).astype("float32")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.model.embed_tokens.weight"
    save_file({name: table}, adapter / "adapter_model.safetensors")
    entries = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "modules_to_save": ["embed_tokens"]}
    (adapter / "adapter_config.json").write_text(json.dumps(entries))
    inputs = {"input_ids": np.array([[3, 4, 5]], "int32")}
    expected.transfer_weights(tied)
    expected.embedding.embeddings.assign(table)
    expected.lm_head.kernel.assign(numpy(tied.embedding.embeddings).T)
    with pytest.warns(UserWarning, match=r"the model uses both"):
        model = az.load(adapter, base=base)
    close(run(model, inputs)["logits"], run(expected, inputs)["logits"], atol=1e-5)
    change(adapter, ensure_weight_tying=True)
    tied.embedding.embeddings.assign(table)
    close(run(az.load(adapter, base=base), inputs)["logits"], run(tied, inputs)["logits"], atol=1e-5)
    save_file({name: table[:-1]}, adapter / "adapter_model.safetensors")
    change(adapter, ensure_weight_tying=False)
    with pytest.raises(ValueError, match=r"rows of .*embed_tokens\.weight, which the output shares; accepted: "):
        az.load(adapter, base=base)


@pytest.mark.parametrize(("name", "prefix"), [("vit-no-bias", "vit."), ("dinov2", ""), ("dinov3", "model.")])
def test_modules_renamed_in_transformers_5(name: str, prefix: str, tmp_path: Path) -> None:
    """Adapters have the names of the modules, which are not those of the tensors in the files of their base."""
    numbered = {"vit-no-bias": "layers.1", "dinov2": "encoder.layer.1", "dinov3": "layer.1"}[name]
    saved = load_file(GOLDENS / name / "model.safetensors")
    parts = {"q_proj": "attention.query", "o_proj": "output.dense"}
    stem = "layer.1.attention." if name == "dinov3" else f"{prefix}encoder.layer.1.attention."
    rng, tensors, changed = np.random.default_rng(0), {}, dict(saved)
    for part, old in parts.items():
        weight = f"{stem}{part if name == 'dinov3' else old}.weight"
        down, up = (
            rng.normal(size=shape).astype("float32")
            for shape in ((2, saved[weight].shape[1]), (saved[weight].shape[0], 2))
        )
        layer = f"base_model.model.{prefix}{numbered}.attention.{part}"
        tensors |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
        changed[weight] = saved[weight] + up @ down * 2
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    )
    shutil.copytree(GOLDENS / name, tmp_path / "merged")
    save_file(changed, tmp_path / "merged" / "model.safetensors", {"format": "pt"})
    expected = az.load(tmp_path / "merged", head=None)
    model = az.load(tmp_path / "adapter", base=GOLDENS / name, head=None)
    size = model.config.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    inputs = {"pixel_values": rng.random((1, height, width, model.config.num_channels), "float32")}
    close(run(model, inputs)["last_hidden_state"], run(expected, inputs)["last_hidden_state"], atol=1e-5)


def test_classifier_without_task(tmp_path: Path) -> None:
    """A trained classifier on a body is loaded, if the family has a single kind of classifier."""
    saved = load_file(GOLDENS / "vit-no-bias" / "model.safetensors")
    body, adapter = tmp_path / "body", tmp_path / "adapter"
    az.to_huggingface(az.load(GOLDENS / "vit-no-bias", head=None), body)
    adapter.mkdir()
    whole = {f"base_model.model.{name}": array for name, array in saved.items() if name.startswith("classifier.")}
    save_file(whole, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "modules_to_save": ["classifier"]}))
    expected, model = az.load(GOLDENS / "vit-no-bias"), az.load(adapter, base=body)
    size = model.config.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    inputs = {"pixel_values": np.random.default_rng(0).random((1, height, width, model.config.num_channels), "float32")}
    close(run(model, inputs)["logits"], run(expected, inputs)["logits"], atol=1e-5)
    bert = az.to_huggingface(az.load(GOLDENS / "bert", head=None), tmp_path / "bert")
    with pytest.raises(ValueError, match=r"head: got the adapter .* without task_type; accepted: one of "):
        az.load(adapter, base=bert)
