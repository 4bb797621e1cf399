"""Saves over earlier saves: what belongs together, and that a failure or a kill leaves the earlier one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import attention_zoo as az
from attention_zoo import files
from attention_zoo.weights.tensors import SafetensorsFiles
from attention_zoo.zoo.ties import KEY
from helpers import numpy, tiny

SAVES = [az.save, az.to_huggingface]
IDS = np.array([[5, 9, 3]], "int32")


def gpt(seed: int, **fields: Any) -> Any:
    return tiny("gpt", "llama", seed=seed, **fields)


def logits(model: Any) -> np.ndarray:
    return numpy(model(IDS))


@pytest.mark.parametrize("save", SAVES)
def test_config_and_weights_of_two_saves(save: Any, tmp_path: Path) -> None:
    one, other = gpt(0, rope_theta=100.0), gpt(1)
    first, second = save(one, tmp_path / "first"), save(other, tmp_path / "second")
    shutil.copytree(first, tmp_path / "mixed")
    shutil.copy(second / "model.safetensors", tmp_path / "mixed")
    with pytest.raises(
        ValueError, match=r"^path: the config.json and model.safetensors in .*mixed are not of one save"
    ):
        az.load(tmp_path / "mixed")
    config = json.loads((first / "config.json").read_text())
    without = {name: value for name, value in config.items() if name != KEY}
    (first / "config.json").write_text(json.dumps(without))  # as a program writes it that keeps the weights
    with pytest.raises(ValueError, match="not of one save"):
        az.load(first)
    (first / "config.json").write_text(json.dumps({**config, "edited": True}))
    loaded = az.load(first)
    np.testing.assert_array_equal(logits(loaded), logits(one))
    assert KEY not in loaded.huggingface
    again = save(loaded, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()
    tensors = SafetensorsFiles(first)
    import safetensors.numpy

    values = {name: tensors.read(name) for name in tensors.shapes}
    safetensors.numpy.save_file(values, first / "model.safetensors", metadata={"format": "pt"})  # another program's
    np.testing.assert_array_equal(logits(az.load(first)), logits(one))


@pytest.mark.parametrize("save", SAVES)
def test_the_same_model_gives_the_same_bytes(save: Any, tmp_path: Path) -> None:
    contents = []
    for i in range(4):  # the order of entries would be random
        save(gpt(0), tmp_path / str(i))
        contents.append({file.name: file.read_bytes() for file in (tmp_path / str(i)).iterdir()})
    assert all(content == contents[0] for content in contents)


@pytest.mark.parametrize("save", SAVES)
def test_load_completes_a_killed_save(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are complete, and the process is killed after it renamed some of them."""
    folder, model = tmp_path / "m", gpt(1, rope_theta=100.0)
    save(gpt(0), folder)
    with monkeypatch.context() as killed:
        whole, remove, renames = Path.replace, files._remove, []

        def left(place: Path, lock: int) -> None:
            return os.close(lock) if place.parent == folder else remove(place, lock)

        killed.setattr(files, "_remove", left)

        def replace(self: Path, target: Any) -> Any:
            if Path(target).parent == folder and Path(target).name == "config.json":
                raise KeyboardInterrupt
            renames.append(target)
            return whole(self, target)

        killed.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            save(model, folder)
    assert not (folder / "config.json").exists() and folder / "model.safetensors" in renames
    np.testing.assert_array_equal(logits(az.load(folder)), logits(model))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_weights_that_are_replaced_while_they_are_read(tmp_path: Path) -> None:
    az.save(gpt(0), tmp_path)
    tensors = SafetensorsFiles(tmp_path)
    az.save(gpt(1), tmp_path)
    with pytest.raises(ValueError, match=r"^path: .*model.safetensors was replaced while it was read; accepted"):
        tensors.read(next(iter(tensors.shapes)))


KERAS = {
    "m.keras": {"save": {}},
    "m.weights.h5": {"save_weights": {}},
    "m.weights.json": {"save_weights": {"max_shard_size": 2e-5}},
    "m": {"save": {"zipped": False}},
}


@pytest.mark.parametrize("name", KERAS)
def test_a_failed_save_of_keras_leaves_the_earlier_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((method, options),) = KERAS[name].items()
    path, old, new = tmp_path / name, gpt(0), gpt(1)
    getattr(old, method)(path, **options)

    def listed() -> dict[str, bytes]:
        found = [file for file in tmp_path.rglob("*") if file.is_file()]
        return {str(file.relative_to(tmp_path)): file.read_bytes() for file in found}

    def loaded() -> np.ndarray:
        if method == "save_weights":
            model = gpt(2)
            model.load_weights(path)
            return logits(model)
        return logits(keras.saving.load_model(path))

    before, calls = listed(), []
    import h5py

    made = h5py.Group.create_dataset

    def full_dataset(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(self)
        if len(calls) > 4:
            raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')")
        return made(self, *arguments, **options)

    with monkeypatch.context() as disk:
        disk.setattr(h5py.Group, "create_dataset", full_dataset)
        with pytest.raises(ValueError, match=r"^path: .*m.* cannot be written: No space left on device; accepted"):
            getattr(new, method)(path, **options)
    assert listed() == before
    np.testing.assert_array_equal(loaded(), logits(old))
    getattr(new, method)(path, **options)
    np.testing.assert_array_equal(loaded(), logits(new))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(files.ROOM)]


def test_options_of_keras_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = gpt(0), gpt(1)
    path = tmp_path / "m.keras"
    one.save(path)
    for answer, expected in (("n", one), ("y", other)):
        asked = []

        def reply(question: str, answer: str = answer, asked: list[str] = asked) -> str:
            asked.append(question)
            return answer

        monkeypatch.setattr("builtins.input", reply)
        other.save(path, overwrite=False)
        assert len(asked) == 1 and str(path) in asked[0]
        np.testing.assert_array_equal(logits(keras.saving.load_model(path)), logits(expected))
    link = tmp_path / "latest.keras"
    link.symlink_to(path)
    one.save(str(link))
    assert link.is_symlink()
    np.testing.assert_array_equal(logits(keras.saving.load_model(path)), logits(one))
    one.compile("adam", "mse")
    one.save(path, include_optimizer=True)
    assert keras.saving.load_model(path).optimizer is not None
    with pytest.raises(ValueError, match="Invalid filepath extension"):
        one.save(tmp_path / "m.other")
    with pytest.raises(ValueError, match="zipped=False"):
        one.save(tmp_path / "n.keras", zipped=False)
    with pytest.raises(ValueError, match=r"must end in `.weights.h5`"):
        one.save_weights(tmp_path / "m.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest.keras", "m.keras"]


def test_keras_callbacks_save_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ModelCheckpoint`` and ``BackupAndRestore`` write through ``save`` and ``save_weights`` of the model."""
    targets, whole = [], files.written

    def written(path: Any) -> Any:
        targets.append(Path(path).name)
        return whole(path)

    monkeypatch.setattr("attention_zoo.zoo.keras_saving.written", written)
    model = gpt(0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    weights = keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True)
    model.fit(IDS, IDS, verbose=0, callbacks=[checkpoint, backup, weights])
    assert sorted(targets) == ["best.keras", "latest.weights.h5", "w.weights.h5"]
