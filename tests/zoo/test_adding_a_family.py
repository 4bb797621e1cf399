"""The family of docs/adding_a_family.md, registered at run time.

It is compared with float64 NumPy, and used through files, exports and the command line.
"""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

import attention_zoo as az
from attention_zoo import cli, export
from attention_zoo.zoo import registry
from attention_zoo.zoo.keras_hub import kinds
from attention_zoo.zoo.loading import model_types
from helpers import ROOT, close, numpy, randomise, run

CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding_a_family.md").read_text(), re.DOTALL)[0]


@pytest.fixture(scope="module")
def opt() -> Iterator[Any]:
    module = types.ModuleType("opt_of_the_docs")
    sys.modules[module.__name__] = module
    exec(compile(CODE, "docs/adding_a_family.md", "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__], registry._classes["opt"]


@pytest.fixture
def model(opt: Any) -> Any:
    return randomise(az.create("opt", **opt.OPT.tiny()["opt"]))


def reference(model: Any, ids: np.ndarray) -> np.ndarray:
    """Compute OPT's logits in float64 for one row without padding."""
    w = {v.path.partition("/")[2]: numpy(v).astype("float64") for v in model.weights}
    heads, (length,) = model.config.num_heads, ids.shape

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    x = w["embedding/embeddings"][ids] + w["positions/embeddings"][:length]
    for i in range(model.config.num_layers):
        y = norm(x, f"block_{i}/attention_norm")
        q, k, v = (
            dense(y, f"block_{i}/attention/{part}").reshape(length, heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ v
        x = x + dense(mixed.swapaxes(0, 1).reshape(length, -1), f"block_{i}/attention/output")
        y = norm(x, f"block_{i}/feedforward_norm")
        x = x + dense(np.maximum(dense(y, f"block_{i}/feedforward/up"), 0), f"block_{i}/feedforward/down")
    return norm(x, "final_norm") @ w["embedding/embeddings"].T


def test_it_is_short_and_known(opt: Any) -> None:
    assert len(CODE.splitlines()) < 150
    assert registry.families()["opt"] is opt.OPT
    assert az.create("opt", **opt.OPT.tiny()["opt"]).config.max_length == 40
    with pytest.raises(ValueError, match=r"activation: got 'swiglu'; .*accepted"):
        opt.OPT(activation="swiglu")
    # The family derives from GPT's class, but GPT's files must still load as GPT.
    assert model_types()["gpt2"] == "gpt" and model_types()["opt-example"] == "opt"
    assert {name for name, _ in kinds().values()} == {"bert", "gpt", "transformer", "vit", "whisper"}
    with pytest.raises(ValueError, match=r"family: got 'bert' for Other, which BERT has"):
        registry.register(type("Other", (opt.OPT,), {"family": "bert"}))
    with pytest.raises(ValueError, match=r"family: got 'neo'; accepted: .*'opt'"):
        registry.family("neo")


def test_it_computes_opt(model: Any, rng: Any) -> None:
    ids = rng.integers(0, 83, (1, 11))
    close(numpy(model(ids)), reference(model, ids[0])[None], atol=2e-5)


def test_its_files(opt: Any, model: Any, tmp_path: Path, rng: Any) -> None:
    """Cover folders of this package, Keras' file format, and Hugging Face's format with its two extra leading rows."""
    ids = rng.integers(0, 83, (2, 7))
    expected = numpy(model(ids))
    close(numpy(az.load(az.save(model, tmp_path / "ours"))(ids)), expected, atol=0)
    model.save(tmp_path / "m.keras")
    close(numpy(keras.saving.load_model(tmp_path / "m.keras")(ids)), expected, atol=0)

    folder = az.to_huggingface(model, tmp_path / "theirs")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["OPTForCausalLM"]
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    assert tensors["model.decoder.embed_positions.weight"].shape == (42, 32)
    close(tensors["model.decoder.embed_positions.weight"][2:], numpy(model.position_layer.embeddings), atol=0)
    close(tensors["model.decoder.layers.1.fc1.weight"], numpy(model.blocks[1].feedforward.up.kernel).T, atol=0)
    again = az.load(folder)
    assert type(again) is opt.OPT
    close(numpy(again(ids)), expected, atol=0)

    config = json.loads((folder / "config.json").read_text())
    for wrong, message in (
        ({"word_embed_proj_dim": 16}, "word_embed_proj_dim: got 16; accepted: 32"),
        ({"vocab_size": 10**9}, "vocab_size=1000000000"),
        ({"do_layer_norm_before": False}, "do_layer_norm_before: got False"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(ValueError, match=message):
            az.load(folder)


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite"])
@pytest.mark.slow
def test_its_exports(model: Any, name: str, tmp_path: Path, rng: Any) -> None:
    to: Any = export.to_onnx if name.endswith("onnx") else export.to_tflite
    to(model, tmp_path / name, cache=True)
    report = export.verify(model, tmp_path / name)
    assert report.passed, report.to_markdown()
    ids = rng.integers(0, 83, (2, 5))
    tokens = export.load(tmp_path / name).generate(ids, max_new_tokens=5, stop_tokens=[])
    np.testing.assert_array_equal(tokens, model.generate(ids, max_new_tokens=5, stop_tokens=[]))
    logits = run(model, {"input_ids": tokens[:, :-1]})["logits"]
    np.testing.assert_array_equal(logits.argmax(-1)[:, 4:], tokens[:, 5:])


@pytest.mark.slow
def test_the_command_line_knows_it(model: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    folder, file = az.save(model, tmp_path / "model"), tmp_path / "m.onnx"

    def command(*arguments: Any) -> Any:
        monkeypatch.setattr(sys, "argv", ["attention-zoo", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    assert command("info", folder, "--json")["family"] == "opt"
    assert command("export", folder, file, "--json")["format"] == "onnx"
    assert command("verify", folder, file, "--json")["passed"] is True
