"""The weights of a TFLite file: which constants they are, who reads them, and what Keras calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....runtime.tflite.flatbuffer import operators

LOOKUP = "EMBEDDING_LOOKUP"
PRODUCT = "FULLY_CONNECTED"
# Operators that read a weight as their second input.
READERS = (PRODUCT, "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL", LOOKUP)
BETWEEN = ("RESHAPE", "ADD")  # between the head's product and the logits
FLOAT32 = 0  # of ``schema.TensorType``


@dataclass
class Weight:
    """A constant that nothing but `READERS` reads.

    Attributes:
        array: (out, in) of a product, (rows, width) of a table.
        readers: operator, and the name of its output tensor, which no other tensor of the file has.
        names: what its tensors are called in the file.
        head: whether a product of it becomes the logits.
    """

    array: np.ndarray
    readers: list[tuple[str, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    head: bool = False

    @property
    def table(self) -> bool:
        return any(operator == LOOKUP for operator, _ in self.readers)

    @property
    def width(self) -> int:
        """Numbers that are summed up for one output, or the length of a table's rows."""
        return int(self.array.shape[-1])


def weights_of(model: Any) -> list[Weight]:
    """Of a ``ModelT`` in float32. A table that is also the head is one weight, and so is what signatures share."""
    found: dict[int, Weight] = {}
    others: set[int] = set()
    heads = _heads(model)
    for graph, node, operator in operators(model):
        for place, index in enumerate(node.inputs):
            tensor = graph.tensors[index] if index >= 0 else None
            if tensor is None or tensor.type != FLOAT32 or (data := model.buffers[tensor.buffer].data) is None:
                continue
            if operator not in READERS or place != 1 or tensor.buffer == 0 or not len(tensor.shape):
                others.add(tensor.buffer)
                continue
            array = np.asarray(data, "uint8").view("float32").reshape(tensor.shape)
            weight = found.setdefault(tensor.buffer, Weight(array))
            weight.readers.append((operator, graph.tensors[node.outputs[0]].name.decode()))
            weight.names.append(tensor.name.decode())
            weight.head |= (id(graph), int(node.outputs[0])) in heads
    return [weight for buffer, weight in found.items() if buffer not in others]


def _heads(model: Any) -> set[tuple[int, int]]:
    """Graph and output of the products that become an output called "logits"."""
    made = {
        (id(graph), int(output)): (graph, node, operator)
        for graph, node, operator in operators(model)
        for output in node.outputs
    }
    reached = [
        (id(model.subgraphs[signature.subgraphIndex]), int(output.tensorIndex))
        for signature in model.signatureDefs or []
        for output in signature.outputs
        if output.name == b"logits"
    ]
    found = set()
    while reached:
        key = reached.pop()
        if key not in made:
            continue
        graph, node, operator = made[key]
        if operator == PRODUCT:
            found.add(key)
        elif operator in BETWEEN:
            reached += [(id(graph), int(index)) for index in node.inputs]
    return found


def keras_names(weights: Iterable[Weight], ours: Mapping[str, np.ndarray]) -> dict[int, str]:
    """By the ``id`` of a weight, its name in Keras; of one that the converter has changed, its name in the file.

    The converter transposes kernels, and multiplies a constant factor into one: what is left of a weight is how its
    numbers are distributed, whatever their order and scale.
    """
    known: dict[int, list[tuple[np.ndarray, str]]] = {}
    for name, array in ours.items():
        known.setdefault(array.size, []).append((_shape_of(array), name))
    found = {}
    for weight in weights:
        own = _shape_of(weight.array)
        near = [name for shape, name in known.get(weight.array.size, []) if np.allclose(shape, own, rtol=0, atol=1e-6)]
        found[id(weight)] = near[0] if near else weight.names[0]
    return found


def _shape_of(array: np.ndarray) -> np.ndarray:
    """(4,) moments of a distribution, over its second: of thousands of numbers no two are alike by accident."""
    values = array.astype("float64").ravel()
    values /= max(float(np.sqrt(np.mean(np.square(values)))), 1e-30)
    return np.array([values.mean(), np.abs(values).mean(), np.abs(values).max(initial=0) / 10, (values**3).mean()])
