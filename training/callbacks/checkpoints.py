"""Folders that are written while training: the best models, and models for Hugging Face's libraries."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import keras

from ...checks import choice, positive_integer
from ...files import read_json, write_json, written_folder
from ...zoo.saving import save, to_huggingface
from .state import steps_of

INDEX = "best.json"


class BestCheckpoints(keras.callbacks.Callback):
    """Keep the folders of the best models so far, which ``az.load`` reads.

    The folder of epoch 3 is "epoch-0003" (epochs are counted from 1). It appears complete, under its name, or not at
    all. ``best.json`` lists the folders with their values, the best first. A run that goes on later in the same folder
    continues the list; of two models of the same epoch, it keeps the better one.

    Args:
        folder: where to put the folders.
        monitor: name of the value in the logs, such as "val_loss" or "val_accuracy".
        mode: "min" or "max", which of two values is better. Default: "max" for names that end in "accuracy", "acc",
            "auc", "precision", "recall" or "f1_score", and "min" for all others.
        keep: number of folders to keep.

    Attributes:
        best: path of the best folder, or None.

    Raises:
        ValueError: an argument that is not accepted; in ``fit``, logs without `monitor`, or a list in the folder of
            another `monitor` or `mode`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], monitor: str = "val_loss", *, mode: str | None = None, keep: int = 3
    ) -> None:
        super().__init__()
        self.folder, self.monitor = Path(folder), monitor
        larger = ("accuracy", "acc", "auc", "precision", "recall", "f1_score")
        self.mode = choice("mode", mode or ("max" if monitor.endswith(larger) else "min"), ("min", "max"))
        self.keep = positive_integer("keep", keep)

    @property
    def best(self) -> Path | None:
        listed = self._listed()
        return self.folder / listed[0]["folder"] if listed else None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(f"monitor: got {self.monitor!r}; accepted: one of {sorted(logs)}")
        value, name = float(logs[self.monitor]), f"epoch-{epoch + 1:04d}"
        new, listed = {"folder": name, "value": value}, self._listed()
        if any(entry["folder"] == name and self._rank(entry) < self._rank(new) for entry in listed):
            return  # an earlier run in this folder was better in this epoch
        listed = [entry for entry in listed if entry["folder"] != name]
        # Of equal values, the first stays in front. A value that is not a number is never among the best.
        listed = sorted([*listed, new], key=self._rank)[: self.keep]
        if math.isnan(value) or all(entry["folder"] != name for entry in listed):
            return
        with written_folder(self.folder / name) as new:
            save(self.model, new)
        write_json({"monitor": self.monitor, "mode": self.mode, "kept": listed}, self.folder / INDEX)
        for path in self.folder.glob("epoch-*"):  # after the list, so that it never names a folder that is gone
            if path.name not in {entry["folder"] for entry in listed}:
                shutil.rmtree(path)

    def _rank(self, entry: dict[str, Any]) -> float:
        return -entry["value"] if self.mode == "max" else entry["value"]

    def _listed(self) -> list[dict[str, Any]]:
        file = self.folder / INDEX
        if not file.is_file():
            return []
        found, own = read_json(file), {"monitor": self.monitor, "mode": self.mode}
        if (given := {name: found.get(name) for name in own}) != own:
            raise ValueError(f"folder: got {file} with {given}; accepted: {own}, or another folder")
        return found["kept"]


class HuggingFaceCheckpoint(keras.callbacks.Callback):
    """Write the model regularly as a folder that ``transformers`` opens with ``from_pretrained``.

    The folder after 1000 steps is "step-00001000". It appears complete, under its name, or not at all. Adapters are
    merged in the folder, and stay adapters in the model.

    Args:
        folder: where to put the folders.
        save_freq: "epoch", or a number of steps.
        keep: the number of latest folders to keep. Default: all.
        dtype: of the weights in the file: "float32", "float16" or "bfloat16". Default: as ``az.to_huggingface``.

    Raises:
        ValueError: an argument that is not accepted; in ``fit``, a model that has no form at Hugging Face.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        *,
        keep: int | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.dtype = Path(folder), dtype
        self.every = None if save_freq == "epoch" else positive_integer("save_freq", save_freq)
        self.keep = None if keep is None else positive_integer("keep", keep)
        self._last = 0  # the step of the last folder

    def on_train_begin(self, logs: Any = None) -> None:
        self._last = steps_of(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The number stays the same while ``Resume`` passes over the batches that were trained on.
        if self.every is not None and (steps := steps_of(self.model)) % self.every == 0 and steps != self._last:
            self._write(steps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.every is None:
            self._write(steps_of(self.model))

    def _write(self, steps: int) -> None:
        self._last = steps
        path = self.folder / f"step-{steps:08d}"
        with written_folder(path) as new:
            to_huggingface(self.model, new, dtype=self.dtype)
        if self.keep is not None:
            for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
                shutil.rmtree(old)
