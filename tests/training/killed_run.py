"""A small training run with dropout, for the tests of ``Resume``: ``killed_run.py FOLDER LOSSES KIND [STEPS]``.

Appends the loss of every step to the file LOSSES, as epoch, step and the bits of the loss, and a digest of the weights
at the end. With STEPS, a decimal number, the process kills itself (SIGKILL) after so many trained steps of STEP_SECONDS
each, from another thread, whatever it does then.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import attention_zoo as az
from attention_zoo.training.callbacks import Resume

EPOCHS, ROWS, BATCH = 3, 96, 8
STEP_SECONDS = 0.02  # about


class Rows(keras.utils.PyDataset):
    """Batches by index, from which ``fit`` draws in an order of Python's global generator."""

    def __init__(self, x: np.ndarray) -> None:
        super().__init__()
        self.x = x

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.x[index * BATCH : (index + 1) * BATCH]
        return rows, np.roll(rows, -1, axis=1)


class Losses(keras.callbacks.Callback):
    def __init__(self, file: Path, resume: Resume) -> None:
        super().__init__()
        self.file, self.resume, self.epoch = file, resume, 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if (self.epoch, batch) >= (self.resume.resumed_from or (0, 0)):  # not while passing over batches
            with self.file.open("a") as lines:
                values = {name: float(value).hex() for name, value in (logs or {}).items()}
                print(self.epoch, batch, *sorted(values.items()), file=lines, flush=True)


class Kill(keras.callbacks.Callback):
    def __init__(self, steps: float, resume: Resume) -> None:
        super().__init__()
        self.left, self.resume, self.epoch = steps, resume, 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if (self.epoch, batch) >= (self.resume.resumed_from or (0, 0)):  # not while passing over batches
            self.left -= 1
            if -1 < self.left < 0:
                seconds = (self.left + 1) * STEP_SECONDS
                threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
            time.sleep(STEP_SECONDS / 2)  # so that some kills fall into a step and some into the writing of a file


def main(folder: Path, losses: Path, kind: str, steps: float | None) -> None:
    keras.utils.set_random_seed(3)
    model = az.create("gpt", vocab_size=64, num_layers=1, num_heads=2, hidden_dim=16, max_length=16, dropout=0.2)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 36)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=keras.backend.backend() == "jax",
    )
    x = np.random.default_rng(0).integers(0, 64, (ROWS, 8)).astype("int32")
    resume = Resume(folder, save_freq=1)
    callbacks = [Losses(losses, resume), resume]  # in this order, so that no step is saved before it is noted
    if steps is not None:
        callbacks.insert(0, Kill(steps, resume))
    held = x[:8], np.roll(x[:8], -1, axis=1)
    data = (Rows(x), None) if kind == "dataset" else (x, np.roll(x, -1, axis=1))
    fit = {} if kind == "dataset" else {"batch_size": BATCH}
    model.fit(*data, epochs=EPOCHS, verbose=0, callbacks=callbacks, validation_data=held, **fit)
    digest = hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in model.get_weights())).hexdigest()
    with losses.open("a") as lines:
        print("weights", digest, file=lines, flush=True)
    os._exit(0)  # without waiting for the timer


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]) if len(sys.argv) > 4 else None)
