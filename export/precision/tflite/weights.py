"""The weights of a TFLite file: which constants they are, which operators read them, and their names in Keras."""

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
BETWEEN = ("RESHAPE", "ADD", "MUL", "TANH")  # allowed between the head's FULLY_CONNECTED and the logits
FLOAT32 = 0  # of ``schema.TensorType``


@dataclass
class Weight:
    """A constant that only the operators in `READERS` read.

    Attributes:
        array: (out, in) of a matrix multiplication, (rows, width) of an embedding table.
        readers: operators, each with the name of its output tensor, which is unique in the file.
        names: the names of its tensors in the file.
        head: whether a matrix multiplication with it gives the logits.
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
        """The number of products that are summed for one output, or the length of an embedding table's rows."""
        return int(self.array.shape[-1])


def weights_of(model: Any) -> list[Weight]:
    """Return the weights of a ``ModelT`` in float32. A table that is also the head is one weight, and so is a weight
    that several signatures share."""
    found: dict[int, Weight] = {}
    others: set[int] = set()
    heads = _heads(model)
    for graph, node, operator in operators(model):
        for place, index in enumerate(node.inputs):
            tensor = graph.tensors[index] if index >= 0 else None
            if tensor is None or tensor.type != FLOAT32 or (data := model.buffers[tensor.buffer].data) is None:
                continue
            read = operator in READERS and place == 1 and not multiplies_weights(model, graph, node, operator)
            if not read or tensor.buffer == 0 or not len(tensor.shape):
                others.add(tensor.buffer)
                continue
            array = np.asarray(data, "uint8").view("float32").reshape(tensor.shape)
            weight = found.setdefault(tensor.buffer, Weight(array))
            weight.readers.append((operator, graph.tensors[node.outputs[0]].name.decode()))
            weight.names.append(tensor.name.decode())
            weight.head |= (id(graph), int(node.outputs[0])) in heads
    return [weight for buffer, weight in found.items() if buffer not in others]


def multiplies_weights(model: Any, graph: Any, node: Any, operator: str) -> bool:
    """Return whether an operator multiplies two constants, as for the table of disentangled attention.

    LiteRT has no kernel for a product of integers with such an input, so that both stay in float32.
    """
    return operator == PRODUCT and model.buffers[graph.tensors[node.inputs[0]].buffer].data is not None


def _heads(model: Any) -> set[tuple[int, int]]:
    """Return graph and output of the matrix multiplications that compute an output called "logits"."""
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
    """Return the Keras name of each weight, by its ``id``; for a weight that is not found in Keras, its name in the
    file.

    The converter transposes kernels and may multiply them by a constant factor. Weights are therefore matched by the
    distribution of their values, which depends neither on their order nor on their scale.

    Args:
        ours: the model's weights by their Keras names.
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
    """Return four moments of a distribution, relative to its root mean square. Among weights of thousands of values, no
    two agree by accident."""
    values = array.astype("float64").ravel()
    values /= max(float(np.sqrt(np.mean(np.square(values)))), 1e-30)
    return np.array([values.mean(), np.abs(values).mean(), np.abs(values).max(initial=0) / 10, (values**3).mean()])
