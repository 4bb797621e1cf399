"""Training on several devices gives the losses of one (``benchmarks/devices.py``), or is refused."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ROOT, python

sys.path.insert(0, str(ROOT / "benchmarks"))
import devices

needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
SETTINGS = [pytest.param(name, marks=[needs_jax] if name in devices.JAX else []) for name in devices.JAX]
SETTINGS += [pytest.param(name) for name in devices.TENSORFLOW]

MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np, attention_zoo as az
x = np.random.default_rng(0).integers(0, 64, (16, 8)).astype("int32")
given = {"input_ids": x, "attention_mask": x > 3}  # masks of truth values too
def losses(steps=None):
    keras.utils.set_random_seed(1)
    model = az.create("gpt", vocab_size=64, num_layers=1, num_heads=2, hidden_dim=16, max_length=16, dropout=0.0)
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=steps)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(given, x, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return model, history["loss"] + history["accuracy"]
_, one = losses()
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model, two = losses()
    assert np.abs(np.subtract(one, two)).max() < 1e-5, (one, two)
    az.save(model, FOLDER)
    loaded = az.load(FOLDER)
    inside = loaded.generate(x[:2], max_new_tokens=3)
    try:
        losses(2)
    except ValueError as error:
        assert str(error).startswith("optimizer: got gradient_accumulation_steps=2 under MirroredStrategy"), error
    else:
        raise AssertionError
assert np.abs(loaded.predict(x, verbose=0) - model.predict(x, verbose=0)).max() < 1e-5
assert np.array_equal(inside, model.generate(x[:2], max_new_tokens=3))
print("fine")
"""


@pytest.mark.slow
def test_ids_under_a_mirrored_strategy(tmp_path: object) -> None:
    """Keras builds from the mean of the replicas' batches, in which ids are floats."""
    assert python(MIRRORED.replace("FOLDER", repr(f"{tmp_path}/saved"))).strip().endswith("fine")


INTERRUPTED = """
import json, sys
import keras
process, port, folder, stop = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
keras.distribution.initialize(f"127.0.0.1:{port}", 2, process)
import attention_zoo as az
import numpy as np
fields = {"vocab_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "max_length": 8, "dropout": 0.1}
layouts = az.layout_map((2, 1), az.GPT(**fields).config, fsdp=True)
spread = keras.distribution.ModelParallel
keras.distribution.set_distribution(spread(layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False))
keras.utils.set_random_seed(0)
model = az.GPT(**fields)
model.compile(keras.optimizers.Adam(0.01), az.losses.CausalLM())
ids = np.random.default_rng(process).integers(0, 32, (8, 8))

class Steps(keras.callbacks.Callback):
    losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
        if len(self.losses) == stop:
            raise KeyboardInterrupt

try:
    resume = az.callbacks.Resume(f"{folder}/{process}", save_freq=1)
    model.fit(ids, batch_size=2, epochs=2, verbose=0, callbacks=[resume, Steps()])
except KeyboardInterrupt:
    pass
print(json.dumps(Steps.losses))
"""


@needs_jax
@pytest.mark.slow
def test_processes_that_divide_weights_resume_together(tmp_path: Path) -> None:
    """Two processes, each with half of every weight, go on in the middle of an epoch from what each has saved."""

    def losses(folder: str, stop: int) -> list[float]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with ThreadPoolExecutor(2) as pool:
            runs = [(INTERRUPTED, i, port, tmp_path / folder, stop) for i in range(2)]
            found = list(pool.map(lambda run: python(*run, KERAS_BACKEND="jax"), runs))
        one, other = (json.loads(text.splitlines()[-1]) for text in found)
        assert one == other
        return one

    whole = losses("whole", 0)
    assert losses("killed", 3) == whole[:3]
    # The first step of the resumed epoch runs and is undone; passed batches have the losses that were saved.
    assert losses("killed", 0)[3:] == whole[3:]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_losses_equal_those_of_one_device(setting: str) -> None:
    variants = ("gpt-llama", "bert-masked_lm", "vit-classifier", "clip-image", "transformer-t5", "seq2seq-luong")
    one = devices.losses(devices.ONE[devices.backend(setting)], variants)
    several = devices.losses(setting, variants)
    for variant in variants:
        assert isinstance(one[variant], list) and len(set(one[variant])) == devices.STEPS, one[variant]
        np.testing.assert_allclose(several[variant], one[variant], rtol=0, atol=1e-5, err_msg=variant)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_features_on_several_devices(setting: str) -> None:
    features: Any = [name for name in devices.FEATURES if name != "accumulation" or setting in devices.JAX]
    one = devices.losses(devices.ONE[devices.backend(setting)], ("gpt-llama",), features)
    several = devices.losses(setting, ("gpt-llama",), features)
    for feature in features:
        difference = devices.compared(several[feature], one[feature])
        assert isinstance(difference, float), (feature, difference)
        assert difference < (0.02 if feature == "bfloat16" else 1e-5), (feature, difference)
