"""Check of an ONNX file: whether a runtime would read it, and which operators it would leave to the CPU.

The file is compared with what the runtime's authors publish (see ``table.py``); the runtime itself is not needed.
Requires the package ``onnx``, but neither TensorFlow nor Keras.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checks import choice
from ...needs import named_extras
from .report import FILE, TargetReport, grouped
from .table import SEQUENCE_LENS, TARGETS, Target

SMALL = 1024  # bytes; the values of larger initializers are not needed to infer shapes
# Operators that move or describe values, which ONNX Runtime does with any dtype.
MOVING = {"Cast", "Constant", "ConstantOfShape", "Identity", "If", "Loop", "Reshape", "Scan", "Shape", "Size"}
MOVING |= {"Concat", "Flatten", "Gather", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
SHAPED = {"Expand", "Reshape"}  # operators whose input 1 is a shape
REMOVED = {"Dropout", "Identity"}
Problem = tuple[str, str, str, str]  # kind ("refused", "wrong", "cpu" or "warning"), operator, name, reason


@dataclass
class Scope:
    """What is known of the values of a graph.

    Attributes:
        dtypes: The dtypes by the name of the value, as far as they are known.
        shapes: The dimensions by the name of the value, None for an open one.
        constants: The names of the values that do not depend on inputs.
        stored: The names of the constants that the file has, and that are not computed from others.
        casts: The dtypes from which values were cast, by the name of the result.
        results: The names of the outputs of the graph.
    """

    dtypes: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, list[int | None]] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    casts: dict[str, str | None] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)

    def within(self, graph: Any) -> Scope:
        """Return the scope of `graph`, which may be nested in this one."""
        scope = Scope(dict(self.dtypes), dict(self.shapes), set(self.constants), set(self.stored), dict(self.casts))
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if kind.elem_type:
                scope.dtypes[value.name] = _dtype(kind.elem_type)
            if kind.HasField("shape"):
                scope.shapes[value.name] = [_size(dim) for dim in kind.shape.dim]
        inputs = {value.name for value in graph.input}
        scope.results = {value.name for value in graph.output}
        scope.constants -= inputs
        for tensor in graph.initializer:
            scope.dtypes[tensor.name] = _dtype(tensor.data_type)
            scope.shapes[tensor.name] = list(tensor.dims)
            if tensor.name not in inputs:  # else it is a default that a caller can override
                scope.constants.add(tensor.name)
        scope.constants |= {tensor.values.name for tensor in graph.sparse_initializer}
        scope.stored |= scope.constants - self.constants
        return scope

    def follow(self, node: Any) -> None:
        """Add what is known of the outputs of a node without nested graphs."""
        if not node.op_type.startswith("Random") and self.constants.issuperset(filter(None, node.input)):
            self.constants.update(node.output)
        if node.op_type == "Constant":
            self.stored.update(node.output)
        if node.op_type == "Cast":
            self.casts[node.output[0]] = self.dtypes.get(node.input[0])
            self.dtypes[node.output[0]] = _dtype(next(one.i for one in node.attribute if one.name == "to"))


def check(file: str | os.PathLike[str], target: str) -> TargetReport:
    """Check whether a runtime would read an ONNX file.

    The weights are not read. The check follows the published list of the runtime's operators; limits that the list
    states in words only are returned as warnings.

    Args:
        file: An ``.onnx`` file of this package or of a third party.
        target: The runtime, a name in ``TARGETS``: "standard", "onnxruntime", "onnxruntime-web", "openvino",
            "tensorrt", "coreml", "qnn", "rknn", "mnn" or "tract".

    Returns:
        A ``TargetReport``.

    Raises:
        ValueError: If `target` is not one of these names, or if `file` is not an ONNX file.
        ImportError: If the package onnx is not installed.
    """
    known = TARGETS[choice("target", target, list(TARGETS))]
    model = _loaded(Path(file))
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    problems = [*_of_file(model, opset, known), *_of_inputs(model, known)]
    nodes = 0
    for scope, node in _nodes(_inferred(model)):
        nodes += 1
        problems += _of_node(node, scope, known, model.functions)

    kinds = [
        grouped((operator, name, reason) for kind, operator, name, reason in problems if kind == wanted)
        for wanted in ("refused", "wrong", "cpu", "warning")
    ]
    return TargetReport(str(file), target, opset, model.ir_version, nodes, *kinds)


def accept(file: str, target: str | None) -> None:
    """Check that `target` is None, or a name in ``TARGETS`` and `file` an ``.onnx`` file.

    Raises:
        ValueError: If not.
    """
    if target is not None:
        choice("target", target, list(TARGETS))
        if Path(file).suffix != ".onnx":
            raise ValueError(f"target: got {target!r} for {file}; accepted: an .onnx file")


def check_files(files: Iterable[str], target: str | None) -> list[TargetReport]:
    """Return the reports of all ``.onnx`` files among the files of a model; none if `target` is None."""
    return [] if target is None else [check(file, target) for file in files if Path(file).suffix == ".onnx"]


def _loaded(file: Path) -> Any:
    with named_extras():
        import onnx
        from google.protobuf.message import DecodeError

    if not file.is_file():
        raise ValueError(f"file: got {file}, which is not a file; accepted: an .onnx file")
    try:
        model = onnx.load(str(file), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, TypeError) as error:
        raise ValueError(f"file: got {file}, which is not an ONNX file; accepted: an .onnx file") from error
    if not model.ir_version or not model.HasField("graph") or not model.opset_import:
        raise ValueError(f"file: got {file}, which is not an ONNX file; accepted: an .onnx file")
    return model


def _inferred(model: Any) -> Any:
    """Return `model` with the dtypes and shapes that can be inferred, and without the values of large initializers."""
    import onnx

    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > SMALL:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="not-read")
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # a library of C++ raises errors of many kinds; the check works with what the file states
        return model


def _nodes(model: Any) -> Iterator[tuple[Scope, Any]]:
    yield from _of_graph(model.graph, Scope().within(model.graph))
    for function in model.functions:
        yield from _of_graph(function, Scope())


def _of_graph(graph: Any, scope: Scope) -> Iterator[tuple[Scope, Any]]:
    """Yield the nodes of a graph or function in order, with those of nested graphs."""
    for node in graph.node:
        nested = [graph for one in node.attribute for graph in ([one.g] if one.HasField("g") else one.graphs)]
        if not nested:
            scope.follow(node)
        yield scope, node
        for inner in nested:
            yield from _of_graph(inner, scope.within(inner))


def _of_file(model: Any, opset: int, target: Target) -> Iterator[Problem]:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest and any(node.domain in ("", "ai.onnx") for node in model.graph.node):
        yield "refused", FILE, "", f"the file has operator set {opset}, and sets 1 to {newest} are known"
    for what, value, limit in (
        ("operator set", opset, target.reads),
        ("IR version", model.ir_version, target.reads_ir),
    ):
        if limit is not None and value > limit:
            yield "refused", FILE, "", f"{target.title} reads {what} {limit} at most, and the file has {value}"
    if target.reads is None and target.opset is not None and opset > target.opset:
        yield "warning", FILE, "", f"{target.title} is known to read operator set {target.opset}, the file has {opset}"


def _of_inputs(model: Any, target: Target) -> Iterator[Problem]:
    """Yield the inputs with open dimensions, if the runtime needs fixed ones."""
    if target.shapes == "open":
        return
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name not in constants and (
            not kind.HasField("shape") or any(_size(dim) is None for dim in kind.shape.dim)
        ):
            kind = "cpu" if target.fallback else "refused"
            yield kind, FILE, value.name, f"{target.title} needs inputs of fixed dimensions"


def _of_node(node: Any, scope: Scope, target: Target, functions: Any) -> Iterator[Problem]:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if any((one.domain, one.name) == (node.domain, node.op_type) for one in functions):
        return  # the nodes of the function are checked
    operator = f"{domain}.{node.op_type}".lstrip(".")
    name = node.name or next(iter(node.output), "")
    outside = "cpu" if target.fallback else "refused"
    if target.fallback and (operator in REMOVED or scope.constants.issuperset(filter(None, node.output))):
        return  # ONNX Runtime computes constants and removes these nodes when it loads a file
    if reason := _unknown(operator, domain, target):
        # ONNX Runtime itself must know what an execution provider leaves to the CPU.
        fits = target.fallback is None or not _unknown(operator, domain, TARGETS["onnxruntime"])
        yield (outside if fits else "refused"), operator, name, reason
        return
    index = SEQUENCE_LENS.get(operator)
    if index is not None and _given(node, index) and _ignores_lengths(node, scope, target):
        yield "wrong", operator, name, f"{target.title} ignores the input sequence_lens"
    if operator in target.overwrites and scope.results.intersection(node.input):
        yield "wrong", operator, name, f"{target.title} writes the result over {node.input[0]}, which is an output"
    if reason := next(_of_values(operator, node, scope, target), None):
        yield outside, operator, name, reason
    elif limit := target.operators.get(operator):
        yield "warning", operator, name, f"{target.title}: {limit}"


def _unknown(operator: str, domain: str, target: Target) -> str:
    """Return why the runtime does not know an operator, or an empty text."""
    if target.name == "standard":
        import onnx

        if domain not in ("", "ai.onnx.ml"):
            return f"the domain {domain} is not part of the ONNX standard"
        known = onnx.defs.has(operator.rpartition(".")[2], domain)
    else:
        known = target.knows(operator)
        if not known and domain and not any(one.startswith(f"{domain}.") for one in target.operators):
            return f"{target.title} does not know the domain {domain}"
    return "" if known else f"{target.title} does not know this operator"


def _of_values(operator: str, node: Any, scope: Scope, target: Target) -> Iterator[str]:
    """Yield why the runtime does not compute a node whose operator it knows."""
    dtypes = [scope.dtypes.get(name) for name in node.input]
    main = 1 if operator == "Where" else 0
    kind = dtypes[main] if main < len(dtypes) else None
    accepted = target.dtypes.get(operator)
    if accepted and kind not in (None, "float64", *accepted):
        yield f"{target.title} computes it with {', '.join(accepted)}, not {kind}"
    if kind in target.lacks and operator not in MOVING:
        yield f"{target.title} does not compute with {kind} by default"
    for index, kinds in target.rejects.get(operator, {}).items():
        if _given(node, index) and dtypes[index] in kinds:
            yield f"{target.title} does not accept {dtypes[index]} as input {index}"
    for index in target.constant.get(operator, ()):
        if _given(node, index) and node.input[index] not in scope.constants:
            yield f"{target.title} needs a constant as input {index}"
    for index in target.stored.get(operator, ()):
        if _given(node, index) and node.input[index] not in scope.stored:
            yield f"{target.title} needs an initializer as input {index}"
    shape = node.input[1] if operator in SHAPED and _given(node, 1) else ""
    if not target.int32_shapes and scope.casts.get(shape) == "int32" and shape not in scope.constants:
        yield f"{target.title} does not accept shapes that are computed with int32"


def _ignores_lengths(node: Any, scope: Scope, target: Target) -> bool:
    if target.ignores_lengths != "open":
        return target.ignores_lengths == "always"
    axis = next((one.i for one in node.attribute if one.name == "layout"), 0)
    shape = scope.shapes.get(node.input[0], [])
    return len(shape) <= axis or shape[axis] is None


def _given(node: Any, index: int) -> bool:
    return index < len(node.input) and bool(node.input[index])


def _size(dim: Any) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None


def _dtype(kind: int) -> str:
    import onnx

    name = onnx.TensorProto.DataType.Name(kind).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
