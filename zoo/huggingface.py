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
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
HF_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu", "tanh": "tanh"}
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


def read_rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config fields `rope_theta` and `rope_scaling`.

    transformers 5 writes them as ``rope_parameters``; earlier versions wrote ``rope_theta`` and ``rope_scaling``.

    Raises:
        ValueError: the entries are malformed, differ between layers, or only a part of the features is rotated.
    """
    if (part := raw.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise ValueError(f"partial_rotary_factor: got {part!r}; accepted: 1.0")
    scalings = [raw.get(name) for name in ("rope_parameters", "rope_scaling")]
    given = next((scaling for scaling in scalings if scaling not in (None, {})), {})
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ValueError(f"rope_parameters: got {given!r}; accepted: one scaling for all layers")
    scaling = {name: value for name, value in given.items() if value is not None}
    if (theta := number({**raw, **scaling}, "rope_theta", 10_000.0)) <= 0:
        raise ValueError(f"rope_theta: got {theta!r}; accepted: a positive number")
    scaling.pop("rope_theta", None)
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    numbers = [value for value in scaling.values() if isinstance(value, float)]
    if not isinstance(kind, str) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"rope_parameters: got {given!r}; accepted: a rope_type and finite numbers")
    scaling.pop("type", None)
    if scaling.pop("partial_rotary_factor", 1) != 1 or scaling.pop("truncate", True) is not True:
        raise ValueError(f"rope_parameters: got {given!r}; accepted: truncate=true, partial_rotary_factor=1")
    if kind == "default":
        return {"rope_theta": float(theta), "rope_scaling": None}
    if kind in ("yarn", "llama3"):
        scaling.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    else:
        scaling.pop("original_max_position_embeddings", None)
    return {"rope_theta": float(theta), "rope_scaling": {"rope_type": kind, **scaling}}


def write_rope(config: Any) -> dict[str, Any]:
    """Return the rotary position entries of a Hugging Face config, in the formats of both transformers 4 and 5.

    Raises:
        ValueError: transformers does not have the scaling ("ntk" and "factors").
    """
    scaling = dict(config.rope_scaling or {"rope_type": "default"})
    if scaling["rope_type"] in ("ntk", "factors"):
        kinds = "linear, llama3, yarn"
        raise ValueError(f"rope_scaling: got {scaling['rope_type']!r}, which transformers lacks; accepted: {kinds}")
    if not scaling.get("attention_factor", True):
        del scaling["attention_factor"]  # 0 stands for the default, which transformers expresses by its absence
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else scaling,
        "rope_parameters": {"rope_theta": config.rope_theta, **scaling},
    }


WINDOWS = ("full_attention", "sliding_attention")


def qwen_window(raw: Mapping[str, Any]) -> int | None:
    """Return the sliding window of a Qwen config, or None if it has none.

    Raises:
        ValueError: some layers have a sliding window and others do not, or `layer_types` is malformed.
    """
    kinds = raw.get("layer_types")
    if kinds is None:
        layers = integer(raw, "num_hidden_layers", 1)
        without = integer(raw, "max_window_layers", 0) if raw.get("use_sliding_window") else layers
        kinds = ["full_attention"] * (without > 0) + ["sliding_attention"] * (without < layers)
    if not isinstance(kinds, list) or not kinds or any(kind not in WINDOWS for kind in kinds):
        raise ValueError(f"layer_types: got {kinds!r}; accepted: a list of {list(WINDOWS)}")
    if all(kind == "full_attention" for kind in kinds) or raw.get("sliding_window") is None:
        return None
    if not all(kind == "sliding_attention" for kind in kinds):
        raise ValueError(f"layer_types: got {kinds}; accepted: all full_attention or all sliding_attention")
    return raw["sliding_window"]


def qwen_layers(config: Any) -> dict[str, Any]:
    """Return the sliding window entries of a Qwen config; the inverse of ``qwen_window``."""
    window = config.sliding_window
    return {
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "max_window_layers": config.num_layers if window is None else 0,
        "layer_types": ["full_attention" if window is None else "sliding_attention"] * config.num_layers,
    }


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


def number_of_labels(raw: Mapping[str, Any]) -> int:
    """Return the number of entries in `id2label`, or else `num_labels`.

    Raises:
        ValueError: `id2label` is not a non-empty object, or `num_labels` is not an integer.
    """
    labels = raw.get("id2label")
    if labels is None:
        return integer(raw, "num_labels", 2)
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(f"id2label: got {labels!r}; accepted: an object with a name for each class")
    return len(labels)


def labels(config: Any) -> dict[str, Any]:
    """Return `id2label` and `label2id` with generic class names ("LABEL_0", …)."""
    names = [f"LABEL_{i}" for i in range(config.num_classes)]
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
