"""A backup from which a killed training run goes on as if it had not been killed, in the middle of an epoch too."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ...checks import positive_integer
from ...files import written
from .state import restore, snapshot

FILE = "state.safetensors"
KEY = "attention_zoo.resume"  # of the metadata in the file's header


class Resume(keras.callbacks.Callback):
    """Save the whole state of a training run regularly, and continue from it when ``fit`` is called again.

    The state is that of the model (weights and seed generators, from which dropout draws), the optimizer, the metrics,
    Python's and NumPy's global random generators, and the position in the data: the epoch and the batch. A run that is
    killed and started again with the same script therefore computes the same losses and weights, bit for bit where the
    machine's arithmetic is deterministic, as on a CPU.

    A resumed epoch reads its batches from the beginning and passes over those that were trained on, without computing
    (only the first of them runs, and its effect is undone; callbacks that come before this one in the list see it).
    Data must have the same order each time: arrays, ``keras.utils.PyDataset`` and ``tf.data`` have if their shuffling
    uses the global generators or a seed of the epoch. A dataset that counts epochs itself has to be given as `data`.
    Data that goes on from epoch to epoch (infinite data with ``steps_per_epoch``) begins anew instead; make one long
    epoch of it.

    ``keras.callbacks.BackupAndRestore`` saves neither the position in an epoch nor the metrics, and starts an
    interrupted epoch again with the weights of its middle.

    Args:
        folder: folder of the backup, which is created. It has one file, which is replaced at once: a run that is
            killed while it is written leaves the last complete one.
        save_freq: "epoch", or a number of steps. The end of every epoch is always saved.
        data: a dataset with ``state_dict`` and ``load_state_dict``, whose state is saved too.
        delete_checkpoint: remove the backup when ``fit`` ends, so that the next ``fit`` starts from the beginning.

    Attributes:
        resumed_from: (epoch, batch) at which the last ``fit`` went on, or None if it started from the beginning.

    Raises:
        ValueError: a `save_freq` that is neither; in ``fit``, a backup of another model, optimizer or metrics.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        *,
        data: Any = None,
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        self.file = Path(folder) / FILE
        self.every = None if save_freq == "epoch" else positive_integer("save_freq", save_freq)
        self.data = data
        if data is not None and not (hasattr(data, "state_dict") and hasattr(data, "load_state_dict")):
            raise ValueError(
                f"data: got {type(data).__name__}; accepted: a dataset with state_dict and load_state_dict"
            )
        self.delete_checkpoint = delete_checkpoint
        self.resumed_from: tuple[int, int] | None = None
        self._values: Mapping[str, np.ndarray] = {}
        self._facts: dict[str, Any] = {}
        self._epoch = self._steps = 0
        self._generators: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        self.resumed_from, self._steps, self._facts, self._values = None, 0, {}, {}
        if not self.file.is_file():
            return
        self._values, self._facts = _read(self.file)
        model = self.model
        restore(model, self._values, metrics=False)
        model._initial_epoch = self._facts["epoch"]  # as in ``BackupAndRestore``
        self.resumed_from = self._facts["epoch"], self._facts["batch"]
        self._steps = self._facts["steps"]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        resumed = bool(self._facts) and epoch == self._facts["epoch"]
        if resumed:
            _set_generators(self._facts["generators"])
            if self.data is not None:
                self.data.load_state_dict(self._facts["data"])
        self._generators = _generators()
        if resumed and self._facts["batch"]:
            model = self.model
            model.train_function = _Passing(model, self._facts["batch"], self._facts["logs"])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._facts and self._epoch == self._facts["epoch"] and batch < self._facts["batch"]:
            if self._values:  # the first step has created the variables of all metrics
                restore(self.model, self._values)
                self._values = {}
            return
        self._steps += 1
        if self.every is not None and self._steps % self.every == 0:
            self._save(self._epoch, batch + 1, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._facts, self._values = {}, {}
        self._generators = _generators()
        self._save(epoch + 1, 0, {})

    def on_train_end(self, logs: Any = None) -> None:
        if self.delete_checkpoint:
            self.file.unlink(missing_ok=True)

    def _save(self, epoch: int, batch: int, logs: Any) -> None:
        from safetensors.numpy import save_file

        facts = {"epoch": epoch, "batch": batch, "steps": self._steps, "generators": self._generators}
        facts["logs"] = {name: float(value) for name, value in (logs or {}).items()}
        facts["data"] = None if self.data is None else self.data.state_dict()
        values = snapshot(self.model)
        with written(self.file) as temporary:
            save_file(values, temporary, metadata={KEY: json.dumps(facts)})


class _Passing:
    """A train function that passes over the first `batches` of an epoch, and then is `model`'s own again.

    The first call runs the original function: it creates the variables of the metrics. The callback then restores the
    state that it changed.
    """

    def __init__(self, model: Any, batches: int, logs: Mapping[str, float]) -> None:
        self.model, self.left, self.logs = model, batches, dict(logs)
        self.original, self.first = model.train_function, True

    def __call__(self, *arguments: Any) -> Any:
        done = self.model.steps_per_execution
        self.left -= done
        if self.left <= 0:
            self.model.train_function = self.original
        backend = keras.backend.backend()
        if self.first:
            self.first = False
            result = self.original(*arguments)
            return (self.logs, result[1]) if backend == "jax" else self.logs
        if backend != "torch":  # whose argument is the batches; the last of the others is an iterator
            for _ in range(done):
                next(arguments[-1], None)
        return (self.logs, arguments[0]) if backend == "jax" else self.logs


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            facts = json.loads((opened.metadata() or {})[KEY])
            return {name: opened.get_tensor(name) for name in opened.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"folder: {file} cannot be read: {error}; accepted: a file that Resume wrote") from error


def _generators() -> dict[str, Any]:
    """Return the states of the global random generators of Python and NumPy, as JSON has them."""
    version, numbers, gauss = random.getstate()
    kind, words, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, np.asarray(words).tolist(), int(position), int(has_gauss), float(cached)],
    }


def _set_generators(states: Mapping[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, words, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(words, "uint32"), position, has_gauss, cached))
