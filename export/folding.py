"""Weights in the order and shape in which the operators of a graph read them, moved once at the export.

Keras' kernels have other layouts than ONNX's: a convolution's is transposed, and the gates of a recurrent layer are
split, reordered and stacked. Tools that read kernels (quantizers, converters to other formats) expect initializers
there. So what only moves elements of weights is computed at the export, and the result takes the place of the weight.
The graph that computed it, without the weights, is stored in the metadata: ``verify`` applies it to the weights of the
model and compares the result with the file bit by bit.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..runtime.metadata import FOLDED
from .initializers import initializer

MOVES = {"Concat", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
OPSET = 17  # of the stored graph; these operators have not changed since, except for an option of Split


def fold_weights(graph: Any, weights: set[str]) -> dict[str, str]:
    """Replace what moves only elements of weights by initializers, in place.

    A weight that would then be stored twice, such as an embedding table that is also the output head, stays as it is.

    Args:
        graph: an ``onnx_ir.Graph`` whose weights are initializers.
        weights: their names.

    Returns:
        The metadata entry from which ``moved`` restores the initializers; empty if there are none.
    """
    import onnx_ir as ir

    made = _made(graph, weights)
    kept: dict[Any, tuple[str, list[Any]]] = {}
    for sources, results in _groups(made, weights):
        if len(sources) != 1 or len(results) != 1:
            continue  # joined weights, or parts of one, such as the positions of an image and of its class token
        used = [value for value in sources if _read_otherwise(value, made)]
        stored = sum(_bytes(value, weights) for value in (*results, *used)) - _zeros(results)
        if stored <= sum(value.const_value.nbytes for value in sources):
            kept[results[0]] = (sources[0].name, _nodes(results[0]))
    if not kept:
        return {}
    recipe = _recipe(kept, weights)
    arrays = _computed(recipe, {value.name: value.const_value.numpy() for value in graph.initializers.values()})
    for value, (name, _) in kept.items():
        ir.convenience.replace_all_uses_with(value, initializer(graph, f"{name}:moved", arrays[name]))
    for node in reversed([node for node in graph if node in made]):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        if graph.initializers[name] not in graph.inputs and not graph.initializers[name].is_graph_output():
            del graph.initializers[name]
    for name, _ in kept.values():
        constant = graph.initializers.pop(f"{name}:moved")
        constant.name = constant.const_value.name = name
        graph.register_initializer(constant)
    return {FOLDED: base64.b64encode(recipe).decode()}


def moved(metadata: Mapping[str, str], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the initializers of a file that hold moved elements of weights, by name.

    Args:
        metadata: of the file.
        weights: all weights of the model, by name.

    Raises:
        ValueError: the entry cannot be read, or does something else than moving elements of these weights.
    """
    if FOLDED not in metadata:
        return {}
    try:
        return _computed(base64.b64decode(metadata[FOLDED]), weights)
    except Exception as error:  # of any class, as the bytes may be anything
        raise ValueError(f"the folded weights cannot be computed: {error}") from error


def _made(graph: Any, weights: set[str]) -> dict[Any, None]:
    """Return the nodes that only move elements of weights, and append zeros, in the order of the graph."""
    known = {value for value in graph.initializers.values() if value.name in weights}
    made: dict[Any, None] = {}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if node.domain or node.op_type not in MOVES or not known.intersection(inputs):
            continue
        others = [value for value in inputs if value not in known]
        constant = all(value.is_initializer() and value.const_value is not None for value in others)
        zeros = node.op_type != "Concat" or (constant and all(map(_is_zero, others)))
        if constant and zeros and not any(output.is_graph_output() for output in node.outputs):
            made[node] = None
            known.update(node.outputs)
    return made


def _groups(made: Mapping[Any, None], weights: set[str]) -> list[tuple[list[Any], list[Any]]]:
    """Return the weights and the results of each set of nodes that depend on each other."""
    parent: dict[Any, Any] = {}

    def root(value: Any) -> Any:
        while parent.setdefault(value, value) is not value:
            value = parent[value]
        return value

    sources: dict[Any, None] = {}
    for node in made:
        values = [value for value in node.inputs if value is not None]
        moving = [v for v in values if v.producer() in made or (v.is_initializer() and v.name in weights)]
        for value in (*moving, *node.outputs):
            parent[root(value)] = root(node.outputs[0])
        sources.update({value: None for value in moving if value.is_initializer()})
    found: dict[Any, tuple[list[Any], list[Any]]] = {}
    for value in sources:
        found.setdefault(root(value), ([], []))[0].append(value)
    for node in made:
        for value in node.outputs:
            if _read_otherwise(value, made):
                found[root(value)][1].append(value)
    return list(found.values())


def _read_otherwise(value: Any, made: Mapping[Any, None]) -> bool:
    """Return whether something else than a folded node reads a value."""
    return any(use.node not in made for use in value.uses())


def _bytes(value: Any, weights: set[str]) -> int:
    """Return the size of an initializer, or of a value that folded nodes compute."""
    if value.const_value is not None:
        return value.const_value.nbytes
    nodes = _nodes(value)
    inputs = {v.name: v.const_value for node in nodes for v in node.inputs if v is not None and v.producer() is None}
    known = {name: tensor.numpy() for name, tensor in inputs.items()}
    return _computed(_recipe({value: ("result", nodes)}, weights), known)["result"].nbytes


def _zeros(values: list[Any]) -> int:
    """Return the size of the zeros that are appended to weights, such as a bias that ONNX has and Keras does not."""
    nodes = {node for value in values for node in _nodes(value) if node.op_type == "Concat"}
    return sum(v.const_value.nbytes for node in nodes for v in node.inputs if v.const_value is not None and _is_zero(v))


def _is_zero(value: Any) -> bool:
    return not value.const_value.numpy().any()


def _nodes(value: Any) -> list[Any]:
    """Return the nodes that compute a value from initializers, in order."""
    found: dict[Any, None] = {}

    def visit(value: Any) -> None:
        node = None if value is None else value.producer()
        if node is not None and node not in found:
            for one in node.inputs:
                visit(one)
            found[node] = None

    visit(value)
    return list(found)


def _recipe(results: Mapping[Any, tuple[str, list[Any]]], weights: set[str]) -> bytes:
    """Return an ONNX model, serialized, that computes the results, whose inputs are weights by name."""
    import onnx
    import onnx_ir as ir

    nodes = list(dict.fromkeys(node for _, found in results.values() for node in found))
    names: dict[Any, str] = {}
    inputs: dict[str, Any] = {}
    constants = []
    for node in nodes:
        for value in node.inputs:
            if value is None or value in names or value.producer() is not None:
                continue
            if value.name in weights:
                names[value] = value.name
                inputs[value.name] = onnx.helper.make_tensor_value_info(value.name, value.const_value.dtype.value, None)
            else:
                names[value] = f"constant_{len(constants)}"
                constants.append(onnx.numpy_helper.from_array(value.const_value.numpy(), names[value]))
        names.update({value: f"value_{len(names) + i}" for i, value in enumerate(node.outputs)})
    for value, (name, _) in results.items():
        names[value] = f"={name}"
    made = [
        onnx.helper.make_node(
            node.op_type,
            ["" if value is None else names[value] for value in node.inputs],
            [names[value] for value in node.outputs],
            **{name: attribute.value for name, attribute in node.attributes.items() if name != "num_outputs"},
        )
        for node in nodes
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(f"={name}", ir.DataType.FLOAT.value, None) for name, _ in results.values()
    ]
    graph = onnx.helper.make_graph(made, "weights", list(inputs.values()), outputs, constants)
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def _computed(recipe: bytes, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a recipe, and return its results by name."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(recipe)
    if other := {node.op_type for node in model.graph.node} - MOVES:
        raise ValueError(f"got {sorted(other)}; accepted: {sorted(MOVES)}")
    floats = [c for c in model.graph.initializer if c.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)]
    if any(onnx.numpy_helper.to_array(constant).any() for constant in floats):
        raise ValueError("got numbers in place of weights")
    names = [output.name for output in model.graph.output]
    given = {value.name: weights[value.name] for value in model.graph.input}
    results: Any = ReferenceEvaluator(model).run(names, given)
    return {name.removeprefix("="): array for name, array in zip(names, results, strict=True)}
