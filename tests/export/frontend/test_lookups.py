"""The limits of integer inputs, against the values that Keras itself accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from attention_zoo import export
from attention_zoo.export.frontend.spec import exportable

ROWS = 10
NEAR = range(-40, 61)  # values that are tried in Keras

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "take, which counts negative ids from the end": lambda t, i: ops.take(t, i, axis=0),
    "tf.gather, which does not": tf.gather,
    "a constant added": lambda t, i: tf.gather(t, i + 1),
    "constants added": lambda t, i: tf.gather(t, i + ops.convert_to_tensor([0, 4])),
    "a constant subtracted": lambda t, i: tf.gather(t, i - 5),
    "subtracted from a constant": lambda t, i: tf.gather(t, 12 - i),
    "divided": lambda t, i: tf.gather(t, i // 3),
    "multiplied": lambda t, i: tf.gather(t, i * 3),
    "absolute": lambda t, i: tf.gather(t, ops.abs(i)),
    "clipped below": lambda t, i: tf.gather(t, ops.maximum(i, 2)),
    "clipped beyond the table": lambda t, i: tf.gather(t, ops.clip(i, 0, 20)),
    "where it is negative, another row": lambda t, i: tf.gather(t, ops.where(i < 0, 3, i)),
    "where it is not -1": lambda t, i: tf.gather(t, ops.where(ops.equal(i, -1), 0, i)),
    "through floats": lambda t, i: tf.gather(t, ops.cast(ops.cast(i, "float32"), "int32")),
    "of two tables, the smaller": lambda t, i: tf.gather(t, i)[..., 0] + tf.gather(t[:7], i)[..., 0],
    "along another axis": lambda t, i: tf.gather(ops.transpose(t), i, axis=1),
    "by batch": lambda t, i: tf.gather(ops.ones((3, 6)), i, batch_dims=1),
    "take_along_axis": lambda t, i: ops.take_along_axis(ops.ones((3, 8)), i, axis=1),
    "gather_nd": lambda t, i: tf.gather_nd(t, ops.stack([i, ops.zeros_like(i)], axis=-1)),
    "segments, of which negative ones are dropped": lambda t, i: tf.math.unsorted_segment_sum(
        ops.ones_like(i, dtype="float32"), i, 6
    ),
    "scatter_nd": lambda t, i: tf.scatter_nd(i[:, :1], ops.ones((3,)), [6]),
    "concatenated with a constant": lambda t, i: tf.gather(t, ops.concatenate([ops.zeros_like(i), i], axis=1)),
}
FREE: dict[str, Callable[[Any, Any], Any]] = {
    "remainder": lambda t, i: tf.gather(t, i % 7),
    "clipped": lambda t, i: tf.gather(t, ops.clip(i, 0, 9)),
    "one_hot": lambda t, i: ops.one_hot(i, 4),
    "where it is another row": lambda t, i: tf.gather(t, ops.where(ops.logical_and(i >= 0, i < 10), i, 0)),
    "no lookup": lambda t, i: ops.cast(i, "float32") * 2.0,
}


def model_of(function: Callable[[Any, Any], Any], shape: tuple[int | None, ...] = (2,)) -> Any:
    class Lookup(L.Layer):
        def build(self, _: Any) -> None:
            self.table = self.add_weight(shape=(ROWS, 4), initializer="random_normal", name="table")

        def call(self, ids: Any) -> Any:
            return function(ops.convert_to_tensor(self.table), ids)

    ids = keras.Input(shape, dtype="int32", name="ids")
    return keras.Model(ids, Lookup()(ids))


def accepts(model: Any, value: int) -> bool:
    try:
        model(np.full((3, 2), value, "int32"))
    except tf.errors.InvalidArgumentError:
        return False
    return True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits_are_those_of_keras(name: str) -> None:
    model = model_of(FUNCTIONS[name])
    (spec,) = exportable(model).signature.inputs
    taken = {value for value in NEAR if accepts(model, value)}
    assert taken and taken == {value for value in NEAR if spec.least <= value < spec.below}


@pytest.mark.parametrize("name", FREE)
def test_values_that_nothing_limits(name: str) -> None:
    model = model_of(FREE[name])
    assert all(accepts(model, value) for value in NEAR)
    assert exportable(model).signature.inputs[0].below is None


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_files_accept_what_keras_accepts(suffix: str, tmp_path) -> None:
    """Check ids below zero, which a table counts from its end or to which a constant is added."""
    first, second = (keras.Input((3,), dtype="int32", name=name) for name in ("ids", "shifted"))
    table = L.Embedding(20, 3)
    model = keras.Model([first, second], [table(first), table(second + 1)])
    path = tmp_path / f"m.{suffix}"
    (export.to_onnx if suffix == "onnx" else export.to_tflite)(model, path)
    given = [np.array([[-20, -1, 19]]), np.array([[-21, -1, 18]])]
    runner = export.load(path)
    found = runner.run(dict(zip(("ids", "shifted"), given, strict=True)))
    weight = np.asarray(table.embeddings)
    for actual, rows in zip(found.values(), ([0, 19, 19], [0, 0, 19]), strict=True):
        assert np.array_equal(actual, weight[None, rows])
    with pytest.raises(ValueError, match=r"shifted: got values from 0 to 19; accepted: integers from -21 to 18"):
        runner.run({"ids": given[0], "shifted": np.array([[0, 19, 1]])})


def test_a_table_of_open_length(tmp_path) -> None:
    """Look up rows of another input, as many as it has."""
    x, last = keras.Input((None, 4), name="x"), keras.Input((), dtype="int32", name="last")

    class Pick(L.Layer):
        def call(self, x: Any, last: Any) -> Any:
            return tf.gather(x, last, batch_dims=1)

    model = keras.Model([x, last], Pick()(x, last))
    export.to_onnx(model, tmp_path / "m.onnx")
    runner = export.load(tmp_path / "m.onnx")
    assert [spec.below for spec in runner.signature.inputs] == [None, "sequence"]
    rows = np.random.default_rng(0).normal(size=(2, 33, 4)).astype("float32")
    found = runner.run({"x": rows, "last": np.array([32, 0])})
    assert np.array_equal(next(iter(found.values())), rows[[0, 1], [32, 0]])
    with pytest.raises(ValueError, match=r"last: got values from 0 to 33; accepted: integers from 0 to 32"):
        runner.run({"x": rows, "last": np.array([33, 0])})


def test_ids_that_are_floats_in_keras(tmp_path) -> None:
    """Check that a file takes ids as integers and as floats, where Keras declares floats for lack of an Input."""
    model = keras.Sequential([L.Embedding(20, 4), L.GRU(3)])
    ids = np.random.default_rng(0).integers(0, 20, (4, 6))
    expected = np.asarray(model(ids))
    export.to_onnx(model, tmp_path / "m.onnx")
    runner = export.load(tmp_path / "m.onnx")
    for given in (ids, ids.astype("float32")):
        assert np.abs(next(iter(runner.run(given).values())) - expected).max() < 2e-6
