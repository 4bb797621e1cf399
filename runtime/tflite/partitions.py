"""The partitions of a TFLite file that XNNPACK runs, and the operators that are left to LiteRT's own kernels.

LiteRT asks XNNPACK which operators it supports, and replaces each connected group of these (a partition) by one node.
Between two partitions, tensors are written to memory and read again, and LiteRT's own kernels run on a single core.
Requires ``ai_edge_litert`` only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checks import brief
from .flatbuffer import layer_of

SUBGRAPHS, SIGNATURES = 8, 18  # vtable offsets of these fields of ``Model``, according to its schema
DELEGATE = "DELEGATE"
Node = tuple[str, list[int], list[int]]


@dataclass(frozen=True)
class Partitions:
    """The partitions of one signature.

    Attributes:
        signature: The name of the signature.
        pieces: The number of partitions that XNNPACK runs.
        operators: The total number of operators.
        outside: Operator and layer of each node that XNNPACK does not run.
    """

    signature: str
    pieces: int
    operators: int
    outside: tuple[tuple[str, str], ...]


def partitions(content: bytes | np.ndarray, model: Any) -> list[Partitions]:
    """Return the partitions of every signature. A control-flow operator counts as one, regardless of its body.

    Args:
        content: The contents of the file.
        model: Its ``ModelT``.

    Raises:
        ValueError: If LiteRT cannot read the file.
    """
    found = []
    for signature in model.signatureDefs or []:
        graph = model.subgraphs[signature.subgraphIndex]
        nodes = _nodes(_alone(content, signature.subgraphIndex))
        own = [node for node in nodes if node[0] != DELEGATE]
        inside = _inside(own, [node for node in nodes if node[0] == DELEGATE])
        outside = [
            (name, layer_of(graph, inputs, outputs))
            for number, (name, inputs, outputs) in enumerate(own)
            if number not in inside
        ]
        found.append(Partitions(signature.signatureKey.decode(), len(nodes) - len(own), len(own), tuple(outside)))
    return found


def _alone(content: bytes | np.ndarray, index: int) -> bytes:
    """Return the file with the subgraph `index` in the first place, the only one whose nodes the interpreter reports.

    It is swapped with the first subgraph, and the signatures are removed. The bodies of loops keep their indices.
    """
    from ai_edge_litert import schema_py_generated as schema

    changed = bytearray(content)
    table: Any = schema.Model.GetRootAsModel(changed, 0)._tab
    graphs, signatures = (table.Vector(table.Offset(slot)) for slot in (SUBGRAPHS, SIGNATURES))
    places = [graphs + 4 * number for number in (0, index)]
    # Each element is the offset of its table, relative to the position of the element.
    first, wanted = (place + struct.unpack_from("<I", changed, place)[0] for place in places)
    struct.pack_into("<I", changed, places[0], wanted - places[0])
    if index:
        struct.pack_into("<I", changed, places[1], first - places[1])
    struct.pack_into("<I", changed, signatures - 4, 0)
    return bytes(changed)


def _nodes(content: bytes) -> list[Node]:
    """Return operator, inputs and outputs of every node of the first graph, including the nodes of XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"content: LiteRT cannot read it: {brief(error)}; accepted: a TFLite model") from error
    return [
        (node["op_name"], node["inputs"].tolist(), node["outputs"].tolist()) for node in interpreter._get_ops_details()
    ]


def _inside(
    nodes: list[tuple[str, list[int], list[int]]], delegates: list[tuple[str, list[int], list[int]]]
) -> set[int]:
    """Return the indices of the nodes that the delegate nodes replace: all between their inputs and their outputs."""
    made: Mapping[int, int] = {output: number for number, node in enumerate(nodes) for output in node[2]}
    found: set[int] = set()
    for _, inputs, outputs in delegates:
        given, wanted = set(inputs), list(outputs)
        while wanted:
            tensor = wanted.pop()
            number = made.get(tensor)
            if tensor not in given and number is not None and number not in found:
                found.add(number)
                wanted += nodes[number][1]
    return found
