"""Reading, changing and writing of TFLite files, which are flatbuffers.

Requires ``ai_edge_litert``, but not TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import brief, shown
from ...signature import Signature, TensorSpec
from ..metadata import OURS

METADATA_KEY = "attention_zoo"
RUNTIME = b"min_runtime_version"  # the converter's metadata: a release of TensorFlow
WEIGHTS = ("float32", "float16", "int8", "int4", "int2")  # dtypes of stored weights
TABLES_LIMIT = 2_000_000_000  # bytes; the 32-bit offsets of a flatbuffer do not reach further than 2 GB
ALIGNMENT, LARGE = 16, 1 << 20


def _flatbuffer(path: Path, begin: int = 0) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAsModel(np.memmap(path, dtype=np.uint8, mode="r", offset=begin), 0)


def tflite_metadata(path: Path, begin: int = 0) -> dict[str, str]:
    """Return attention_zoo's metadata of a TFLite file, which begins at byte `begin` of `path`; {} if it has none.

    Raises:
        ValueError: If the metadata is not a JSON object of texts.
    """
    model = _flatbuffer(path, begin)
    for i in range(model.MetadataLength()):
        if model.Metadata(i).Name() == METADATA_KEY.encode():
            buffer = model.Buffers(model.Metadata(i).Buffer())
            return _texts(path, bytes(buffer.DataAsNumpy()) if buffer.DataLength() else b"")
    return {}


def _texts(path: Path, content: bytes) -> dict[str, str]:
    try:
        found = json.loads(content)
        if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
            raise ValueError(f"got {shown(found)}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path: the metadata in {path} cannot be read: {brief(error)}; {OURS}") from error
    return found


def least_runtime(path: Path, begin: int = 0) -> str | None:
    """Return the oldest runtime that knows all operator versions of a file, such as "LiteRT 2.1".

    The file states a release of TensorFlow, whose Lite runtime became LiteRT. None if it states none.
    """
    model = _flatbuffer(path, begin)
    for i in range(model.MetadataLength()):
        if model.Metadata(i).Name() == RUNTIME:
            text = bytes(model.Buffers(model.Metadata(i).Buffer()).DataAsNumpy()).rstrip(b"\0").decode()
            release = tuple(int(part) for part in text.split(".") if part.isdigit())
            if release[:2] <= (2, 17):
                return f"TensorFlow Lite {text.removesuffix('.0')}" if text else None
            return "LiteRT 1.0" if release[:2] == (2, 18) else "LiteRT 2.0" if release[:2] < (2, 21) else "LiteRT 2.1"
    return None


def tflite_operators(path: Path) -> list[str]:
    """Return the name of the operator of every node. A custom operator is named "CUSTOM: name"."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = _flatbuffer(path)
    kinds = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the deprecated field holds codes below 127
        custom = code.CustomCode()
        kinds.append(f"CUSTOM: {custom.decode()}" if custom else names[builtin])
    return [
        kinds[graph.Operators(i).OpcodeIndex()]
        for graph in (model.Subgraphs(j) for j in range(model.SubgraphsLength()))
        for i in range(graph.OperatorsLength())
    ]


def unpacked(content: bytes | bytearray | memoryview | np.ndarray) -> Any:
    """Return the ``ModelT`` of a file. Its buffers are views of `content`, also those outside the flatbuffer tables."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # after the tables, as in files above 2 GB
            buffer.data = np.frombuffer(content, "uint8", buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


class LateBuffer:
    """A buffer of a ``ModelT`` whose contents are fetched only when it is written, and are not kept in memory.

    Attributes:
        bytes: The size of the contents.
        fetch: Returns the contents.
        offset: The position of the contents in the file, or 0 if they are in its tables.
        size: Their size in bytes, if `offset` is set.
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
    """Serialize a ``ModelT``."""
    import flatbuffers

    inside = sum(0 if buffer.offset else _bytes(buffer) for buffer in model.buffers)
    builder = flatbuffers.Builder(inside + 65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return memoryview(builder.Bytes)[builder.Head() :]  # like ``builder.Output()``, but without a copy


def write(model: Any, file: Path) -> None:
    """Write a ``ModelT`` to a file of any size. Buffers that the tables cannot hold are written after the tables."""
    if sum(map(_bytes, model.buffers)) <= TABLES_LIMIT:
        file.write_bytes(packed(model))
        return
    metadata = {entry.buffer for entry in model.metadata or []}  # stays in the tables
    model.buffers = [b if index in metadata else _late(b) for index, b in enumerate(model.buffers)]
    apart = [buffer for buffer in model.buffers if isinstance(buffer, LateBuffer)]
    for buffer in apart:
        buffer.offset, buffer.size = 2, buffer.bytes
    end = len(packed(model))  # does not depend on the values of the offsets
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
    """Replace the metadata of `model` that ``tflite_metadata`` reads with `entries`."""
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
    """Store equal buffers only once, so that the tensors of several signatures share their weights."""
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
    """Yield the graph, the node and the name of the operator of every node."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    for graph in model.subgraphs:
        for node in graph.operators:
            yield graph, node, codes[node.opcodeIndex]


def signatures(model: Any) -> dict[str, Signature]:
    """Return the signatures by name, with the dtypes and shapes of their tensors. Dynamic dimensions are named "?"."""
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
    """Return the dtype names, such as "float32", "int4" and "bool", by value of ``schema.TensorType``."""
    from ai_edge_litert import schema_py_generated as schema

    return {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}


def shape_of(tensor: Any) -> list[int]:
    """Return the shape of a ``TensorT``, with -1 for a dynamic dimension."""
    signed = tensor.shapeSignature
    shape = tensor.shape if signed is None or not len(signed) else signed
    return [] if shape is None else [int(n) for n in shape]


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, dtype_names()[tensor.type], tuple("?" if n < 0 else n for n in shape_of(tensor)))


def layer_of(graph: Any, inputs: Iterable[int], outputs: Iterable[int]) -> str:
    """Return the name of the layer of an operator, taken from the names of its outputs and inputs; "" if unknown."""
    names = [(graph.tensors[i].name or b"").decode() for i in (*outputs, *inputs) if i >= 0]
    return next((name.partition(";")[0].rpartition("/")[0] for name in names if "/" in name.partition(";")[0]), "")


def constants(model: Any) -> list[tuple[str, np.ndarray, int]]:
    """List the constants: every non-empty buffer that a tensor uses.

    Returns:
        Name, contents (uint8) and number of elements of each. The number is 0 for a constant that is not a weight: a
        scalar, the scales of a block-wise quantized weight, or a dtype that is not in ``WEIGHTS``.
    """
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
    """Add a constant tensor with these values to `graph`, and return its index."""
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
    """Return the index of an operator among the operator codes of `model`, to which it is added if missing."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
