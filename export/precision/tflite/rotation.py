"""Rotation of the inputs of a TFLite file's matrix multiplications; see ``export/precision/rotation.py``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from ....runtime.tflite.flatbuffer import constant, opcode, operators, shape_of
from ..rotation import block_of, hadamard, rotated
from .weights import LOOKUP, PRODUCT, Weight

KEPT_RANK = 5  # the version of FULLY_CONNECTED whose input may have more than two dimensions
NAME = "hadamard"  # in the names of the constant and of the rotated tensors


def rotate(model: Any, weights: Collection[Weight], most: int) -> Any:
    """Rotate the inputs of all matrix multiplications with these weights, in blocks, and the weights; return `model`.

    A rotated embedding table, which is also the head, gets a rotation after each lookup. Inputs that several matrix
    multiplications share are rotated once.

    Args:
        model: a ``ModelT`` in float32.
        weights: weights of `model` that only FULLY_CONNECTED and EMBEDDING_LOOKUP operators read, and that have a width
            that can be divided into blocks; see ``block_of``.
        most: the most features in a block.
    """
    names = {name for weight in weights for name in weight.names}
    places: dict[tuple[int, int], int] = {}  # a rotated tensor, by graph and tensor
    matrices: dict[tuple[int, int], int] = {}  # a Hadamard matrix, by graph and size
    done: set[int] = set()
    for graph in model.subgraphs:
        kinds = {id(node): kind for other, node, kind in operators(model) if other is graph}
        nodes = []
        for node in graph.operators:
            kind = kinds[id(node)]
            read = graph.tensors[node.inputs[1]] if kind in (PRODUCT, LOOKUP) else None
            if read is None or read.name.decode() not in names:
                nodes.append(node)
                continue
            size = block_of(int(read.shape[-1]), most)
            if read.buffer not in done:
                done.add(read.buffer)
                data = np.asarray(model.buffers[read.buffer].data, "uint8").view("float32")
                model.buffers[read.buffer].data = rotated(data, size).view("uint8")
            if (id(graph), size) not in matrices:
                name = f"{NAME}_{size};{graph.name.decode()}"
                matrices[id(graph), size] = constant(model, graph, name, hadamard(size))
            matrix = matrices[id(graph), size]
            if kind == LOOKUP:
                after = int(node.outputs[0])
                node.outputs = [_like(graph, after, f"{NAME}/rows")]
                nodes += [node, *_turned(model, graph, int(node.outputs[0]), matrix, size, after)]
                continue
            rows = int(node.inputs[0])
            if (id(graph), rows) not in places:
                places[id(graph), rows] = _like(graph, rows, NAME)
                nodes += _turned(model, graph, rows, matrix, size, places[id(graph), rows])
            node.inputs = [places[id(graph), rows], *map(int, node.inputs[1:])]
            nodes.append(node)
        graph.operators = nodes
    return model


def _like(graph: Any, index: int, said: str, shape: Any = None) -> int:
    """Add a float32 tensor of the same shape, or of `shape`, named after the tensor `index`; return its index."""
    from ai_edge_litert import schema_py_generated as schema

    other, made = graph.tensors[index], schema.TensorT()
    label = f"{other.name.decode()}/{said};{graph.name.decode()}"
    made.name, made.type, made.hasRank = label.encode(), other.type, True
    made.shape = other.shape if shape is None else np.array(np.maximum(shape, 1), "int32")
    made.shapeSignature = other.shapeSignature if shape is None else np.array(shape, "int32")
    graph.tensors.append(made)
    return len(graph.tensors) - 1


def _turned(model: Any, graph: Any, rows: int, matrix: int, size: int, result: int) -> list[Any]:
    """Return the operators that rotate the tensor `rows` and write the tensor `result` of the same shape."""
    from ai_edge_litert import schema_py_generated as schema

    shape = shape_of(graph.tensors[rows])  # at most one dimension is open, the sequence
    flat = _like(graph, rows, f"{NAME}/blocks", [-1 if min(shape) < 0 else int(np.prod(shape)) // size, size])
    product, reshape = schema.OperatorT(), schema.OperatorT()
    product.opcodeIndex = opcode(model, schema.BuiltinOperator.FULLY_CONNECTED, KEPT_RANK)
    product.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    product.builtinOptions = schema.FullyConnectedOptionsT()
    product.inputs, product.outputs = [rows, matrix, -1], [flat]
    reshape.opcodeIndex = opcode(model, schema.BuiltinOperator.RESHAPE, 1)
    reshape.builtinOptionsType, reshape.builtinOptions = (
        schema.BuiltinOptions.ReshapeOptions,
        schema.ReshapeOptionsT(),
    )
    reshape.builtinOptions.newShape = np.array(shape, "int32")
    label = f"{graph.tensors[result].name.decode()}/shape"
    reshape.inputs = [flat, constant(model, graph, label, np.array(shape, "int32"))]
    reshape.outputs = [result]
    return [product, reshape]
