"""What Hugging Face's configs say in words of their own, for more than one family: activations and rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def activation(raw: Mapping[str, Any], name: str, default: str, accepted: Mapping[str, str] = ACTIVATION_NAMES) -> str:
    """Our word for the activation that `raw` has under `name`.

    Raises:
        ValueError: one we do not have.
    """
    given = raw.get(name) or default
    if given not in accepted:
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
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ValueError(f"rope_parameters: got {given!r}; accepted: one scaling for all layers")
    scaling = {name: value for name, value in given.items() if value is not None}
    theta = scaling.pop("rope_theta", raw.get("rope_theta") or 10_000.0)
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
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


def qwen_window(raw: Mapping[str, Any]) -> int | None:
    """The sliding window of all layers, or None.

    Raises:
        ValueError: some layers with one and some without.
    """
    layers = raw["num_hidden_layers"]
    kinds = raw.get("layer_types")
    if kinds is None:
        windowed = layers - min(raw.get("max_window_layers") or 0, layers) if raw.get("use_sliding_window") else 0
        kinds = ["sliding_attention"] * windowed + ["full_attention"] * (layers - windowed)
    if set(kinds) == {"full_attention"} or raw.get("sliding_window") is None:
        return None
    if set(kinds) != {"sliding_attention"}:
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
    sides = set(given) if isinstance(given, list) else {given}
    if len(sides) != 1:
        raise ValueError(f"{name}: got {given}; accepted: one size for both sides")
    return sides.pop()


def number_of_labels(raw: Mapping[str, Any]) -> int:
    labels = raw.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else raw.get("num_labels") or 2


def labels(config: Any) -> dict[str, Any]:
    """Names for the classes, where there are none better."""
    names = [f"LABEL_{i}" for i in range(config.num_classes)]
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
