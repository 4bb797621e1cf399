"""The versions of ONNX's operators that a file may have: which opset its nodes need, and who can read it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

FIRST, LAST = 17, 23
# The lowest IR version that allows an opset.
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
# Values of attributes that came later than the attribute, which the schemas of operators do not tell.
LATER = {("ScatterND", "reduction"): {"max": 18, "min": 18}, ("ScatterElements", "reduction"): {"max": 18, "min": 18}}


class LaterOpsetError(ValueError):
    """An operator of a graph is not in the opset; `least` is the first that may have it."""

    def __init__(self, opset: int, least: int, operator: str, layer: str) -> None:
        super().__init__(
            f"opset: got {opset} for a model whose {operator} needs {least}: {layer}; accepted: {least} to {LAST}, or "
            "None for the lowest"
        )
        self.least = least


def needed(model: Any) -> tuple[int, Any]:
    """Return the lowest opset from 17 on that has every operator of `model`, an ``onnx_ir.Model``, and a node that
    needs it; None for the node if 17 does.

    Raises:
        LookupError: no opset has an operator as a node has it. Its argument is the node.
    """
    lowest, reason = FIRST, None
    for node in every_node(model.graph):
        if not node.domain:
            least = _needed(node.op_type, *_kind(node))
            if least is None:
                raise LookupError(node)
            if least > lowest:
                lowest, reason = least, node
    return lowest, reason


def every_node(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs in them (bodies of loops, branches)."""
    for node in graph:
        yield node
        for attribute in node.attributes.values():
            if attribute.type.name == "GRAPH":
                yield from every_node(attribute.value)


def _kind(node: Any) -> tuple[int, tuple[str, ...], tuple[tuple[str, str], ...], str]:
    """Return what decides whether an opset has a node: the number of inputs, the attributes, and the first dtype."""
    values = []
    for name, attribute in node.attributes.items():
        if (node.op_type, name) in LATER:
            values.append((name, attribute.as_string()))
    first = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    dtype = "" if first is None else first.name
    return len(node.inputs), tuple(sorted(node.attributes)), tuple(values), dtype


@functools.cache
def _needed(
    operator: str, inputs: int, attributes: tuple[str, ...], values: tuple[tuple[str, str], ...], dtype: str
) -> int | None:
    """Return the lowest opset whose schema of an operator fits, or None."""
    import onnx

    later = [LATER[operator, name].get(value, FIRST) for name, value in values]
    for opset in range(max([FIRST, *later]), LAST + 1):
        try:
            schema = onnx.defs.get_schema(operator, opset, "")
        except onnx.defs.SchemaError:
            continue
        fits = schema.min_input <= inputs <= schema.max_input and {*attributes} <= {*schema.attributes}
        if fits and not schema.deprecated and _accepts(schema, dtype):
            return opset
    return None


TYPES = {"FLOAT": "float", "DOUBLE": "double", "BOOL": "bool"}  # the others are those of ONNX IR in lower case


def _accepts(schema: Any, dtype: str) -> bool:
    """Return whether the first input may have a dtype, in the words of ``onnx_ir``; "" if it is not known."""
    if not dtype or not schema.inputs:
        return True
    return f"tensor({TYPES.get(dtype, dtype.lower())})" in schema.inputs[0].types
