"""How XNNPACK takes a TFLite file: in how many pieces, and what it leaves to LiteRT's own kernels.

LiteRT asks XNNPACK for every operator, and makes one node of each connected piece that it takes. Between two pieces
tensors are written out and read again, and a kernel of LiteRT's own runs on one core. Needs ``ai_edge_litert`` only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .flatbuffer import layer_of

SUBGRAPHS, SIGNATURES = 8, 18  # where ``Model`` has them, by its schema
DELEGATE = "DELEGATE"
Node = tuple[str, list[int], list[int]]


@dataclass(frozen=True)
class Partitions:
    """Of one signature.

    Attributes:
        pieces: that XNNPACK runs.
        operators: in all.
        outside: of those that it does not run, operator and the layer that it came from.
    """

    signature: str
    pieces: int
    operators: int
    outside: tuple[tuple[str, str], ...]


def partitions(content: bytes | np.ndarray, model: Any) -> list[Partitions]:
    """Of every signature. Control flow counts as one operator, whatever is in it.

    Args:
        content: of a file.
        model: its ``ModelT``.

    Raises:
        ValueError: a file that LiteRT cannot read.
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
    """The file with this graph in the first place: the interpreter tells of no other. Bodies of loops stay."""
    from ai_edge_litert import schema_py_generated as schema

    changed = bytearray(content)
    table: Any = schema.Model.GetRootAsModel(changed, 0)._tab
    graphs, signatures = (table.Vector(table.Offset(slot)) for slot in (SUBGRAPHS, SIGNATURES))
    places = [graphs + 4 * number for number in (0, index)]
    # Each element says how far behind itself its table lies.
    first, wanted = (place + struct.unpack_from("<I", changed, place)[0] for place in places)
    struct.pack_into("<I", changed, places[0], wanted - places[0])
    if index:
        struct.pack_into("<I", changed, places[1], first - places[1])
    struct.pack_into("<I", changed, signatures - 4, 0)
    return bytes(changed)


def _nodes(content: bytes) -> list[Node]:
    """Operator, inputs and outputs of every node of the first graph, XNNPACK's own among them."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"content: LiteRT cannot read it: {error}; accepted: a TFLite model") from error
    return [
        (node["op_name"], node["inputs"].tolist(), node["outputs"].tolist()) for node in interpreter._get_ops_details()
    ]


def _inside(
    nodes: list[tuple[str, list[int], list[int]]], delegates: list[tuple[str, list[int], list[int]]]
) -> set[int]:
    """The nodes that the delegates stand for: all between their inputs and their outputs."""
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
