"""What Hugging Face's configs say in words of their own, for more than one family: activations and rotary positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..checks import is_integer, is_number
from ..layers.feedforward import GATED

ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
HF_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}
GATED_BY = {inner: name for name, inner in GATED.items()}  # "silu" to "swiglu"


def number(raw: Mapping[str, Any], name: str, default: float) -> float:
    """The finite number that `raw` has under `name`.

    Raises:
        ValueError: something else.
    """
    given = raw.get(name)
    given = default if given is None else given
    if not is_number(given) or not math.isfinite(given):
        raise ValueError(f"{name}: got {given!r}; accepted: a number")
    return given


def integer(raw: Mapping[str, Any], name: str, default: int) -> int:
    """As ``number``, of whole ones."""
    given = number(raw, name, default)
    if not is_integer(given) or abs(given) >= 2**31:
        raise ValueError(f"{name}: got {given!r}; accepted: an integer below 2^31")
    return given


def activation(raw: Mapping[str, Any], name: str, default: str, accepted: Mapping[str, str] = ACTIVATION_NAMES) -> str:
    """Our word for the activation that `raw` has under `name`.

    Raises:
        ValueError: one we do not have.
    """
    given = raw.get(name)
    given = default if given is None else given
    if not isinstance(given, str) or given not in accepted:
        raise ValueError(f"{name}: got {given!r}; accepted: {sorted(accepted)}")
    return accepted[given]


def gated_activation(raw: Mapping[str, Any], name: str, default: str) -> str:
    """As ``activation``, of a gated feed-forward: "silu" means "swiglu"."""
    inner = {theirs: ours for theirs, ours in ACTIVATION_NAMES.items() if ours in GATED_BY}
    return GATED_BY[activation(raw, name, default, inner)]


def read_rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of ``rope_parameters``, or as they were called before transformers 5.

    Raises:
        ValueError: a scaling we do not have, or features that are rotated in part.
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
    """In the words of transformers 4 and of 5.

    Raises:
        ValueError: a scaling that depends on nothing they know.
    """
    scaling = dict(config.rope_scaling or {"rope_type": "default"})
    if scaling["rope_type"] in ("ntk", "factors"):
        kinds = "linear, llama3, yarn"
        raise ValueError(f"rope_scaling: got {scaling['rope_type']!r}, which transformers lacks; accepted: {kinds}")
    if not scaling.get("attention_factor", True):
        del scaling["attention_factor"]  # 0 here, absent there: its default
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else scaling,
        "rope_parameters": {"rope_theta": config.rope_theta, **scaling},
    }


WINDOWS = ("full_attention", "sliding_attention")


def qwen_window(raw: Mapping[str, Any]) -> int | None:
    """The sliding window of all layers, or None.

    Raises:
        ValueError: some layers with one and some without.
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
    """The inverse of ``qwen_window``."""
    window = config.sliding_window
    return {
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "max_window_layers": config.num_layers if window is None else 0,
        "layer_types": ["full_attention" if window is None else "sliding_attention"] * config.num_layers,
    }


def one_size(raw: Mapping[str, Any], name: str, default: int) -> int:
    """A side in pixels, which may be given once or for both axes.

    Raises:
        ValueError: two sides that differ.
    """
    given = raw.get(name, default)
    sides = given if isinstance(given, list) and len(given) in (1, 2) else [given]
    if any(side != sides[0] for side in sides) or not isinstance(sides[0], int):
        raise ValueError(f"{name}: got {given!r}; accepted: one size for both sides")
    return sides[0]


def number_of_labels(raw: Mapping[str, Any]) -> int:
    """How many classes have a name, or else `num_labels`.

    Raises:
        ValueError: names that are no object, or no number.
    """
    labels = raw.get("id2label")
    if labels is None:
        return integer(raw, "num_labels", 2)
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(f"id2label: got {labels!r}; accepted: an object with a name for each class")
    return len(labels)


def labels(config: Any) -> dict[str, Any]:
    """Names for the classes, where there are none better."""
    names = [f"LABEL_{i}" for i in range(config.num_classes)]
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
