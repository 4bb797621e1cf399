"""A run that is interrupted and resumed equals one that is not, bit for bit, with dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import layers
from helpers import ROOT, numpy, python

CHILD = """
import sys; sys.path.insert(0, sys.argv[1])
import keras, numpy as np
from helpers import inputs_for, numpy, tiny
from attention_zoo.weights.rules import weight_name

class Killed(Exception):
    pass

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise Killed

def model_of(family, variant, seed):
    keras.utils.set_random_seed(seed)
    model = tiny(family, variant, dropout=0.1)
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.AdamW(1e-2), "mean_squared_error", jit_compile=jit)
    return model

def run(family, variant, folder):
    model = model_of(family, variant, 0)
    inputs = inputs_for(model, np.random.default_rng(1), batch=8)
    rng = np.random.default_rng(2)
    targets = keras.tree.map_structure(lambda x: rng.normal(size=x.shape).astype("float32"), model(inputs))
    fit = dict(batch_size=4, epochs=4, shuffle=False, verbose=0)
    whole = model.fit(inputs, targets, **fit).history["loss"]
    weights = {weight_name(v): numpy(v) for v in model.weights}

    def same(other, losses):
        assert losses == whole[2:], (family, losses, whole)
        for variable in other.weights:
            assert np.array_equal(numpy(variable), weights[weight_name(variable)]), variable.path

    # killed in the third epoch, and resumed from the backup in what is a new process as far as seeds go
    backup = lambda: keras.callbacks.BackupAndRestore(f"{folder}/{family}-{variant}")
    try:
        model_of(family, variant, 0).fit(inputs, targets, callbacks=[backup(), Kill()], **fit)
        raise SystemExit("not killed")
    except Killed:
        pass
    again = model_of(family, variant, 7)
    same(again, again.fit(inputs, targets, callbacks=[backup()], **fit).history["loss"])

    # saved after two epochs as a .keras file
    half = model_of(family, variant, 0)
    half.fit(inputs, targets, **{**fit, "epochs": 2})
    half.save(f"{folder}/{family}-{variant}.keras")
    keras.utils.set_random_seed(7)
    loaded = keras.models.load_model(f"{folder}/{family}-{variant}.keras")
    same(loaded, loaded.fit(inputs, targets, **{**fit, "epochs": 2}).history["loss"])

for pair in sys.argv[3:]:
    run(*pair.split("/"), sys.argv[2])
"""
FAMILIES = ["gpt/gpt2", "bert/backbone", "vit/classifier", "transformer/original", "seq2seq/bahdanau", "gpt/experts"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_resumed_runs_equal_whole_ones(backend: str, tmp_path: Path) -> None:
    """From a backup and from a ``.keras`` file: the same losses and weights, to the last bit."""
    pytest.importorskip(backend)
    python(CHILD, ROOT / "tests", tmp_path, *FAMILIES, KERAS_BACKEND=backend)


def test_dropout_in_other_models(tmp_path: Path, rng: Any) -> None:
    """The state is kept for layers in a model of Keras, and files without one can be loaded."""

    def model(kind: Any) -> Any:
        inputs = keras.Input((8,))
        return keras.Model(inputs, kind(0.5, name="dropout")(keras.layers.Dense(8, name="dense")(inputs)))

    x = rng.normal(size=(4, 8)).astype("float32")
    first = model(layers.Dropout)
    first(x, training=True)
    first.save(tmp_path / "model.keras")
    first.save_weights(tmp_path / "own.weights.h5")
    expected = numpy(first(x, training=True))
    loaded: Any = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(numpy(loaded(x, training=True)), expected)
    model(keras.layers.Dropout).save_weights(tmp_path / "plain.weights.h5")
    first.load_weights(tmp_path / "plain.weights.h5")
    without = model(lambda rate, name: layers.Dropout(0.0, name=name))
    without.load_weights(tmp_path / "own.weights.h5")
    loaded.load_weights(tmp_path / "own.weights.h5")
    assert np.array_equal(numpy(loaded(x, training=True)), expected)
