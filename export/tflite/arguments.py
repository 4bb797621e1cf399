"""Replacement of a converted file's weight arguments by constants.

The converter writes a matrix multiplication with an argument as BATCH_MATMUL. It becomes the FULLY_CONNECTED that the
converter would have written for a constant: with the matrix as (out, in), and fused with the bias and the activation
after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...runtime.tflite.flatbuffer import LateBuffer, opcode
from ..frontend.inference import FileWeights
from .packing import Alike, Joint, Product, joint_name, pack

KEPT_RANK = 5  # the version of FULLY_CONNECTED whose input may have more than two dimensions


def as_constants(model: Any, stored: FileWeights, arguments: Mapping[str, str], alike: Alike | None) -> Joint:
    """Replace the inputs of ``ModelT`` `model` that stand for weights by the weights of `stored`, in place.

    Args:
        arguments: the names of the weights, by the name of the input.
        alike: returns whether weights of these names may be stored as one; None to store each by itself.

    Returns:
        The names of the weights that were joined into one, by the name of the joint weight.
    """
    from ai_edge_litert import schema_py_generated as schema

    weights, products, seen = _Weights(model, stored), [], []
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        known = {int(entry.tensorIndex): arguments.get(entry.name.decode()) for entry in signature.inputs}
        given = {index: (name, False) for index, name in known.items() if name is not None}
        signature.inputs = [entry for entry in signature.inputs if entry.tensorIndex not in given]
        graph.inputs = [index for index in graph.inputs if index not in given]
        given |= _transposed(model, graph, given)
        products += _products(model, graph, given, weights)
        seen.append((signature, graph, given))
    elsewhere = {
        given[int(index)][0]
        for _, graph, given in seen
        for node in graph.operators
        for index in (node.inputs if node.inputs is not None else [])
        if int(index) in given
    }
    joint = {} if alike is None else pack(model, products, elsewhere, alike, weights.joint)
    for signature, graph, given in seen:
        for node in graph.operators:
            if node.inputs is not None and any(index in given for index in node.inputs):
                node.inputs = [weights.tensor(graph, *given[i]) if i in given else i for i in map(int, node.inputs)]
        _without_unread(graph, [*signature.inputs, *signature.outputs])
    read = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for index, buffer in enumerate(model.buffers):
        if isinstance(buffer, LateBuffer) and index not in read:
            model.buffers[index] = schema.BufferT()
    return joint


@dataclass
class _Weights:
    """The constants of the file: one buffer for each weight and layout, and one tensor with it for each graph."""

    model: Any
    stored: FileWeights
    buffers: dict[tuple[tuple[str, ...], bool], int] = field(default_factory=dict)
    tensors: dict[tuple[int, tuple[str, ...], bool], int] = field(default_factory=dict)

    def tensor(self, graph: Any, name: str, turned: bool) -> int:
        """Return the index in `graph` of the weight of this name, transposed if `turned`."""
        return self._tensor(graph, (name,), turned)

    def joint(self, graph: Any, names: Sequence[str]) -> int:
        """Return the index in `graph` of several kernels as one, transposed and concatenated along their outputs."""
        return self._tensor(graph, tuple(names), True)

    def _tensor(self, graph: Any, names: tuple[str, ...], turned: bool) -> int:
        from ai_edge_litert import schema_py_generated as schema

        key = id(graph), names, turned
        if key not in self.tensors:
            made = schema.TensorT()
            # AI Edge Quantizer requires the names of tensors to be unique in a file.
            alone = len(self.model.signatureDefs) == 1
            more = [] if alone else [graph.name.decode()]
            more += ["transposed"] if (id(graph), names, not turned) in self.tensors else []
            made.name = ";".join([joint_name(names), *more])
            made.type, made.hasRank = schema.TensorType.FLOAT32, True
            shapes = [[int(n) for n in self.stored.variables[name].shape] for name in names]
            shape = [math.prod(shapes[0][:-1]), sum(columns for *_, columns in shapes)]
            made.shape = np.array(shape[::-1] if turned else shape, "int32")
            made.buffer = self._buffer(names, turned, 4 * shape[0] * shape[1])
            self.tensors[key] = len(graph.tensors)
            graph.tensors.append(made)
        return self.tensors[key]

    def _buffer(self, names: tuple[str, ...], turned: bool, size: int) -> int:
        if (names, turned) not in self.buffers:

            def fetched() -> np.ndarray:
                values = [self.stored.value(name) for name in names]
                values = [value.reshape(-1, value.shape[-1]) for value in values]  # stacked kernels become rows
                values = [value.T if turned else value for value in values]
                value = values[0] if len(values) == 1 else np.concatenate(values)
                return np.ascontiguousarray(value).reshape(-1).view("uint8")

            self.buffers[names, turned] = len(self.model.buffers)
            self.model.buffers.append(LateBuffer(size, fetched))
        return self.buffers[names, turned]


def _transposed(model: Any, graph: Any, given: Mapping[int, tuple[str, bool]]) -> dict[int, tuple[str, bool]]:
    """Remove the operators that transpose a weight, and return their results with the weight that each stands for."""
    from ai_edge_litert import schema_py_generated as schema

    dropped = [
        node
        for node in graph.operators
        if _kind(model, node) == schema.BuiltinOperator.TRANSPOSE and int(node.inputs[0]) in given
    ]
    graph.operators = [node for node in graph.operators if not any(node is other for other in dropped)]
    found = {int(node.outputs[0]): given[int(node.inputs[0])] for node in dropped}
    return {index: (name, not turned) for index, (name, turned) in found.items()}


def _kind(model: Any, node: Any) -> int:
    code = model.operatorCodes[node.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _products(model: Any, graph: Any, given: Mapping[int, tuple[str, bool]], weights: _Weights) -> list[Product]:
    """Replace the BATCH_MATMUL operators of a graph that read a weight by FULLY_CONNECTED.

    Returns:
        Those that read a kernel, which has one row per output in the file. A tied embedding table is not among them.
    """
    from ai_edge_litert import schema_py_generated as schema

    builtin = schema.BuiltinOperator
    readers: dict[int, list[Any]] = {}
    for node in graph.operators:
        for index in node.inputs if node.inputs is not None else []:
            readers.setdefault(int(index), []).append(node)

    def follower(node: Any) -> Any:
        """Return the only operator that reads the only output of `node`, or None."""
        index = int(node.outputs[0])
        found = readers.get(index, [])
        return found[0] if len(found) == 1 and index not in graph.outputs else None

    merged: set[int] = set()
    made = []
    for node in graph.operators:
        if _kind(model, node) != builtin.BATCH_MATMUL or int(node.inputs[1]) not in given or node.builtinOptions.adjX:
            continue
        rows, matrix = map(int, node.inputs)
        name, turned = given[matrix]  # read as (in, out), or with `adjY` as (out, in)
        turned = turned == bool(node.builtinOptions.adjY)
        node.inputs = [rows, weights.tensor(graph, name, turned), -1]
        made += [Product(graph, node, name)] if turned else []
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = len(graph.tensors[rows].shape) > 2
        node.opcodeIndex = opcode(model, builtin.FULLY_CONNECTED, KEPT_RANK)
        node.builtinOptionsType, node.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
        after = follower(node)
        if after is not None and _kind(model, after) == builtin.ADD:
            width = int(graph.tensors[node.outputs[0]].shape[-1])
            bias = next((int(i) for i in after.inputs if _is_vector(model, graph.tensors[i], width)), None)
            if bias is not None:
                node.inputs[2] = bias
                options.fusedActivationFunction = after.builtinOptions.fusedActivationFunction
                node.outputs = after.outputs
                merged.add(id(after))
                after = follower(node)
        if after is not None and _kind(model, after) == builtin.RELU and not options.fusedActivationFunction:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
            node.outputs = after.outputs
            merged.add(id(after))
    graph.operators = [node for node in graph.operators if id(node) not in merged]
    return made


def _is_vector(model: Any, tensor: Any, size: int) -> bool:
    """Return whether `tensor` is a one-dimensional constant of this size."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0 and tensor.shape is not None and list(tensor.shape) == [size]


def _without_unread(graph: Any, entries: list[Any]) -> None:
    """Remove the tensors that no operator uses and that are neither inputs nor outputs of the graph."""
    owners = [(graph, ("inputs", "outputs"))]
    owners += [(node, ("inputs", "outputs", "intermediates")) for node in graph.operators]
    lists = [(owner, side, getattr(owner, side)) for owner, sides in owners for side in sides]
    lists = [(owner, side, [int(index) for index in found]) for owner, side, found in lists if found is not None]
    kept = sorted({index for _, _, found in lists for index in found} - {-1})
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    for owner, side, found in lists:
        setattr(owner, side, [place[index] for index in found])
    for entry in entries:
        entry.tensorIndex = place[int(entry.tensorIndex)]
