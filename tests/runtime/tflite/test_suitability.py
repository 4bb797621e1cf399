"""Suitability of TFLite files for phones: small files with one problem each, and the files of every family."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from attention_zoo import export
from attention_zoo.cli import main
from attention_zoo.runtime.quiet import quiet
from attention_zoo.runtime.tflite import gpu_operators
from attention_zoo.runtime.tflite.flatbuffer import packed, unpacked
from attention_zoo.runtime.tflite.suitability import GPU, OLDER, stored_twice, suitability
from helpers import FURTHER, every_variant, python

Spec = tf.TensorSpec
WEIGHT = np.random.default_rng(0).normal(size=(200, 200)).astype("float32")


def converted(*functions: tuple[str, Callable[..., Any], list[Any]]) -> bytes:
    """Return the contents of a TFLite file with these functions: name, function and input specifications of each."""
    module: Any = tf.Module()
    traced = {name: tf.function(f).get_concrete_function(*specs) for name, f, specs in functions}
    with quiet():
        module.functions = [tf.function(f) for _, f, _ in functions]
        converter = tf.lite.TFLiteConverter.from_concrete_functions(list(traced.values()), module)
        return converter.convert()


def floats(*sizes: int | None, name: str = "x") -> Any:
    return Spec(sizes, tf.float32, name=name)


def dense(x: Any) -> Any:
    return tf.matmul(x, tf.constant(WEIGHT))


def test_nothing_is_found_where_nothing_is() -> None:
    found = suitability(converted(("f", lambda x: tf.nn.softmax(dense(x)), [floats(1, 200)])))
    assert found.findings == () and not found.repeated and found.operators == 2
    assert [(part.pieces, part.operators, part.outside) for part in found.partitions] == [(1, 2, ())]
    assert dict(found.rows())[GPU] == dict(found.rows())[OLDER] == "supports all operators"


def in_scope(name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """Return `f` in a name scope, followed by another operator, since the last operator has the name of the output."""

    def scoped(*tensors: Any) -> Any:
        with tf.name_scope(name):
            y = f(*tensors)
        return tf.logical_not(y) if y.dtype == tf.bool else tf.minimum(y, tf.ones((), y.dtype))

    return scoped


@pytest.mark.parametrize(
    ("f", "specs", "rule", "on", "operator"),
    [
        (lambda x: tf.transpose(x, (0, 4, 3, 2, 1)), [floats(1, 2, 3, 4, 5)], "rank", GPU, "TRANSPOSE"),
        (tf.nn.softmax, [floats(3, 200)], "batch", GPU, ""),
        (tf.nn.softmax, [floats(1, None, 8)], "dynamic shape", GPU, ""),
        (lambda x: x + 1, [Spec((1, 8), tf.int64, name="x")], "int64", GPU, "ADD"),
        (lambda x: tf.fill((1, 8), x[0, 0]), [floats(1, 8)], "operator", GPU, "FILL"),
        (lambda x: tf.nn.softmax(tf.cast(x, tf.float32)), [Spec((1, 8), tf.int16, name="x")], "dtype", OLDER, "CAST"),
        (lambda x: tf.reduce_any(x, -1), [Spec((1, 8), tf.bool, name="x")], "operator", OLDER, "REDUCE_ANY"),
        (lambda x: x[:, None], [Spec((1, 8), tf.bool, name="x")], "bool", OLDER, "RESHAPE"),
        (lambda x, y: x + y, [floats(1, 4, 8), floats(1, 8, name="y")], "broadcast", OLDER, "ADD"),
        (lambda x: tf.gather(tf.constant(WEIGHT), x), [Spec((1, 3), tf.int64, name="x")], "int64", GPU, "GATHER"),
    ],
)
def test_planted_findings(f: Any, specs: list[Any], rule: str, on: str, operator: str) -> None:
    """Check that each finding has its operator and layer, or the name of the input."""
    found = suitability(converted(("f", in_scope("tower/floor", f), specs)), pieces=False).findings
    own = [one for one in found if (one.rule, one.on, one.operator) == (rule, on, operator)]
    assert own, found
    assert all(one.layer.startswith("tower/floor") if operator else one.layer == "x" for one in own)
    kinds = {(one.rule, one.on) for one in found}
    assert kinds <= {(rule, on), ("dtype", OLDER), ("operator", OLDER), ("operator", GPU)}, found


def test_pieces_of_every_signature(tmp_path: Path) -> None:
    """Count the partitions of signatures with an operator that XNNPACK does not run, with a loop, and with neither."""

    def broken(x: Any, i: Any) -> Any:
        y = dense(x)
        with tf.name_scope("cache"):
            y = keras.ops.slice_update(y, (0, i), tf.ones((1, 2)))
        return dense(y)

    def loop(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, dense(y)), (0, x))[1]

    class Module(tf.Module):
        @tf.function(input_signature=[floats(1, 200), Spec((), tf.int32, name="i")])
        def broken(self, x: Any, i: Any) -> Any:
            return {"y": broken(x, i)}

        @tf.function(input_signature=[floats(1, 200)])
        def whole(self, x: Any) -> Any:
            return {"y": dense(dense(x))}

        @tf.function(input_signature=[floats(1, 200)])
        def looped(self, x: Any) -> Any:
            return {"y": loop(x)}

    module = Module()
    keys = ["broken", "looped", "whole"]
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={key: getattr(module, key) for key in keys})
    with quiet():
        content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"), signature_keys=keys).convert()
    parts = {part.signature: part for part in suitability(content).partitions}
    assert {name: part.pieces for name, part in parts.items()} == {"broken": 2, "looped": 0, "whole": 1}
    assert ("DYNAMIC_UPDATE_SLICE", "cache") in parts["broken"].outside and parts["whole"].outside == ()
    assert [name for name, _ in parts["looped"].outside] == ["WHILE"]
    line = dict(suitability(content).rows())["XNNPACK"]
    assert "broken in 2 partitions, " in line and "whole in 1 partition" in line and "whole in 1 partition," not in line


def with_a_copy(factor: float) -> bytes:
    """Return a file with a weight of 40,000 values, and an unused copy of it that is multiplied by `factor`."""
    model = unpacked(converted(("f", dense, [floats(1, 200)])))
    (graph,) = model.subgraphs
    tensor = next(t for t in graph.tensors if t.shape.tolist() == [200, 200])
    buffer, other = schema.BufferT(), copy.copy(tensor)
    values = np.asarray(model.buffers[tensor.buffer].data, "uint8").view("float32") * np.float32(factor)
    buffer.data = values.view("uint8")
    other.buffer, other.name = len(model.buffers), b"head/again"
    model.buffers.append(buffer)
    graph.tensors.append(other)
    return packed(model)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_weights_that_are_there_twice(factor: float) -> None:
    """Check that equal bytes are found in any file, and a scaled copy by the sizes of the model's weights."""
    whole, double = converted(("f", dense, [floats(1, 200)])), with_a_copy(factor)
    assert stored_twice(whole, [40_000]) is None
    told = stored_twice(double, [40_000])
    assert told is not None and "40,000 numbers more" in told and "(40,000)" in told
    assert stored_twice(double, [40_000, 40_000]) is None
    found = suitability(double, pieces=False)
    assert list(found.repeated.values()) == ([160_000] if factor == 1 else [])
    assert ("stored twice" in dict(found.rows())) == (factor == 1)


def test_operators_are_those_of_the_schema() -> None:
    known = {name for name in vars(schema.BuiltinOperator) if not name.startswith("_")}
    sets = gpu_operators.ACCELERATOR, gpu_operators.DELEGATE, gpu_operators.WITH_INTEGERS, gpu_operators.WITH_ALL
    assert all(names <= known for names in sets)
    assert gpu_operators.ACCELERATOR | {"STABLEHLO_COMPOSITE"} >= gpu_operators.WITH_INTEGERS | gpu_operators.WITH_ALL


@every_variant(slow=FURTHER)
@pytest.mark.slow
def test_files_of_every_family(family: str, variant: str, files: Any) -> None:
    """Check that XNNPACK runs most of each signature and GPUs nearly all, and that weights are stored once."""
    _, result = files(family, variant, "tflite")
    found = result.suitability
    assert not result.warnings and not found.repeated
    own = unpacked(result.path.read_bytes())
    assert found.operators == sum(len(graph.operators) for graph in own.subgraphs) == sum(result.operators.values())
    sizes = {s.signatureKey.decode(): len(own.subgraphs[s.subgraphIndex].operators) for s in own.signatureDefs}
    assert {part.signature: part.operators for part in found.partitions} == sizes
    if family != "seq2seq":  # XNNPACK does not run its loops, nor most operators that sort tokens by experts
        most = 0.5 if "expert" in variant else 0.4
        shares = [len(part.outside) / part.operators for part in found.partitions]
        assert all(part.pieces >= 1 for part in found.partitions) and max(shares) < most
    left = {(one.rule, one.operator) for one in found.findings if one.on == GPU}
    known = {("operator", "WHILE"), ("dtype", "CUMSUM")}  # position ids are the cumulative sum of the mask
    if "expert" in variant:  # tokens are sorted by their experts
        known |= {("bool", "ONE_HOT"), ("operator", "SCATTER_ND")}
    if family == "clip":  # the last token of a text has the greatest id
        known.add(("dtype", "ARG_MAX"))
    assert left <= known
    text = str(result)
    assert "| XNNPACK | " in text and f"| {GPU} | " in text and f"| {OLDER} | " in text


def test_a_decoder_s_signatures(files: Any) -> None:
    """Check that LiteRT's own kernel writes the cache, once for the keys and once for the values of each layer."""
    model, result = files("gpt", "llama", "tflite", True)
    for part in result.suitability.partitions:
        names = [name for name, _ in part.outside]
        assert names.count("DYNAMIC_UPDATE_SLICE") == 2 * model.config.num_layers
    found = [one for one in result.suitability.findings if one.on in (GPU, OLDER)]
    caches = [one for one in found if one.operator == "DYNAMIC_UPDATE_SLICE"]
    assert len(caches) == 2 * model.config.num_layers * len(result.suitability.partitions)
    count = f"{len(found)} of {result.suitability.operators} operators"
    assert dict(result.suitability.rows())[OLDER].startswith(count)
    assert json.loads(result.to_json())["suitability"]["partitions"][0]["signature"] == "decode"


def test_info_shows_the_layers(files: Any) -> None:
    _, result = files("bert", "backbone", "tflite")
    out = io.StringIO()
    command = ["attention-zoo", "info", str(result.path)]
    with mock.patch.object(sys, "argv", command), redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main()
    shown = out.getvalue()
    assert ended.value.code == 0 and "not run by XNNPACK" in shown and "older GPU delegate" in shown
    assert "EMBEDDING_LOOKUP" in shown and "embedding" in shown
    facts = export.describe(result.path)
    assert json.loads(json.dumps(facts["suitability"])) == json.loads(result.to_json())["suitability"]


def test_reading_needs_no_tensorflow(files: Any) -> None:
    _, result = files("bert", "backbone", "tflite")
    code = """
import sys
from attention_zoo import export
facts = export.describe(sys.argv[1])
print(facts["suitability"]["partitions"][0]["pieces"], {"tensorflow", "keras"} & set(sys.modules))
"""
    assert python(code, result.path).split("\n")[0] == f"{result.suitability.partitions[0].pieces} set()"
