"""A TFLite file as objects that can be changed, and back. Needs ``ai_edge_litert``, and no TensorFlow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .runtime import METADATA_KEY


def unpacked(content: bytes | bytearray | memoryview) -> Any:
    """The ``ModelT`` of a file; its buffers are views of `content`, wherever in it they lie."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # behind the tables, as files over 2 GB have it
            buffer.data = np.frombuffer(content, "uint8", buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(model: Any) -> bytes:
    """The file of a ``ModelT``."""
    import flatbuffers

    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + 65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def set_metadata(model: Any, entries: Mapping[str, str]) -> None:
    """Give `model` these entries, which ``runtime.py`` reads, instead of those that it may have had."""
    from ai_edge_litert import schema_py_generated as schema

    data = np.frombuffer(json.dumps(entries).encode(), dtype=np.uint8)
    for entry in model.metadata or []:
        if entry.name == METADATA_KEY.encode():
            model.buffers[entry.buffer].data = data
            return
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = data
    entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def share_buffers(model: Any) -> None:
    """Store once what is equal: every signature has its own tensors, which need not have their own numbers."""
    first: dict[bytes, int] = {}
    place: dict[int, int] = {}
    for index, buffer in enumerate(model.buffers):
        if index and buffer.data is not None and len(buffer.data):
            place[index] = first.setdefault(hashlib.sha256(bytes(buffer.data)).digest(), index)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = place.get(tensor.buffer, tensor.buffer)
    for index, kept in place.items():
        if index != kept:
            model.buffers[index].data = None


def operators(model: Any) -> Iterator[tuple[Any, Any, str]]:
    """Of every node: its graph, itself, and the name of its operator."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    for graph in model.subgraphs:
        for node in graph.operators:
            yield graph, node, codes[node.opcodeIndex]
