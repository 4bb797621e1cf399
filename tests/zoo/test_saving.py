"""Saved folders and `.keras` files: all weights are restored in another process, or one clear error is raised."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

import attention_zoo as az
from helpers import ALL_BUT_ONE, VARIANTS, close, inputs_for, numpy, python, run, shared, tiny

# Imports nothing of the project but `attention_zoo`.
CHILD = """
import json, sys
from pathlib import Path
import attention_zoo as az

az.create("bert-base", num_layers=1, vocab_size=9)  # before anything else is imported
import keras
import numpy as np

folder, found = Path(sys.argv[1]), {}

def check(label, model, stored):
    weights = [keras.ops.convert_to_numpy(w) for w in model.weights]
    assert len(weights) == sum(k.startswith("w.") for k in stored), label
    for i, weight in enumerate(weights):
        assert np.array_equal(weight, stored[f"w.{i}"]), (label, model.weights[i].path)
        assert str(model.weights[i].path) == str(stored[f"path.{i}"]), label
    result = model({k[3:]: v for k, v in stored.items() if k.startswith("in.")})
    if not isinstance(result, dict):
        result = {model.signature.outputs[0].name: result}
    for name, value in result.items():
        difference = np.abs(keras.ops.convert_to_numpy(value) - stored["out." + name]).max()
        found[f"{label}.{name}"] = float(difference)

for sub in sorted(f for f in folder.iterdir() if (f / "arrays.npz").exists()):
    stored = dict(np.load(sub / "arrays.npz"))
    model = keras.models.load_model(sub / "model.keras")
    assert json.dumps(model.config.to_dict()) == str(stored["config"])
    check(sub.name + ".keras", model, stored)
    check(sub.name + ".folder", az.load(sub), stored)

functional = keras.models.load_model(folder / "functional.keras")
stored = np.load(folder / "functional.npz")
result = keras.ops.convert_to_numpy(functional([stored["x"], stored["mask"]]))
found["functional"] = float(np.abs(result - stored["y"]).max())

half = az.load(folder / "half")
assert half.dtype_policy.name == "bfloat16", half.dtype_policy
stored = np.load(folder / "half.npz")
found["half"] = float(np.abs(keras.ops.convert_to_numpy(half(stored["x"])) - stored["y"]).max())

trained = keras.models.load_model(folder / "trained.keras")
stored = np.load(folder / "trained.npz")
assert trained.optimizer.iterations == 3
for i, variable in enumerate(trained.optimizer.variables):
    assert np.array_equal(keras.ops.convert_to_numpy(variable), stored[f"o.{i}"]), variable.path
trained.fit({"input_ids": stored["x"]}, stored["y"], batch_size=4, epochs=2, shuffle=False, verbose=0)
found["trained"] = max(
    float(np.abs(keras.ops.convert_to_numpy(w) - stored[f"w.{i}"]).max()) for i, w in enumerate(trained.weights)
)
print(json.dumps(found))
"""


@pytest.mark.runs_with("all variants")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_reload_in_a_new_process(every: bool, tmp_path: Path, rng: Any) -> None:
    """Reload one variant of each family, or every variant, from a `.keras` file and from a folder.

    Also covered are a functional model, half precision, and an optimizer in the middle of training.
    """
    expected = set()
    for family, variant in (pair for pair in VARIANTS if every or pair not in ALL_BUT_ONE):
        model, sub = shared(family, variant), tmp_path / f"{family}-{variant}"
        az.save(model, sub)
        model.save(sub / "model.keras")
        inputs = inputs_for(model, rng)
        outputs = run(model, inputs)
        expected |= {f"{sub.name}.{kind}.{name}" for kind in ("keras", "folder") for name in outputs}
        np.savez(
            sub / "arrays.npz",
            config=json.dumps(model.config.to_dict()),
            **{f"in.{name}": values for name, values in inputs.items()},
            **{f"out.{name}": values for name, values in outputs.items()},
            **{f"w.{i}": numpy(weight) for i, weight in enumerate(model.weights)},
            **{f"path.{i}": weight.path for i, weight in enumerate(model.weights)},
        )

    x, mask = keras.Input((None, 12), name="x"), keras.Input((None,), dtype="bool", name="mask")
    attend = az.layers.MultiHeadAttention(4, 5, 3, num_kv_heads=2, output_dim=7, name="attend")
    positions = az.layers.SinusoidalPositions(12, name="positions")
    moved = x + positions(keras.ops.arange(6)[None])
    functional = keras.Model([x, mask], az.layers.FeedForward(9, "swiglu")(attend(moved, key_mask=mask)))
    arrays = {"x": rng.normal(size=(2, 6, 12)).astype("float32"), "mask": rng.random((2, 6)) < 0.7}
    np.savez(tmp_path / "functional.npz", y=numpy(functional([arrays["x"], arrays["mask"]])), **arrays)
    functional.save(tmp_path / "functional.keras")

    ids = rng.integers(0, 97, (4, 9)).astype("int32")
    half = tiny("gpt", "llama", dtype="bfloat16")
    az.save(half, tmp_path / "half")
    np.savez(tmp_path / "half.npz", x=ids, y=numpy(half(ids)))

    trained = tiny("gpt", "gpt2", num_layers=1)
    targets = rng.integers(0, 97, (4, 9)).astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.AdamW(1e-3), loss, jit_compile=False)
    trained.fit({"input_ids": ids}, targets, batch_size=4, epochs=3, shuffle=False, verbose=0)
    trained.save(tmp_path / "trained.keras")
    state = {f"o.{i}": numpy(variable).copy() for i, variable in enumerate(trained.optimizer.variables)}
    trained.fit({"input_ids": ids}, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)
    weights: dict[str, Any] = {f"w.{i}": numpy(weight) for i, weight in enumerate(trained.weights)}
    np.savez(tmp_path / "trained.npz", x=ids, y=targets, **state, **weights)

    differences = json.loads(python(CHILD, tmp_path).splitlines()[-1])
    assert set(differences) == expected | {"functional", "half", "trained"}
    for name, difference in differences.items():
        close(difference, 0.0, atol=1e-5, what=name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return az.save(shared("gpt", "gpt2"), tmp_path / "model")


def test_folder_is_plain(folder: Path) -> None:
    """The folder has two files in widely readable formats, with the names and values of the model's weights."""
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    raw = json.loads((folder / "config.json").read_text())
    assert (raw["format"], raw["family"], raw["dtype"]) == ("attention_zoo", "gpt", "float32")
    assert raw["config"]["hidden_dim"] == 32 and raw["config"]["max_length"] == 40
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    model = shared("gpt", "gpt2")
    assert len(tensors) == len(model.weights)
    close(tensors["block_1/attention/query/kernel"], numpy(model.blocks[1].attention.query_dense.kernel), atol=0)
    close(tensors["embedding/embeddings"], numpy(model.embedding.embeddings), atol=0)


def test_load_in_another_dtype(folder: Path, rng: Any) -> None:
    model = az.load(folder, dtype="mixed_bfloat16")
    assert model.dtype_policy.name == "mixed_bfloat16"
    for ours, theirs in zip(model.weights, shared("gpt", "gpt2").weights, strict=True):
        close(numpy(ours), numpy(theirs), atol=0)


def test_saving_over_a_model_replaces_it(folder: Path) -> None:
    other = tiny("gpt", "llama", seed=3)
    az.save(other, folder)
    loaded = az.load(str(folder))
    assert loaded.config == other.config
    for ours, theirs in zip(loaded.weights, other.weights, strict=True):
        close(numpy(ours), numpy(theirs), atol=0)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_saving_makes_no_second_model(tmp_path: Path, monkeypatch: Any) -> None:
    """Saving draws no initial values, neither at once nor when Keras later initializes deferred variables."""
    model = tiny("gpt", "llama")
    drawn: list[Any] = []
    draw = keras.initializers.RandomNormal.__call__

    def seen(self: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        drawn.append(shape)
        return draw(self, shape, *args, **kwargs)

    monkeypatch.setattr(keras.initializers.RandomNormal, "__call__", seen)
    az.save(model, tmp_path)
    with keras.StatelessScope():
        pass
    assert not drawn
    az.create("gpt", **model.config.to_dict())
    assert drawn, "else nothing was counted"


def test_a_call_of_ones_own_is_not_lost_in_silence(tmp_path: Path, recwarn: Any) -> None:
    """Only config and weights are saved: a class with its own ``call`` gives a warning, a custom training step none."""

    class Trained(az.GPT):
        def train_step(self, data: Any) -> Any:
            return super().train_step(data)

    class Capped(Trained):
        def call(self, *args: Any, **kwargs: Any) -> Any:
            return 3 * keras.ops.tanh(super().call(*args, **kwargs))

    config = shared("gpt", "llama").config
    az.save(Trained(config), tmp_path)
    assert not [warning for warning in recwarn if "in its own way" in str(warning.message)]
    for save in (az.save, az.to_huggingface):
        with pytest.warns(
            UserWarning, match=r"Capped computes in its own way \(call\), which is not saved: .* a GPT back"
        ):
            save(Capped(config), tmp_path)


def test_failed_save_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A failed save leaves no temporary or partial file, and existing files stay unchanged."""

    def fail(tensors: Any, filename: Any, metadata: Any = None) -> None:
        Path(filename).write_bytes(b"half of it")
        raise OSError("no space left on device")

    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        az.save(tiny("gpt", "llama"), folder)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    with pytest.raises(OSError, match="no space"):
        az.save(tiny("gpt", "llama"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        az.save(tiny("gpt", "llama"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_files_are_readable_for_others(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for name in os.listdir(folder):
        assert (folder / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: got Sequential; accepted"):
        az.save(keras.Sequential(), tmp_path / "model")  # pyright: ignore
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder: got .*accepted: a folder"):
        az.save(shared("gpt", "gpt2"), tmp_path / "file")


def tensors_with(folder: Path, **changes: Any) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    for name, value in changes.items():
        path = name.replace("__", "/")
        if value is None:
            del tensors[path]
        else:
            tensors[path] = value
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("bytes_left", [0, 4, 8, 200, 5_000, -1])
def test_truncated_weights(folder: Path, bytes_left: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:bytes_left])
    with pytest.raises(ValueError, match=r"path: .*model\.safetensors cannot be read.*accepted: a safetensors file"):
        az.load(folder)


def test_foreign_weights(folder: Path, rng: Any) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "executed"),)

    for content in (rng.bytes(10_000), pickle.dumps(Evil()), b"PK\x03\x04" + bytes(100), b'{"a": 1}'):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"path: .*model\.safetensors cannot be read"):
            az.load(folder)
    assert not (folder / "executed").exists()


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"path: .*model\.safetensors.*accepted"):
        az.load(folder)
    (folder / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"path: .*model\.safetensors.*accepted"):
        az.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_0__attention__query__kernel": None}, "missing block_0/attention/query/kernel"),
        ({"extra__kernel": np.zeros(3, "float32")}, "surplus extra/kernel"),
        (
            {"block_1__feedforward__up__kernel": np.zeros((128, 32), "float32")},
            r"block_1/feedforward/up/kernel has shape \(128, 32\) for \(32, 128\)",
        ),
        ({"final_norm__gamma": np.zeros((1, 32), "float32")}, r"final_norm/gamma has shape \(1, 32\) for \(32,\)"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, changes: dict[str, Any], message: str) -> None:
    tensors_with(folder, **changes)
    with pytest.raises(ValueError, match=rf"path: .*does not fit its config: .*{message}"):
        az.load(folder)


BAD_CONFIGS = {
    "not JSON": "{",
    "no object": "[1, 2]",
    "empty": "",
    "binary": b"\xff\xfe\x00",
    "another format": {"format": "other"},
    "a Hugging Face config": {"format": None, "model_type": "gpt2", "n_layer": 2},
    "a later version": {"version": 2},
    "no version": {"version": None},
    "no family": {"family": None},
    "an unknown family": {"family": "lstm"},
    "a family of another type": {"family": ["gpt"]},
    "no config": {"config": None},
    "a config of another type": {"config": [1]},
    "an unknown field": {"config": {"colour": 3}},
    "a value that cannot be": {"config": {"num_layers": 0}},
    "a value of another type": {"config": {"num_layers": "two"}},
    "another family's weights": {"family": "bert", "config": {"num_layers": 1, "vocab_size": 9}},
    "an unknown dtype": {"dtype": "float99"},
    "a dtype of another type": {"dtype": 5},
}


@pytest.mark.parametrize("problem", BAD_CONFIGS)
def test_bad_configs(folder: Path, problem: str) -> None:
    change = BAD_CONFIGS[problem]
    file = folder / "config.json"
    if isinstance(change, bytes):
        file.write_bytes(change)
    elif isinstance(change, str):
        file.write_text(change)
    else:
        raw = {**json.loads(file.read_text()), **change}
        file.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))
    with pytest.raises(ValueError) as caught:
        az.load(folder)
    assert len(str(caught.value)) < 1000
    assert "accepted" in str(caught.value) or "config" in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent", "which does not exist"), (tmp_path, r"without config\.json")):
        with pytest.raises(ValueError, match=rf"path: got .*, {why}; accepted: a folder"):
            az.load(path)
