"""Passes over converted graphs that contain others: the bodies of loops, and branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from attention_zoo import export


def exported(model: Any, path: Path, x: np.ndarray) -> np.ndarray:
    export.to_onnx(model, path)
    (found,) = export.load(path).run(x).values()
    return found


def test_constants_of_equal_names_in_several_graphs(tmp_path: Path) -> None:
    class Forward(layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.scan(
                lambda c, step: (ops.logsumexp(c[:, :, None] + 0.5, axis=1) + step,) * 2, x[:, 0], ops.swapaxes(x, 0, 1)
            )[0]

    x = keras.Input((5, 3), name="x")
    values = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    found = exported(keras.Model(x, Forward()(x)), tmp_path / "m.onnx", values)
    carry = values[:, 0].astype("float64")
    for t in range(5):
        carry = np.log(np.exp(carry + 0.5).sum(1, keepdims=True)) + values[:, t]
    np.testing.assert_allclose(found, carry, rtol=1e-5)


@pytest.mark.slow
def test_a_branch_that_returns_a_value_from_outside(tmp_path: Path) -> None:
    class Exponential(layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.linalg.expm(x)

    x = keras.Input((2, 2), name="x")
    angle = np.array([[[0, -0.7], [0.7, 0]]], "float32")
    found = exported(keras.Model(x, Exponential()(x)), tmp_path / "m.onnx", angle)
    cos, sin = np.cos(0.7), np.sin(0.7)
    np.testing.assert_allclose(found[0], [[cos, -sin], [sin, cos]], atol=1e-6)
