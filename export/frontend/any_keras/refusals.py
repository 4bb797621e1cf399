"""Models that cannot be exported, with one-line errors that say what to do instead."""

from __future__ import annotations

from typing import Any

from ..diagnostics import place

TEXTS = ("StringLookup", "TextVectorization")  # with lookup tables
ELSEWHERE = ("TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper")  # not made of Keras' layers
RANDOM = ("RandomNormal", "RandomStandardNormal", "RandomUniform", "RandomGamma", "TruncatedNormal", "Multinomial")
QUANTIZED = "accepted: the model before quantize"


def check_exportable(model: Any, layers: list[Any]) -> None:
    """Raise a ValueError that names the first layer that cannot be exported."""
    for layer in layers:
        kinds = {cls.__name__ for cls in type(layer).__mro__}
        if found := kinds.intersection(TEXTS):
            raise ValueError(
                f"model: got layer {layer.name!r}, a {found.pop()}, which looks up texts or in tables that no runtime "
                "has; accepted: a model that begins behind it. Put it in front of the data: dataset.map(layer)"
            )
        if getattr(layer, "sparse", False) is True:
            raise ValueError(
                f"model: got layer {layer.name!r} with sparse=True, and no runtime has sparse tensors; accepted: "
                "sparse=False, which gives the same numbers"
            )
        if found := kinds.intersection(ELSEWHERE):
            raise ValueError(
                f"model: got layer {layer.name!r}, a {found.pop()}, whose graph Keras only runs; accepted: the Keras "
                "model that it was made from"
            )
        if getattr(layer, "stateful", False) is True:
            raise ValueError(
                f"model: got layer {layer.name!r}, which keeps a state from call to call; accepted: stateful=False, "
                "with the state as an input and an output (initial_state, return_state)"
            )
        if mode := getattr(layer, "quantization_mode", None):
            raise ValueError(f"model: got layer {layer.name!r}, quantised by Keras as {mode}; {QUANTIZED}")


def check_deterministic(graph: Any) -> None:
    """Raise a ValueError that names an operation which draws random numbers for an output of a trace.

    Random numbers of a fixed seed are the same in every call, and accepted.
    """
    import tensorflow as tf

    waiting, seen = [output.op for output in graph.outputs], set()
    while waiting:
        op = waiting.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        waiting += [tensor.op for tensor in op.inputs]
        seeded = op.type.startswith("Stateless") and tf.get_static_value(op.inputs[1]) is not None
        if any(kind in op.type for kind in RANDOM) and not seeded:
            raise ValueError(
                f"model: got {place(op)}, which draws random numbers in a call without training; accepted: a model "
                "that gives the same results for the same inputs, with the random numbers as an input"
            )
