"""The float32 twin of a TFLite file in reduced precision: the same graphs with the model's own weights.

The converter keeps the names of matrices that are multiplied or looked up. Kernels of convolutions are recognized by
their values, since the converter names and moves them as it likes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...runtime.tflite.flatbuffer import operators
from ..precision.rotation import LEAST_BLOCK, rotated
from .stored import Stored, unpacked_nibbles

Array = np.ndarray

FLOAT32, FLOAT16, INT32, INT16, INT8, INT4 = 0, 1, 2, 7, 9, 17  # of ``schema.TensorType``
LIMITS = {INT8: (-128, 127), INT4: (-8, 7)}
JOINT = "+"
FAR = 0.2  # relative: candidates that are farther from the stored numbers than this are other weights


class Twin:
    """A ``ModelT`` that becomes its own float32 twin.

    Attributes:
        stored: its weights as they were stored.
        unknown: the names of quantized tensors that are no weight of the model, such as a kernel into which the
            converter folded a norm.
        integers: whether activations are integers with ranges that were measured, so that there is no twin.
    """

    def __init__(self, model: Any, known: Mapping[str, Array]) -> None:
        self.model, self.known = model, known
        self.stored: list[Stored] = []
        self.unknown: list[str] = []
        self.done: dict[int, int] = {}  # the buffer of the float32 weight, by that of the stored one
        self.integers = False
        for graph in model.subgraphs:
            details = [getattr(t.quantization, "details", None) for t in graph.tensors]
            scales = {int(of.scales) for of in details if of is not None}
            for index, tensor in enumerate(graph.tensors):
                data = model.buffers[tensor.buffer].data
                if index in scales:
                    continue
                if data is not None and len(data):
                    self._constant(graph, tensor, np.asarray(data, "uint8"))
                elif tensor.type in (INT8, INT16) and tensor.quantization is not None:
                    self.integers |= tensor.quantization.scale is not None
        _drop_dequantize(model)

    def _constant(self, graph: Any, tensor: Any, data: Array) -> None:
        """Compare a constant with the model's weights, and make it float32 if it is a weight in fewer bits."""
        shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
        name = (tensor.name or b"").decode().partition(";")[0]
        if tensor.type == FLOAT32:
            candidates = self._named(name, shape)
            if candidates and tensor.buffer not in self.done and shape:
                self.done[tensor.buffer] = tensor.buffer
                array = data.view("float32").reshape(shape)
                best = min(candidates, key=lambda one: float(np.abs(one - array).mean()))
                self.stored.append(Stored(name, array.reshape(shape[0], -1), best.reshape(shape[0], -1)))
            return
        quantization = tensor.quantization
        blockwise = getattr(quantization, "details", None)
        scaled = blockwise is not None or (quantization is not None and quantization.scale is not None)
        if tensor.type == FLOAT16:
            array = data.view("float16").reshape(shape)
            rows = array.reshape(shape[0], -1) if shape else array.reshape(1, 1)
            self._replace(tensor, name, array.astype("float32"), shape, {"values": rows})
        elif tensor.type in LIMITS and scaled and shape:
            self._integers(graph, tensor, name, data, shape)

    def _integers(self, graph: Any, tensor: Any, name: str, data: Array, shape: list[int]) -> None:
        limits, count = LIMITS[tensor.type], int(np.prod(shape))
        nibbles = (unpacked_nibbles(data)[:count].astype("int8") ^ 8) - 8 if tensor.type == INT4 else None
        values = (data.view("int8") if nibbles is None else nibbles).reshape(shape)
        quantization, blocks, axis = tensor.quantization, 1, 0
        details = quantization.details
        if details is not None:
            held = graph.tensors[int(details.scales)]
            scales = np.asarray(self.model.buffers[held.buffer].data, "uint8").view("float16").astype("float32")
            zeros, blocks = np.zeros(scales.size, "float32"), shape[-1] // int(details.blockSize)
            rows = values.reshape(scales.size, -1)
        else:
            scales = np.asarray(quantization.scale, "float32")
            zero = quantization.zeroPoint
            zeros = np.zeros(scales.size, "float32") if zero is None else np.asarray(zero, "float32")
            axis = int(quantization.quantizedDimension)
            rows = np.moveaxis(values, axis, 0).reshape(scales.size, -1)
        own = {"values": rows, "scales": scales, "zeros": zeros, "limits": limits, "blocks": blocks}
        own |= {"bits": 4 if tensor.type == INT4 else 8}
        numbers = (rows.astype("float32") - zeros[:, None]) * scales[:, None]
        turned = [shape[axis], *(n for i, n in enumerate(shape) if i != axis)]
        whole = np.moveaxis(numbers.reshape(turned), 0, axis) if details is None else numbers.reshape(shape)
        self._replace(tensor, name, whole, shape, own, axis)

    def _replace(
        self, tensor: Any, name: str, numbers: Array, shape: list[int], own: dict[str, Any], axis: int = 0
    ) -> None:
        """Store the model's own weight in place of `numbers`, or these if it has none that is near.

        Args:
            own: the fields of ``Stored``.
            axis: the dimension whose indices have a scale each.
        """
        if tensor.buffer not in self.done:
            scaled = "scales" in own
            candidates = self._named(name, shape) or list(self._alike(numbers))
            if scaled and len(shape) == 2:
                candidates = [*candidates, *_rotations(candidates)]
            if numbers.size == 1 and not candidates:
                candidates = [numbers]  # a number, and no weight
            best = min(candidates, key=lambda one: float(np.abs(one - numbers).mean()), default=None)
            if best is None:
                self.unknown.append(name)
            else:
                groups = own["values"].shape
                self.stored.append(Stored(name, expected=np.moveaxis(best, axis, 0).reshape(groups), **own))
            from ai_edge_litert import schema_py_generated as schema

            buffer: Any = schema.BufferT()
            exact = np.ascontiguousarray(numbers if best is None else best, "float32")
            buffer.data = exact.reshape(-1).view("uint8")
            self.done[tensor.buffer] = len(self.model.buffers)
            self.model.buffers.append(buffer)
        tensor.buffer, tensor.type, tensor.quantization = self.done[tensor.buffer], FLOAT32, None

    def _named(self, name: str, shape: list[int]) -> list[Array]:
        """Return the model's weight of this name, or several joined into one, in every layout of this shape."""
        names = parts_of(name, self.known)
        if not names:
            return []
        values = [self.known[one].reshape(-1, self.known[one].shape[-1]) for one in names]
        array = values[0] if len(values) == 1 else np.concatenate(values, axis=1)
        return [one for one in (array, array.T) if list(one.shape) == shape]

    def _alike(self, numbers: Array) -> Iterator[Array]:
        """Yield the model's weights, in any layout of this shape, that are near these numbers."""
        size = float(np.abs(numbers).mean()) or 1.0
        for array in self.known.values():
            if array.size != numbers.size:
                continue
            for order in itertools.permutations(range(array.ndim)):
                moved = np.transpose(array, order).reshape(numbers.shape)
                if float(np.abs(moved - numbers).mean()) < FAR * size:
                    yield moved


def parts_of(name: str, known: Mapping[str, Any]) -> list[str]:
    """Return the names of the weights joined under a name such as "block_0/query+key/kernel"; [] if unknown."""
    if name in known:
        return [name]
    middle = name.split(JOINT)
    if len(middle) == 1:
        return []
    first, last = middle[0].split("/"), middle[-1].split("/")
    for start, end in itertools.product(range(len(first)), range(len(last))):
        before, after = first[:start], last[len(last) - end :]
        parts = ["/".join(first[start:]), *middle[1:-1], "/".join(last[: len(last) - end])]
        names = ["/".join([*before, part, *after]) for part in parts]
        if all(one in known for one in names):
            return names
    return []


def _rotations(candidates: list[Array]) -> Iterator[Array]:
    for array in candidates:
        size = LEAST_BLOCK
        while array.shape[-1] % size == 0 and size <= 128:
            yield rotated(np.ascontiguousarray(array), size)
            size *= 2


def _drop_dequantize(model: Any) -> None:
    """Remove the operators whose input became float32."""
    gone = {
        id(node)
        for graph, node, operator in operators(model)
        if operator == "DEQUANTIZE" and graph.tensors[node.inputs[0]].type == FLOAT32
    }
    for graph in model.subgraphs:
        place = {int(n.outputs[0]): int(n.inputs[0]) for n in graph.operators if id(n) in gone}
        graph.operators = [node for node in graph.operators if id(node) not in gone]
        for node in graph.operators:
            if node.inputs is not None:
                node.inputs = [place.get(int(index), int(index)) for index in node.inputs]
