"""What stands in a TFLite file, and the file as objects that can be changed, and back.

Needs ``ai_edge_litert``, and no TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...signature import Signature, TensorSpec

METADATA_KEY = "attention_zoo"
WEIGHTS = ("float32", "float16", "int8", "int4", "int2")  # dtypes that weights are stored in
TABLES_LIMIT = 2_000_000_000  # bytes that a flatbuffer's own offsets reach
ALIGNMENT, LARGE = 16, 1 << 20


def _flatbuffer(path: Path, begin: int = 0) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAsModel(np.memmap(path, dtype=np.uint8, mode="r", offset=begin), 0)


def tflite_metadata(path: Path, begin: int = 0) -> dict[str, str]:
    """What a TFLite file says of itself, also one that begins at byte `begin` of a bundle."""
    model = _flatbuffer(path, begin)
    for i in range(model.MetadataLength()):
        if model.Metadata(i).Name() == METADATA_KEY.encode():
            return json.loads(bytes(model.Buffers(model.Metadata(i).Buffer()).DataAsNumpy()))
    return {}


def tflite_operators(path: Path) -> list[str]:
    """The operator of every node; custom ones as "CUSTOM: name"."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = _flatbuffer(path)
    kinds = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the old field holds codes below 127
        custom = code.CustomCode()
        kinds.append(f"CUSTOM: {custom.decode()}" if custom else names[builtin])
    return [
        kinds[graph.Operators(i).OpcodeIndex()]
        for graph in (model.Subgraphs(j) for j in range(model.SubgraphsLength()))
        for i in range(graph.OperatorsLength())
    ]


def unpacked(content: bytes | bytearray | memoryview | np.ndarray) -> Any:
    """The ``ModelT`` of a file; its buffers are views of `content`, wherever in it they lie."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # behind the tables, as files over 2 GB have it
            buffer.data = np.frombuffer(content, "uint8", buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


class LateBuffer:
    """A buffer of a ``ModelT`` whose numbers are fetched when they are written, one at a time, and not kept.

    Attributes:
        bytes: how many.
        fetch: gives them.
        offset, size: where they are in the file, if not in its tables.
    """

    data, offset, size = None, 0, 0

    def __init__(self, bytes: int, fetch: Callable[[], np.ndarray]) -> None:
        self.bytes, self.fetch = bytes, fetch

    def Pack(self, builder: Any) -> Any:  # noqa: N802, as the others are called
        from ai_edge_litert import schema_py_generated as schema

        made = schema.BufferT()
        made.offset, made.size = self.offset, self.size
        made.data = None if self.offset else self.fetch()
        return made.Pack(builder)


def packed(model: Any) -> memoryview:
    """The file of a ``ModelT``."""
    import flatbuffers

    inside = sum(0 if buffer.offset else _bytes(buffer) for buffer in model.buffers)
    builder = flatbuffers.Builder(inside + 65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return memoryview(builder.Bytes)[builder.Head() :]  # what ``Output`` would copy


def write(model: Any, file: Path) -> None:
    """As ``packed``, to a file of any size: where the tables would have no room for the numbers, these come after."""
    if sum(map(_bytes, model.buffers)) <= TABLES_LIMIT:
        file.write_bytes(packed(model))
        return
    metadata = {entry.buffer for entry in model.metadata or []}  # which stays in the tables
    model.buffers = [b if index in metadata else _late(b) for index, b in enumerate(model.buffers)]
    apart = [buffer for buffer in model.buffers if isinstance(buffer, LateBuffer)]
    for buffer in apart:
        buffer.offset, buffer.size = 2, buffer.bytes
    end = len(packed(model))  # the same for every offset
    for buffer in apart:
        buffer.offset = -(-end // ALIGNMENT) * ALIGNMENT
        end = buffer.offset + buffer.size
    with file.open("wb") as opened:
        opened.write(packed(model))
        for buffer in apart:
            opened.write(bytes(buffer.offset - opened.tell()))
            opened.write(buffer.fetch().data)


def _bytes(buffer: Any) -> int:
    if isinstance(buffer, LateBuffer):
        return buffer.bytes
    return 0 if buffer.data is None else len(buffer.data)


def _late(buffer: Any) -> Any:
    if isinstance(buffer, LateBuffer) or _bytes(buffer) < LARGE:
        return buffer
    return LateBuffer(len(buffer.data), lambda: np.ascontiguousarray(buffer.data, "uint8"))


def set_metadata(model: Any, entries: Mapping[str, str]) -> None:
    """Give `model` these entries, which ``tflite_metadata`` reads, instead of those that it may have had."""
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


def signatures(model: Any) -> dict[str, Signature]:
    """Names, dtypes and sizes of every signature's tensors; an open size is called "?"."""
    found = {}
    for signature in model.signatureDefs or []:
        graph = model.subgraphs[signature.subgraphIndex]
        inputs, outputs = (
            tuple(_spec(entry.name.decode(), graph.tensors[entry.tensorIndex]) for entry in entries)
            for entries in (signature.inputs, signature.outputs)
        )
        found[signature.signatureKey.decode()] = Signature(inputs, outputs)
    return found


def dtype_names() -> dict[int, str]:
    """By ``schema.TensorType``: "float32", "int4", "bool", …"""
    from ai_edge_litert import schema_py_generated as schema

    return {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}


def shape_of(tensor: Any) -> list[int]:
    """The sizes of a ``TensorT``, -1 where one is open."""
    signed = tensor.shapeSignature
    shape = tensor.shape if signed is None or not len(signed) else signed
    return [] if shape is None else [int(n) for n in shape]


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, dtype_names()[tensor.type], tuple("?" if n < 0 else n for n in shape_of(tensor)))


def layer_of(graph: Any, inputs: Iterable[int], outputs: Iterable[int]) -> str:
    """The layer that an operator came from, after the names of its tensors, its results first; "" where none tells."""
    names = [(graph.tensors[i].name or b"").decode() for i in (*outputs, *inputs) if i >= 0]
    return next((name.partition(";")[0].rpartition("/")[0] for name in names if "/" in name.partition(";")[0]), "")


def constants(model: Any) -> list[tuple[str, np.ndarray, int]]:
    """Name, bytes, and of a float or 8-bit or smaller one, but for the scales of blocks, how many numbers, of every
    buffer that a tensor reads."""
    kinds, found = dtype_names(), {}
    for graph in model.subgraphs:
        quantized = [tensor.quantization for tensor in graph.tensors if tensor.quantization is not None]
        scales = {int(of.details.scales) for of in quantized if hasattr(of.details, "scales")}
        for index, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            if tensor.buffer and tensor.buffer not in found and data is not None and len(data):
                weight = kinds[tensor.type] in WEIGHTS and len(shape_of(tensor)) > 0 and index not in scales
                count = int(np.prod(shape_of(tensor))) if weight else 0
                found[tensor.buffer] = ((tensor.name or b"").decode(), np.asarray(data, "uint8"), count)
    return list(found.values())


def constant(model: Any, graph: Any, name: str, values: np.ndarray) -> int:
    """The place of a new tensor with these values."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {"int32": schema.TensorType.INT32, "float32": schema.TensorType.FLOAT32}
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = values.reshape(-1).view("uint8")
    tensor.name, tensor.type, tensor.hasRank = name, kinds[values.dtype.name], True
    tensor.shape, tensor.buffer = np.array(values.shape, "int32"), len(model.buffers)
    model.buffers.append(buffer)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def opcode(model: Any, builtin: int, version: int) -> int:
    """The place of an operator among those of `model`, where it is put if it is not there."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
