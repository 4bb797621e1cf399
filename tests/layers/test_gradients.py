"""Gradients: dense for tables and stacked weights, those written by hand, equal steps of Adam on every backend."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import reference
from attention_zoo.layers import LearnedPositions, TokenEmbedding
from attention_zoo.layers import functional as F
from attention_zoo.weights.rules import weight_name
from helpers import ALL_BUT_ONE, ROOT, close, every_variant, float64, inputs_for, tiny

TRAINED = ["gpt/gpt2", "gpt/untied", "gpt/experts", "bert/backbone", "bert/masked_lm", "vit/classifier", "vit/beit"]
TRAINED += ["transformer/original", "transformer/t5", "seq2seq/bahdanau", "seq2seq/luong", "clip/clip", "clip/siglip"]
TRAINED += ["whisper/whisper"]
GAMMA, BETA = np.linspace(-2, 2, 7), np.linspace(1, -1, 7)


@every_variant(slow=ALL_BUT_ONE)
def test_gradients_are_dense(family: str, variant: str, rng: Any) -> None:
    """Keras' optimizers square the entries of a sparse gradient one by one, also those of the same row."""
    model = tiny(family, variant)
    inputs = inputs_for(model, rng)
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(model(inputs))
        loss = sum(tf.reduce_sum(tf.square(x)) for x in outputs)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_weights])
    sparse = [
        weight_name(variable)
        for variable, gradient in zip(model.trainable_weights, gradients, strict=True)
        if isinstance(gradient, tf.IndexedSlices)
    ]
    assert sparse == []


@pytest.mark.parametrize(
    ("kind", "dtype", "accumulated", "jit"),
    [
        ("tokens", None, None, True),
        ("tokens", "mixed_bfloat16", None, False),
        ("tokens", None, 2, False),
        ("positions", None, None, False),
        pytest.param("tokens", "mixed_bfloat16", 2, True, marks=pytest.mark.slow),
        pytest.param("positions", "mixed_float16", None, True, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_adam(kind: str, dtype: Any, accumulated: int | None, jit: bool) -> None:
    """The second step of Adam on a table whose rows are used 16, 1 and 0 times, against the formulas in NumPy."""
    rate, beta_1, beta_2, epsilon = 1e-2, 0.9, 0.999, 1e-3
    layer = TokenEmbedding(10, 4, dtype=dtype) if kind == "tokens" else LearnedPositions(10, 4, dtype=dtype)
    model = keras.Sequential([keras.Input((17,), dtype="int32"), layer])
    optimizer = keras.optimizers.Adam(rate, beta_1, beta_2, epsilon, gradient_accumulation_steps=accumulated)
    model.compile(optimizer, lambda _, x: keras.ops.sum(keras.ops.cast(x, "float32")) / 32, jit_compile=jit)
    before = float64(layer.embeddings)
    ids = np.array([[5] * 16 + [7]], "int32")
    steps = 2
    model.fit(ids, np.zeros((1, 17, 4)), epochs=steps * (accumulated or 1), verbose=0)
    gradient = np.zeros((10, 4))
    np.add.at(gradient, ids[0], 1 / 32)
    expected, mean, square = before, 0.0, 0.0
    for step in range(1, steps + 1):
        mean, square = beta_1 * mean + (1 - beta_1) * gradient, beta_2 * square + (1 - beta_2) * gradient**2
        factor = np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        expected = expected - rate * factor * mean / (np.sqrt(square) + epsilon)
    close(float64(layer.embeddings), expected, atol=1e-6)


FORMULAS: dict[str, tuple[Any, Any]] = {
    "gelu": (F.gelu, reference.gelu),
    "gelu_tanh": (lambda x: F.gelu(x, approximate=True), reference.gelu_tanh),
    "layer_norm": (
        lambda x: F.layer_norm(x, tf.constant(GAMMA, x.dtype), tf.constant(BETA, x.dtype), epsilon=1e-3),
        lambda x: reference.layer_norm(x, GAMMA, BETA, 1e-3),
    ),
}


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_by_hand(name: str, mode: str, rng: Any) -> None:
    """The first and second derivative, against central differences of NumPy's formula in float64."""
    ours, theirs = FORMULAS[name]
    x, upstream = 2 * rng.normal(size=(3, 4, 7)), rng.normal(size=(3, 4, 7))

    def derivatives(x: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = ours(x)
            first = inner.gradient(y, x, output_gradients=tf.constant(upstream, x.dtype))
        return y, first, outer.gradient(first, x, output_gradients=tf.constant(upstream, x.dtype))

    run = derivatives if mode == "eager" else tf.function(derivatives, jit_compile=mode == "xla")
    y, first, second = run(tf.constant(x))
    close(y.numpy(), theirs(x), atol=1e-12)
    close(first.numpy(), _differences(lambda x: (theirs(x) * upstream).sum(), x, 1e-5), atol=1e-7)
    close(second.numpy(), _differences(lambda x: (run(tf.constant(x))[1].numpy() * upstream).sum(), x, 1e-5), atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_by_hand_in_half_precision(name: str, dtype: str, rng: Any) -> None:
    """Also far from zero, where squares overflow float16, the gradient is finite and within the format's rounding."""
    ours, theirs = FORMULAS[name]
    x = tf.constant(np.concatenate([2 * rng.normal(size=(6, 7)), 300 * rng.normal(size=(6, 7))]), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ours(x)
    gradient = tape.gradient(y, x)
    assert gradient.dtype == y.dtype == x.dtype
    wide = tf.cast(x, "float64").numpy()
    expected = _differences(lambda x: theirs(x).sum(), wide, 1e-5)
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    # Up to eight roundings of numbers that are at most 4.
    close(tf.cast(gradient, "float64").numpy(), expected, atol=8 * 4 * step)


def _differences(function: Any, x: np.ndarray, step: float) -> np.ndarray:
    """Return the central differences of `function`, which returns one number, at every element of `x`."""
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[i] = step
        found[i] = (function(x + shift) - function(x - shift)) / (2 * step)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backends_train_alike(backend: str, tmp_path: Path) -> None:
    """20 steps of Adam from the same weights, with ids that occur many times in a batch: TensorFlow and `backend`."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    folders = {name: tmp_path / name for name in ("tensorflow", backend)}
    for name, folder in folders.items():
        folder.mkdir()
        environment = {**os.environ, "KERAS_BACKEND": name, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, str(ROOT / "tests/training_steps.py"), str(folder), *TRAINED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    for pair in TRAINED:
        expected, actual = (dict(np.load(folder / f"{pair.replace('/', '-')}.npz")) for folder in folders.values())
        close(actual["losses"], expected["losses"], atol=1e-6, what=pair)
        assert expected["losses"][-1] < expected["losses"][0]
        for name in expected:
            # Adam enlarges differences of rounding where the gradient is nearly zero. That of a key's bias is zero.
            if name.endswith("embeddings"):
                close(actual[name], expected[name], atol=3e-6, what=f"{pair} {name}")
