"""TensorFlow operations that the export replaces for LiteRT, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from attention_zoo import export
from attention_zoo.export.errors import ExportError
from attention_zoo.export.tflite.exporter import _unable
from attention_zoo.export.tflite.operations.table import RULES, constant, replaced

INTEGERS = np.array([[-7, -3, -1, 0, 1, 4, 7, 2**31 - 1, -(2**31), 46341, -46341, 100]], "int32")
DIVISORS = np.array([[3, -2, 5, 7, -3, 2, -7, 46341, 3, 2, -5, -100]], "int32")


class Apply(keras.layers.Layer):
    """A layer that calls a function of tensors."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(**options)
        object.__setattr__(self, "function", function)

    def call(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def results(function: Callable[..., Any], folder: Path, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of a TFLite file of `function` for rows of these arrays."""
    inputs = [keras.Input(x.shape[1:], dtype=str(x.dtype), name=f"x{i}") for i, x in enumerate(arrays)]
    file = export.to_tflite(keras.Model(inputs, Apply(function)(*inputs)), folder / "m.tflite").path
    return export.load(file).run({f"x{i}": x for i, x in enumerate(arrays)})


def test_integers_are_those_of_numpy(tmp_path: Path) -> None:
    x, y = INTEGERS, DIVISORS
    narrow, few = (x % 200).astype("uint8"), (y % 7 + 1).astype("uint8")

    def function(x: Any, y: Any, n: Any, f: Any) -> dict[str, Any]:
        wide, other = ops.cast(x, "int64") * 2**31, ops.cast(y, "int64")
        return {
            "floor": x // y,
            "mod": x % y,
            "and_": ops.bitwise_and(x, y),
            "or_": ops.bitwise_or(x, y),
            "xor": ops.bitwise_xor(wide, other),
            "not_": ops.bitwise_not(x),
            "shifted": ops.left_shift(x, ops.abs(y) % 31),
            "cube": x**3,
            "power": ops.power(x, ops.abs(y) % 9),
            "wide_floor": wide // other,
            "wide_and": ops.bitwise_and(wide, other),
            "wide_abs": ops.abs(wide),
            "narrow_sum": n + f,
            "narrow_floor": n // f,
            "narrow_equal": ops.equal(n, f),
            "clipped": ops.clip(x, 0, 6),
        }

    with np.errstate(over="ignore"):
        wide, other, power = x.astype("int64") * 2**31, y.astype("int64"), np.abs(y) % 9
        expected = {
            "floor": x // y,
            "mod": x % y,
            "and_": x & y,
            "or_": x | y,
            "xor": wide ^ other,
            "not_": ~x,
            "shifted": np.left_shift(x, np.abs(y) % 31),
            "cube": x * x * x,
            "power": np.power(x.astype("object"), power.astype("object")),
            "wide_floor": wide // other,
            "wide_and": wide & other,
            "wide_abs": np.abs(wide),
            "narrow_sum": narrow + few,
            "narrow_floor": narrow // few,
            "narrow_equal": narrow == few,
            "clipped": np.clip(x, 0, 6),
        }
        expected["power"] = np.array([int(v) & 0xFFFFFFFF for v in expected["power"][0]], "uint32").view("int32")[None]
    found = results(function, tmp_path, x, y, narrow, few)
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


def test_functions_of_large_tiny_and_infinite_numbers(tmp_path: Path) -> None:
    x = np.array([[0, 1e-7, -1e-4, 0.3, -0.9, 5, -30, 88, 95, 120, -120, 1e4, -1e4]], "float32")
    wide, one = x.astype("float64"), np.clip(x, -1, 1).astype("float64")

    def function(x: Any) -> dict[str, Any]:
        inside = ops.clip(x, -1.0, 1.0)
        return {
            "softplus": ops.softplus(x),
            "log_sigmoid": ops.log_sigmoid(x),
            "log1p": ops.log1p(ops.abs(x)),
            "expm1": ops.expm1(x),
            "rsqrt": ops.rsqrt(ops.abs(x)),
            "arcsinh": ops.arcsinh(x),
            "arcsin": ops.arcsin(inside),
            "arccos": ops.arccos(inside),
            "arctanh": ops.arctanh(inside),
            "sinh": ops.sinh(x),
            "masked": ops.where(x > 0, x, -float("inf")),
            "infinite": ops.isinf(ops.exp(x)),
        }

    with np.errstate(all="ignore"):
        single = np.float32
        expected = {
            "softplus": np.logaddexp(0, wide),
            "log_sigmoid": -np.logaddexp(0, -wide),
            "log1p": np.log1p(np.abs(wide)),
            "expm1": np.expm1(wide),
            "rsqrt": 1 / np.sqrt(np.abs(wide)),
            "arcsinh": np.arcsinh(wide),
            "arcsin": np.arcsin(one),
            "arccos": np.arccos(one),
            "arctanh": np.arctanh(one),
            "sinh": np.sinh(wide),
            "masked": np.where(x > 0, wide, -np.inf),
            "infinite": wide > 89,
        }
        found = results(function, tmp_path, x)
        for name, values in expected.items():
            # Of tiny results, too. The exponential of 88 is known to a rounding error of 88, which is 4e-6.
            np.testing.assert_allclose(found[name], values.astype(single), rtol=4e-6, atol=1e-12, err_msg=name)


def test_fourier_transforms(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1, 12)).astype("float32")

    def function(x: Any) -> dict[str, Any]:
        real, imaginary = ops.rfft(x, 16)
        frames = tf.signal.stft(x, 6, 3, 8, window_fn=None)
        return {"real": real, "imaginary": imaginary, "back": ops.irfft(ops.rfft(x)), "power": tf.abs(frames) ** 2}

    found, wave = results(function, tmp_path, x), np.fft.rfft(x, 16)
    np.testing.assert_allclose(found["real"], wave.real, atol=1e-5)
    np.testing.assert_allclose(found["imaginary"], wave.imag, atol=1e-5)
    np.testing.assert_allclose(found["back"], x, atol=1e-6)
    frames = np.stack([np.fft.rfft(x[:, i : i + 6], 8) for i in (0, 3, 6)], 1)
    np.testing.assert_allclose(found["power"], np.abs(frames) ** 2, atol=1e-4)


def test_linear_equations(tmp_path: Path) -> None:
    a = np.array([[[0, 2, 1], [1, 1, -1], [3, 0.5, 2]]], "float32")  # a pivot is 0
    b = np.array([[[1, 2], [3, 4], [5, -6]]], "float32")

    def function(a: Any, b: Any) -> dict[str, Any]:
        square = ops.matmul(a, ops.transpose(a, (0, 2, 1)))
        found = {"inverse": ops.inv(a), "solution": ops.solve(a, b), "cholesky": ops.cholesky(square)}
        return {**found, "determinant": ops.det(a), "triangular": ops.solve_triangular(square, b, lower=True)}

    square = a[0].astype("float64") @ a[0].T
    expected = {
        "inverse": np.linalg.inv(a[0]),
        "solution": np.linalg.solve(a[0], b[0]),
        "cholesky": np.linalg.cholesky(square),
        "determinant": np.linalg.det(a[0]),
        "triangular": np.linalg.solve(np.tril(square), b[0]),
    }
    for name, values in results(function, tmp_path, a, b).items():
        np.testing.assert_allclose(values[0], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_inputs_that_are_no_numbers_or_very_large(tmp_path: Path) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 1e30, -1e30, 88.5, 2]], "float32")

    def function(x: Any) -> dict[str, Any]:
        largest = {"maximum": ops.maximum(x, 1.0), "max": ops.max(x, axis=-1), "min": ops.min(x[:, 1:], axis=-1)}
        return {**largest, "exp": ops.exp(x), "sigmoid": ops.sigmoid(x)}

    with np.errstate(all="ignore"):
        wide = x.astype("float64")
        expected = {
            "maximum": np.maximum(wide, 1),
            "max": np.array([np.nan]),
            "min": np.array([-np.inf]),
            "exp": np.exp(wide).astype("float32"),
            "sigmoid": 1 / (1 + np.exp(-wide)),
        }
        for name, values in results(function, tmp_path, x).items():
            np.testing.assert_allclose(values, expected[name].astype("float32"), rtol=4e-6, err_msg=name)


def test_a_gelu_is_one_operator(tmp_path: Path) -> None:
    """Check that the error function is kept where the converter fuses it, and replaced where it stands alone."""
    x = keras.Input((4,), name="x")
    gelu = export.to_tflite(keras.Model(x, keras.activations.gelu(x, approximate=False)), tmp_path / "m.tflite")
    assert gelu.operators == {"GELU": 1}
    both = {"gelu": keras.activations.gelu(x, approximate=False), "erf": ops.erf(x)}
    file = export.to_tflite(keras.Model(x, both), tmp_path / "m.tflite").path
    values = np.array([[-3, -0.1, 0.5, 2]], "float32")
    known = [-0.999977909503, -0.112462916018, 0.520499877813, 0.995322265019]  # Abramowitz and Stegun, table 7.1
    np.testing.assert_allclose(export.load(file).run({"x": values})["erf"], [known], rtol=1e-6)


def test_the_networks_of_this_package_have_no_replaced_operations() -> None:
    """Check that operations which layers are mostly made of are only replaced for some arguments."""
    with tf.Graph().as_default(), replaced():
        x = tf.compat.v1.placeholder(tf.float32, (2, 3), "x")
        y = tf.matmul(x, x, transpose_b=True)
        y = tf.sigmoid(y) * tf.nn.softmax(tf.tanh(y)) + tf.exp(y) - tf.reduce_max(y, -1, keepdims=True)
        y = tf.minimum(y * tf.math.rsqrt(y * y + 1e-3), 1.0)
        kinds = {op.type for op in y.graph.get_operations()}
    assert {"Sigmoid", "Softmax", "Tanh", "Exp", "Max", "Rsqrt", "Minimum"} <= kinds
    assert not kinds & {"SelectV2", "Sqrt", "RealDiv", "ClipByValue"}
    assert {"Sigmoid", "Rsqrt", "Minimum"} <= {*RULES}


def test_constants_are_computed_from_constants_only() -> None:
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 3), "x")
        size = tf.cast(tf.constant([5, 6]), tf.float32) / tf.cast(tf.shape(x)[1], tf.float32)
        assert constant(size) is None  # the shape as a whole is open
        assert np.allclose(constant(tf.constant([5.0, 6.0]) / tf.sqrt(tf.constant(4.0))), [2.5, 3])
        assert constant(x + 1.0) is None


@pytest.mark.slow
def test_rows_that_depend_on_each_other(tmp_path: Path) -> None:
    """Check that a file for one row does not run several, if an output is not made of them."""
    x = keras.Input((4,), name="x")
    outputs = {
        "own": x * 2.0,
        "pairs": ops.matmul(x, ops.transpose(x)),
        "centered": x - ops.mean(x, axis=0),
        "loud": ops.maximum(x, ops.max(x) * 1e-2),
        "mean": ops.mean(x),
    }
    values = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    for name, output in outputs.items():
        model = keras.Model(x, {name: output})
        file = export.to_tflite(model, tmp_path / "m.tflite").path
        if name == "own":
            assert np.array_equal(export.load(file).run({"x": values})[name], 2 * values)
        else:
            with pytest.raises(
                ValueError, match=f"^inputs: got batch of 3; accepted: 1, .*'{name}' is not computed row"
            ):
                export.load(file).run({"x": values})
    file = export.to_tflite(keras.Model(x, outputs), tmp_path / "m.tflite", batch_size=3).path
    found = export.load(file).run({"x": values})
    np.testing.assert_allclose(found["pairs"], values @ values.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["mean"], values.mean(), rtol=1e-5)


TABLE = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(["a"]), tf.constant([1])), -1)
OUTSIDE = tf.Variable(tf.ones(4))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x + OUTSIDE, r"layer 'functional/own.* reads a tf.Variable or a table that is no weight"),
        (lambda x: ops.reshape(tf.linalg.qr(ops.reshape(x, (-1, 2, 2))).q, (-1, 4)), r"Qr in layer '.*own"),
        (
            lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.math.igamma(y, y)), (0, x))[1],
            r"Igamma in layer '.*own",
        ),
        (
            lambda x: tf.math.real(tf.linalg.eigvals(tf.reshape(x, (-1, 2, 2)))),
            r"LiteRT has no complex numbers, which Eig computes in layer '.*own",
        ),
    ],
)
def test_refusals_name_the_operator_and_the_layer(function: Callable[..., Any], words: str, tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    model = keras.Model(x, Apply(function, name="own")(x), name="functional")
    with pytest.raises(ExportError, match=words) as refused:
        export.to_tflite(model, tmp_path / "m.tflite")
    assert "\n" not in str(refused.value)


def test_files_that_litert_cannot_run_are_refused_with_the_operator() -> None:
    tensors = [SimpleNamespace(name=b"model/conv/SpaceToBatchND;more")]
    graph = SimpleNamespace(operators=[SimpleNamespace(outputs=[0])], tensors=tensors)
    said = "path: LiteRT cannot read m.tflite: tflite/kernels/space.cc:67 dims (3 != 2)Node number 0 (SPACE) failed to"
    model = SimpleNamespace(subgraphs=[graph])
    words = "LiteRT cannot run SPACE, of which the result is 'model/conv/SpaceToBatchND': space.cc:67 dims (3 != 2)"
    assert _unable(model, said) == words
    assert _unable(model, "path: broken\nfile") == "LiteRT cannot load the file: path: broken file"
