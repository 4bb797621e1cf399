"""Helpers that convert entries of Hugging Face configs, such as activations and rotary positions, for all families."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..checks import is_integer, is_number
from ..layers.feedforward import GATED

ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "relu2": "relu_squared",
}
HF_ACTIVATIONS = {
    **{"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "relu_squared": "relu2"},
    **{"quick_gelu": "quick_gelu", "silu": "silu", "tanh": "tanh"},
}
GATED_BY = {inner: name for name, inner in GATED.items()}  # "silu" -> "swiglu"


def number(raw: Mapping[str, Any], name: str, default: float) -> float:
    """Return the number under `name` in `raw`, or `default` if it is absent or null.

    Raises:
        ValueError: the value is not a finite number.
    """
    given = raw.get(name)
    given = default if given is None else given
    if not is_number(given) or not math.isfinite(given):
        raise ValueError(f"{name}: got {given!r}; accepted: a number")
    return given


def integer(raw: Mapping[str, Any], name: str, default: int) -> int:
    """Return the integer under `name` in `raw`, or `default` if it is absent or null.

    Raises:
        ValueError: the value is not an integer of magnitude below 2^31.
    """
    given = number(raw, name, default)
    if not is_integer(given) or abs(given) >= 2**31:
        raise ValueError(f"{name}: got {given!r}; accepted: an integer below 2^31")
    return given


def flag(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return the boolean under `name` in `raw`, or `default` if it is absent or null.

    Raises:
        ValueError: the value is not a boolean.
    """
    given = raw.get(name)
    given = default if given is None else given
    if not isinstance(given, bool):
        raise ValueError(f"{name}: got {given!r}; accepted: true or false")
    return given


def activation(raw: Mapping[str, Any], name: str, default: str, accepted: Mapping[str, str] = ACTIVATION_NAMES) -> str:
    """Return this package's name for the activation under `name` in `raw`, or for `default` if it is absent or null.

    Raises:
        ValueError: the activation is not one of `accepted`.
    """
    given = raw.get(name)
    given = default if given is None else given
    if not isinstance(given, str) or given not in accepted:
        raise ValueError(f"{name}: got {given!r}; accepted: {sorted(accepted)}")
    return accepted[given]


def gated_activation(raw: Mapping[str, Any], name: str, default: str) -> str:
    """Return the activation of a gated feed-forward layer by the name of its inner activation: "silu" -> "swiglu"."""
    inner = {theirs: ours for theirs, ours in ACTIVATION_NAMES.items() if ours in GATED_BY}
    return GATED_BY[activation(raw, name, default, inner)]


def one_size(raw: Mapping[str, Any], name: str, default: int) -> int:
    """Return a side length in pixels, which the config gives as one integer or as a list of one or two.

    Raises:
        ValueError: the two sides differ, or are not integers.
    """
    given = raw.get(name, default)
    sides = given if isinstance(given, list) and len(given) in (1, 2) else [given]
    if any(side != sides[0] for side in sides) or not isinstance(sides[0], int):
        raise ValueError(f"{name}: got {given!r}; accepted: one size for both sides")
    return sides[0]


def number_of_labels(raw: Mapping[str, Any], default: int = 2, least: int = 1) -> int:
    """Return the number of entries in `id2label`, or else `num_labels`, or else `default`.

    Raises:
        ValueError: `id2label` is not an object with at least `least` entries, or `num_labels` is not an integer.
    """
    labels = raw.get("id2label")
    if labels is None:
        return integer(raw, "num_labels", default)
    if not isinstance(labels, Mapping) or len(labels) < least:
        raise ValueError(f"id2label: got {labels!r}; accepted: an object with a name for each class")
    return len(labels)


def labels(config: Any) -> dict[str, Any]:
    """Return `id2label` and `label2id` with generic class names ("LABEL_0", …), or {} for a head without classes."""
    if "num_classes" in config.unused_fields():
        return {}
    names = [f"LABEL_{i}" for i in range(config.num_classes)]
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
