"""Models that cannot be exported, with one-line errors that say what to do instead."""

from __future__ import annotations

from typing import Any

TEXTS = ("StringLookup", "TextVectorization", "IntegerLookup", "Hashing", "HashedCrossing")  # with lookup tables
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
        if getattr(layer, "stateful", False) is True:
            raise ValueError(
                f"model: got layer {layer.name!r}, which keeps a state from call to call; accepted: stateful=False, "
                "with the state as an input and an output (initial_state, return_state)"
            )
        if mode := getattr(layer, "quantization_mode", None):
            raise ValueError(f"model: got layer {layer.name!r}, quantised by Keras as {mode}; {QUANTIZED}")
