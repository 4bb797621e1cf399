"""The check of ONNX files for a runtime: the tables of operators, a file for each reason, and the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attention_zoo import export
from attention_zoo.cli import main
from attention_zoo.export.targets.table import IR_VERSIONS, TARGETS
from attention_zoo.export.targets.tensorrt import DTYPES

NAMES = [
    *("standard", "onnxruntime", "onnxruntime-web", "openvino", "tensorrt", "coreml", "qnn", "rknn", "mnn", "tract")
]
F, I64, I32, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
# Operators of the standard's domain that ONNX Runtime adds.
ADDED = {"SimplifiedLayerNormalization"}
PROVIDERS = ("onnxruntime-web", "coreml", "qnn")


def value(name: str, dtype: int = F, *dims: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(dims))


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    *,
    outputs: list[onnx.ValueInfoProto] | None = None,
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    ir: int = 8,
    **more: Any,
) -> Path:
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    given = outputs or [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph(nodes, "graph", inputs, given, tensors)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=domains, ir_version=ir, **more).SerializeToString())
    return path


def node(operator: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(","), outputs.split(","), name=f"layer/{operator}", **attributes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


# The tables


def test_the_targets_are_these() -> None:
    assert list(TARGETS) == NAMES
    for name, target in TARGETS.items():
        assert target.name == name and target.source.startswith("https://") and target.notes
        assert target.shapes in ("open", "static") and target.index_dtype in ("int32", "int64")
        assert target.fallback == ("cpu" if name in PROVIDERS else None)
        if name != "standard":
            assert len(target.operators) > 50
            assert (target.opset in range(17, 24)) and target.ir_version == IR_VERSIONS[target.opset or 0]
            assert not set(target.avoid) & set(target.operators) or name == "tract"


@pytest.mark.parametrize("opset", sorted(IR_VERSIONS))
def test_the_ir_version_is_that_of_the_onnx_release(opset: int) -> None:
    assert helper.find_min_ir_version_for([helper.make_opsetid("", opset)]) == IR_VERSIONS[opset]


@pytest.mark.parametrize("name", NAMES)
def test_operators_exist_in_onnx(name: str) -> None:
    target = TARGETS[name]
    known = {(one.domain, one.name) for one in onnx.defs.get_all_schemas_with_history()}
    for operator in (*target.operators, *target.avoid, *target.dtypes, *target.constant, *target.rejects):
        domain, _, short = operator.rpartition(".")
        assert (domain, short) in known or short in ADDED or domain == "com.microsoft", operator
    for table in (target.dtypes, target.constant, target.rejects):
        assert set(table) <= set(target.operators)


def test_every_operator_of_tensorrt_has_dtypes() -> None:
    assert set(DTYPES) == set(TARGETS["tensorrt"].operators)


def test_what_runtimes_were_seen_to_read() -> None:
    """Compare with single operators that were loaded in OpenVINO 2025.4, MNN 3.6.1 and tract 0.23.9."""
    loaded = {"Add", "CumSum", "Einsum", "Erf", "Gelu", "LayerNormalization", "ReduceMean", "ReduceSum", "Trilu"}
    rejected = {"openvino": {"Attention", "RMSNormalization", "RotaryEmbedding"}, "tract": set()}
    rejected["mnn"] = {*rejected["openvino"], "IsNaN"}
    for name, lacking in rejected.items():
        assert all(TARGETS[name].knows(one) for one in loaded), name
        assert not any(TARGETS[name].knows(one) for one in lacking), name
    assert all(TARGETS["tract"].knows(one) for one in rejected["openvino"])


# One file for each reason


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_file_passes(name: str, file: Path) -> None:
    saved(file, [node("MatMul", "x,w", "h"), node("Relu", "h")], [value("x", F, 1, 4)], constants={"w": np.eye(4, 3)})
    report = export.check(file, name)
    assert report.passed and not report.refused and not report.wrong and not report.on_cpu
    assert (report.target, report.opset, report.ir_version, report.nodes) == (name, 17, 8, 2)


def test_an_unknown_operator_is_refused(file: Path) -> None:
    inputs = [value(name, F, 1, 2, 3, 4) for name in "qkv"]
    saved(file, [node("Attention", "q,k,v", "h"), node("Attention", "h,k,v")], inputs, opset=23, ir=11)
    for name in ("openvino", "mnn"):
        report = export.check(file, name)
        (found,) = report.refused
        assert (found.operator, found.count, found.first) == ("Attention", 2, "layer/Attention")
        assert "does not know this operator" in found.reason and not report.passed and not report.on_cpu
        assert [one.reason for one in report.warnings if "operator set" in one.reason]
    assert export.check(file, "onnxruntime").passed and export.check(file, "standard").passed


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_an_execution_provider_lacks_is_on_the_cpu(name: str, file: Path) -> None:
    saved(file, [node("IsNaN", "x", "h"), node("Cast", "h", "y", to=F)], [value("x", F, 2)])
    report = export.check(file, name)
    assert report.passed and [(one.operator, one.count) for one in report.on_cpu] == [("IsNaN", 1)]
    saved(file, [node("Strange", "x", domain="org.example")], [value("x", F, 2)])  # the CPU does not know it either
    report = export.check(file, name)
    assert not report.passed and report.refused[0].operator == "org.example.Strange"


@pytest.mark.parametrize(
    ("name", "opset", "ir", "text"),
    [
        ("rknn", 20, 9, "operator set 19 at most, and the file has 20"),
        ("tensorrt", 21, 10, "operator set 20 at most, and the file has 21"),
        ("onnxruntime", 24, 11, "operator set 23 at most, and the file has 24"),
        ("onnxruntime", 23, 12, "IR version 11 at most, and the file has 12"),
        ("qnn", 23, 12, "IR version 11 at most, and the file has 12"),
    ],
)
def test_newer_files_are_refused(name: str, opset: int, ir: int, text: str, file: Path) -> None:
    saved(file, [node("Relu")], [value("x", F, 2)], opset=opset, ir=ir)
    (found,) = export.check(file, name).refused
    assert found.operator == "" and text in found.reason


def test_the_domain_com_microsoft(file: Path) -> None:
    saved(file, [node("MatMulNBits", "x,b,s", domain="com.microsoft", K=32, N=2, bits=4, block_size=32)], [
        value("x", F, 1, 32), value("b", TensorProto.UINT8, 2, 1, 16), value("s", F, 2)
    ])  # fmt: skip
    assert export.check(file, "onnxruntime").passed and export.check(file, "tract").passed
    assert "domain com.microsoft" in export.check(file, "standard").refused[0].reason
    for name in ("rknn", "mnn", "tensorrt"):
        (found,) = export.check(file, name).refused
        assert found.operator == "com.microsoft.MatMulNBits" and "domain com.microsoft" in found.reason
    (found,) = export.check(file, "coreml").on_cpu  # it knows others of this domain
    assert "does not know this operator" in found.reason


def test_open_dimensions(file: Path) -> None:
    saved(file, [node("Add", "x,z")], [value("x", F, "batch", 4), value("z", F, 1, None)])
    (found,) = export.check(file, "rknn").refused
    assert (found.count, found.first) == (2, "x") and "fixed dimensions" in found.reason
    report = export.check(file, "qnn")
    assert report.passed and report.on_cpu[0].count == 2
    assert export.check(file, "openvino").passed and not export.check(file, "coreml").on_cpu


@pytest.mark.parametrize("steps", [6, "sequence"])
def test_sequence_lens(steps: Any, file: Path) -> None:
    weights = {"w": np.zeros((1, 16, 8), "float32"), "r": np.zeros((1, 16, 4), "float32")}
    lstm = [node("LSTM", "x,w,r,,lengths", hidden_size=4)]
    saved(file, lstm, [value("x", F, steps, 2, 8), value("lengths", I32, 2)], constants=weights)
    (found,) = export.check(file, "mnn").wrong
    assert found.operator == "LSTM" and "sequence_lens" in found.reason
    assert bool(export.check(file, "openvino").wrong) == (steps == "sequence")
    (refused,) = export.check(file, "tract").refused
    assert "constant as input 4" in refused.reason
    report = export.check(file, "mnn")
    assert not report.refused and not report.passed
    saved(file, [node("LSTM", "x,w,r", hidden_size=4)], [value("x", F, steps, 2, 8)], constants=weights)
    assert all(export.check(file, name).passed for name in ("mnn", "openvino", "tract"))


def test_an_output_that_another_node_overwrites(file: Path) -> None:
    saved(
        file,
        [node("Relu", "x", "y"), node("Sigmoid", "y", "z")],
        [value("x", F, 4)],
        outputs=[value("y", F, 4), value("z", F, 4)],
    )
    (found,) = export.check(file, "mnn").wrong
    assert found.operator == "Sigmoid" and "writes the result over y, which is an output" in found.reason
    assert export.check(file, "openvino").passed


def test_dtypes(file: Path) -> None:
    """The dtype of the second node's input is inferred, past a large initializer whose values are not read."""
    nodes = [node("Gather", "table,x", "h"), node("Relu", "h", "g"), node("MatMul", "g,g")]
    inputs = [value("x", I64, 8)]
    saved(file, nodes, inputs, constants={"table": np.zeros((64, 8), "int64")})
    (found,) = export.check(file, "tensorrt").refused
    assert found.operator == "MatMul" and found.reason.endswith("not int64")
    computed = {one.operator for one in export.check(file, "onnxruntime-web").on_cpu}
    assert computed == {"Relu", "MatMul"}  # Gather only moves values
    saved(file, nodes, inputs, constants={"table": np.zeros((64, 8), "float32")})
    assert export.check(file, "tensorrt").passed and not export.check(file, "onnxruntime-web").on_cpu


@pytest.mark.parametrize("name", PROVIDERS)
def test_constants_are_not_on_the_cpu(name: str, file: Path) -> None:
    """ONNX Runtime computes what does not depend on inputs, and removes Identity, before it divides the graph."""
    constant = helper.make_node("Constant", [], ["c"], name="c", value=onnx.numpy_helper.from_array(np.ones(2, "f")))
    nodes = [
        constant,
        node("IsNaN", "c", "n"),
        node("Cast", "n", "d", to=F),
        node("Add", "x,d", "h"),
        node("Identity", "h"),
    ]
    report = export.check(saved(file, nodes, [value("x", F, 2)]), name)
    assert report.passed and not report.on_cpu and report.nodes == 5


def test_a_boolean_mask_in_tract(file: Path) -> None:
    def with_mask(dtype: int) -> Any:
        inputs = [*(value(name, F, 1, 2, 3, 4) for name in "qkv"), value("m", dtype, 1, 1, 3, 3)]
        return export.check(saved(file, [node("Attention", "q,k,v,m")], inputs, opset=23, ir=11), "tract")

    assert with_mask(F).passed
    assert "bool as input 3" in with_mask(BOOL).refused[0].reason


def test_inputs_that_must_be_constant(file: Path) -> None:
    axes = {"a": np.array([1])}
    computed = [node("Identity", "a", "b"), node("ReduceSum", "x,b")]
    overridable = [value("x", F, 2, 3), value("a", I64, 1)]  # with a value in the file, it is a default
    for name, kind in (("tensorrt", "a constant"), ("tract", "an initializer")):
        saved(file, [node("ReduceSum", "x,a")], [value("x", F, 2, 3)], constants=axes)
        assert export.check(file, name).passed
        for given in ({}, axes):
            saved(file, [node("ReduceSum", "x,a")], overridable, constants=given)
            assert export.check(file, name).refused[0].reason.endswith(f"needs {kind} as input 1")
        saved(file, computed, [value("x", F, 2, 3)], constants=axes)
        assert export.check(file, name).passed == (name == "tensorrt")  # it computes constants when it loads the file
    saved(file, [node("Gemm", "x,w")], [value("x", F, 2, 3), value("w", F, 3, 2)])
    (found,) = export.check(file, "coreml").on_cpu
    assert found.operator == "Gemm" and "constant as input 1" in found.reason


def test_shapes_in_int32_in_tract(file: Path) -> None:
    nodes = [node("Shape", "x", "s"), node("Cast", "s", "i", to=I32), node("Cast", "i", "j", to=I64)]
    saved(file, [*nodes, node("Expand", "z,j")], [value("x", F, "b", 4), value("z", F, 1, 4)])
    assert "computed with int32" in export.check(file, "tract").refused[0].reason
    assert export.check(file, "openvino").passed
    saved(file, [nodes[0], node("Expand", "z,s")], [value("x", F, "b", 4), value("z", F, 1, 4)])
    assert export.check(file, "tract").passed


def test_nested_graphs_and_functions(file: Path) -> None:
    inner = helper.make_graph([node("Attention", "x,x,x", "h")], "inner", [], [value("h", F, 1, 2, 3, 4)])
    other = helper.make_graph([node("Identity", "x", "h")], "other", [], [value("h", F, 1, 2, 3, 4)])
    body = helper.make_graph(
        [node("Identity", "c", "d"), node("If", "d", "y2", then_branch=inner, else_branch=other)],
        "body",
        [value("i", I64), value("c", BOOL)],
        [value("d", BOOL), value("y2", F, 1, 2, 3, 4)],
    )
    loop = [node("Loop", "n,t", "y", body=body)]
    inputs = [value("x", F, 1, 2, 3, 4), value("n", I64), value("t", BOOL)]
    report = export.check(saved(file, loop, inputs, opset=23, ir=11), "openvino")
    assert report.nodes == 5 and [one.operator for one in report.refused] == ["Attention"]
    function = helper.make_function(
        "own", "Mine", ["x"], ["y"], [node("RMSNormalization", "x,x")], [helper.make_opsetid("", 23)]
    )
    saved(file, [node("Mine", "x", domain="own")], [value("x", F, 4)], opset=23, ir=11, functions=[function])
    report = export.check(file, "mnn")
    assert [one.operator for one in report.refused] == ["RMSNormalization"] and export.check(file, "tract").passed


def test_limits_in_words_are_warnings(file: Path) -> None:
    saved(file, [node("Softmax")], [value("x", F, 1, 4)])
    report = export.check(file, "rknn")
    assert report.passed and [one.reason for one in report.warnings] == ["rknn 2.3.2: batchsize: 1"]


# The report and the errors


def test_the_report(file: Path) -> None:
    saved(file, [node("IsNaN", "x", "h"), node("Cast", "h", "y", to=F)], [value("x", F, 2)])
    failed = export.check(file, "mnn")
    said = json.loads(failed.to_json())
    assert said == failed.to_dict() and said["passed"] is False and said["nodes"] == 2
    assert said["refused"][0] | {"reason": ""} == {
        "operator": "IsNaN",
        "count": 1,
        "first": "layer/IsNaN",
        "reason": "",
    }
    assert str(failed) == failed.to_markdown() and "| not readable by mnn | IsNaN 1: " in str(failed)
    assert "1 of 2 nodes are on the CPU" in export.check(file, "coreml").to_markdown()


def test_what_is_no_onnx_file(file: Path) -> None:
    for content in (b"", b"no ONNX file at all", b"\x08\x08"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"^file: got .*m\.onnx, which is not an ONNX file; accepted: [^\n]*$"):
            export.check(file, "mnn")
    with pytest.raises(ValueError, match=r"^file: got .*none\.onnx, which is not a file"):
        export.check(file.with_name("none.onnx"), "mnn")
    saved(file, [node("Relu")], [value("x", F, 2)])
    with pytest.raises(ValueError, match=r"^target: got 'trackt'; did you mean \['tract'\]\? accepted: \['standard', "):
        export.check(file, "trackt")


def test_the_weights_are_not_read(file: Path) -> None:
    saved(file, [node("MatMul", "x,w")], [value("x", F, 1, 512)], constants={"w": np.zeros((512, 512), "float32")})
    onnx.save(onnx.load(str(file)), str(file), save_as_external_data=True, location="m.onnx.data")
    file.with_name("m.onnx.data").unlink()
    assert export.check(file, "tensorrt").passed


def test_no_framework_is_imported(file: Path) -> None:
    saved(file, [node("Relu")], [value("x", F, 2)])
    code = (
        "import sys; from attention_zoo import export; export.check(sys.argv[1], 'tract')\n"
        "assert not {'keras', 'tensorflow', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)


# The command line


def info(*arguments: Any) -> tuple[int, str, str]:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(["info", *map(str, arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def test_info(file: Path) -> None:
    saved(
        file,
        [node("IsNaN", "x", "h"), node("Cast", "h", "y", to=F)],
        [value("x", F, 2)],
        outputs=[value("y", F, 2)],
    )
    code, out, _ = info(file, "--target", "mnn", "--json")
    (report,) = json.loads(out)["targets"]
    assert code == 0 and report["target"] == "mnn" and report["refused"][0]["operator"] == "IsNaN"
    code, out, _ = info(file, "--target", "mnn")
    assert code == 0 and "not readable by mnn" in " ".join(out.split())
    code, out, _ = info(file, "--json")
    assert code == 0 and "targets" not in json.loads(out)


def test_mistakes(file: Path) -> None:
    saved(file, [node("Relu")], [value("x", F, 2)], outputs=[value("y", F, 2)])
    code, _, err = info(file, "--target", "abacus")
    assert code == 2 and "target: got 'abacus'" in err and err.count("\n") == 1
    other = file.with_suffix(".tflite")
    other.write_bytes(b"")
    code, _, err = info(other, "--target", "mnn")
    assert code == 2 and "accepted: an .onnx file" in err and err.count("\n") == 1
    code, _, err = info("gpt2", "--target", "mnn")
    assert code == 2 and "not a file" in err
