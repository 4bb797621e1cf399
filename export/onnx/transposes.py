"""Transposes of images, moved behind what is computed element by element until they meet and cancel each other.

TensorFlow has the channels last and ONNX first, so every convolution comes with two transposes. ONNX Runtime removes
them when it loads a file; many other runtimes compute them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from ..initializers import initializer

UNARY = {
    *("Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
    *("Log", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh"),
    *("ThresholdedRelu",),
}
# Channels to the last and to the second place: of images and volumes.
IMAGES = {(0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 3, 4, 1), (0, 4, 1, 2, 3)}
BINARY = {"Add", "Div", "Max", "Min", "Mul", "Sub"}


def cancel_transposes(graph: Any) -> None:
    """Move transposes down, in place, where that lets two of them cancel or merges them into one.

    Args:
        graph: an ``onnx_ir.Graph`` with sorted nodes, whose shapes are known.
    """
    names = count(1)
    for _ in range(len(graph)):  # each round moves every transpose past one node at the most
        changed = False
        for node in list(graph):
            if node.graph is graph and not node.domain:
                changed |= _joined(graph, node) or _with_bias(graph, node) or _moved(graph, node, names)
        if not changed:
            break


def _permutation(value: Any) -> tuple[int, ...] | None:
    """Return the permutation of the transpose that computes a value, or None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose" or node.domain or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def _joined(graph: Any, node: Any) -> bool:
    """Join a transpose with one that it reads."""
    import onnx_ir as ir

    if node.op_type != "Transpose" or (first := _permutation(node.inputs[0])) is None:
        return False
    before = node.inputs[0].producer()
    order = tuple(first[axis] for axis in _permutation(node.outputs[0]) or ())
    if not order:
        return False
    source, old = before.inputs[0], node.outputs[0]
    if order == tuple(range(len(order))) and not old.is_graph_output():
        ir.convenience.replace_all_uses_with(old, source)
        graph.remove(node, safe=True)
    else:
        node.replace_input_with(0, source)
        node.attributes["perm"] = ir.AttrInt64s("perm", order)
    _drop(graph, before)
    return True


def _with_bias(graph: Any, node: Any) -> bool:
    """Give a convolution the bias that is added behind its transpose."""
    import onnx_ir as ir

    if node.op_type != "Add":
        return False
    for value, bias in (node.inputs, node.inputs[::-1]):
        order = _permutation(value)
        if order is None or len(value.uses()) != 1 or value.is_graph_output() or not _is_vector(bias):
            continue
        transpose = value.producer()
        conv = transpose.inputs[0].producer()
        if conv is None or conv.op_type not in ("Conv", "ConvTranspose"):
            continue
        if len(transpose.inputs[0].uses()) != 1 or transpose.inputs[0].is_graph_output():
            continue
        if order[-1] != 1 or len(conv.inputs) > 2 or not _fits(bias, conv):
            continue
        conv.resize_inputs(3)
        conv.replace_input_with(2, bias)
        old = node.outputs[0]
        name, is_output = old.name, old.is_graph_output()
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if is_output:
            value.name, value.dtype, value.shape = name, old.dtype, old.shape
        return True
    return False


def _is_vector(value: Any) -> bool:
    return value is not None and value.producer() is None and value.shape is not None and len(value.shape) == 1


def _fits(bias: Any, conv: Any) -> bool:
    """Return whether a vector has one element for each channel that a convolution computes."""
    kernel, result = conv.inputs[1].shape, conv.outputs[0].shape
    group = conv.attributes["group"].as_int() if "group" in conv.attributes else 1
    channels = None if result is None or len(result) < 2 else result[1]
    if kernel is not None and len(kernel) > 2:
        channels = kernel[0] if conv.op_type == "Conv" else kernel[1]
        channels = channels * group if conv.op_type == "ConvTranspose" and isinstance(channels, int) else channels
    return isinstance(channels, int) and bias.shape[0] == channels


def _moved(graph: Any, node: Any, names: Iterator[int]) -> bool:
    """Move the transposes in front of a node behind it."""
    import onnx_ir as ir

    places = _places(node)
    orders = {_permutation(node.inputs[i]) for i in places}
    order = orders.pop() if len(orders) == 1 else None
    if order is None or order not in IMAGES or any(_rank(node.inputs[i]) not in (None, len(order)) for i in places):
        return False
    transposes = [node.inputs[i].producer() for i in places]
    readers = [use.node for transpose in transposes for use in transpose.outputs[0].uses()]
    if not all(reader is node or reader.op_type == "Transpose" or _places(reader) for reader in readers):
        return False  # it would stay in front of the other readers
    if not _adapted(graph, node, order):
        return False
    for i, transpose in zip(places, transposes, strict=True):
        node.replace_input_with(i, transpose.inputs[0])
    old = node.outputs[0]
    name = f"{node.name}/Transpose.{next(names)}"
    behind = ir.node("Transpose", [old], {"perm": list(order)}, name=name)
    uses = list(old.uses())
    graph.insert_after(node, behind)
    result = behind.outputs[0]
    result.name = f"{name}:0"
    if old.dtype is not None:
        result.dtype, result.shape = old.dtype, old.shape
    old.shape = None
    for use in uses:
        if use.node is not behind:
            use.node.replace_input_with(use.idx, result)
    for transpose in dict.fromkeys(transposes):
        _drop(graph, transpose)
    return True


def _places(node: Any) -> list[int]:
    """Return which inputs of a node may be transposed; none for a node that transposes cannot pass."""
    if len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return []
    if node.op_type in BINARY:
        return [i for i, value in enumerate(node.inputs) if not _is_scalar(value)]
    if node.op_type == "Concat":
        return list(range(len(node.inputs)))
    return [0] if node.op_type in UNARY or node.op_type == "Pad" else []


def _adapted(graph: Any, node: Any, order: Sequence[int]) -> bool:
    """Permute the axis of a concatenation and the numbers of a padding; return whether that is possible."""
    import onnx_ir as ir

    if node.op_type == "Concat":
        axis = node.attributes["axis"].as_int() % len(order)
        node.attributes["axis"] = ir.AttrInt64("axis", order[axis])
    if node.op_type != "Pad":
        return True
    pads = node.inputs[1]
    if pads.const_value is None or len(node.inputs) > 3:
        return False
    ends = pads.const_value.numpy().reshape(2, -1)
    if ends.shape[1] != len(order):
        return False
    moved = np.empty_like(ends)
    for place, axis in enumerate(order):  # output axis `place` of the transpose is its input axis `axis`
        moved[:, axis] = ends[:, place]
    node.replace_input_with(1, initializer(graph, f"{node.name}/pads.{len(graph.initializers)}", moved.ravel()))
    return True


def _is_scalar(value: Any) -> bool:
    if value is None or value.const_value is None:
        return False
    return value.const_value.size == 1 and len(value.const_value.shape) <= 1


def _rank(value: Any) -> int | None:
    return None if value.shape is None else len(value.shape)


def _drop(graph: Any, node: Any) -> None:
    """Remove a node that nothing reads any more."""
    if not any(value.uses() or value.is_graph_output() for value in node.outputs):
        graph.remove(node, safe=True)
