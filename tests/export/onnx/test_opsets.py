"""ONNX files of every opset: what they compute, which operators they have, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers, ops

from attention_zoo import export
from attention_zoo.cli import main
from helpers import VARIANTS, close, every_variant, randomise, shared, tiny

IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
NEW = {"Gelu": 20, "Attention": 23, "RMSNormalization": 23, "RotaryEmbedding": 23}  # by the release notes of ONNX


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


@every_variant(slow={*VARIANTS} - {("gpt", "llama")})
def test_every_variant_in_every_opset(family: str, variant: str, tmp_path: Path) -> None:
    """Check the files by ONNX's own checker, and that all opsets give the same results; the export compares with
    Keras."""
    model = shared(family, variant)
    found = {}
    for opset in (17, 20, 23) if (family, variant) == ("gpt", "llama") else (17, 18, 19, 20, 21, 22, 23):
        path = tmp_path / f"{opset}.onnx"
        result = export.to_onnx(model, path, opset=opset)
        assert (result.opset, result.ir_version) == (opset, IR_VERSIONS[opset])
        for file in result.files:
            proto = onnx.load(file)
            assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
            assert proto.ir_version == IR_VERSIONS[opset]
            onnx.checker.check_model(proto, full_check=True)
            assert not {kind for kind in kinds(file) if NEW.get(kind, 0) > opset}
        runner: Any = export.load(path)
        main_graph = runner.graphs[runner.layout.main]
        found[opset] = runner.run(export_inputs(main_graph.signature))
    for outputs in found.values():
        for name, value in outputs.items():
            close(value, found[23][name], atol=2e-5, what=name)
    assert export.to_onnx(model, tmp_path / "default.onnx").opset == 17


def export_inputs(signature: Any) -> dict[str, np.ndarray]:
    from attention_zoo.runtime.inputs import example_inputs

    sizes = {**signature.defaults, **signature.examples, "batch": 2, "past_sequence": 0}
    dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)} - {*sizes}
    lengths = {dim: 16 if dim in ("height", "width") else 5 for dim in dims}
    return example_inputs(signature, {**lengths, **sizes}, padding="left")


@pytest.mark.slow
def test_the_newest_operators_in_the_newest_opset(tmp_path: Path) -> None:
    model = shared("gpt", "llama")
    for opset, expected in ((17, set()), (20, set()), (23, {"Attention", "RMSNormalization", "RotaryEmbedding"})):
        export.to_onnx(model, tmp_path / "m.onnx", opset=opset)
        assert {*kinds(tmp_path / "m.onnx")} & {*NEW} == expected
    bert = shared("bert", "backbone")
    for opset, expected in ((19, set()), (20, {"Gelu"}), (23, {"Gelu", "Attention"})):
        export.to_onnx(bert, tmp_path / "m.onnx", opset=opset)
        assert {*kinds(tmp_path / "m.onnx")} & {*NEW} == expected


def fused(path: Path, tmp_path: Path) -> list[str]:
    """Return the operators of the graph that ONNX Runtime makes of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return kinds(tmp_path / "optimized.onnx")


@pytest.mark.slow
def test_onnxruntime_recognizes_composed_forms(tmp_path: Path) -> None:
    """GELU of both kinds, RMS normalization, and the scale and the transpose of attention become ONNX Runtime's own."""
    path = tmp_path / "m.onnx"
    for pair, expected in {
        ("bert", "backbone"): {"Gelu": 2, "FusedMatMul": 2},
        ("gpt", "gpt2"): {"FastGelu": 2, "FusedMatMul": 2},
        ("gpt", "llama"): {"SimplifiedLayerNormalization": 5, "FusedMatMul": 2},
    }.items():
        export.to_onnx(shared(*pair), path, opset=17)
        found = fused(path, tmp_path)
        gelus = found.count("Gelu") + found.count("BiasGelu") if pair[0] == "bert" else 0
        counts = {kind: found.count(kind) for kind in expected}
        skips = found.count("SkipSimplifiedLayerNormalization")
        counts |= {"Gelu": gelus} if "Gelu" in expected else {}
        counts |= {"SimplifiedLayerNormalization": counts["SimplifiedLayerNormalization"] + skips} if skips else {}
        assert all(counts[kind] >= number for kind, number in expected.items()), (pair, counts, found)


def test_the_lowest_opset_that_suffices(tmp_path: Path) -> None:
    x, y = keras.Input((4,), dtype="int32", name="x"), keras.Input((4,), dtype="int32", name="y")
    model = keras.Model([x, y], ops.bitwise_and(x, y))
    result = export.to_onnx(model, tmp_path / "m.onnx")
    assert (result.opset, result.least_runtime) == (18, "1.14")
    assert "| opset | 18, IR 8: ONNX Runtime 1.14 or later |" in result.to_markdown()
    message = r"opset: got 17 for a model whose BitwiseAnd needs 18: layer .*accepted: 18 to 23, or None"
    with pytest.raises(ValueError, match=message):
        export.to_onnx(model, tmp_path / "n.onnx", opset=17)
    assert not (tmp_path / "n.onnx").exists()


def test_blocks_of_weights_in_standard_operators(tmp_path: Path) -> None:
    model = shared("gpt", "llama")
    result = export.to_onnx(model, tmp_path / "m.onnx", precision="int4", target="standard", least_cosine=0)
    assert result.opset == 21 and "DequantizeLinear" in kinds(result.path)
    with pytest.raises(ValueError, match=r"opset: got 17 for 'int4' in standard operators.*accepted: 21 to 23"):
        export.to_onnx(model, tmp_path / "n.onnx", precision="int4", target="standard", opset=17)
    assert export.to_onnx(model, tmp_path / "m.onnx", precision="int4", least_cosine=0).opset == 17


def test_the_opset_of_the_runtime_s_own_decoder(tmp_path: Path) -> None:
    model = tiny("gpt", "llama", head_dim=16)
    assert export.to_onnx(model, tmp_path / "m.onnx", target="onnxruntime").opset == 23
    message = "opset: got 17 for a decoder with target='onnxruntime', which is written in 23; accepted: 23, None"
    with pytest.raises(ValueError, match=message):
        export.to_onnx(model, tmp_path / "n.onnx", target="onnxruntime", opset=17)


def test_what_the_target_rejects_is_a_warning(tmp_path: Path) -> None:
    sizes = {"batch": 1, "sequence": 8}
    found = export.to_onnx(shared("bert", "backbone"), tmp_path / "m.onnx", target="rknn", static_shapes=sizes)
    assert not found.warnings and export.check(tmp_path / "m.onnx", "rknn").passed
    model = shared("bert", "sentence_max")
    (warning,) = export.to_onnx(model, tmp_path / "m.onnx", target="mnn").warnings
    assert warning.startswith("mnn rejects: IsNaN 1: ") and "does not know" in warning


def test_a_table_that_is_shorter_than_its_cut(tmp_path: Path) -> None:
    """The first rows of a table are as many as the tokens only if the table has a row for each of them."""

    class Rows(layers.Layer):
        def build(self, _: Any) -> None:
            self.table = self.add_weight(shape=(4, 3))

        def call(self, x: Any) -> Any:
            return ops.sum(x, axis=(1, 2), keepdims=True) + self.table[: ops.shape(x)[1]]

    x = keras.Input((None, 2), name="x")
    model = randomise(keras.Model(x, ops.sum(Rows()(x), axis=1)))
    path = tmp_path / "m.onnx"
    export.to_onnx(model, path)
    shapes = [value.type.tensor_type.shape.dim for value in onnx.load(path).graph.value_info]
    cut = [
        shape[0] for shape in shapes if len(shape) == 2 and shape[1].dim_value == 3 and shape[0].dim_param != "batch"
    ]
    assert cut and not any(dim.dim_param for dim in cut)
    for length in (2, 4, 7):
        values = np.random.default_rng(length).normal(size=(2, length, 2)).astype("float32")
        (found,) = export.load(path).run({"x": values}).values()
        close(found, model(values))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 16}, "opset: got 16; accepted: an integer from 17 to 23, or None"),
        ({"opset": 24}, "opset: got 24"),
        ({"opset": "17"}, "opset: got '17'"),
        ({"opset": True}, "opset: got True"),
        ({"target": "tensorflow"}, "target: got 'tensorflow'; .*accepted: .*'openvino'"),
        ({"target": "rknn", "opset": 20}, "opset: got 20, and rknn reads opsets up to 19; accepted: 17 to 19"),
        ({"target": "rknn"}, "target: got 'rknn', which needs fixed sizes, for open batch, sequence.*static_shapes"),
        ({"static_shapes": {}}, "static_shapes: got"),
        ({"static_shapes": {"batch": 0}}, "static_shapes: got"),
        ({"static_shapes": {"rows": 2}}, "static_shapes: rows: not a dimension of this model; accepted: .*'sequence'"),
        ({"static_shapes": {"sequence": 10_000}}, "static_shapes: sequence: got sequence of 10000; accepted: at most"),
        ({"index_dtype": "int16"}, "index_dtype: got 'int16'"),
        ({"custom_metadata": {"attention_zoo.family": "x"}}, "custom_metadata: got"),
        ({"custom_metadata": {"a": 1}}, "custom_metadata: got"),
        ({"data_format": "channels_first"}, "data_format: got 'channels_first' for a bert"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        export.to_onnx(shared("bert", "backbone"), tmp_path / "m.onnx", **options)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_static_shapes(tmp_path: Path) -> None:
    model, path = shared("bert", "sequence_classification"), tmp_path / "m.onnx"
    export.to_onnx(model, path, static_shapes={"batch": 2, "sequence": 8}, index_dtype="int32")
    graph = onnx.load(path).graph
    for value in (*graph.input, *graph.output):
        assert all(dim.dim_value for dim in value.type.tensor_type.shape.dim), value.name
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.INT32}
    assert "Shape" not in kinds(path), "sizes are numbers"
    assert export.verify(model, path).passed
    message = r"static_shapes: got \['batch'\] for a decoder with a key/value cache; accepted: all of .*'past_sequence'"
    with pytest.raises(ValueError, match=message):
        export.to_onnx(shared("gpt", "llama"), path, static_shapes={"batch": 1})
    with pytest.raises(ValueError, match="static_shapes: got sizes for a key/value cache that has an encoder"):
        export.to_onnx(shared("transformer", "original"), path, static_shapes={"batch": 1})
    export.to_onnx(shared("gpt", "llama"), path, cache=False, static_shapes={"batch": 1, "sequence": 8})
    assert export.verify(shared("gpt", "llama"), path).passed


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "precision"), [("llama", "fp32"), ("alibi", "int8"), ("gpt2", "fp16")])
def test_a_cache_of_fixed_size(variant: str, precision: str, tmp_path: Path) -> None:
    """Prompts of unequal lengths, padded on either side, and beams give what Keras gives, up to the last slot."""
    model, path = shared("gpt", variant), tmp_path / "m.onnx"
    rng = np.random.default_rng(0)
    for new in (1, 3):
        sizes = {"batch": 4, "sequence": new, "past_sequence": 12 * new}
        export.to_onnx(
            model, path, static_shapes=sizes, precision=precision, least_cosine=None if precision == "fp32" else 0
        )
        graph = onnx.load(path).graph
        assert all(d.dim_value for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim)
        assert "Shape" not in kinds(path)
        assert export.verify(model, path).passed
        runner = export.load(path)
        ids = rng.integers(1, model.config.vocab_size, (2, 6))
        for mask in ([[1] * 6, [0, 0, 1, 1, 1, 1]], [[1] * 6, [1, 1, 1, 1, 0, 0]]):
            for options in ({}, {"num_beams": 2}) if precision == "fp32" else ():
                given = {"max_new_tokens": 7, "stop_tokens": [], **options}
                expected = model.generate(ids, np.array(mask), **given)
                np.testing.assert_array_equal(runner.generate(ids, np.array(mask), **given), expected)
        with pytest.raises(ValueError, match="input_ids: got 5 rows; accepted: at most 4, as exported"):
            runner.generate(np.ones((5, 2), int), max_new_tokens=2)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras_file, path = tmp_path / "m.keras", tmp_path / "m.onnx"
    image = keras.Input((None, None, 3), name="image")
    randomise(keras.Model(image, layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(image)))).save(keras_file)
    words = ["--opset", "19", "--static-shape", "height=16", "--static-shape", "width=12", "--static-shape", "batch=1"]
    words += ["--data-format", "channels_first", "--metadata", "stage=test"]
    with pytest.raises(SystemExit) as ended:
        main(["export", str(keras_file), str(path), *words])
    assert ended.value.code == 0, capsys.readouterr()
    proto = onnx.load(path)
    assert [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 12]
    assert proto.opset_import[0].version == 19
    assert {entry.key: entry.value for entry in proto.metadata_props}["stage"] == "test"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["info", str(path)])
    shown = capsys.readouterr().out
    assert "19, IR 9" in shown and "1.15" in shown
    with pytest.raises(SystemExit) as ended:
        main(["export", str(keras_file), str(path), "--static-shape", "height"])
    assert ended.value.code == 2 and "static_shape: got 'height'" in capsys.readouterr().err


def test_channels_first_for_any_keras_model(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    model = randomise(keras.Model(image, layers.GlobalAveragePooling2D()(x)))
    path = tmp_path / "m.onnx"
    export.to_onnx(model, path, data_format="channels_first")
    values = np.random.default_rng(0).normal(size=(2, 12, 9, 3)).astype("float32")
    (found,) = export.load(path).run({"image": values.transpose(0, 3, 1, 2)}).values()
    close(found, model(values))
    assert export.verify(model, path).passed
    assert kinds(path).count("Transpose") <= 1, "no transpose of the image is left"
    rows = keras.Input((4,))
    with pytest.raises(ValueError, match=r"data_format: got 'channels_first' for .*, which takes no"):
        export.to_onnx(keras.Model(rows, layers.Dense(2)(rows)), path, data_format="channels_first")


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: layers.LSTM(4), id="lstm"),
        pytest.param(lambda: layers.LSTM(4, return_sequences=True, return_state=True), id="lstm with its state"),
        pytest.param(lambda: layers.GRU(4, return_sequences=True, return_state=True), id="gru"),
        pytest.param(lambda: layers.SimpleRNN(4, return_sequences=True), id="rnn"),
        pytest.param(lambda: layers.GRU(4, go_backwards=True), id="gru backwards"),
        pytest.param(lambda: layers.LSTM(4, zero_output_for_mask=True), id="lstm with zeros"),
        pytest.param(lambda: layers.GRU(4, zero_output_for_mask=True, go_backwards=True), id="gru with zeros"),
        pytest.param(lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)), id="both directions"),
    ],
)
def test_masked_recurrent_layers_without_lengths(layer: Callable[[], Any], tmp_path: Path) -> None:
    """Gaps, padding on either side and rows without a token, in ONNX Runtime and in ONNX's own evaluator, which ignores
    lengths."""
    from onnx.reference import ReferenceEvaluator

    x = keras.Input((None, 3), name="x")
    model = randomise(keras.Model(x, layer()(layers.Masking()(x))), spread=0.7)
    path = tmp_path / "m.onnx"
    export.to_onnx(model, path)
    for node in onnx.load(path).graph.node:
        if node.op_type in ("LSTM", "GRU", "RNN"):
            assert len(node.input) < 5 or not node.input[4]
    values = np.random.default_rng(0).normal(0, 3, size=(5, 6, 3)).astype("float32")
    values[0, 4:] = values[1, :3] = values[2, 2:4] = values[3] = 0.0
    expected = keras.tree.flatten(model(values))
    outputs = list(export.load(path).run({"x": values}).values())
    reference: Any = ReferenceEvaluator(onnx.load(path)).run(None, {"x": values})
    for kept, ours, theirs in zip(expected, outputs, reference, strict=True):
        close(ours, kept, atol=2e-6)
        close(theirs, kept, atol=2e-6)


@pytest.mark.slow
def test_a_changed_recurrent_kernel_is_found(tmp_path: Path) -> None:
    """Kernels are stored in ONNX's layout; a file whose kernel has other values or another order does not pass."""
    x = keras.Input((6, 3), name="x")
    model = randomise(keras.Model(x, layers.Conv1D(5, 3)(layers.GRU(4, return_sequences=True, name="gru")(x))))
    path = tmp_path / "m.onnx"
    export.to_onnx(model, path)
    proto = onnx.load(path)
    stored = {entry.name: entry for entry in proto.graph.initializer}
    kernels = [name for name in stored if name.endswith("kernel")]
    assert len(kernels) == 3 and list(stored["gru/gru_cell/kernel"].dims) == [1, 12, 3]
    assert all(check.passed for check in export.verify(model, path).checks)
    for name in kernels:
        array = onnx.numpy_helper.to_array(stored[name]).copy()
        array.reshape(-1)[0] *= 1.001
        changed = onnx.load(path)
        entry = next(entry for entry in changed.graph.initializer if entry.name == name)
        entry.CopyFrom(onnx.numpy_helper.from_array(array, name))
        onnx.save(changed, tmp_path / "changed.onnx")
        checks = {check.name: check for check in export.verify(model, tmp_path / "changed.onnx").checks}
        assert not checks["weights"].passed and name in checks["weights"].detail


def test_tied_tables_are_not_stored_twice(tmp_path: Path) -> None:
    model = tiny("gpt", "gpt2", vocab_size=2000)
    result = export.to_onnx(model, tmp_path / "m.onnx")
    assert result.bytes < 1.1 * result.weight_bytes


def convolutions() -> Any:
    image = keras.Input((None, None, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(image)))
    y = layers.Activation("swish")(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.Add()([x, layers.Conv2D(6, 1)(y)])
    x = layers.Concatenate()([x, layers.ZeroPadding2D(((1, 0), (0, 1)))(layers.Conv2D(4, 2)(x))])
    squeezed = layers.Conv2D(10, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = randomise(keras.Model(image, layers.Conv2D(5, 3)(layers.Multiply()([x, squeezed]))))
    for variance in (weight for weight in model.weights if weight.path.endswith("moving_variance")):
        variance.assign(np.random.default_rng(1).uniform(0.5, 2.0, variance.shape))
    return model


def test_transposes_cancel(tmp_path: Path) -> None:
    """The image and the result are transposed, and nothing between them; biases belong to the convolutions."""
    model, path = convolutions(), tmp_path / "m.onnx"
    export.to_onnx(model, path)
    found = kinds(path)
    assert found.count("Transpose") == 2 and found.count("Conv") == 6
    assert found.count("Add") == 1, "that of the two branches"
    values = np.random.default_rng(0).normal(size=(2, 13, 10, 3)).astype("float32")
    (ours,) = export.load(path).run({"image": values}).values()
    close(ours, model(values), atol=2e-5)


@pytest.mark.slow
def test_a_bias_behind_the_last_convolution(tmp_path: Path) -> None:
    """The sum is an output; and a convolution that is an output itself does not get the bias."""
    image = keras.Input((9, 7, 3), name="image")
    for name, result in (
        ("alone", layers.DepthwiseConv2D(3)(image)),
        ("transposed", layers.Conv2DTranspose(2, 3, strides=2, padding="same")(image)),
    ):
        model = randomise(keras.Model(image, result))
        export.to_onnx(model, tmp_path / f"{name}.onnx", static_shapes={"batch": 2})
        assert export.verify(model, tmp_path / f"{name}.onnx").passed

    class Added(layers.Layer):
        def build(self, _: Any) -> None:
            self.bias = self.add_weight(shape=(4,), initializer="ones")

        def call(self, x: Any) -> Any:
            return x + self.bias

    first = layers.Permute((3, 1, 2))(image)
    plain = layers.Conv2D(4, 3, use_bias=False, data_format="channels_first")(first)
    model = randomise(keras.Model(image, [plain, Added()(layers.Permute((2, 3, 1))(plain))]))
    export.to_onnx(model, tmp_path / "both.onnx")
    assert export.verify(model, tmp_path / "both.onnx").passed


def test_masked_steps_of_any_value(tmp_path: Path) -> None:
    x, keep = keras.Input((6, 3), name="x"), keras.Input((6,), dtype="bool", name="keep")
    for layer in (layers.LSTM(4, return_sequences=True), layers.GRU(4), layers.SimpleRNN(4)):
        model = randomise(keras.Model([x, keep], layer(x, mask=keep)))
        export.to_onnx(model, tmp_path / "m.onnx")
        values = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")
        kept = np.array([[1, 1, 1, 0, 1, 0], [0, 0, 1, 1, 1, 1]], bool)
        (expected,) = export.load(tmp_path / "m.onnx").run({"x": values, "keep": kept}).values()
        values[~kept] = [np.nan, np.inf, -np.inf]
        (found,) = export.load(tmp_path / "m.onnx").run({"x": values, "keep": kept}).values()
        np.testing.assert_array_equal(found, expected)
        close(found, model([values, kept]))


def test_a_padding_between_two_layouts(tmp_path: Path) -> None:
    image = keras.Input((8, 6, 3), name="image")
    y = layers.Conv2D(4, 3, padding="same")(image)
    x = layers.Permute((3, 1, 2))(layers.ReLU()(y))
    x = layers.ZeroPadding2D(((1, 2), (3, 0)), data_format="channels_first")(x)
    model = randomise(keras.Model(image, [layers.Permute((2, 3, 1))(x), layers.Conv2D(4, 3)(y)]))
    export.to_onnx(model, tmp_path / "m.onnx")
    assert export.verify(model, tmp_path / "m.onnx").passed


def test_padding_is_stated_where_it_is_known(tmp_path: Path) -> None:
    image = keras.Input((15, 12, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    model = randomise(keras.Model(image, layers.Conv2D(4, (4, 2), padding="same", dilation_rate=2)(x)))
    export.to_onnx(model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert not [node.name for node in graph.node for attribute in node.attribute if attribute.name == "auto_pad"]
    assert export.verify(model, tmp_path / "m.onnx").passed


@every_variant(slow={*VARIANTS} - {("gpt", "llama"), ("vit", "features")})
def test_stored_shapes_are_those_of_the_values(family: str, variant: str, tmp_path: Path) -> None:
    """Make every value an output, and compare its shape with the one that the file states."""
    import onnxruntime

    path = tmp_path / "m.onnx"
    for opset in (17, 23):
        result = export.to_onnx(shared(family, variant), path, opset=opset)
        for file in result.files:
            proto = onnx.load(file)
            stated = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
            values = {name for node in proto.graph.node for name in node.output if name}
            assert values <= {*stated}, "a value without a shape"
            proto.graph.output.extend(stated[name] for name in values - {value.name for value in proto.graph.output})
            session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
            runner: Any = export.load(path)
            given = {value.name for value in proto.graph.input}
            graph = next(one for one in runner.graphs.values() if given == {*one.dtypes})
            feeds = graph.feeds(graph.complete(export_inputs(graph.signature)))
            sizes: dict[str, int] = {}
            for value in proto.graph.input:
                dims = value.type.tensor_type.shape.dim
                sizes |= {d.dim_param: n for d, n in zip(dims, feeds[value.name].shape, strict=True) if d.dim_param}
            names = [value.name for value in session.get_outputs()]
            for name, array in zip(names, session.run(names, feeds), strict=True):
                dims = [dim.dim_value or dim.dim_param for dim in stated[name].type.tensor_type.shape.dim]
                known = [sizes.get(dim) if isinstance(dim, str) else dim for dim in dims]
                pairs = zip(known, array.shape, strict=True)
                assert all(size in (None, real) for size, real in pairs), (name, dims, array.shape)
