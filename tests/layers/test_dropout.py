"""Dropout: how often elements are dropped, their independence, gradients, and shapes that no four bytes fill."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo.layers import Dropout
from helpers import numpy


def kept(rate: float, shape: tuple[int, ...], seed: int = 0, calls: int = 1) -> np.ndarray:
    """Return which elements several calls keep, boolean (calls, *shape)."""
    layer = Dropout(rate, seed=seed)
    return np.stack([numpy(layer(np.ones(shape, "float32"), training=True)) != 0 for _ in range(calls)])


@pytest.mark.parametrize("rate", [1 / 256, 0.1, 0.25, 0.3337, 0.5, 0.9, 0.988])
def test_rate(rate: float) -> None:
    """The share of dropped elements is `rate`, within five standard deviations; it has no steps of 1/256."""
    rows, columns, calls = 512, 256, 16
    dropped = ~kept(rate, (rows, columns), calls=calls)
    part = rate * 256 % 1  # columns have one of two thresholds
    of_columns = part * (1 - part) / 256**2 / (columns * calls)
    deviation = np.sqrt(rate * (1 - rate) / dropped.size + of_columns)
    assert abs(dropped.mean() - rate) < 5 * deviation
    assert deviation < 1 / 256 / 5  # a rate rounded to 1/256 would be noticed at most rates
    by_column = dropped.mean(axis=(0, 1))
    assert abs(by_column - rate).max() < 6 * np.sqrt((rate * (1 - rate) + 1 / 64) / (rows * calls))


def test_independence() -> None:
    """Neighbouring elements, the same elements of two calls, and the four bytes of a number are uncorrelated."""
    keep = kept(0.5, (400, 640), calls=2).astype("float64") * 2 - 1
    limit = 5 / np.sqrt(keep[0].size)
    for other in (np.roll(keep[0], 1, axis=1), np.roll(keep[0], 1, axis=0), np.roll(keep[0], 4, axis=1), keep[1]):
        assert abs((keep[0] * other).mean()) < limit
    for one in range(4):
        for other in range(one):
            assert abs((keep[0][:, one::4] * keep[0][:, other::4]).mean()) < 2 * limit


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4, 7), (9,), (2, 8), (4, 1)])
def test_values(shape: tuple[int, ...], dtype: str) -> None:
    """Kept elements are multiplied by 1 / (1 - rate) in every shape and dtype; nothing changes outside of training."""
    x = np.random.default_rng(0).normal(size=shape).astype("float32") + 10
    layer = Dropout(0.25, seed=1, dtype=dtype)
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype and tuple(y.shape) == shape
    found = numpy(keras.ops.cast(y, "float32"))
    close = 1e-6 if dtype == "float32" else 2**-7
    np.testing.assert_allclose(found[found != 0], (x / 0.75)[found != 0], rtol=close)
    np.testing.assert_allclose(numpy(keras.ops.cast(layer(x), "float32")), x, rtol=close)


def test_rates_without_random_numbers() -> None:
    x = np.ones((4, 8), "float32")
    assert (numpy(Dropout(0.0)(x, training=True)) == 1).all() and (numpy(Dropout(1.0)(x, training=True)) == 0).all()
    by_row = numpy(Dropout(0.5, noise_shape=(None, 1), seed=3)(np.ones((64, 8), "float32"), training=True))
    assert {0.0, 2.0} == set(by_row.mean(axis=1))


def test_seeds_and_config() -> None:
    one, other = (Dropout(0.3, seed=5) for _ in range(2))
    x = np.ones((16, 16), "float32")
    first = numpy(one(x, training=True))
    assert (first == numpy(other(x, training=True))).all() and (first != numpy(one(x, training=True))).any()
    again: Any = keras.layers.deserialize(keras.layers.serialize(one))
    assert type(again) is Dropout and (again.rate, again.seed) == (0.3, 5)


def test_gradient() -> None:
    """The gradient is that of the multiplication with the same mask, in a compiled training step."""
    keras.utils.set_random_seed(0)
    x = keras.Input((12,))
    layer = keras.layers.Dense(12, use_bias=False, kernel_initializer="identity")
    model = keras.Model(x, Dropout(0.5, seed=2)(layer(x)))
    model.compile(keras.optimizers.SGD(1.0), lambda _, y: keras.ops.sum(y, axis=-1))
    data = np.eye(12, dtype="float32")
    model.fit(data, data, batch_size=12, verbose=0)
    moved = 12 * (np.eye(12) - numpy(layer.kernel))  # the mean of the batch is minimized
    assert set(np.unique(moved.round(4))) == {0.0, 2.0}
