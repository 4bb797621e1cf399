"""Files in float32 once more in another precision, with what their metadata says of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....checks import choice
from ....runtime.metadata import DIGEST, PRECISION, SIGNATURES
from ....runtime.onnx.runner import OnnxGraph
from ....runtime.runner import LoadedGraph, Runner
from ....signature import Signature
from ...digests import UNSEALED
from ..options import Precision
from ..samples import PADDINGS, calibration_of, check_apart
from .blocks import to_block_weights
from .half import to_half
from .integers import to_integer_tables, to_integers
from .moments import Moments
from .recurrent import to_integer_kernels
from .static import to_static


@dataclass(frozen=True)
class Rounded:
    """A graph in another precision.

    Attributes:
        model: an ``onnx_ir.Model``.
        weights: names of the rounded ones.
        share: of all the weights' numbers.
    """

    model: Any
    weights: tuple[str, ...]
    share: float


def check_onnx(precision: Precision, graphs: Collection[str], samples: Any) -> None:
    """Refuse what files of these graphs cannot be in.

    Raises:
        ValueError: naming what is accepted.
    """
    choice("precision.activations", precision.activations, (None, "dynamic", "float", "static"))
    choice("precision.integer_only", precision.integer_only, (False,))
    check_apart(precision, graphs, samples)


def round_graphs(
    precise: Runner, names: Iterable[str], precision: Precision, target: str, samples: Any, least_cosine: float
) -> Iterator[tuple[str, Rounded]]:
    """The graphs of `precise`, a file in float32, in another precision, one after the other.

    Args:
        target: "onnxruntime" or "standard": whose operators blocks of weights are read by.
        samples: what static ranges are measured on, and GPTQ's products, as ``to_onnx`` takes them.
        least_cosine: that the files will have, for who verifies them.
    """
    inputs: list[Mapping[str, Any]] = []
    if precision.by_samples:
        paddings = PADDINGS if precision.static else ("none",)
        inputs = list(calibration_of(precise.signature, precise.tokenizer, samples, paddings))
    said = {"name": precision.name, "target": target, "least_cosine": least_cosine}
    for name in names:
        yield name, _rounded(precise, name, precision, said, inputs)


def _rounded(
    precise: Runner, name: str, precision: Precision, said: dict[str, Any], samples: Iterable[Mapping[str, Any]]
) -> Rounded:
    import onnx_ir as ir

    file = next(file for file, told in precise.files.items() if name in json.loads(told[SIGNATURES]))
    graph: LoadedGraph = precise.graphs[name]
    activations = activations_of(precision, graph.signature)
    model: Any = ir.load(file)
    numbers = {value.name: int(np.prod(value.const_value.shape)) for value in model.graph.initializers.values()}
    if precision.name == "fp16":
        state = {*graph.signature.state, *graph.signature.state.values()}
        weights = to_half(model, state)
        told = {key: file_signature(Signature.from_dict(value), "fp16").to_dict() for key, value in _signatures(model)}
        model.metadata_props[SIGNATURES] = json.dumps(told)
    elif precision.name == "int4" or activations == "float":
        gathered = None
        if precision.method == "gptq":
            assert isinstance(graph, OnnxGraph)
            gathered = Moments(file, graph, list(samples))
        weights = to_block_weights(model, precision, said["target"], gathered)
    elif activations == "static":
        assert isinstance(graph, OnnxGraph)
        model = to_static(file, graph, samples, precision)
        weights = [name for name in numbers if name not in model.graph.initializers]
        weights += to_integer_tables(model, precision)
    else:
        weights = to_integers(model, precision)
    if precision.name != "fp16":
        weights += to_integer_kernels(model, precision)
    model.metadata_props[DIGEST] = UNSEALED
    own = {"activations": activations} if precision.name == "int8" else {}
    model.metadata_props[PRECISION] = json.dumps(said | own)
    weights = [weight for weight in dict.fromkeys(weights) if weight in numbers]
    share = sum(numbers[weight] for weight in weights) / max(1, sum(numbers.values()))
    return Rounded(model, tuple(weights), share)


def _signatures(model: Any) -> Iterable[tuple[str, Any]]:
    return json.loads(model.metadata_props[SIGNATURES]).items()


def activations_of(precision: Precision, signature: Signature) -> str:
    """What the activations of a graph are: stated, or those which are faster for such a graph."""
    return precision.activations or ("float" if signature.state else "dynamic")


def file_signature(signature: Signature, precision: str) -> Signature:
    """The signature of a file in this precision: in float16 the state is that too."""
    if precision != "fp16":
        return signature
    state = {*signature.state, *signature.state.values()}

    def half(specs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(spec, dtype="float16") if spec.name in state else spec for spec in specs)

    return replace(signature, inputs=half(signature.inputs), outputs=half(signature.outputs))
