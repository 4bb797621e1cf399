"""ONNX files in float16, int8 and int4: quantization compared with NumPy, and outputs compared with Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from attention_zoo import export
from attention_zoo.export.precision.accuracy import _Found
from attention_zoo.export.precision.blocks import to_blocks, to_rows
from attention_zoo.export.precision.cosine import cosines
from attention_zoo.export.precision.half import rounded
from helpers import VARIANTS, close, in_precisions, numpy, python, randomise, run, shared, tiny

SMALLER = ("fp16", "int8", "int4")


# ---- quantized arrays ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 50, 7, 96])
@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True), (8, False)])
def test_blocks_are_half_a_step_off_at_most(bits: int, symmetric: bool, width: int, rng: np.random.Generator) -> None:
    matrix = rng.normal(size=(9, width)).astype("float32")
    matrix[3], matrix[4] = 0, np.abs(matrix[4])
    found = to_blocks(matrix, bits, 32, symmetric=symmetric)
    step = np.repeat(np.abs(found.scales), 32, axis=1)[:, :width]
    # A symmetric block cannot represent one end of its range, where the error may be a whole step.
    assert (np.abs(found.numbers(width) - matrix) <= step * (1.001 if symmetric else 0.501)).all()
    assert not found.numbers(width)[3].any()
    searched = to_blocks(matrix, bits, 32, symmetric=symmetric, method="search")

    def error(blocks: Any) -> np.ndarray:  # (rows, blocks)
        padded = np.pad(blocks.numbers(width) - matrix, ((0, 0), (0, -width % 32)))
        return np.square(padded).reshape(9, -1, 32).sum(-1)

    assert (error(searched) <= error(found) * (1 + 1e-5)).all()
    assert error(searched).sum() < error(found).sum()


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True), (8, False)])
def test_packed_blocks_are_what_onnx_runtime_reads(bits: int, symmetric: bool, rng: np.random.Generator) -> None:
    """Check the order of nibbles and zero points: MatMulNBits of an identity matrix must return the weights."""
    width, rows = 96, 5
    blocks = to_blocks(rng.normal(0.3, 1, (rows, width)).astype("float32"), bits, 32, symmetric=symmetric)
    arrays = {"B": blocks.packed(), "scales": blocks.scales}
    if (zeros := blocks.packed_zeros()) is not None:
        arrays["zeros"] = zeros
    attributes = {"K": width, "N": rows, "bits": bits, "block_size": 32}
    node = onnx.helper.make_node("MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", **attributes)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", width])],
        [value("y", onnx.TensorProto.FLOAT, ["n", rows])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (found,) = session.run(None, {"x": np.eye(width, dtype="float32")})
    close(np.asarray(found).T, blocks.numbers(width), 1e-5)


def test_rows_of_8_bits_fit_into_16_on_every_processor(rng: np.random.Generator) -> None:
    """Check that no sum saturates on AVX2 without VNNI, which adds pairs of uint8 × int8 products in 16 bits."""
    matrix = rng.normal(size=(64, 95)).astype("float32")
    matrix[:, 10:12] = 4.0  # two neighbors of the largest magnitude
    values, scales = to_rows(matrix, reduce_range=True)
    assert (np.abs(values * scales[:, None] - matrix) <= scales[:, None] * 0.501).all()
    x = np.full(96, 255)
    products = np.pad(values.astype(int), ((0, 0), (0, 1))) * x
    pairs = products[:, ::2] + products[:, 1::2]
    assert np.array_equal(np.clip(pairs, -(2**15), 2**15 - 1), pairs)
    full, _ = to_rows(matrix, reduce_range=False)
    assert np.abs(full).max() == 127 and np.abs(values).max() < 127
    apart, finer = to_rows(np.where(np.arange(95) % 2, 0.01, matrix), reduce_range=True)
    assert np.abs(apart).max() > 120  # a large weight without a large neighbor keeps nearly all of its bits
    assert not to_rows(np.zeros((2, 5), "float32"), reduce_range=True)[0].any() and (finer > 0).all()


def test_float16_keeps_masks_and_epsilons() -> None:
    assert np.isfinite(rounded(np.array([-1e9, 3.4e38, 70000.0], "float32"))).all()
    assert rounded(np.array(1e-12, "float32")) > 0
    close(rounded(np.array([0.1, -2.5], "float32")), np.array([0.1, -2.5], "float16"), 0)


def test_cosines_and_divergence_against_float64(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(2, 3, 16)), rng.normal(size=(2, 3, 16))
    expected = np.einsum("...d,...d", one, other) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    close(cosines(one, other), expected, 1e-12)
    close(cosines(one + 100, one - 7, centred=True), 1, 1e-9)
    assert cosines(np.zeros((1, 16)), np.zeros((1, 16)))[0] == 1
    assert cosines(np.zeros((0, 3)), np.zeros((0, 3))).tolist() == [1]  # of a row without any token
    assert cosines(one[0, :1], np.zeros((1, 16)))[0] == 0
    found = _Found()
    found.add("logits", one, other, None)
    p, q = keras.ops.softmax(one), keras.ops.softmax(other)
    figures = found.figures()
    close(figures["divergence"], float((p * np.log(p / q)).numpy().sum(-1).mean()), 1e-5)
    assert figures["agreement"] == (one.argmax(-1) == other.argmax(-1)).mean()


# ---- files --------------------------------------------------------------------------------------------------------


def exported(model: Any, folder: Path, precision: Any, **options: Any) -> tuple[Path, Any]:
    file = folder / "m.onnx"
    return file, export.to_onnx(model, file, precision=precision, **options)


@in_precisions({"bert": ["int4"], "gpt": ["int8"], "vit": ["fp16"]})
def test_every_model_in_every_precision(family: str, variant: str, precision: str, tmp_path: Path) -> None:
    """Compare with Keras for every length, padding and cache; float16 files must be accurate to float16 precision."""
    model = shared(family, variant)
    whole = export.to_onnx(model, tmp_path / "whole.onnx")
    least = 0.8 if precision == "int4" else None
    file, result = exported(model, tmp_path, precision, least_cosine=least)
    assert result.accuracy is not None and result.precision == precision
    assert result.bytes < whole.bytes and result.rounded > 0.5
    report = export.verify(model, file, precision=precision, least_cosine=least)
    assert report.passed, report.to_markdown()
    compared = [check for check in report.checks if check.rule and not check.name.startswith("in float32")]
    assert len(compared) < sum(bool(check.rule) for check in report.checks)  # the float32 twin was compared too
    assert compared and all(check.rule == "cosine" for check in compared)
    if precision == "fp16":  # float16 has 11 significant bits, and the errors of several layers add up
        differences = sorted(check.difference or 0 for check in compared)
        routed = getattr(model.config, "num_experts", None)  # rounding may select another expert for a token
        assert differences[len(differences) // 2 if routed else -1] < 2e-2
    assert export.load(file).precision == precision
    operators = {"fp16": "Cast", "int8": "", "int4": "MatMulNBits"}[precision]
    assert not operators or any(operators in name for name in result.operators)


WAYS = {
    "float": export.Precision("int8", activations="float"),
    "static": export.Precision("int8", activations="static"),
    "whole range": export.Precision("int8", reduce_range=False),
    "int4": export.Precision("int4", block_size=16, symmetric=True, method="rtn", head="int4", embedding="fp32"),
}
# Not marked as slow: every precision for at least one model. GPT has a cache; BERT's operators show the precision.
QUICKLY = {("gpt", "static"), ("bert", "float"), ("bert", "whole range")}
ROUNDED = [("bert", "backbone"), ("gpt", "llama"), next(pair for pair in VARIANTS if pair[0] == "vit")]


@pytest.mark.parametrize(
    ("family", "variant", "precision"),
    [
        pytest.param(
            *pair,
            precision,
            id="-".join((*pair, way)),
            marks=[] if (pair[0], way) in QUICKLY else [pytest.mark.slow],
        )
        for pair in ROUNDED
        for way, precision in WAYS.items()
    ],
)
def test_ways_of_rounding(family: str, variant: str, precision: Any, tmp_path: Path) -> None:
    model = shared(family, variant)
    file, result = exported(model, tmp_path, precision, least_cosine=0.8)
    assert export.verify(model, file).passed
    names = {name.rpartition(".")[2] for name in result.operators}
    expected = {"float": "MatMulNBits", "static": "DequantizeLinear", None: "MatMulInteger"}[precision.activations]
    if family != "gpt" or precision.activations:
        assert (expected if precision.name == "int8" else "MatMulNBits") in names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4", "int8"])
def test_standard_operators_compute_the_same(name: str, tmp_path: Path) -> None:
    model = shared("gpt", "llama")
    precision = export.Precision(name, activations="float" if name == "int8" else None)
    files = {}
    for target in ("standard", None):
        files[target] = tmp_path / f"{target}.onnx"
        export.to_onnx(model, files[target], precision=precision, target=target, least_cosine=0.8)
    domains = {node.domain for node in onnx.load(str(files["standard"])).graph.node}
    assert domains == {""}
    ids = np.arange(1, 12)[None]
    one, other = (export.load(file).run({"input_ids": ids})["logits"] for file in files.values())
    assert cosines(one, other).min() > 0.999  # ONNX Runtime's own operators also quantize activations to 8 bits


@pytest.mark.slow
def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    model = tiny("gpt", "llama", vocab_size=4000, tie_embeddings=True)
    table = 4000 * model.config.hidden_dim
    for name in ("int8", "int4"):
        file, result = exported(model, tmp_path, name, least_cosine=0.5)
        large = [t for t in onnx.load(str(file)).graph.initializer if np.prod(t.dims) >= table]
        assert len(large) == 1, [t.name for t in large]
        assert result.bytes < 2.2 * table
        assert export.verify(model, file).passed


@pytest.mark.runs_with("bert-backbone")
def test_weights_that_are_kept(tmp_path: Path) -> None:
    model = shared("bert", "backbone")
    file, _ = exported(model, tmp_path, export.Precision("int8", keep=("*/down/kernel",)))
    kept = {t.name for t in onnx.load(str(file)).graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert {f"block_{i}/feedforward/down/kernel" for i in range(model.config.num_layers)} <= kept
    assert "block_0/feedforward/up/kernel" not in kept


def test_the_same_bytes_again(tmp_path: Path) -> None:
    contents = []
    for i in range(2):
        file, _ = exported(tiny("gpt", "llama"), tmp_path, "int4", least_cosine=0.5)
        contents.append(file.read_bytes())
        keras.backend.clear_session() if i else None
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_unequal_prompts_as_each_alone(tmp_path: Path) -> None:
    model = shared("gpt", "llama")
    prompts = [[5, 6, 7, 8, 9], [11, 12], [3]]
    width = 5
    ids = np.array([[0] * (width - len(p)) + p for p in prompts])
    mask = np.array([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_tokens": []}
    for name in ("fp16", "int8", "int4"):
        runner = export.load(exported(model, tmp_path, name, least_cosine=0.5)[0])
        together = runner.generate(ids, mask, **options)[:, -12:]
        alone = [runner.generate([prompt], **options)[0, -12:] for prompt in prompts]
        assert np.array_equal(together, alone), name
        if name == "fp16":
            expected = keras.ops.convert_to_numpy(model.generate(ids, mask, **options))[:, -12:]
            assert np.array_equal(together, expected)
            cache = next(s for s in runner.signature.inputs if s.name == "past_key_values.0.key")
            assert cache.dtype == "float16"


def test_without_tensorflow_or_keras(tmp_path: Path) -> None:
    model = shared("bert", "backbone")
    file, _ = exported(model, tmp_path, "int8")
    code = """
import sys, json
from attention_zoo import export
runner = export.load(sys.argv[1])
length = runner.run({"input_ids": [[1, 2, 3]]})["last_hidden_state"].shape[1]
print(json.dumps([runner.precision, length, sorted({"keras", "tensorflow"} & set(sys.modules))]))
"""
    assert json.loads(python(code, file)) == ["int8", 3, []]


@pytest.mark.slow
def test_other_keras_models(tmp_path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dense(64, activation="gelu")(keras.layers.Flatten()(x))
    model = randomise(keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x)), spread=0.05)
    for variable in model.weights:
        if variable.path.endswith("variance"):
            variable.assign(np.abs(variable.numpy()) + 0.5)
    for name in (*SMALLER, export.Precision("int8", activations="static")):
        file, result = exported(model, tmp_path, name)
        assert result.accuracy is not None and result.accuracy.divergence is not None
        assert export.verify(model, file).passed


# ---- what is refused ----------------------------------------------------------------------------------------------


def outlying(seed: int = 0) -> Any:
    """Return a model whose activations have one channel 300 times as large as the others, as in language models.

    With 8 bits and one range for all channels, the values of the other channels are lost.
    """
    model = tiny("gpt", "llama", seed=seed)
    weights = {weight.path.partition("/")[2]: weight for weight in model.weights}
    for i in range(model.config.num_layers):
        scaled = {f"block_{i}/attention_norm/scale": 300.0}
        scaled |= {f"block_{i}/attention/{layer}/kernel": 1 / 300 for layer in ("query", "key", "value")}
        for name, factor in scaled.items():
            value = weights[name].numpy()
            value[0] *= factor
            weights[name].assign(value)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_recurrent_kernels(precision: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Compare with Keras after its kernels were quantized to 8 bits, per output; nothing else may change."""
    layer = keras.layers
    words = keras.Input((None,), dtype="int32")
    x = layer.Embedding(20, 24)(words)
    x = layer.Bidirectional(layer.LSTM(40, return_sequences=True))(x)
    x = layer.GRU(48, return_sequences=True)(x)
    model = keras.Model(words, layer.SimpleRNN(16)(x))
    randomise(model)
    file, result = exported(model, tmp_path, precision)
    assert result.rounded > 0.95 and result.bytes < 0.6 * result.weight_bytes
    for weight in model.weights:
        if weight.path.endswith("kernel"):
            weight.assign(eight_bits(numpy(weight)))
    ids = rng.integers(0, 20, (3, 7)).astype("int32")
    close(next(iter(export.load(file).run(ids).values())), numpy(model(ids)), atol=2e-6)
    stored = {entry.name for entry in onnx.load(file).graph.initializer}
    assert not any(name.endswith("kernel") for name in stored) and any(name.endswith("kernel_scale") for name in stored)
    kept = export.Precision(precision, keep=("*recurrent_kernel",))
    export.to_onnx(model, tmp_path / "kept.onnx", precision=kept)
    stored = {entry.name for entry in onnx.load(tmp_path / "kept.onnx").graph.initializer}
    assert sum(name.endswith("recurrent_kernel") for name in stored) == 4


def eight_bits(kernel: np.ndarray) -> np.ndarray:
    scale = np.abs(kernel).max(0) / np.float32(127)
    return np.rint(kernel / scale) * scale


def test_what_is_too_far_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    model = outlying()
    file = tmp_path / "m.onnx"
    poor = export.Precision("int8", activations="dynamic")
    with pytest.raises(export.AccuracyError, match=r"cosine with float32 0\.\d+.*accepted: a cosine of 0\.97") as error:
        export.to_onnx(model, file, precision=poor)
    assert "int8" in str(error.value) and not list(tmp_path.iterdir())
    taken = export.to_onnx(model, file, precision=poor, least_cosine=0)
    assert taken.accuracy is not None and taken.accuracy.cosine < 0.97
    kept = export.Precision("int8", keep=[f"*/attention/{layer}/kernel" for layer in ("query", "key", "value")])
    assert export.to_onnx(model, file, precision=kept).accuracy.cosine > 0.995  # pyright: ignore


def test_verify_finds_another_scale(tmp_path: Path) -> None:
    model = shared("bert", "backbone")
    file, _ = exported(model, tmp_path, "int8")
    proto = onnx.load(str(file))
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("block_0/attention/value/kernel_scale"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[::2] *= -1
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, str(file))
    failed = {check.name: check for check in export.verify(model, file).checks if not check.passed}
    assert any(check.rule == "cosine" for check in failed.values())
    assert "block_0/attention/value/kernel, row 0: weight" in failed["weights"].detail


def test_a_metric_and_samples_of_ones_own(tmp_path: Path) -> None:
    model = shared("bert", "backbone")
    asked = []

    def metric(runner: Any) -> float:
        asked.append(runner.precision)
        return float(runner.run({"input_ids": [[1, 2, 3]]})["last_hidden_state"][0, 0, 0])

    samples = [{"input_ids": np.arange(1, 9)[None]}, {"input_ids": np.arange(3, 7)[None]}]
    _, result = exported(model, tmp_path, "int8", samples=samples, metric=metric)
    assert asked == ["fp32", "int8"]
    expected = run(model, {"input_ids": np.array([[1, 2, 3]])})["last_hidden_state"][0, 0, 0]
    assert result.accuracy.metric_float32 == pytest.approx(float(expected), abs=1e-4)
    assert "2 batches" in result.accuracy.samples
    assert "metric" in result.to_markdown() and json.loads(result.to_json())["accuracy"]["metric"] is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int7"}, "precision: got 'int7'; accepted: fp32, fp16, int8, int4"),
        ({"precision": 8}, "precision: got 8"),
        ({"precision": "int8", "target": "tensorflow"}, "target: got 'tensorflow'"),
        ({"precision": "int8", "least_cosine": 2}, "least_cosine: got 2"),
        ({"precision": "int8", "samples": ["a text"]}, "samples: got texts for a model without a tokenizer"),
        ({"precision": "int8", "samples": []}, "samples: got"),
        ({"precision": "int8", "samples": [{"input_id": [[1]]}]}, "input_id"),
        ({"samples": ["a text"]}, "samples: got one for 'fp32'"),
        ({"metric": len}, "metric: got one for 'fp32'"),
    ],
)
def test_wrong_arguments_of_a_precision(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got") as error:
        export.to_onnx(shared("bert", "backbone"), tmp_path / "m.onnx", **options)
    assert said in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "int8", "block_size": 33}, "precision.block_size: got 33"),
        ({"name": "int4", "method": "awq"}, "precision.method: got 'awq'"),
        ({"name": "int4", "activations": "dynamic"}, "precision.activations: got 'dynamic' for int4"),
        ({"name": "fp16", "block_size": 32}, "precision.block_size: got 32 for fp16"),
        ({"name": "int8", "keep": "*/kernel"}, "precision.keep: got '*/kernel'"),
        ({"name": "int8", "symmetric": 1}, "precision.symmetric: got 1"),
    ],
)
def test_wrong_precisions(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="precision") as error:
        export.Precision(**fields)
    assert said in str(error.value)
