"""Train tiny models for some steps and write their losses and weights, for comparisons between backends.

    KERAS_BACKEND=jax python tests/training_steps.py FOLDER gpt/untied bert/backbone …

One file is written for each model, ``FOLDER/gpt-untied.npz``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from attention_zoo.weights.rules import weight_name
from helpers import inputs_for, numpy, tiny

STEPS = 20


def trained(family: str, variant: str, dtype: Any = None, **compiled: Any) -> dict[str, np.ndarray]:
    """Return the losses of `STEPS` steps of Adam and the weights after them. Ids occur many times in a batch."""
    model = tiny(family, variant, dtype=dtype)
    without_dropout(model)
    inputs = inputs_for(model, np.random.default_rng(1), batch=4, length=12)
    inputs = {name: value % 7 if value.dtype.kind == "i" else value for name, value in inputs.items()}
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.MeanSquaredError(), **compiled)
    outputs, rng = model(inputs), np.random.default_rng(2)
    named = outputs if isinstance(outputs, Mapping) else {"": outputs}
    drawn = {name: rng.normal(size=named[name].shape).astype("float32") for name in sorted(named)}
    targets = drawn if isinstance(outputs, Mapping) else drawn[""]
    losses = model.fit(inputs, targets, batch_size=4, epochs=STEPS, shuffle=False, verbose=0).history["loss"]
    return {"losses": np.asarray(losses), **{weight_name(v): numpy(v) for v in model.weights}}


def without_dropout(model: Any) -> None:
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


def write(folder: str, pairs: list[str]) -> None:
    for pair in pairs:
        results: Mapping[str, Any] = trained(*pair.split("/"))
        np.savez(Path(folder) / f"{pair.replace('/', '-')}.npz", **results)


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2:])
