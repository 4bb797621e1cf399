"""How third-party models are called: arguments, batches, dtypes and names that Keras does not declare."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from attention_zoo import export
from attention_zoo.export.command import shapes, signature_of
from attention_zoo.export.frontend.spec import exportable

FORMATS = ("onnx", "tflite")
ROWS = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return ROWS.normal(size=shape).astype("float32")


def exported(model: Any, path: Any, **options: Any) -> Any:
    (export.to_onnx if path.suffix == ".onnx" else export.to_tflite)(model, path, **options)
    return export.load(path)


def only(outputs: dict[str, Any]) -> np.ndarray:
    (value,) = outputs.values()
    return value


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_batch_of_a_sequential_model_without_an_input_is_open(suffix, tmp_path):
    model = keras.Sequential([L.Dense(8, activation="relu"), L.Dense(1)])
    model(floats(32, 5))
    for layer in model.layers:
        layer.bias.assign(floats(*layer.bias.shape))
    runner = exported(model, tmp_path / f"m.{suffix}")
    assert runner.signature.inputs[0].dims == ("batch", 5)
    for rows in (1, 3):
        x = floats(rows, 5)
        assert np.abs(only(runner.run(x)) - np.asarray(model(x))).max() < 1e-6


def test_a_layer_that_needs_the_batch_of_the_first_call():
    class Joined(L.Layer):
        def call(self, x: Any) -> Any:
            return ops.reshape(x, (4, 6))

    model = keras.Sequential([Joined()])
    model(floats(8, 3))
    assert exportable(model).signature.inputs[0].dims == (8, 3)


class Several(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, *xs):
        return self.dense(ops.concatenate(xs, axis=-1))


def test_any_number_of_arguments(tmp_path):
    model = Several()
    model(floats(2, 3), floats(2, 4))
    specs = [keras.InputSpec(shape=(None, n), dtype="float32") for n in (3, 4)]
    given = [floats(2, 3), floats(2, 4)]
    for options in ({}, {"input_signature": specs}):
        runner = exported(model, tmp_path / "m.onnx", **options)
        names = [spec.name for spec in runner.signature.inputs]
        found = only(runner.run(dict(zip(names, given, strict=True))))
        assert np.abs(found - np.asarray(model(*given))).max() < 1e-6


class Optional(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x, other=None, *, scale=1.0):
        y = self.dense(x) * scale
        return y if other is None else y + other


class Needed(Optional):
    def call(self, x, other):
        return self.dense(x) + other


def test_arguments_that_keras_does_not_record_are_named():
    model = Optional()
    model(floats(2, 3), floats(2, 2))
    with pytest.warns(UserWarning, match=r"is exported without its optional arguments \['other'\]"):
        assert [spec.name for spec in exportable(model).signature.inputs] == ["x"]
    specs = {
        "x": keras.InputSpec(shape=(None, 3), dtype="float32"),
        "other": keras.InputSpec(shape=(None, 2), dtype="float32"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(exportable(model, specs).signature.inputs) == 2
    model = Needed()
    model(floats(2, 3), floats(2, 2))
    with pytest.raises(ValueError, match=r"input_signature: got none for Needed .* but not \['other'\]; accepted"):
        exportable(model)


class Edges(keras.Model):
    """Nodes and edges of a graph, of which neither is a batch; the edges are integers, which Keras does not record."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        nodes, edges = inputs["nodes"], inputs["edges"]
        return self.dense(ops.take(nodes, edges[:, 0], axis=0) - ops.take(nodes, edges[:, 1], axis=0))


def test_first_dimensions_that_are_no_batch(tmp_path):
    model = Edges()
    model({"nodes": floats(6, 5), "edges": np.zeros((9, 2), "int32")})
    runner = exported(model, tmp_path / "m.onnx")
    found = {spec.name: (spec.dtype, spec.dims, spec.below) for spec in runner.signature.inputs}
    assert found == {
        "nodes": ("float32", ("nodes_0", 5), None),
        "edges": ("int32", ("edges_0", 2), "nodes_0"),
    }
    given = {"nodes": floats(11, 5), "edges": ROWS.integers(0, 11, (4, 2))}
    assert np.abs(only(runner.run(given)) - np.asarray(model(given))).max() < 2e-6
    assert export.verify(model, tmp_path / "m.onnx").passed


def test_outputs_of_the_sizes_that_are_tried():
    """Check outputs whose fixed sizes equal the sizes of a trace: 3 rows and sequences of 7."""
    x = keras.Input((None, 4), name="x")
    pooled = L.GlobalAveragePooling1D()(x)
    outputs = {
        "seven": L.Dense(7)(pooled),
        "three": L.Dense(3)(x),
        "both": ops.reshape(L.Dense(21)(pooled), (-1, 7, 3)),
        "longer": ops.repeat(x, 2, axis=1),
    }
    dims = {spec.name: spec.dims for spec in exportable(keras.Model(x, outputs)).signature.outputs}
    assert dims == {
        "seven": ("batch", 7),
        "three": ("batch", "sequence", 3),
        "both": ("batch", 7, 3),
        "longer": ("batch", "longer_1", 4),
    }


def test_a_trace_is_believed_rather_than_a_declared_shape():
    x = keras.Input((6, 4), name="x")
    y = L.Bidirectional(
        L.GRU(5, return_sequences=True), backward_layer=L.SimpleRNN(3, return_sequences=True, go_backwards=True)
    )(x)
    assert y.shape == (None, 6, 10)  # as Keras declares it
    assert exportable(keras.Model(x, y)).signature.outputs[0].dims == ("batch", 6, 8)


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_of_inputs_say_nothing(suffix, tmp_path):
    """Export inputs with names that mean something in models of this package, with other ranks and dtypes."""
    shapes_of = {"mask": (6, 6, 1), "input_pos": (4,), "cache_position": (3, 2), "position_ids": (2,), "class": (3,)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes_of.items()}
    ids = keras.Input((4,), dtype="int32", name="tokens")
    outputs = {f"twice_{name}": 2 * x for name, x in inputs.items()} | {"logits": -ids}
    runner = exported(keras.Model({**inputs, "tokens": ids}, outputs), tmp_path / f"m.{suffix}")
    given = {name: floats(1, *shape) for name, shape in shapes_of.items()}
    renamed = {f"{name}_" if name == "class" else name: x for name, x in given.items()}  # a word of Python
    found = runner.run({**renamed, "tokens": np.array([[-5, 0, 3, 70000]])})
    assert all(np.array_equal(found[f"twice_{name}"], 2 * x) for name, x in given.items())
    assert found["logits"].tolist() == [[5, 0, -3, -70000]]


@pytest.mark.parametrize("suffix", FORMATS)
def test_preprocessing_of_bytes_is_that_of_predict(suffix, tmp_path):
    """In an eager call ``Resizing`` rounds what it makes of bytes, and in ``fit`` and ``predict`` it does not."""
    image = keras.Input((9, 7, 3), dtype="uint8", name="image")
    model = keras.Model(image, L.Rescaling(1 / 255)(L.Resizing(5, 4)(image)))
    x = ROWS.integers(0, 256, (2, 9, 7, 3)).astype("uint8")
    found = only(exported(model, tmp_path / f"m.{suffix}").run({"image": x}))
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("suffix", FORMATS)
def test_sums_of_a_column(suffix, tmp_path):
    """Add a column to rows, also where there are as many rows as columns, which Keras takes for a bias."""
    x, column, series = (
        keras.Input((2,), name="x"),
        keras.Input((1,), name="column"),
        keras.Input((5, 1), name="series"),
    )
    model = keras.Model(
        [x, column, series], [ops.add(x, column), ops.add(series, L.Conv1D(1, 3, padding="same")(series))]
    )
    path = tmp_path / f"m.{suffix}"
    runner = exported(model, path, **({} if suffix == "onnx" else {"batch_size": 2}))
    given = {"x": floats(2, 2), "column": floats(2, 1), "series": floats(2, 5, 1)}
    assert np.array_equal(next(iter(runner.run(given).values())), given["x"] + given["column"])
    assert export.verify(model, path).passed


def test_a_random_result_is_refused_and_dropout_is_not(tmp_path):
    class Sampling(L.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(1)

        def call(self, x: Any) -> Any:
            return x + keras.random.normal(ops.shape(x), seed=self.seed)

    x = keras.Input((6, 3), name="x")
    with pytest.raises(ValueError, match=r"model: got layer '.*sampling.*, which draws random numbers in a call"):
        exportable(keras.Model(x, Sampling()(x)))
    model = keras.Model(x, L.LSTM(5, activation="relu", dropout=0.2)(x))
    rows = floats(2, 6, 3)
    assert np.abs(only(exported(model, tmp_path / "m.onnx").run(rows)) - np.asarray(model(rows))).max() < 2e-6


def test_what_a_call_assigns_is_dropped(tmp_path):
    """Check that an export and a verification leave a model unchanged that counts its calls."""

    class Counting(L.Layer):
        def build(self, _: Any) -> None:
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

        def call(self, x: Any) -> Any:
            self.calls.assign_add(1.0)
            return 2 * x

    x = keras.Input((3,), name="x")
    model = keras.Model(x, Counting()(x))
    model.layers[-1].calls.assign(5.0)
    export.to_onnx(model, tmp_path / "m.onnx")
    assert export.verify(model, tmp_path / "m.onnx").passed
    assert float(model.layers[-1].calls) == 5.0


# ---- shapes of a command line ----------------------------------------------------------------------------------------


def test_loops_of_python_on_tensors_are_refused():
    class Steps(L.Layer):
        @tf.function
        def call(self, x: Any) -> Any:
            state = tf.zeros_like(x[:, 0])
            for step in tf.range(4):
                state = tf.tanh(state + x[:, step])
            return state

    x = keras.Input((4, 2))
    with pytest.raises(ValueError, match=r"^model: got a call with .* accepted: keras\.ops\.while_loop, .*place$"):
        exportable(keras.Model(x, Steps()(x)))


def test_an_output_of_texts_is_refused():
    class Names(L.Layer):
        def call(self, x: Any) -> Any:
            return tf.gather(tf.constant(["a", "b", "c"]), tf.argmax(x, axis=-1))

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape[:1], dtype="string")

    x = keras.Input((3,))
    with pytest.raises(ValueError, match=r"^model: got output '.*' of texts; accepted: numbers\. Return their indices"):
        exportable(keras.Model(x, Names()(x)))


def test_a_signature_without_names_leaves_those_of_a_functional_model():
    series, other = keras.Input((None, 3), name="series"), keras.Input((3,), name="other")
    model = keras.Model([series, other], L.Dense(2)(series) + other[:, None, :2])
    specs = [keras.InputSpec(shape=shape, dtype="float32") for shape in ((None, 8, 3), (None, 3))]
    assert [spec.name for spec in exportable(model, input_signature=specs).signature.inputs] == ["series", "other"]


def test_shapes_of_inputs_as_texts():
    given = shapes(["image=1,224,224,3:float32", "ids = batch,?:int32", "flag=2x3", "vector=4"])
    assert given == {
        "image": ((1, 224, 224, 3), "float32"),
        "ids": ((None, None), "int32"),
        "flag": ((2, 3), None),
        "vector": ((4,), None),
    }
    for bad in (["x"], ["x=0"], ["x=1,,2"], ["x=1", "x=2"], ["=1"], ["x=1:a:b"]):
        with pytest.raises(ValueError, match=r"input_signature: got .*; accepted: each input once"):
            shapes(bad)


def test_shapes_of_some_inputs_of_a_functional_model():
    x, y = keras.Input((None, 4), name="x"), keras.Input((4,), name="y")
    model = keras.Model({"first": x, "second": y}, L.Dense(2)(x) + ops.expand_dims(L.Dense(2)(y), 1))
    signature = exportable(model, signature_of(model, shapes(["first=batch,9,4"]))).signature
    assert [(spec.name, spec.dims) for spec in signature.inputs] == [
        ("first", ("batch", 9, 4)),
        ("second", ("batch", 4)),
    ]
    with pytest.raises(ValueError, match=r"input_signature: got \['x'\]; accepted: \['first', 'second'\]"):
        signature_of(model, shapes(["x=2,9,4"]))
    with pytest.raises(ValueError, match=r"input_signature: got dtypes \['real'\]; accepted: \['bool'"):
        signature_of(model, shapes(["first=2,9,4:real"]))


@pytest.mark.parametrize(
    "value", ["float32", {"x": 3}, [1, 2], object(), {}], ids=["text", "mapping", "list", "object", "empty"]
)
def test_a_wrong_signature_is_one_short_line(value):
    x = keras.Input((3,), name="x")
    with pytest.raises(ValueError, match=r"^input_signature: got ") as caught:
        exportable(keras.Model(x, 2 * x), value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
