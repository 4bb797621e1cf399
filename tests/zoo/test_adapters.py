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
from helpers import ROOT, close, run

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
    with pytest.raises(ValueError, match=r"without config\.json"):
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
