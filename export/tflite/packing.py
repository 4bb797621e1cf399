"""Matrix multiplications with the same input, joined into one whose output is sliced into theirs.

A decode step multiplies a single row. Its matrix multiplications are so short that threads wait for each other at every
one, and the small ones (keys and values in grouped-query attention) do not divide evenly among threads. Joined, they
read the weights at the speed of memory. For a prompt, both ways are equally fast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.buckets import bucket_of
from ...runtime.tflite.flatbuffer import constant, opcode

STEP = "decode"  # the graphs, one per length, whose matrix multiplications determine what is joined
JOINT = "+"  # between the names of weights that were joined

Alike = Callable[[Sequence[str]], bool]
Weight = Callable[[Any, Sequence[str]], int]
Joint = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Product:
    """A FULLY_CONNECTED node that reads a kernel; `kernel` is the name of the kernel in Keras."""

    graph: Any
    node: Any
    kernel: str

    @property
    def rows(self) -> int:
        return int(self.node.inputs[0])

    @property
    def width(self) -> int:
        return int(self.graph.tensors[self.node.outputs[0]].shape[-1])

    @property
    def biased(self) -> bool:
        return int(self.node.inputs[2]) >= 0

    def bias(self, model: Any) -> np.ndarray:
        data = model.buffers[self.graph.tensors[self.node.inputs[2]].buffer].data
        return np.asarray(data, "uint8").view("float32")

    @property
    def plain(self) -> bool:
        return not self.node.builtinOptions.fusedActivationFunction


def joint_name(names: Sequence[str]) -> str:
    """Return the name of several weights joined into one, such as "block_0/attention/query+key+value/kernel"."""
    paths = [name.split("/") for name in names]
    shortest = min(map(len, paths))
    start = next((i for i in range(shortest) if len({path[i] for path in paths}) > 1), shortest)
    end = next((i for i in range(shortest - start) if len({path[-1 - i] for path in paths}) > 1), shortest - start)
    middle = JOINT.join("/".join(path[start : len(path) - end]) for path in paths)
    return "/".join([*paths[0][:start], *([middle] if len(names) > 1 else []), *paths[0][len(paths[0]) - end :]])


def groups(products: Iterable[Product], elsewhere: Iterable[str], alike: Alike) -> list[tuple[str, ...]]:
    """Return the kernels that may be joined: those that every graph multiplies with the same input, and that nothing
    else reads."""
    inputs: Mapping[tuple[int, int], list[Product]] = defaultdict(list)  # by graph and input
    places: Mapping[str, dict[int, tuple[int, bool]]] = defaultdict(dict)  # by graph: the input, and if it has a bias
    excluded = set(elsewhere)
    for product in products:
        if bucket_of(product.graph.name.decode())[0] == STEP:
            inputs[id(product.graph), product.rows].append(product)
        if id(product.graph) in places[product.kernel] or not product.plain:
            excluded.add(product.kernel)
        places[product.kernel][id(product.graph)] = product.rows, product.biased
    found = []
    for together in inputs.values():
        left = [product for product in together if product.kernel not in excluded]
        while left:
            same: list[Product] = []
            for product in left:
                fits = all(_fit(places[product.kernel], places[other.kernel]) for other in same)
                if fits and alike([product.kernel, *(other.kernel for other in same)]):
                    same.append(product)
            left = [product for product in left if product not in same]
            if len(same) > 1:
                found.append(tuple(product.kernel for product in same))
                excluded |= set(found[-1])
    return found


def _fit(one: Mapping[int, tuple[int, bool]], other: Mapping[int, tuple[int, bool]]) -> bool:
    """Return whether two kernels read the same input in all graphs that have both, and either all have a bias or none
    has."""
    together = all(one[graph] == other[graph] for graph in one.keys() & other.keys())
    return together and len({biased for places in (one, other) for _, biased in places.values()}) == 1


def pack(model: Any, products: Sequence[Product], elsewhere: Iterable[str], alike: Alike, weight: Weight) -> Joint:
    """Join matrix multiplications of a ``ModelT``, in place.

    Args:
        products: those of all graphs.
        elsewhere: the names of kernels that other operators read.
        alike: returns whether kernels of these names are stored in the same precision.
        weight: returns the index in a graph of several kernels as one, (all outputs, inputs).

    Returns:
        The names of the kernels in each joint kernel, by its name.
    """
    found = {}
    for names in groups(products, elsewhere, alike):
        found[joint_name(names)] = names
        own = [product for product in products if product.kernel in names]
        widths = {product.kernel: product.width for product in own}
        starts = dict(zip(names, np.cumsum([0, *(widths[name] for name in names)]), strict=False))
        biases = {product.kernel: product.bias(model) for product in own if product.biased}
        for graph in {id(product.graph): product.graph for product in own}.values():
            here = [product for product in own if product.graph is graph]
            _join(model, here, starts, sum(widths.values()), names, [biases[n] for n in names if n in biases], weight)
    return found


def _join(
    model: Any,
    products: Sequence[Product],
    starts: Mapping[str, int],
    width: int,
    names: Sequence[str],
    biases: Sequence[np.ndarray],
    weight: Weight,
) -> None:
    """Replace the first of these `products` of one graph by the joint operator and slices of its output, and remove the
    rest."""
    from ai_edge_litert import schema_py_generated as schema

    graph, first = products[0].graph, products[0].node
    made, label = schema.TensorT(), f"{joint_name(names)}/product;{graph.name.decode()}"
    shape = [*map(int, graph.tensors[first.outputs[0]].shape[:-1]), width]
    made.name, made.type, made.hasRank = label, schema.TensorType.FLOAT32, True
    made.shape = np.array(shape, "int32")
    results = {product.kernel: int(product.node.outputs[0]) for product in products}
    graph.tensors.append(made)
    whole = len(graph.tensors) - 1
    bias = constant(model, graph, f"{label}/bias", np.concatenate(biases)) if biases else -1
    first.inputs, first.outputs = [int(first.inputs[0]), weight(graph, names), bias], [whole]
    cuts = [_cut(model, graph, whole, starts[kernel], result) for kernel, result in results.items()]
    gone = [id(product.node) for product in products[1:]]
    left = [node for node in graph.operators if id(node) not in gone]
    place = next(place for place, node in enumerate(left) if node is first)
    graph.operators = [*left[: place + 1], *cuts, *left[place + 1 :]]


def _cut(model: Any, graph: Any, whole: int, start: int, result: int) -> Any:
    """Return an operator that slices the tensor `result` from `whole`, starting at element `start` of every row."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = graph.tensors[result]
    size = [int(n) for n in tensor.shape]
    node, label = schema.OperatorT(), f"{tensor.name.decode()}/{{}};{graph.name.decode()}"
    node.opcodeIndex = opcode(model, schema.BuiltinOperator.SLICE, 1)
    node.builtinOptionsType, node.builtinOptions = schema.BuiltinOptions.SliceOptions, schema.SliceOptionsT()
    begin = constant(model, graph, label.format("begin"), np.array([*(0 for _ in size[1:]), start], "int32"))
    node.inputs = [whole, begin, constant(model, graph, label.format("size"), np.array(size, "int32"))]
    node.outputs = [result]
    return node
