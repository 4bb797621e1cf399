"""Passes over a converted graph: equal and unused nodes, names, and repairs of what tf2onnx and the passes leave."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np

from ..initializers import initializer
from .constants import fold_constants
from .sizes import keep_sizes_wide

RECURRENT = {"GRU": 2, "LSTM": 3, "RNN": 2}  # numbers of outputs


def tidied(model: Any) -> Any:
    """Merge equal nodes, such as those that compute the mask in every block, and remove unused ones."""
    from onnx_ir.passes import common

    outputs = [value.name for value in model.graph.outputs]
    for node in model.graph:
        if node.op_type == "Identity":  # tf2onnx leaves the shape of the elements as an input of a list of tensors
            node.resize_inputs(1)
    _sort(model.graph)  # the passes keep the order, which determines which of two equal nodes stays
    for step in (
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    ):
        model = step(model).model
    fold_constants(model.graph, model.opset_imports[""])
    model = common.DeduplicateInitializersPass(size_limit=1024)(model).model
    _own_outputs(model.graph)  # merging nodes fails where a graph returns a value that it captures
    for step in (
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        model = step(model).model
    keep_sizes_wide(model.graph)
    model = common.RemoveUnusedNodesPass()(model).model
    _keep_padding(model.graph)
    _own_outputs(model.graph)
    _distinct_outputs(model.graph, outputs)
    _all_outputs(model.graph)
    _rename(model.graph)
    return model


def _keep_padding(graph: Any) -> None:
    """Replace zeros around an image by the smallest positive normal number where max pooling follows.

    ONNX Runtime fuses padding with zeros into max pooling, where the padding does not count. That is wrong where all
    values are negative. Padding with any other value is not fused.
    """

    def pools(node: Any) -> bool:
        behind = [use.node for output in node.outputs for use in output.uses()]
        return any(other.op_type == "MaxPool" or (other.op_type == "Transpose" and pools(other)) for other in behind)

    for node in list(graph):
        value = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
        zero = value is None or (value.const_value is not None and not value.const_value.numpy().any())
        if node.op_type == "Pad" and zero and pools(node):
            almost = initializer(graph, f"{node.name}_almost_zero", np.array(np.finfo("float32").tiny))
            node.resize_inputs(3)
            node.replace_input_with(2, almost)


def _read(node: Any) -> list[Any]:
    """Return the values that a node reads, and those that the graphs in it (the body of a loop, branches) capture."""
    found = [value for value in node.inputs if value is not None]
    for graph in _inside(node):
        found += [value for inner in graph for value in _read(inner)]
        found += list(graph.outputs)
    return found


def _inside(node: Any) -> list[Any]:
    """Return the graphs that a node contains."""
    import onnx_ir as ir

    return [attribute.value for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]


def _distinct_outputs(graph: Any, names: list[str]) -> None:
    """Give every output a value of its own. The passes merge outputs that are equal, or equal to an input."""
    import onnx_ir as ir

    seen = set(graph.inputs)
    for i, name in enumerate(names):
        value = graph.outputs[i]
        if value in seen or value.is_initializer():
            copy = ir.node("Identity", [value])
            copy.outputs[0].dtype, copy.outputs[0].shape = value.dtype, value.shape
            graph.append(copy)
            graph.outputs[i] = value = copy.outputs[0]
        seen.add(value)
        value.name = name


def _all_outputs(graph: Any) -> None:
    """Name every output of recurrent nodes. MNN and RKNN do not read nodes without those that nothing reads."""
    for node in graph:
        if node.op_type in RECURRENT and not node.domain:
            node.resize_outputs(RECURRENT[node.op_type])


def _own_outputs(graph: Any) -> None:
    """Let the graphs inside of nodes return values of their own, where one would return a value that it captures."""
    import onnx_ir as ir

    for node in graph:
        for inner in _inside(node):
            _own_outputs(inner)
            for i, value in enumerate(inner.outputs):
                if value.producer() not in set(inner) and value not in inner.inputs:
                    copy = ir.node("Identity", [value])
                    inner.append(copy)
                    inner.outputs[i] = copy.outputs[0]


def _sort(graph: Any) -> None:
    """Sort nodes by a walk from the outputs back. tf2onnx's own order depends on its names, which differ from run to
    run."""
    own, ordered, done = set(graph), [], set()
    stack = [(output.producer(), False) for output in reversed(graph.outputs)]
    while stack:
        node, ready = stack.pop()
        if node not in own or node in done:
            continue
        if ready:
            done.add(node)
            ordered.append(node)
            continue
        stack.append((node, True))
        stack += [(value.producer(), False) for value in reversed(_read(node))]
    graph.remove(list(graph))
    graph.extend(ordered)
    for node in ordered:
        for inner in _inside(node):
            _sort(inner)


def _rename(graph: Any) -> None:
    """Remove process-wide counters from names, so that the same model always gives the same bytes."""
    import onnx_ir as ir

    seen: Counter[str] = Counter()

    def plain(name: str, operator: str = "") -> str:
        name = re.sub(r"__\d+|_1(?=/)|:0$", "", name)  # "bert_1/block_0_1/add:0" is "bert/block_0/add"
        name = re.sub(r"_(cond|body|true|false)_\d+", r"_\1", name)  # of functions
        name = re.sub(r"PyFunc(_\d+)?$", operator, name)
        seen[name] += 1
        return name if seen[name] == 1 else f"{name}.{seen[name]}"

    kept = {*graph.inputs, *graph.outputs}
    initializers: dict[Any, None] = {}  # not by name: those of different graphs may have equal names

    def rename(nodes: Any) -> None:
        returned = set(nodes.outputs)
        for node in nodes:
            node.name = plain(node.name or node.op_type, node.op_type)
            for value in node.inputs:
                if value is not None and value.is_initializer():
                    initializers[value] = None
            for i, value in enumerate(node.outputs):
                if value not in returned:
                    value.shape = None  # tf2onnx gives open dimensions names with counters
                if value not in kept:
                    value.name = f"{node.name}:{i}"
            for number, inner in enumerate(_inside(node)):
                inner.name = f"{node.name}.graph:{number}"
                for i, value in enumerate(inner.inputs):
                    value.name = f"{inner.name}.in:{i}"
                for value in (*inner.inputs, *inner.outputs):
                    if value.shape is not None:  # the runtime needs the rank
                        value.shape = ir.Shape([dim if isinstance(dim, int) else None for dim in value.shape])
                rename(inner)
                initializers.update({value: None for value in inner.outputs if value.is_initializer()})
                inner.initializers.clear()

    rename(graph)
    graph.initializers.clear()
    for value in initializers:  # in the order of their first use
        value.name = value.const_value.name = plain(value.name)
        graph.register_initializer(value)
