"""Exported files compared with the Keras model, by NumPy in addition to ``verify``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

import attention_zoo as az
from attention_zoo import export
from attention_zoo.export.onnx import exporter as onnx_exporter
from attention_zoo.export.tflite import exporter as tflite_exporter
from attention_zoo.generation.keras_decoder import Generating
from attention_zoo.runtime.tflite.flatbuffer import tflite_operators
from attention_zoo.zoo.base import weight_name
from attention_zoo.zoo.registry import families
from helpers import (
    ALL_BUT_ONE,
    VARIANTS,
    every_variant,
    python,
    randomise,
    refusing,
    run,
    shared,
    tiny,
)

TOLERANCE = 1e-4
WITH_MEMORY = [pair for pair in VARIANTS if issubclass(families()[pair[0]], Generating)]


def masks(batch: int, length: int) -> dict[str, np.ndarray]:
    """Return masks with paddings that are easily handled wrongly; the rows have different lengths."""
    made = {name: np.ones((batch, length), "int64") for name in ("none", "right", "left", "interior")}
    for row in range(batch):
        kept = max(1, length - 1 - 2 * row)
        made["right"][row, kept:] = 0
        made["left"][row, : length - kept] = 0
        made["interior"][row, 1 : max(1, length - kept)] = 0
    return made


def text_inputs(model: Any, mask: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    inputs = {}
    for spec in model.graphs("plain")["model"].signature.inputs:
        if "mask" in spec.name:
            inputs[spec.name] = mask if spec.name == "attention_mask" else np.ones_like(mask)
        elif spec.below is None:  # features of speech
            shape = (len(mask), *(size for size in spec.dims if isinstance(size, int)))
            inputs[spec.name] = generator.normal(size=shape).astype("float32")
        else:
            inputs[spec.name] = generator.integers(0, spec.below, mask.shape)
    return inputs


def assert_same(
    model: Any,
    actual: dict[str, np.ndarray],
    inputs: dict[str, np.ndarray],
    case: str,
    expected: dict[str, np.ndarray] | None = None,
) -> None:
    """Check that `actual` equals the outputs of Keras for `inputs`, which are `expected` if that is given."""
    expected = run(model, inputs) if expected is None else expected
    assert set(actual) == set(expected)
    for spec in model.signature.outputs:
        theirs, ours = expected[spec.name], actual[spec.name]
        assert ours.shape == theirs.shape, case
        assert np.isfinite(ours).all(), case
        if "sequence" in spec.dims:
            valid = inputs["attention_mask"] == 1
            theirs, ours = theirs[valid], ours[valid]
        assert np.abs(ours - theirs).max(initial=0) <= TOLERANCE, f"{case}: {spec.name}"


def with_results(model: Any, cases: dict[str, dict[str, np.ndarray]]) -> Iterator[tuple[str, Any, Any]]:
    """Yield every case with its inputs and the outputs of Keras.

    Keras computes the rows of all cases, which have the same length, in one batch: eager Keras takes most of the time.
    """
    names = next(iter(cases.values()))
    results = run(model, {name: np.concatenate([inputs[name] for inputs in cases.values()]) for name in names})
    ends = np.cumsum([len(next(iter(inputs.values()))) for inputs in cases.values()])
    parts = {name: np.split(values, ends[:-1]) for name, values in results.items()}
    for i, (case, inputs) in enumerate(cases.items()):
        yield case, inputs, {name: values[i] for name, values in parts.items()}


def pairs(model: Any, texts: int, images: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Return texts with padding in between, and images, for a model that compares them."""
    rng = np.random.default_rng(seed)
    mask = masks(texts, length)["interior"]
    ids = rng.integers(0, model.config.vocab_size, mask.shape)
    return {"input_ids": ids, "attention_mask": mask, **pictures(model, (images, 20, 20, 3), seed)}


def of_images(model: Any) -> bool:
    return any("height" in spec.dims for spec in model.signature.inputs)


def pictures(model: Any, shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Return random pixels as the model expects them: from 0 to 255, or normalized."""
    rng, name = np.random.default_rng(seed), model.signature.inputs[-1].name
    values = rng.uniform(0, 255, shape) if name == "images" else rng.normal(size=shape)
    return {name: values.astype("float32")}


@every_variant(slow=ALL_BUT_ONE)
def test_onnx_equals_keras(family: str, variant: str, files: Any) -> None:
    """Compare in ONNX Runtime, without a runner, for several sizes of every named dimension."""
    model, result = files(family, variant, "onnx")
    session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def check(cases: dict[str, dict[str, np.ndarray]]) -> None:
        for case, inputs, expected in with_results(model, cases):
            first, second = (session.run(names, inputs) for _ in range(2))
            for a, b in zip(first, second, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"two runs differ: {case}")
            assert_same(model, dict(zip(names, first, strict=True)), inputs, case, expected)

    if model.config.to_dict().get("tower") == "both":
        for texts, images, length in ((3, 2, 7), (1, 4, 20), (5, 1, 1)):
            inputs = pairs(model, texts, images, length, length)
            assert_same(model, dict(zip(names, session.run(names, inputs), strict=True)), inputs, f"{texts}, {images}")
        return
    if of_images(model):
        for batch, height, width in ((1, 20, 20), (3, 20, 20), (1, 5, 5), (2, 25, 10), (3, 40, 35)):
            check({f"{batch} × {height} × {width}": pictures(model, (batch, height, width, 3), height)})
        return
    for length in (1, 7, min(33, model.config.max_length)):
        check(
            {
                f"batch {batch}, length {length}, {padding}": text_inputs(model, mask, length)
                for batch in (1, 3)
                for padding, mask in masks(batch, length).items()
            }
        )


@every_variant(slow=ALL_BUT_ONE)
def test_tflite_equals_keras(family: str, variant: str, files: Any) -> None:
    """Compare in LiteRT's interpreter, without a runner, at the static shape of the file."""
    model, result = files(family, variant, "tflite")
    interpreter = Interpreter(model_path=str(result.path))
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner("serving_default")
    details = signature.get_input_details()
    if model.config.to_dict().get("tower") == "both":
        inputs = pairs(model, 1, 1, 20, 0)
        feeds = {name: value.astype(details[name]["dtype"]) for name, value in inputs.items()}
        assert_same(model, signature(**feeds), inputs, "a pair")
        return
    if of_images(model):
        image = pictures(model, (1, 20, 20, 3), 0)
        assert_same(model, signature(**image), image, "image")
        return
    length = min(40, model.config.max_length)
    cases = {padding: text_inputs(model, mask, 3) for padding, mask in masks(1, length).items()}
    for padding, inputs, expected in with_results(model, cases):
        feeds = {name: value.astype(details[name]["dtype"]) for name, value in inputs.items()}
        first, second = signature(**feeds), signature(**feeds)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
        assert_same(model, first, inputs, padding, expected)


@every_variant(slow=ALL_BUT_ONE)
def test_names_dimensions_and_operators(family: str, variant: str, files: Any) -> None:
    model, onnx_result = files(family, variant, "onnx")
    proto = onnx.load(str(onnx_result.path))
    onnx.checker.check_model(proto, full_check=True)
    text = {"input_ids": "sequence", "attention_mask": "sequence"}
    sides = {"input_ids": "source", "attention_mask": "source", "decoder_input_ids": "target"}
    expected_dims: dict[str, dict[str, Any]] = {
        "vit": {model.signature.inputs[0].name: ["batch", "height", "width", 3]},
        "gpt": text,
        "bert": {
            **text,
            **({"token_type_ids": "sequence"} if getattr(model.config, "type_vocab_size", 0) else {}),
            **({"pooling_mask": "sequence"} if "prompt" in variant else {}),
        },
        "transformer": {**sides, "decoder_attention_mask": "target"},
        "seq2seq": sides,
    }
    signature_dims = {spec.name: list(spec.dims) for spec in model.graphs("plain")["model"].signature.inputs}
    dims = expected_dims.get(family, signature_dims)
    if (family, variant) in (("transformer", "encoder"), ("transformer", "classifier")):
        dims = text
    expected = list(dims)
    assert [node.name for node in proto.graph.input] == expected
    for node in proto.graph.input:
        wanted = dims[node.name]
        wanted = ["batch", wanted] if isinstance(wanted, str) else wanted
        assert [d.dim_param or d.dim_value for d in node.type.tensor_type.shape.dim] == wanted
    assert [node.name for node in proto.graph.output] == [spec.name for spec in model.signature.outputs]
    for node, spec in zip(proto.graph.output, model.signature.outputs, strict=True):
        assert tuple(d.dim_param or d.dim_value for d in node.type.tensor_type.shape.dim) == spec.dims
    for node in proto.graph.node:
        assert node.domain == "", f"{node.op_type} is of {node.domain}"
        for word in ("Dropout", "Random", "Einsum", "PartitionedCall", "PyFunc"):
            assert word not in node.op_type
    plain = variant != "dinov3" if family == "vit" else family == "bert" and model.config.attention_position == "none"
    if plain:  # heads are not transposed, unless they are rotated
        newest = export.to_onnx(model, onnx_result.path.with_name(f"{variant}.newest.onnx"), opset=23).path
        graph = onnx.load(newest).graph
        each = [node for node in graph.node if node.op_type == "Attention"]
        heads = {tuple(a.i for a in node.attribute if a.name.endswith("num_heads")) for node in each}
        assert heads == {(model.config.num_heads, model.config.num_heads)}
        masks = len({node.input[3] for node in each if len(node.input) > 3})  # all layers share one mask, not a bias
        assert masks <= (model.config.num_layers if variant == "beit" else 1)
        moves = [list(a.ints) for node in graph.node if node.op_type == "Transpose" for a in node.attribute]
        assert [0, 2, 1, 3] not in moves or variant == "images", "which moves the axes of a picture"
    initializers = {tensor.name for tensor in proto.graph.initializer}
    unused = {"embedding/mask_token"} if getattr(model.config, "use_mask_token", False) else set()
    assert {weight_name(w) for w in model.weights} - initializers == unused  # one for each weight, with its name

    _, tflite_result = files(family, variant, "tflite")
    for operator in tflite_operators(tflite_result.path):
        assert not operator.startswith(("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "RANDOM"))
    interpreter = Interpreter(model_path=str(tflite_result.path))
    signature = interpreter.get_signature_list()["serving_default"]
    assert sorted(signature["inputs"]) == sorted(expected)
    assert sorted(signature["outputs"]) == sorted(spec.name for spec in model.signature.outputs)


@every_variant(slow={pair for pair in VARIANTS if pair != ("gpt", "llama")})
def test_verify_passes(family: str, variant: str, files: Any) -> None:
    verified(family, variant, files, cache=False)


@every_variant(WITH_MEMORY, slow=ALL_BUT_ONE | {("whisper", "uneven"), ("transformer", "marian")})
def test_verify_passes_with_a_cache(family: str, variant: str, files: Any) -> None:
    if not shared(family, variant).generates:
        pytest.skip("without logits there is nothing to generate from")
    verified(family, variant, files, cache=True)


def verified(family: str, variant: str, files: Any, cache: bool) -> None:
    for format in ("onnx", "tflite"):
        model, result = files(family, variant, format, cache)
        report = export.verify(model, result.path)
        assert report.passed, report.to_markdown()
        assert 0 < report.greatest_difference < TOLERANCE
        assert json.loads(report.to_json())["passed"] is True


@pytest.mark.slow
@pytest.mark.runs_with("bert-backbone")
def test_verify_notices(files: Any, tmp_path: Path) -> None:
    """Check that files with one wrong weight or dimension fail, and files of a model with other weights or sizes."""
    model, result = files("bert", "backbone", "onnx")
    proto = onnx.load(str(result.path))

    def failed(change: Any, name: str) -> str:
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        change(changed)
        onnx.save(changed, str(tmp_path / name))
        report = export.verify(model, tmp_path / name)
        assert not report.passed
        return " ".join(check.detail for check in report.checks if not check.passed)

    def other_bias(changed: onnx.ModelProto) -> None:
        tensor = next(t for t in changed.graph.initializer if t.name == "block_1/attention/value/bias")
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[0] += 0.01
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    def other_dimension(changed: onnx.ModelProto) -> None:
        changed.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"

    assert "last_hidden_state" in failed(other_bias, "bias.onnx")
    assert "length" in failed(other_dimension, "dimension.onnx")
    other = tiny("bert", "backbone", seed=5)
    assert not export.verify(other, result.path).passed
    wider = tiny("bert", "backbone", vocab_size=120)
    assert "differs from the model's" in export.verify(wider, result.path).checks[0].detail


def test_verify_fails_where_keras_itself_is_not_finite(tmp_path: Path) -> None:
    """Check that a model whose outputs are not finite fails the verification, and cannot be exported."""
    model = tiny("bert", "token_classification")
    export.to_onnx(model, tmp_path / "m.onnx")
    model.classifier.bias.assign([np.inf] * 5)
    report = export.verify(model, tmp_path / "m.onnx")
    assert not report.passed
    failed = {check.name: check.detail for check in report.checks if not check.passed}
    assert "classifier/bias" in failed.pop("weights")
    assert all("not finite in Keras" in detail for detail in failed.values()) and len(failed) > 20
    with pytest.raises(export.ExportError, match="not finite"):
        export.to_onnx(model, tmp_path / "infinite.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.runs_with("bert-backbone")
def test_files_that_are_cut_or_lie(files: Any, tmp_path: Path) -> None:
    """Check that truncated files, and files with a wrong signature in their metadata, give a clear ValueError.

    They are loaded in a new process, in case a runtime crashes.
    """
    for format in ("onnx", "tflite"):
        content = files("bert", "backbone", format)[1].path.read_bytes()
        for kept in (0, 7, 100, len(content) // 2, len(content) - 1000):
            (tmp_path / f"cut{kept}.{format}").write_bytes(content[:kept])
    proto = onnx.load(str(files("bert", "backbone", "onnx")[1].path))
    for name, text in (("json", "{"), ("fields", '{"inputs": [{"nme": 1}], "outputs": []}'), ("list", "[]")):
        onnx.helper.set_model_props(proto, {"attention_zoo.signatures": f'{{"model": {text}}}'})
        onnx.save(proto, str(tmp_path / f"lie-{name}.onnx"))
    other = json.dumps({"model": files("vit", "features", "onnx")[0].signature.exported().to_dict()})
    onnx.helper.set_model_props(proto, {"attention_zoo.signatures": other})
    onnx.save(proto, str(tmp_path / "lie-other.onnx"))
    code = """
import pathlib, sys
from attention_zoo import export
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        export.load(path)
    except ValueError as error:
        assert str(error).startswith("path: ") and "accepted: " in str(error), error
        print(path.name)
"""
    refused = python(code, tmp_path).split()
    assert refused == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite"])
def test_an_interrupted_export_leaves_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> float:
        raise KeyboardInterrupt

    for exporter in (onnx_exporter, tflite_exporter):
        monkeypatch.setattr(exporter, "quick_check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        (export.to_onnx if name.endswith("onnx") else export.to_tflite)(shared("bert", "backbone"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_files_are_reproducible(tmp_path: Path) -> None:
    """Check that the same model gives the same bytes here and in a new process that loads it."""
    model = tiny("gpt", "llama")
    az.save(model, tmp_path / "model")
    export.to_onnx(model, tmp_path / "a.onnx")
    code = (
        "import sys, attention_zoo as az; model = az.load(sys.argv[1]); "
        "az.create('gpt', num_layers=1, num_heads=2, hidden_dim=8); az.export.to_onnx(model, sys.argv[2])"
    )
    python(code, tmp_path / "model", tmp_path / "b.onnx")
    digests = {hashlib.sha256((tmp_path / f"{name}.onnx").read_bytes()).hexdigest() for name in "ab"}
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    ["mixed_float16", "bfloat16", "mixed_bfloat16", "float16"],
)
def test_half_precision_models_export_in_float32(policy: str, tmp_path: Path) -> None:
    model = tiny("bert", "backbone", dtype=policy)
    full = tiny("bert", "backbone")
    full.set_weights([keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) for w in model.weights])
    inputs = text_inputs(model, masks(2, 9)["left"], 0)
    for name in ("m.onnx", "m.tflite"):
        (export.to_onnx if name.endswith("onnx") else export.to_tflite)(model, tmp_path / name)
        actual = export.load(tmp_path / name).run(inputs)
        assert_same(full, actual, inputs, f"{policy} {name}")


@every_variant(slow=ALL_BUT_ONE)
def test_weights_are_stored_once(family: str, variant: str, files: Any) -> None:
    """Check that a tied table is stored once, and folded constants are small. The benchmarks cover real model sizes."""
    model, result = files(family, variant, "onnx")
    assert result.files == (result.path,)
    stored = sum(onnx.numpy_helper.to_array(t).nbytes for t in onnx.load(str(result.path)).graph.initializer)
    unused = 4 * (model.config.hidden_dim if getattr(model.config, "use_mask_token", False) else 0)
    assert 4 * model.count_params() - unused <= stored <= 4 * model.count_params() + 2500


@pytest.mark.parametrize("family", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt", "vit"))])
def test_a_failed_export_leaves_no_file(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared(family, next(iter(dict(VARIANTS) and [v for f, v in VARIANTS if f == family])))

    def differs(*_: Any, **__: Any) -> float:
        raise export.ExportError("the exported file differs from Keras")

    for exporter in (onnx_exporter, tflite_exporter):
        monkeypatch.setattr(exporter, "quick_check", differs)
    for name, to in (("m.onnx", export.to_onnx), ("m.tflite", export.to_tflite)):
        with pytest.raises(export.ExportError):
            to(model, tmp_path / name)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / name).write_text("an older file")  # must not be lost if the export fails
        with pytest.raises(export.ExportError):
            to(model, tmp_path / name)
        assert [p.name for p in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "an older file"
        (tmp_path / name).unlink()


def test_a_wrong_graph_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the quick check of an export finds a lowering that computes something else."""
    from attention_zoo.export.onnx.primitives import table
    from attention_zoo.export.tflite import operators as tflite_export

    def shifted(original: Any) -> Any:
        return lambda inputs, kernel, bias=None, **kw: original(inputs, kernel, bias, **kw) + 0.01

    monkeypatch.setitem(table.FORMS, "dense", {17: ("", shifted(table.FORMS["dense"][17][1]))})  # pyright: ignore
    monkeypatch.setitem(tflite_export.LOWERINGS, "dense", shifted(tflite_export.LOWERINGS["dense"]))
    for to, name in ((export.to_onnx, "m.onnx"), (export.to_tflite, "m.tflite")):
        with pytest.raises(export.ExportError, match="differs from Keras"):
            to(shared("bert", "backbone"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.runs_with("gpt-llama")
def test_large_weights_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_zoo.export.onnx import files as onnx_files

    monkeypatch.setattr(onnx_files, "PROTOBUF_LIMIT", 1000)
    model = shared("gpt", "llama")
    result = export.to_onnx(model, tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert result.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    assert export.verify(model, tmp_path / "m.onnx").passed

    monkeypatch.undo()
    export.to_onnx(model, tmp_path / "m.onnx")  # replaces the file, and removes its external data
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.slow
def test_tables_are_stored_once_and_cut(tmp_path: Path) -> None:
    """Check the tied table of a masked language model, and a position table that is cut to the length of the file."""
    sizes: dict[str, Any] = {"vocab_size": 2000, "num_layers": 1, "num_heads": 2, "hidden_dim": 32}
    for config, options in (({"head": "masked_lm"}, {}), ({"max_length": 8192}, {"sequence_length": 8})):
        model = randomise(az.create("bert", **{**sizes, "intermediate_dim": 64, "max_length": 64, **config}))
        result = export.to_tflite(model, tmp_path / "m.tflite", **options)
        positions = 4 * 32 * (model.config.max_length - 64 if options else 0)
        assert result.bytes < 1.2 * (result.weight_bytes - positions)
        assert export.verify(model, result.path).passed


def test_static_sizes(tmp_path: Path) -> None:
    model = shared("bert", "token_classification")
    export.to_tflite(model, tmp_path / "m.tflite", batch_size=2, sequence_length=11)
    runner = export.load(tmp_path / "m.tflite")
    assert dict(runner.signature.sizes) == {"batch": 2, "sequence": 11}
    for batch, length in ((2, 11), (1, 4), (5, 9)):  # the sizes of the file, smaller ones, and a larger batch
        for padding, mask in masks(batch, length).items():
            inputs = text_inputs(model, mask, length)
            assert_same(model, runner.run(inputs), inputs, f"{batch} × {length} {padding}")
    assert export.verify(model, tmp_path / "m.tflite").passed
    with pytest.raises(ValueError, match=r"sequence of 12; accepted: at most 11"):
        runner.run(np.zeros((1, 12), "int64"))
    image = shared("vit", "features")
    export.to_tflite(image, tmp_path / "v.tflite", image_size=(30, 10))
    pixels = np.random.default_rng(1).normal(size=(2, 30, 10, 3)).astype("float32")
    assert_same(image, export.load(tmp_path / "v.tflite").run(pixels), {"pixel_values": pixels}, "30 × 10")
    with pytest.raises(ValueError, match=r"height of 20; accepted: 30"):
        export.load(tmp_path / "v.tflite").run(np.zeros((1, 20, 10, 3), "float32"))


@pytest.mark.runs_with("gpt-llama")
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_generate_equals_keras(padding: str, files: Any) -> None:
    """Compare greedy decoding with a loop over the Keras model, which computes each row alone and without padding."""
    mask = masks(3, 9)[padding]
    ids = np.random.default_rng(2).integers(0, 97, mask.shape)
    expected = []
    for row in range(3):
        tokens = list(ids[row][mask[row] == 1])
        for _ in range(12):
            logits = run(shared("gpt", "llama"), {"input_ids": np.array([tokens])})["logits"]
            tokens.append(int(np.argmax(logits[0, -1])))
        expected.append(tokens[-12:])
    for format in ("onnx", "tflite"):
        _, result = files("gpt", "llama", format)
        actual = export.load(result.path).generate(ids, mask, max_new_tokens=12)
        assert actual.shape == (3, 21)
        np.testing.assert_array_equal(actual[:, 9:], expected, err_msg=format)


@pytest.mark.runs_with("gpt-llama")
def test_generate_stops_and_refuses(files: Any) -> None:
    _, result = files("gpt", "llama", "onnx")
    runner = export.load(result.path)
    free = runner.generate(np.array([[1, 2, 3]]), max_new_tokens=6)[0, 3:]
    stopped = runner.generate(np.array([[1, 2, 3]]), max_new_tokens=6, stop_tokens=int(free[2]))[0, 3:]
    first = int(np.argmax(free == free[2]))
    np.testing.assert_array_equal(stopped, free[: first + 1])
    with pytest.raises(ValueError, match=r"max_new_tokens: got 38 after 3 tokens; accepted: 40"):
        runner.generate(np.array([[1, 2, 3]]), max_new_tokens=38)
    with pytest.raises(ValueError, match="attention_mask"):
        runner.generate(np.array([[1, 2, 3]]), np.zeros((1, 3), int), max_new_tokens=1)
    _, bert = files("bert", "masked_lm", "onnx")
    with pytest.raises(ValueError, match="does not generate"):
        export.load(bert.path).generate(np.array([[1, 2]]))


@pytest.mark.runs_with("bert-backbone")
def test_runner_refuses_wrong_inputs(files: Any) -> None:
    _, result = files("bert", "backbone", "onnx")
    runner = export.load(result.path)
    ids = np.zeros((2, 5), "int64")
    for inputs, message in (
        (np.zeros((5,), "int64"), r"input_ids: got rank 1"),
        (np.zeros((2, 5), "float32"), r"input_ids: got dtype float32; accepted: integers"),
        (ids + 89, r"input_ids: got values from 89 to 89; accepted: integers from 0 to 88"),
        (ids - 1, r"accepted: integers from 0 to 88"),
        (np.zeros((2, 41), "int64"), r"sequence of 41; accepted: at most 40"),
        (np.zeros((0, 5), "int64"), r"batch of 0; accepted: at least 1"),
        ({"input_ids": ids, "attention_mask": np.ones((2, 4), "int64")}, r"sequence of 4; accepted: 5"),
        ({"input_ids": ids, "attention_mask": ids + 2}, r"attention_mask: got values from 2 to 2"),
        (
            {"input_ids": ids, "token_types": ids},
            r"inputs: got \['token_types'\]; did you mean .*accepted: ",
        ),
        ({"attention_mask": ids}, r"without \['input_ids'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.run(inputs)


@pytest.mark.runs_with("bert-backbone")
def test_wrong_arguments(files: Any, tmp_path: Path) -> None:
    model, result = files("bert", "backbone", "onnx")
    image = shared("vit", "features")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    (tmp_path / "bad.tflite").write_bytes(b"not a model")
    plain: Any = keras.Sequential([keras.layers.Dense(2)])
    for call, message in (
        (lambda: export.to_onnx(model, tmp_path / "m.pb"), r"path: got .*; accepted: a name that ends in \.onnx"),
        (lambda: export.to_tflite(model, tmp_path / "m.onnx"), r"accepted: a name that ends in \.tflite"),
        (lambda: export.to_onnx(plain, tmp_path / "m.onnx"), r"model: got Sequential"),
        (lambda: export.to_tflite(model, tmp_path / "m.tflite", sequence_length=41), r"sequence of 41; .*at most 40"),
        (lambda: export.to_tflite(model, tmp_path / "m.tflite", sequence_length=0), r"accepted: at least 1"),
        (
            lambda: export.to_tflite(model, tmp_path / "m.tflite", image_size=8),
            r"image_size: got 8 for a model of text",
        ),
        (lambda: export.to_tflite(image, tmp_path / "m.tflite", sequence_length=8), r"for a model of images"),
        (lambda: export.to_tflite(image, tmp_path / "m.tflite", image_size=22), r"height of 22; .*a multiple of 5"),
        (lambda: export.load(tmp_path / "none.onnx"), r"path: got .*not a file"),
        (lambda: export.load(tmp_path / "bad.onnx"), r"cannot read .*accepted: an ONNX model"),
        (lambda: export.load(tmp_path / "bad.tflite"), r"is damaged: .*accepted: a TFLite model"),
        (lambda: export.load(__file__), r"accepted: a name that ends in"),
        (lambda: export.load(result.path, threads=0), r"threads: got 0"),
        (lambda: export.verify(model, result.path, tolerance=0), r"tolerance: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx", "bad.tflite"]


@pytest.mark.runs_with("gpt-llama")
@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("tflite", "ai_edge_litert")])
def test_runner_needs_only_its_runtime(format: str, package: str, files: Any, tmp_path: Path) -> None:
    """Check that a GPT and a BERT give the same outputs in a process that cannot import other large packages."""
    ids = np.array([[5, 6, 7, 8]])
    expected = {}
    for family, variant in (("gpt", "llama"), ("bert", "backbone")):
        model, result = files(family, variant, format)
        expected[str(result.path)] = float(np.abs(run(model, {"input_ids": ids})[result_name(model)]).sum())
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    code = f"""
import json, numpy as np
from attention_zoo import export
for path, total in json.load(open(sys.argv[1])).items():
    outputs = export.load(path).run(np.array([[5, 6, 7, 8]]))
    first = next(outputs[n] for n in ("logits", "last_hidden_state") if n in outputs)
    assert abs(float(np.abs(first).sum()) - total) < 1e-2, (path, total)
    print(export.benchmark(path, sequence=8, repeats=2).median_ms > 0)
assert {package!r} in sys.modules
from attention_zoo.export.runtime import Runner, load  # the name that scripts have for it
assert load is export.load and isinstance(load(path), Runner)
"""
    heavy = refusing("tensorflow", "keras", "typer", "rich", "safetensors", "onnx", "tf2onnx")
    assert python(heavy + code, tmp_path / "expected.json").split() == ["True", "True"]


def result_name(model: Any) -> str:
    return model.signature.outputs[0].name
