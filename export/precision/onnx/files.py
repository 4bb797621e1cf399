"""Conversion of float32 ONNX graphs to another precision, which is recorded in their metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from glob import escape
from typing import Any

import numpy as np

from ....runtime.metadata import CONSTANTS, DIGEST, PRECISION, SIGNATURES
from ....runtime.onnx.runner import OnnxGraph
from ....runtime.runner import LoadedGraph, Runner
from ....signature import Signature
from ...digests import UNSEALED, WEIGHTS
from ...options import Precision
from ...request import ExportRequest
from ..samples import PADDINGS, calibration_of
from .blocks import to_block_weights
from .half import to_half
from .integers import to_integer_stacks, to_integer_tables, to_integers
from .moments import Moments
from .recurrent import to_integer_kernels
from .static import to_static

SMALL = 64  # numbers
PACKED = "/query_key_value/"  # in the names of weights that a graph for ONNX Runtime joins


@dataclass(frozen=True)
class Rounded:
    """A graph in reduced precision.

    Attributes:
        model: the graph, an ``onnx_ir.Model``.
        weights: names of the weights that are in reduced precision.
        share: their share of the values of all weights.
    """

    model: Any
    weights: tuple[str, ...]
    share: float


def round_graphs(precise: Runner, names: Iterable[str], request: ExportRequest) -> Iterator[tuple[str, Rounded]]:
    """Convert graphs of a float32 file to the requested precision, and yield each with its name.

    Args:
        precise: runner of the float32 file.
        names: names of the graphs to convert.
        request: the request, with the precision and the calibration samples.
    """
    precision = request.precision
    inputs: list[Mapping[str, Any]] = []
    if precision.by_samples:
        paddings = PADDINGS if precision.static else ("none",)
        inputs = list(calibration_of(precise.signature, precise.tokenizer, request.calibration_samples, paddings))
    for name in names:
        yield name, _rounded(precise, name, request, inputs)


def _rounded(precise: Runner, name: str, request: ExportRequest, samples: Iterable[Mapping[str, Any]]) -> Rounded:
    import onnx_ir as ir

    file = next(file for file, told in precise.files.items() if name in json.loads(told[SIGNATURES]))
    graph: LoadedGraph = precise.graphs[name]
    activations = activations_of(request.precision, graph.signature)
    if activations != "float":
        request.precision.check_integers(activations)
    model: Any = ir.load(file)
    precision = _of_weights(model, request.precision)
    numbers = {value.name: int(np.prod(value.const_value.shape)) for value in model.graph.initializers.values()}
    if precision.name == "fp16":
        state = {*graph.signature.state, *graph.signature.state.values()}
        before = _small_constants(model)
        weights = to_half(model, state)
        model.metadata_props[CONSTANTS] = json.dumps(_changed(before, _small_constants(model)))
        told = {key: file_signature(Signature.from_dict(value), "fp16").to_dict() for key, value in _signatures(model)}
        model.metadata_props[SIGNATURES] = json.dumps(told)
    elif precision.name == "int4" or activations == "float":
        gathered = None
        if precision.method == "gptq":
            assert isinstance(graph, OnnxGraph)
            gathered = Moments(file, graph, list(samples))
        weights = to_block_weights(model, precision, request.blocks_for, gathered)
    elif activations == "static":
        assert isinstance(graph, OnnxGraph)
        model = to_static(file, graph, samples, precision)
        weights = [name for name in numbers if name not in model.graph.initializers]
        weights += to_integer_tables(model, precision) + to_integer_stacks(model, precision)
    else:
        weights = to_integers(model, precision) + to_integer_stacks(model, precision)
    if precision.name != "fp16":
        weights += to_integer_kernels(model, precision)
    model.metadata_props[DIGEST] = UNSEALED
    details = {"name": precision.name, "target": request.blocks_for, "least_cosine": request.accepted_cosine}
    details |= {"activations": activations} if precision.name == "int8" else {}
    model.metadata_props[PRECISION] = json.dumps(details)
    weights = [weight for weight in dict.fromkeys(weights) if weight in numbers]
    share = sum(numbers[weight] for weight in weights) / max(1, sum(numbers.values()))
    return Rounded(model, tuple(weights), share)


def _of_weights(model: Any, precision: Precision) -> Precision:
    """Return `precision` with the constants of a graph that are no weights kept in float32, such as the matrices that
    resize positions: they are small, and only weights can be compared with the model."""
    if precision.name == "fp16":
        return precision
    weights = json.loads(model.metadata_props.get(WEIGHTS, "{}"))
    values = model.graph.initializers.items() if weights else ()
    constants = [n for n, v in values if len(v.shape or ()) > 1 and n not in weights and PACKED not in n]
    return replace(precision, keep=(*precision.keep, *map(escape, constants)))


def _small_constants(model: Any) -> dict[str, np.ndarray]:
    """Return the floating-point constants that are no weights, and are small enough for the metadata."""
    weights = json.loads(model.metadata_props.get(WEIGHTS, "{}"))
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    arrays = {name: array for name, array in arrays.items() if name not in weights and array.size <= SMALL}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def _changed(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the constants that lost digits, as they were."""
    changed = [name for name in before if name in after and not np.array_equal(before[name], after[name])]
    return {name: before[name].astype("float64").ravel().tolist() for name in changed}


def _signatures(model: Any) -> Iterable[tuple[str, Any]]:
    return json.loads(model.metadata_props[SIGNATURES]).items()


def activations_of(precision: Precision, signature: Signature) -> str:
    """Return the activations option for a graph. The default is "float" with a key/value cache, otherwise "dynamic"."""
    return precision.activations or ("float" if signature.state else "dynamic")


def file_signature(signature: Signature, precision: str) -> Signature:
    """Return the signature of a file in this precision: with "fp16", the key/value cache is float16."""
    if precision != "fp16":
        return signature
    state = {*signature.state, *signature.state.values()}

    def half(specs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(spec, dtype="float16") if spec.name in state else spec for spec in specs)

    return replace(signature, inputs=half(signature.inputs), outputs=half(signature.outputs))
