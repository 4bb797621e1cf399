"""Third-party Keras models: their files give the outputs of Keras, and keep the names that they have in Keras."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from attention_zoo import export
from attention_zoo.layers import MultiHeadAttention

FORMATS = ("onnx", "tflite")


def _models() -> Any:
    path = Path(__file__).parents[3] / "benchmarks" / "any_keras_models.py"
    spec = importlib.util.spec_from_file_location("any_keras_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MODELS = _models()
FAST = (  # recurrent layers, masks and directions have their own test below
    "Functional, two inputs and two outputs",
    "Subclassed, dict in and nested dict out",
)
# Values that amplify rounding, such as large numbers before a sigmoid; ``verify`` allows more there.
AMPLIFIED = ("large numbers", "rows of one number", "whole range", "every size")
CASES = [
    pytest.param(name, suffix, marks=[] if name in FAST else pytest.mark.slow, id=f"{name}-{suffix}")
    for name in MODELS.MODELS
    for suffix in FORMATS
]


def write(model: Any, path: Path, **options: Any) -> Any:
    """Export a model in the format of `path`'s suffix, and return the runner of the file."""
    (export.to_onnx if path.suffix == ".onnx" else export.to_tflite)(model, path, **options)
    return export.load(path)


def assert_equal(runner: Any, model: Any, inputs: Any, tolerance: float = 2e-6) -> None:
    """Check that every output of the file equals that of Keras, relative to its largest magnitude."""
    expected = [np.asarray(leaf) for leaf in keras.tree.flatten(model(inputs, training=False))]
    leaves = inputs if isinstance(inputs, dict) else dict(zip(names(runner), keras.tree.flatten(inputs), strict=True))
    for actual, wanted in zip(runner.run(leaves).values(), expected, strict=True):
        assert actual.shape == wanted.shape
        assert np.abs(actual - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1e-3)


def names(runner: Any, side: str = "inputs") -> list[str]:
    return [spec.name for spec in getattr(runner.signature, side)]


@pytest.mark.parametrize(("name", "suffix"), CASES)
def test_every_kind_of_model(name, suffix, tmp_path):
    case = MODELS.build(name)
    path = tmp_path / f"model.{suffix}"
    options = {"input_signature": case.input_signature, **(case.sizes if suffix == "tflite" else {})}
    write(case.model, path, **options)
    report = export.verify(case.model, path, input_signature=case.input_signature)
    assert report.passed, report.to_markdown()
    usual = [check for check in report.checks if not any(words in check.name for words in AMPLIFIED)]
    assert max(check.difference or 0.0 for check in usual) < 1e-5
    assert sum(check.difference is not None for check in report.checks) >= 2


# ---- names and dimensions --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_names_are_keras_names(tmp_path):
    case = MODELS.build("Functional, image and numbers in, three out")
    runner = write(case.model, tmp_path / "m.onnx")
    assert names(runner) == ["image", "numbers"]
    assert names(runner, "outputs") == ["box", "object", "argmax"]
    case = MODELS.build("Subclassed, dict in and nested dict out")
    runner = write(case.model, tmp_path / "m.onnx")
    found = {spec.name: (spec.dtype, spec.dims, spec.below) for spec in runner.signature.inputs}
    assert found == {
        "user": ("int32", ("batch",), 50),
        "item": ("int32", ("batch",), 80),
        "context": ("float32", ("batch", 3), None),
    }
    assert set(names(runner, "outputs")) == {"rating", "vectors.user", "vectors.item"}
    weights = {value.name for value in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert {name for name in weights if not name.startswith("const")} >= {"embedding/embeddings"}


@pytest.mark.slow
def test_open_dimensions_that_belong_together(tmp_path):
    """Check that query and document may have different lengths, but ids and mask may not."""
    towers = write(MODELS.build("Functional, two inputs and two outputs").model, tmp_path / "m.onnx")
    assert [spec.dims[1] for spec in towers.signature.inputs] == ["query_sequence", "document_sequence"]
    bert = write(MODELS.build("Functional over our BERT").model, tmp_path / "m.onnx")
    assert [spec.dims for spec in bert.signature.inputs] == [("batch", "sequence")] * 2
    with pytest.raises(ValueError, match=r"attention_mask: got sequence of 5; accepted: 4, as input_ids has"):
        bert.run({"input_ids": np.ones((1, 4), int), "attention_mask": np.ones((1, 5), int)})
    with pytest.raises(ValueError, match=r"input_ids: got values from 100 to 100; accepted: integers from 0 to 99"):
        bert.run({"input_ids": np.full((1, 4), 100), "attention_mask": np.ones((1, 4), int)})


@pytest.mark.slow
def test_sizes_for_tflite_are_asked_for_by_name(tmp_path):
    towers = MODELS.build("Functional, two inputs and two outputs").model
    with pytest.raises(ValueError, match=r"sequence_length: got none for 'query_sequence' of query, which is open"):
        export.to_tflite(towers, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=r"sequence_length: got \['q'\]; accepted: an integer, or one each for"):
        export.to_tflite(towers, tmp_path / "m.tflite", sequence_length={"q": 3})
    unet = MODELS.build("Functional, U-Net with open image sizes").model
    with pytest.raises(ValueError, match=r"image_size: got none for 'height' of image, which is open"):
        export.to_tflite(unet, tmp_path / "m.tflite")
    runner = write(towers, tmp_path / "m.tflite", sequence_length={"query_sequence": 4, "document_sequence": 9})
    with pytest.raises(ValueError, match=r"got query_sequence of 3; accepted: 4, as exported"):  # zeros change results
        runner.run({"query": np.ones((1, 3), int), "document": np.ones((1, 9), int)})
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_signature_where_the_model_does_not_tell(tmp_path):
    case = MODELS.build("Subclassed, two arguments, recurrent with attention")
    runner = write(case.model, tmp_path / "m.onnx", input_signature=case.input_signature)
    rng = np.random.default_rng(1)
    source, target = rng.integers(1, 60, (3, 8)), rng.integers(1, 60, (3, 5))
    source[1, 5:] = 0  # padding
    expected = np.asarray(case.model(source, target))
    assert np.abs(runner.run({"source": source, "target": target})["output_0"] - expected).max() < 1e-5
    layer = L.MultiHeadAttention(2, 8)
    with pytest.raises(ValueError, match=r"which was not built; accepted: one that was called, or an input_signature"):
        export.to_onnx(layer, tmp_path / "m.onnx")
    layer(np.ones((1, 4, 16), "float32"), np.ones((1, 6, 16), "float32"))
    assert names(write(layer, tmp_path / "m.onnx")) == ["query", "value"]


# ---- lowered operations ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_plain_keras_transformer_gets_the_operators_of_ours(tmp_path):
    model = MODELS.build("Functional, Keras' own attention and masks").model
    result = export.to_onnx(model, tmp_path / "m.onnx", opset=23)
    assert result.fused == {"attention": (3, 3), "normalization": (5, 5), "gelu": (2, 2)}
    operators = result.operators
    assert operators["Attention"] == 3 and operators["LayerNormalization"] == 4 and operators["Gelu"] == 2
    assert operators["RMSNormalization"] == 1 and "Softmax" not in operators and "Einsum" not in operators


def test_an_attention_that_is_spelled_out_is_counted_as_missing(tmp_path):
    x = keras.Input((5, 8), name="x")
    output, scores = MultiHeadAttention(2, 4)(x, return_attention_scores=True)
    result = export.to_onnx(keras.Model(x, {"output": output, "scores": scores}), tmp_path / "m.onnx", opset=23)
    assert result.fused == {"attention": (0, 1)}
    assert "| fused attention | 0 of 1 |" in result.to_markdown()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_query_without_a_key_gets_what_keras_gives_it(dropout, suffix, tmp_path):
    """Compare a query whose keys are all masked: the mean of all values, or zeros if the layer has a dropout."""
    x, mask = keras.Input((5, 8), name="x"), keras.Input((5, 5), dtype="bool", name="attention_mask")
    model = keras.Model([x, mask], L.MultiHeadAttention(2, 4, dropout=dropout)(x, x, attention_mask=mask))
    MODELS.randomise(model)
    rng = np.random.default_rng(0)
    keep = rng.random((1, 5, 5)) > 0.5
    keep[0, 2] = False
    runner = write(model, tmp_path / f"m.{suffix}")
    assert_equal(runner, model, [rng.normal(size=(1, 5, 8)).astype("float32"), keep])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (L.LSTM, {"return_sequences": True}),
        (L.GRU, {"return_sequences": True, "go_backwards": True}),
        (L.LSTM, {"return_sequences": True, "zero_output_for_mask": True}),
        (L.SimpleRNN, {"go_backwards": True}),
        (L.GRU, {"return_sequences": True, "reset_after": False}),
        (L.LSTM, {"recurrent_activation": "hard_sigmoid"}),
    ],
    ids=str,
)
def test_recurrent_layers_and_masks_with_gaps(cell, options, suffix, tmp_path):
    ids = keras.Input((6,), dtype="int32", name="ids")
    model = keras.Model(ids, cell(7, **options)(L.Embedding(9, 4, mask_zero=True)(ids)))
    MODELS.randomise(model)
    runner = write(model, tmp_path / f"m.{suffix}", **({} if suffix == "onnx" else {"batch_size": 3}))
    assert_equal(runner, model, np.array([[1, 0, 3, 4, 0, 0], [0, 0, 5, 6, 7, 8], [0, 0, 0, 0, 0, 0]]))


def test_zeros_around_what_is_negative(tmp_path):
    """Check zero padding before max pooling.

    ONNX Runtime would fuse it into the pooling operator, where padding counts as minus infinity.
    """
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, L.MaxPooling2D(3, 2)(L.ZeroPadding2D(1)(L.Conv2D(4, 1)(image))))
    model.layers[1].bias.assign(np.full(4, -9.0))
    assert_equal(write(model, tmp_path / "m.onnx"), model, np.zeros((2, 8, 8, 3), "float32"))
    assert np.asarray(model(np.zeros((1, 8, 8, 3), "float32"))).max() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_adapters_and_half_precision(suffix, tmp_path):
    """Check that adapters of ``layer.enable_lora`` are merged, and that files of float16 models compute in float32."""
    ids = keras.Input((4,), dtype="int32", name="ids")
    y = L.Dense(6, activation="gelu", name="up")(L.Embedding(12, 8, name="table")(ids))
    model = keras.Model(ids, L.EinsumDense("abc,cd->abd", (None, 5), name="head")(y))
    for name in ("table", "up", "head"):
        model.get_layer(name).enable_lora(2)
    MODELS.randomise(model)
    for weight in model.weights:
        if "lora" in weight.name:
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    path = tmp_path / f"m.{suffix}"
    assert_equal(write(model, path), model, np.array([[1, 2, 3, 11]]))
    assert export.verify(model, path).passed
    if suffix == "onnx":
        assert not [value.name for value in onnx.load(path).graph.initializer if "lora" in value.name]
    half = keras.Sequential([keras.Input((4,), name="x"), L.Dense(3, dtype="mixed_float16")])
    assert export.verify(half, write(half, path).path).passed


def test_constants_that_are_no_weights(tmp_path):
    table = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")

    class Positions(keras.layers.Layer):
        def build(self, shape):
            self.table = ops.convert_to_tensor(table)

        def call(self, x):
            return x + self.table[: ops.shape(x)[1]]

    x = keras.Input((None, 8), name="x")
    model = keras.Model(x, L.Dense(2)(Positions()(x)))
    for suffix, sizes in (("onnx", {}), ("tflite", {"sequence_length": 5})):
        runner = write(model, tmp_path / f"m.{suffix}", **sizes)
        assert_equal(runner, model, np.random.default_rng(1).normal(size=(2, 5, 8)).astype("float32"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_integers_that_are_looked_up(suffix, tmp_path):
    """Export a model with ids that are floats, and ids to which the model adds an offset before the lookup."""
    floats, fields = keras.Input((4,), name="floats"), keras.Input((3,), dtype="int32", name="fields")
    offsets = ops.convert_to_tensor(np.array([0, 20, 40], "int32"))
    looked_up = [L.Embedding(20, 8)(floats), L.Embedding(60, 8)(fields + offsets)]
    model = keras.Model([floats, fields], L.Concatenate(axis=1)(looked_up))
    runner = write(model, tmp_path / f"m.{suffix}")
    assert [(spec.dtype, spec.below) for spec in runner.signature.inputs] == [("float32", 20), ("int32", 20)]
    assert_equal(runner, model, [np.array([[0, 7, 19, 3]], "float32"), np.array([[19, 0, 19]])])
    assert export.verify(model, tmp_path / f"m.{suffix}").passed


@pytest.mark.parametrize("suffix", FORMATS)
def test_kinds_of_inputs(suffix, tmp_path):
    """Export uint8 inputs, a float that is rounded, an input that is also an output, and a batch of fixed size."""
    image, x = keras.Input((4, 4, 3), dtype="uint8", name="image"), keras.Input((4,), name="x")
    rounded = ops.cast(ops.cast(x, "int32"), "float32")
    model = keras.Model([image, x], [x, rounded, L.Conv2D(2, 3, name="seen")(ops.cast(image, "float32") / 255.0)])
    runner = write(model, tmp_path / f"m.{suffix}")
    assert [spec.dtype for spec in runner.signature.inputs] == ["uint8", "float32"]
    rng = np.random.default_rng(0)
    assert_equal(
        runner, model, [rng.integers(0, 256, (2, 4, 4, 3), "uint8"), rng.normal(size=(2, 4)).astype("float32") * 9]
    )
    fixed = keras.Input(batch_shape=(2, 4), name="x")
    model = keras.Model(fixed, L.Dense(3)(fixed))
    runner = write(model, tmp_path / f"m.{suffix}")
    assert_equal(runner, model, rng.normal(size=(2, 4)).astype("float32"))
    with pytest.raises(ValueError, match=r"x: got shape \(3, 4\); accepted: \(2, 4\)"):
        runner.run({"x": np.ones((3, 4), "float32")})


def test_a_model_of_ours_called_in_another_way(tmp_path):
    """Export an attention_zoo model without its mask, by a signature; the report names lengths that Keras rejects."""
    import attention_zoo as az

    bert = az.create(
        "bert-base", vocab_size=50, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=16, max_length=16
    )
    signature = {"input_ids": keras.InputSpec(shape=(None, None), dtype="int32")}
    runner = write(bert, tmp_path / "m.onnx", input_signature=signature)
    assert names(runner) == ["input_ids"]
    report = export.verify(bert, tmp_path / "m.onnx", input_signature=signature)
    assert report.passed and sum("Keras rejects" in check.detail for check in report.checks) == 3


# ---- files and the state of their models -----------------------------------------------------------------------------


def test_a_file_of_another_model_does_not_pass(tmp_path):
    model = MODELS.build("Functional, two inputs and two outputs").model
    export.to_onnx(model, tmp_path / "m.onnx")
    bytes_before = (tmp_path / "m.onnx").read_bytes()
    export.to_onnx(model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == bytes_before
    kernel = next(weight for weight in model.weights if weight.name == "kernel")
    kernel.assign(np.asarray(kernel) * 1.01)
    failed = {check.name for check in export.verify(model, tmp_path / "m.onnx").checks if not check.passed}
    assert "weights" in failed and any(name.startswith("batch") or "sequence" in name for name in failed)
    other = MODELS.build("Functional over our BERT").model
    assert not export.verify(other, tmp_path / "m.onnx").passed


def test_a_layer_changed_after_building_is_what_is_exported(tmp_path):
    """Check that an activation that was replaced is exported, since the model is not rebuilt from its config."""
    x = keras.Input((6,), name="x")
    model = keras.Model(x, L.Dense(4, activation="relu", name="d")(x))
    model.get_layer("d").activation = lambda t: 3.0 * ops.tanh(t)
    assert_equal(
        write(model, tmp_path / "m.onnx"), model, np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    )


@pytest.mark.slow
def test_keras_computes_as_before_an_export(tmp_path):
    case = MODELS.build("Functional, Keras' own attention and masks")
    ids = np.random.default_rng(0).integers(0, 100, (2, 9))
    before = np.asarray(case.model(ids))
    export.to_onnx(case.model, tmp_path / "m.onnx")
    assert np.array_equal(np.asarray(case.model(ids)), before)
    attention = next(layer for layer in case.model.layers if isinstance(layer, L.MultiHeadAttention))
    assert "_compute_attention" not in vars(attention)
    assert not tf.config.functions_run_eagerly()


# ---- functions -------------------------------------------------------------------------------------------------------


def _functions() -> tuple[Any, Any, Any]:
    """Return two functions that share an embedding table, and a variable outside of Keras that the first one reads."""
    table, head = L.Embedding(20, 6), L.Dense(3, activation="gelu")
    head(table(np.ones((1, 2), "int32")))
    factor = tf.Variable(2.5, name="factor")
    for layer in (table, head):
        MODELS.randomise(layer)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")])
    def embed(ids):
        return {"vectors": factor * table(ids)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")])
    def classify(ids):
        return head(table(ids))

    return embed, classify, factor


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_functions_become_signatures_that_share_weights(suffix, tmp_path):
    embed, classify, factor = _functions()
    path = tmp_path / f"m.{suffix}"
    runner = write([embed, classify], path, **({"sequence_length": 4} if suffix == "tflite" else {}))
    assert set(runner.graphs) == {"embed", "classify"}
    ids = np.array([[3, 4, 19, 0]])
    assert np.abs(runner.run({"ids": ids})["vectors"] - embed(ids)["vectors"]).max() < 1e-6
    assert np.abs(runner.graphs["classify"].run({"ids": ids})["output_0"] - classify(ids)).max() < 1e-6
    assert export.verify([embed, classify], path).passed
    factor.assign(2.6)
    assert not export.verify([embed, classify], path).passed
    alone = write(classify, path, **({"sequence_length": 4} if suffix == "tflite" else {}))
    assert list(alone.graphs) == (["serving_default"] if suffix == "tflite" else ["model"])
    with pytest.raises(ValueError, match=r"input_signature: got none for the function <lambda>; accepted"):
        write(lambda x: x, path)


# ---- what is refused -------------------------------------------------------------------------------------------------


def _text_model() -> Any:
    text = keras.Input((), dtype="string", name="text")
    lookup = L.StringLookup(vocabulary=["a", "b"], name="words")
    return keras.Model(text, L.Embedding(4, 2)(lookup(text)))


def _quantised() -> Any:
    model = keras.Sequential([keras.Input((8,)), L.Dense(4, name="small")])
    model.quantize("int8")
    return model


def _with_variable() -> Any:
    class Counter(keras.layers.Layer):
        def build(self, shape):
            self.hidden = tf.Variable(np.ones(100, "float32"))

        def call(self, x):
            return x * self.hidden[0]

    x = keras.Input((3,))
    return keras.Model(x, Counter(name="counter")(x))


class Cell(keras.layers.Layer):
    """A custom recurrent cell, for which no runtime has an operator."""

    units = state_size = 5

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")

    def call(self, x, states):
        h = ops.tanh(ops.matmul(x, self.kernel) + states[0])
        return h, [h]


@pytest.mark.parametrize("length", [6, None])
def test_a_cell_of_ones_own(length, tmp_path):
    """Check a recurrent layer without an operator, which becomes a loop where its length is open."""
    x = keras.Input((length, 3), name="x")
    model = keras.Model(x, L.RNN(Cell(), return_sequences=True)(x))
    runner = write(model, tmp_path / "m.onnx")
    for steps in (6,) if length else (1, 9):
        assert_equal(runner, model, np.random.default_rng(0).normal(size=(2, steps, 3)).astype("float32"))


def _stateful() -> Any:
    return keras.Sequential([keras.Input(batch_shape=(2, 6, 3)), L.LSTM(4, stateful=True, name="memory")])


def _of_no_size() -> Any:
    x = keras.Input((None,), name="x")
    return keras.Model(x, ops.reshape(x, (-1, 1000003)))


def _singular_values() -> Any:
    x = keras.Input((3, 3))
    return keras.Model(x, ops.svd(x, compute_uv=False))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (_text_model, ValueError, r"layer 'words', a StringLookup, .*dataset\.map\(layer\)"),
        (_quantised, ValueError, r"layer 'small', quantised by Keras as int8; accepted: the model before quantize"),
        (_with_variable, export.ExportError, r"layer '.*counter' \(.*test_any_keras\.py:\d+\) reads a tf\.Variable"),
        (_stateful, ValueError, r"layer 'memory', which keeps a state from call to call; accepted: stateful=False"),
        (_of_no_size, ValueError, r"input_signature: got open sizes in \['x'\], and Keras takes none of those tried"),
        (_singular_values, export.ExportError, r"Svd has no ONNX operator: "),
        (lambda: "model", ValueError, r"model: got str; accepted: a keras\.Model, a layer, or functions"),
        (lambda: keras.Sequential([L.Dense(2)]), ValueError, r"which was not built; accepted: one that was called"),
    ],
    ids=["texts", "quantised", "variable", "stateful", "no size", "unsupported", "no model", "not built"],
)
def test_refused_in_one_line(build, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        export.to_onnx(build(), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 and str(tmp_path) not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_input_signature_that_is_none(tmp_path):
    model = MODELS.build("Subclassed, dict in and nested dict out").model
    with pytest.raises(ValueError, match=r"input_signature: got 3; accepted: input_signature=keras\.InputSpec"):
        export.to_onnx(model, tmp_path / "m.onnx", input_signature={"user": 3})
    with pytest.raises(ValueError, match=r"got x of dtype 'complex64'; accepted: \['bool'"):
        spec = tf.TensorSpec([None, 3], "complex64", "x")
        export.to_onnx(keras.layers.ReLU(), tmp_path / "m.onnx", input_signature=spec)
