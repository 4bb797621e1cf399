"""TFLite files in float16, int8 and int4: weights compared with NumPy, and outputs compared with Keras."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.export.command import export_as
from attention_zoo.export.precision.tflite.blocks import INT4
from attention_zoo.export.precision.tflite.weights import keras_names, weights_of
from attention_zoo.export.verification.any_keras import example_sizes
from attention_zoo.runtime.inputs import example_inputs
from attention_zoo.runtime.tflite.flatbuffer import packed, share_buffers, unpacked
from helpers import (
    VARIANTS,
    close,
    in_precisions,
    numpy,
    python,
    randomise,
    run,
    shared,
    tiny,
)

SMALLER = ("fp16", "int8", "int4")
INT8, FLOAT16 = 9, 1  # of ``schema.TensorType``
CACHE: dict[str, Any] = {"prefill": [4], "max_length": 24}


def exported(model: Any, folder: Path, precision: Any, **options: Any) -> tuple[Path, Any]:
    file = folder / "m.tflite"
    return file, export.to_tflite(model, file, precision=precision, **options)


def stored(file: Path) -> Any:
    return unpacked(bytearray(file.read_bytes()))


def dequantized(model: Any, graph: Any, tensor: Any) -> np.ndarray:
    """Return the values of a constant in float32, dequantized according to the TFLite schema."""
    data, shape = np.asarray(model.buffers[tensor.buffer].data, "uint8"), list(tensor.shape)
    if tensor.type == FLOAT16:
        return data.view("float16").reshape(shape).astype("float32")
    if tensor.type == INT8:
        scales = np.asarray(tensor.quantization.scale, "float32").reshape(-1, *[1] * (len(shape) - 1))
        return data.view("int8").reshape(shape) * scales
    assert tensor.type == INT4
    nibbles = np.stack([data & 15, data >> 4], axis=1).ravel().astype("int8")
    numbers = np.where(nibbles > 7, nibbles - 16, nibbles)[: np.prod(shape)].reshape(shape)
    details = tensor.quantization.details
    scales = np.asarray(model.buffers[graph.tensors[details.scales].buffer].data, "uint8").view("float16")
    assert (scales > 0).all()  # XNNPACK accepts only positive scales
    return numbers * np.repeat(scales.astype("float32").reshape(shape[0], -1), details.blockSize, axis=1)


def smaller_weights(file: Path) -> dict[str, tuple[int, np.ndarray]]:
    """Return type and dequantized values of the weights in reduced precision, by name."""
    model = stored(file)
    return {
        tensor.name.decode(): (tensor.type, dequantized(model, graph, tensor))
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type in (INT4, INT8, FLOAT16)
        and model.buffers[tensor.buffer].data is not None
        and not tensor.name.endswith(b"_scales")
    }


# ---- every model --------------------------------------------------------------------------------------------------


@in_precisions({"gpt": ["int4"], "vit": ["fp16"]})
def test_every_model_in_every_precision(family: str, variant: str, precision: str, tmp_path: Path) -> None:
    """Compare every signature with Keras, with a key/value cache if the model has one."""
    model = shared(family, variant)
    near_keras(model, precision, tmp_path, CACHE if family == "gpt" and model.generates else {})


@in_precisions({})
def test_every_model_that_generates_without_its_cache(
    family: str, variant: str, precision: str, tmp_path: Path
) -> None:
    model = shared(family, variant)
    if not model.generates:
        pytest.skip("it has none")
    near_keras(model, precision, tmp_path, {"cache": False})


def near_keras(model: Any, precision: str, folder: Path, options: dict[str, Any]) -> None:
    whole = export.to_tflite(model, folder / "whole.tflite", **options)
    least = 0.8 if precision == "int4" else None
    file, result = exported(model, folder, precision, least_cosine=least, **options)
    assert result.accuracy is not None and result.precision == precision
    # Weights inside loops, as in recurrent layers, stay in float32.
    assert result.bytes < whole.bytes and result.rounded > (0.2 if model.family == "seq2seq" else 0.5)
    report = export.verify(model, file, precision=precision, least_cosine=least)
    failed = {check.rule for check in report.checks if not check.passed}
    # Two logits near 0 have no direction left in 4 bits. Weights and float32 twin must be right all the same.
    accepted = {"cosine"} if precision == "int4" and getattr(model.config, "head", None) == "next_sentence" else set()
    assert failed <= accepted, report.to_markdown()
    compared = [check for check in report.checks if check.rule and not check.name.startswith("in float32")]
    assert compared and all(check.rule == "cosine" for check in compared)
    if precision == "fp16":
        assert max(check.difference or 0 for check in compared) < 2e-2
    runner = export.load(file)
    assert runner.precision == precision and set(runner.graphs) == set(export.load(whole.path).graphs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("gpt", "llama"),
        ("bert", "backbone"),
        next(pair for pair in VARIANTS if pair[0] == "vit"),
    ],
)
def test_weights_without_rounded_activations(family: str, variant: str, tmp_path: Path) -> None:
    """Compare with the float32 file whose weights are replaced by the dequantized ones."""
    model = shared(family, variant)
    file, result = exported(model, tmp_path, export.Precision("int8", activations="float"))
    assert result.operators["DEQUANTIZE"] > 0 and export.verify(model, file).passed
    content = stored(export.to_tflite(model, tmp_path / "whole.tflite").path)
    numbers = smaller_weights(file)
    for weight in weights_of(content):
        if weight.names[0] in numbers:
            kind, values = numbers[weight.names[0]]
            rows = np.abs(weight.array).reshape(len(weight.array), -1)
            off = np.abs(values - weight.array).reshape(rows.shape).max(-1)
            assert kind == INT8 and (off <= rows.max(-1) / 127 * 0.501).all()
            weight.array[:] = values  # ``array`` is a view of the file's buffer
    (tmp_path / "same.tflite").write_bytes(packed(content))
    same, rounded = export.load(tmp_path / "same.tflite"), export.load(file)
    inputs = example_inputs(same.signature, example_sizes(same.signature))
    for name, array in same.run(inputs).items():
        close(rounded.run(inputs)[name], array, 2e-5 * np.abs(array).max(), name)


# ---- the precision of each weight ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_blocks_are_nearest(tmp_path: Path) -> None:
    """Check that "search" has a smaller error than "rtn", and that weights whose rows are whole blocks have 4 bits.

    Exceptions with 8 bits are value projections and the embedding table, which is also the head.
    """
    model = shared("gpt", "llama")
    content = stored(export.to_tflite(model, tmp_path / "whole.tflite", **CACHE).path)
    weights = weights_of(content)
    names = keras_names(weights, {w.path.partition("/")[2]: numpy(w) for w in model.weights})
    errors = {}
    for method in ("search", "rtn"):
        precision = export.Precision("int4", method=method)
        numbers = smaller_weights(exported(model, tmp_path, precision, least_cosine=0.5, **CACHE)[0])
        errors[method] = 0.0
        for weight in weights:
            if weight.names[0] in numbers:
                kind, values = numbers[weight.names[0]]
                blocks = weight.width % 32 == 0 and not weight.table
                assert kind == (INT4 if blocks and "value" not in names[id(weight)] else INT8), names[id(weight)]
                errors[method] += float(np.square(values - weight.array).sum()) if kind == INT4 else 0.0
    assert 0 < errors["search"] < errors["rtn"]


@pytest.mark.parametrize(("family", "variant"), [("bert", "backbone"), ("gpt", "llama")])
def test_weights_by_their_names_in_keras(family: str, variant: str, files: Any) -> None:
    """Check that weights get their Keras names although the converter transposes kernels and scales query kernels."""
    model, whole = files(family, variant, "tflite")
    ours = {w.path.partition("/")[2]: numpy(w) for w in model.weights}
    weights = weights_of(stored(whole.path))
    names = keras_names(weights, ours)
    for weight in weights:
        array = ours[names[id(weight)]]
        array = array if weight.table else array.T
        factor = weight.array.ravel()[0] / array.ravel()[0]
        close(weight.array, array * factor, 1e-6)
        assert factor == pytest.approx(1) or "query" in names[id(weight)]
    assert len(set(names.values())) == len(weights)


@pytest.mark.slow
@pytest.mark.runs_with("bert-backbone")
def test_weights_that_are_kept(files: Any, tmp_path: Path) -> None:
    model, exact = files("bert", "backbone", "tflite")
    file, _ = exported(model, tmp_path, export.Precision("int8", keep=("*/down/kernel", "*/query/kernel")))
    numbers = smaller_weights(file)
    for weight in weights_of(stored(exact.path)):
        kept = weight.names[0].endswith(("/down/kernel", "/query/kernel"))
        assert (weight.names[0] in numbers) == (not kept and not weight.table)
    assert export.verify(model, file).passed


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, CACHE], ids=["plain", "cache"])
def test_a_tied_table_is_stored_once(options: dict[str, Any], tmp_path: Path) -> None:
    """Check that all signatures share one embedding table."""
    model = tiny("gpt", "llama", vocab_size=4000, tie_embeddings=True)
    table = 4000 * model.config.hidden_dim
    sizes = {"fp16": 2, "int8": 1, "int4": 1}
    for precision in (*SMALLER, export.Precision("int8", activations="float")):
        file, result = exported(model, tmp_path, precision, least_cosine=0.5, **options)
        each = sizes[result.precision]
        large = [b for b in stored(file).buffers if b.data is not None and len(b.data) >= table]
        assert [len(buffer.data) for buffer in large] == [each * table]
        assert result.bytes < (each + 1.5) * table  # the table, and graphs of several signatures
        assert export.verify(model, file).passed


@pytest.mark.slow
def test_equal_buffers_are_shared(tmp_path: Path) -> None:
    file, _ = exported(shared("gpt", "llama"), tmp_path, "int4", least_cosine=0.5, **CACHE)
    content = stored(file)
    data = [bytes(buffer.data) for buffer in content.buffers if buffer.data is not None and len(buffer.data)]
    assert len(data) == len(set(data))
    share_buffers(content)
    assert len(packed(content)) == file.stat().st_size


@pytest.mark.slow
def test_the_same_bytes_again(tmp_path: Path) -> None:
    contents = []
    for i in range(2):
        file, _ = exported(tiny("gpt", "llama"), tmp_path, "int4", least_cosine=0.5, **CACHE)
        contents.append(file.read_bytes())
        keras.backend.clear_session() if i else None
    assert contents[0] == contents[1]


# ---- use of the files ---------------------------------------------------------------------------------------------


@pytest.mark.runs_with("bert-backbone")
def test_what_the_file_says_of_itself(files: Any, tmp_path: Path) -> None:
    model, exact = files("bert", "backbone", "tflite")
    whole = export.load(exact.path)
    file, _ = exported(model, tmp_path, "int8", least_cosine=0.9)
    runner = export.load(file)
    assert runner.precision_details == {"name": "int8", "least_cosine": 0.9, "activations": "dynamic"}
    same = {name for name in whole.metadata if name != "attention_zoo.digest"}
    assert {name: runner.metadata[name] for name in same} == {name: whole.metadata[name] for name in same}
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert not next(check for check in export.verify(model, file).checks if check.name == "bytes").passed


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_unequal_prompts_as_each_alone(precision: str, tmp_path: Path) -> None:
    model = shared("gpt", "llama")
    prompts = [[5, 6, 7, 8, 9], [11, 12], [3]]
    ids = np.array([[0] * (5 - len(p)) + p for p in prompts])
    mask = np.array([[0] * (5 - len(p)) + [1] * len(p) for p in prompts])
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_tokens": []}
    runner = export.load(exported(model, tmp_path, precision, least_cosine=0.5, **CACHE)[0])
    together = runner.generate(ids, mask, **options)[:, -12:]
    alone = [runner.generate([prompt], **options)[0, -12:] for prompt in prompts]
    assert np.array_equal(together, alone)
    if precision == "fp16":
        expected = keras.ops.convert_to_numpy(model.generate(ids, mask, **options))[:, -12:]
        assert np.array_equal(together, expected)


def test_without_tensorflow_or_keras(tmp_path: Path) -> None:
    file, _ = exported(shared("bert", "backbone"), tmp_path, "int8")
    code = """
import sys, json
from attention_zoo import export
runner = export.load(sys.argv[1])
length = runner.run({"input_ids": [[1, 2, 3]]})["last_hidden_state"].shape[1]
print(json.dumps([runner.precision, length, sorted({"keras", "tensorflow", "ai_edge_quantizer"} & set(sys.modules))]))
"""
    assert json.loads(python(code, file)) == ["int8", 3, []]


@pytest.mark.slow
def test_other_keras_models(tmp_path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2DTranspose(8, 3)(x)
    x = keras.layers.Dense(64, activation="gelu")(keras.layers.Flatten()(x))
    model = randomise(keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x)), spread=0.05)
    for variable in model.weights:
        if variable.path.endswith("variance"):
            variable.assign(np.abs(variable.numpy()) + 0.5)
    for precision in (*SMALLER, export.Precision("int8", activations="float")):
        file, result = exported(model, tmp_path, precision)
        assert result.accuracy is not None and result.accuracy.divergence is not None and result.rounded > 0.9
        assert export.verify(model, file).passed


def test_command(tmp_path: Path) -> None:
    model = shared("bert", "backbone")
    details = {"activations": None, "block_size": None, "keep": ("*/down/kernel",)}
    asked = {"cache": None, "target": None, "samples": None, "least_cosine": 0.9, "sequence_length": 9}
    (result,) = export_as(lambda: model, tmp_path / "m.tflite", None, "int8", details, asked)
    assert result.precision == "int8" and export.load(result.path).precision_details["least_cosine"] == 0.9


# ---- accuracy -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_accuracy_of_a_decoder_that_takes_tokens_one_by_one(tmp_path: Path) -> None:
    """Compare the perplexity of the second half of every row with Keras, and check the custom metric of both files."""
    model = shared("gpt", "llama")
    ids = np.arange(2, 22).reshape(2, 10)
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    samples = [{"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[:1, :4]}]
    asked = []

    def metric(runner: Any) -> float:
        asked.append(runner.precision)
        return float(len(asked))

    _, result = exported(model, tmp_path, "int8", samples=samples, metric=metric, **CACHE)
    assert asked == ["fp32", "int8"] and (result.accuracy.metric_float32, result.accuracy.metric) == (1, 2)
    losses: list[float] = []
    for row in (ids[0], ids[1, 3:], ids[0, :4]):
        logits = run(model, {"input_ids": row[None]})["logits"][0].astype("float64")
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        losses += [-np.log(chances[i - 1, row[i]]) for i in range(len(row) // 2, len(row))]
    assert result.accuracy.perplexity_float32 == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert result.accuracy.cosine > 0.99 and "2 batches" in result.accuracy.samples


@pytest.mark.slow
def test_what_is_too_far_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    model = shared("gpt", "llama")
    for options in ({}, CACHE):
        with pytest.raises(export.AccuracyError, match=r"cosine with float32 0\.\d+.*accepted: a cosine of 0\.9999"):
            exported(model, tmp_path, "int4", least_cosine=0.9999, **options)
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_verify_finds_another_scale(tmp_path: Path) -> None:
    model = shared("bert", "backbone")
    file, _ = exported(model, tmp_path, "int8")
    content = stored(file)
    for tensor in content.subgraphs[0].tensors:
        if tensor.type == INT8 and b"block_0" in tensor.name and b"value" in tensor.name:
            scales = np.array(tensor.quantization.scale)
            scales[::2] *= 3
            tensor.quantization.scale = scales
    file.write_bytes(packed(content))
    failed = {check.name: check for check in export.verify(model, file).checks if not check.passed}
    assert any(check.rule == "cosine" for check in failed.values())
    assert re.search(r"block_0.*value.*, row 0: weight .* steps off", failed["weights"].detail)


# ---- what is refused ----------------------------------------------------------------------------------------------

P = export.Precision


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int7"}, "precision: got 'int7'; accepted: fp32, fp16, int8, int4"),
        ({"precision": P("int8", activations="static"), **CACHE}, "precision.activations: got 'static' for a model of"),
        ({"precision": P("int8", activations="static"), "samples": [{"input_ids": [[1]]}]}, "samples: got one"),
        ({"precision": P("int8", block_size=32)}, "precision.block_size: got 32"),
        ({"precision": P("int4", block_size=16)}, "precision.block_size: got 16"),
        ({"precision": P("int4", symmetric=False)}, "precision.symmetric: got False"),
        ({"precision": P("int4", head="int4")}, "precision.head: got 'int4'"),
        ({"precision": P("int8", reduce_range=False)}, "precision.reduce_range: got False"),
        ({"precision": "int8", "least_cosine": 2}, "least_cosine: got 2"),
        ({"precision": "int8", "samples": ["a text"]}, "samples: got texts for a model without a tokenizer"),
        ({"precision": "int8", "samples": []}, "samples: got"),
        ({"precision": "int8", "samples": [{"input_id": [[1]]}]}, "input_id"),
        ({"precision": "int8", "samples": [{"input_ids": [[99]]}], **CACHE}, "input_ids"),
        ({"samples": ["a text"]}, "samples: got one for 'fp32'"),
        ({"metric": len}, "metric: got one for 'fp32'"),
    ],
)
def test_wrong_arguments_of_a_precision(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = shared("gpt", "llama") if CACHE.items() <= options.items() else shared("bert", "backbone")
    with pytest.raises(ValueError, match="got") as error:
        export.to_tflite(model, tmp_path / "m.tflite", **options)
    assert said in str(error.value) and not list(tmp_path.iterdir())
