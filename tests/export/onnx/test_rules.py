"""Models whose operations rules replace before the conversion to ONNX, against NumPy or closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers, ops

from attention_zoo import export
from attention_zoo.export.errors import ExportError


def exported(model: Any, path: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    export.to_onnx(model, path)
    return {name: np.asarray(value) for name, value in export.load(path).run(inputs).items()}


@pytest.mark.parametrize("far", [30, 2**40])
def test_tables_of_integers(far: int, tmp_path: Path) -> None:
    """Look up keys that lie close together, and keys that are far apart."""
    ids = keras.Input((4,), dtype="int64", name="ids")
    model = keras.Model(ids, layers.IntegerLookup(vocabulary=[10, -20, far])(ids))
    given = np.array([[10, far, 99, -20], [0, 11, -(2**40), 10]])
    (found,) = exported(model, tmp_path / "m.onnx", ids=given).values()
    assert found.tolist() == [[1, 3, 0, 2], [0, 0, 0, 1]]


def test_outputs_that_are_equal(tmp_path: Path) -> None:
    """Keep every name of a tensor with two names, of an input that is an output, and of a constant."""
    x = keras.Input((3,), name="x")
    doubled = x * 2.0
    model = keras.Model(x, {"one": doubled, "two": doubled, "same": x, "negative": -doubled})
    values = np.array([[1, -2, 3]], "float32")
    found = exported(model, tmp_path / "m.onnx", x=values)
    assert set(found) == {"one", "two", "same", "negative"}
    for name, factor in {"one": 2, "two": 2, "same": 1, "negative": -2}.items():
        np.testing.assert_array_equal(found[name], factor * values)


def test_a_loop_reads_what_is_computed_outside(tmp_path: Path) -> None:
    """Keep the operations and constants that only the body of a loop reads, over an open length."""

    class Decayed(layers.Layer):
        def call(self, x: Any) -> Any:
            scale = ops.exp(ops.mean(x, axis=1))  # (B, 3), read by every step
            _, sums = ops.scan(
                lambda c, step: (c * 0.5 + step * scale,) * 2, ops.zeros_like(x[:, 0]), ops.swapaxes(x, 0, 1)
            )
            return ops.swapaxes(sums, 0, 1)

    x = keras.Input((5, 3), name="x")
    values = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    (found,) = exported(keras.Model(x, Decayed()(x)), tmp_path / "m.onnx", x=values).values()
    scale, carry = np.exp(values.astype("float64").mean(1)), np.zeros((2, 3))
    for t in range(5):
        carry = carry * 0.5 + values[:, t] * scale
        np.testing.assert_allclose(found[:, t], carry, rtol=1e-5)


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    """Write the same file for the same model again: names in the bodies of loops have no counters."""
    x = keras.Input((None, 3), name="x")
    model = keras.Model(x, layers.LSTM(4, activation="relu")(x))
    for name in ("one", "two"):
        export.to_onnx(model, tmp_path / name / "m.onnx")
    assert (tmp_path / "one" / "m.onnx").read_bytes() == (tmp_path / "two" / "m.onnx").read_bytes()


def test_transforms_are_not_stored(tmp_path: Path) -> None:
    """Compute the matrices of a Fourier transform in the graph: the file stays small."""
    x = keras.Input((1024,), name="x")
    model = keras.Model(x, ops.rfft(x)[0])
    values = np.random.default_rng(0).normal(size=(2, 1024)).astype("float32")
    (found,) = exported(model, tmp_path / "m.onnx", x=values).values()
    np.testing.assert_allclose(found, np.fft.rfft(values.astype("float64")).real, atol=1e-3)
    assert (tmp_path / "m.onnx").stat().st_size < 50_000


def test_resizing_to_the_nearest_pixel_is_valid(tmp_path: Path) -> None:
    x = keras.Input((6, 5, 1), name="x")
    export.to_onnx(keras.Model(x, layers.Resizing(9, 4, interpolation="nearest")(x)), tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    modes = [
        onnx.helper.get_attribute_value(attribute)
        for node in onnx.load(tmp_path / "m.onnx").graph.node
        for attribute in node.attribute
        if attribute.name == "coordinate_transformation_mode"
    ]
    assert modes == [b"half_pixel"]


def test_refusals_name_operator_and_layer(tmp_path: Path) -> None:
    class Norm(layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.norm(x, ord=2, axis=(1, 2))

    x = keras.Input((3, 3), name="x")
    with pytest.raises(ExportError, match=r"^Svd has no ONNX operator: layer '.*spectral.*' \(.*test_rules\.py:\d+\)$"):
        export.to_onnx(keras.Model(x, Norm(name="spectral")(x)), tmp_path / "m.onnx")


def test_comparisons_of_integers(tmp_path: Path) -> None:
    """Compare integers that are equal as float32."""
    ids, narrow = keras.Input((3,), dtype="int64", name="ids"), keras.Input((3,), dtype="uint8", name="narrow")
    outputs = {"less": ids < 2**60, "greater": ids > 2**60, "below": narrow < 200, "above": narrow > 200}
    given = np.array([[2**60 - 1, 2**60, 2**60 + 1]])
    small = np.array([[199, 200, 201]], "uint8")
    found = exported(keras.Model([ids, narrow], outputs), tmp_path / "m.onnx", ids=given, narrow=small)
    for name in ("less", "below"):
        assert found[name].tolist() == [[True, False, False]]
    for name in ("greater", "above"):
        assert found[name].tolist() == [[False, False, True]]


def test_diagonals_of_one_row(tmp_path: Path) -> None:
    class Diagonals(layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.linalg.diag(x)

    x = keras.Input((3,), name="x")
    values = np.array([[1, -2, 3]], "float32")
    (found,) = exported(keras.Model(x, Diagonals()(x)), tmp_path / "m.onnx", x=values).values()
    np.testing.assert_array_equal(found, np.diag(values[0])[None])
