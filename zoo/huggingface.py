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


# Entries of rope_scaling that have an effect in transformers for some types, and none for others.
_ROPE_ENTRIES = frozenset(
    (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"),
        *("mscale", "mscale_all_dim", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor"),
        "finetuned",
    )
)
_ROPE_USED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor", "original_max_position_embeddings"),
}


def read_rope(raw: Mapping[str, Any], max_length: int = 2048, theta: float = 10_000.0) -> dict[str, Any]:
    """Return the config fields `rope_theta` and `rope_scaling`, and `max_length` where the scaling extends it.

    transformers 5 writes them as ``rope_parameters``; earlier versions wrote ``rope_theta`` and ``rope_scaling``. Of a
    config with both, transformers 5 obeys ``rope_scaling`` alone, and so does this function.

    Args:
        raw: the third-party config.
        max_length: transformers' default of ``max_position_embeddings``.
        theta: transformers' default of ``rope_theta``.

    Raises:
        ValueError: the entries are malformed, differ between layers, or only a part of the features is rotated.
    """
    name = "rope_scaling" if raw.get("rope_scaling") not in (None, {}) else "rope_parameters"
    given = {} if raw.get(name) is None else raw[name]
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ValueError(f"{name}: got {given!r}; accepted: one scaling for all layers")
    scaling = {entry: value for entry, value in given.items() if value is not None}
    if (theta := number({**raw, **scaling}, "rope_theta", theta)) <= 0:
        raise ValueError(f"rope_theta: got {theta!r}; accepted: a positive number")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    numbers = [value for value in scaling.values() if isinstance(value, float)]
    if not isinstance(kind, str) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: got {given!r}; accepted: a rope_type and finite numbers")
    if kind == "default":  # transformers then ignores all other entries, partial_rotary_factor among them
        return {"rope_theta": float(theta), "rope_scaling": None}
    _check_rope(raw, name, kind, scaling)
    length = integer(raw, "max_position_embeddings", max_length)
    found = {entry: scaling[entry] for entry in _ROPE_USED[kind] if entry in scaling}
    if kind == "dynamic":
        found["original_max_position_embeddings"] = length
    elif kind != "linear":
        original = raw.get("original_max_position_embeddings")  # obeyed first by transformers 5
        found["original_max_position_embeddings"] = original or found.get("original_max_position_embeddings", length)
    if kind == "yarn":
        found |= _yarn(scaling, found, length, name)
    fields = {"rope_theta": float(theta), "rope_scaling": {"rope_type": kind, **found}}
    if kind == "yarn" and "original_max_position_embeddings" in scaling:
        # Published configs often keep the original length, such as Qwen's: "factor" times that can be read.
        extended = int(found["factor"] * found["original_max_position_embeddings"])
        fields["max_length"] = max(length, extended)
    return fields


def _check_rope(raw: Mapping[str, Any], name: str, kind: str, scaling: Mapping[str, Any]) -> None:
    """Check the entries of a scaling of the type `kind`, which stands under `name` in `raw`, except its numbers."""
    if kind not in _ROPE_USED:
        raise ValueError(f"{name}: got rope_type {kind!r}; accepted: {['default', *sorted(_ROPE_USED)]}")
    if (part := scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor"))) not in (None, 1):
        where = (
            f"{name}: got partial_rotary_factor" if "partial_rotary_factor" in scaling else "partial_rotary_factor: got"
        )
        raise ValueError(f"{where} {part!r}; accepted: 1.0")
    if kind == "yarn" and "factor" not in raw[name]:  # null is accepted
        raise ValueError(f"{name}: got no factor for 'yarn'; accepted: a number, or null")
    if kind == "yarn" and scaling.get("truncate", True) is not True:
        raise ValueError(f"{name}: got truncate {scaling['truncate']!r}; accepted: true")
    known = {*_ROPE_ENTRIES, *_ROPE_USED[kind], "type", "rope_type", "rope_theta", "partial_rotary_factor"}
    if unknown := sorted(set(scaling) - known):
        raise ValueError(f"{name}: got {unknown} for {kind!r}; accepted: {list(_ROPE_USED[kind])}")


def _yarn(scaling: Mapping[str, Any], found: Mapping[str, Any], length: int, name: str) -> dict[str, float]:
    """Return the entries of YaRN's scaling that transformers derives from others."""
    for entry in ("factor", "original_max_position_embeddings", "mscale", "mscale_all_dim", "attention_factor"):
        value = found.get(entry, scaling.get(entry))
        if value is not None and not (is_number(value) and (value > 0 or entry.startswith("mscale"))):
            raise ValueError(f"{name}: got {entry} {value!r}; accepted: a positive number")
    factor = found["factor"] if "factor" in found else length / found["original_max_position_embeddings"]
    derived = {"factor": factor}
    for entry, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
        derived[entry] = scaling.get(entry) or default
    scales = [scaling.get(entry) or 0 for entry in ("mscale", "mscale_all_dim")]
    if all(scales) and "attention_factor" not in scaling:  # one of them alone has no effect in transformers
        above, below = (0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0 for scale in scales)
        derived["attention_factor"] = above / below
    return derived


def write_rope(config: Any) -> dict[str, Any]:
    """Return the rotary position entries of a Hugging Face config, in the formats of both transformers 4 and 5.

    Raises:
        ValueError: transformers does not have the scaling ("ntk" and "factors").
    """
    scaling = dict(config.rope_scaling or {"rope_type": "default"})
    if scaling["rope_type"] in ("ntk", "factors"):
        kinds = "dynamic, linear, llama3, yarn"
        raise ValueError(f"rope_scaling: got {scaling['rope_type']!r}, which transformers lacks; accepted: {kinds}")
    if not scaling.get("attention_factor", True):
        del scaling["attention_factor"]  # 0 stands for the default, which transformers expresses by its absence
    if scaling["rope_type"] == "dynamic":
        del scaling["original_max_position_embeddings"]  # transformers takes max_position_embeddings
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
    if (layers := integer(raw, "num_hidden_layers", 1)) < 1:
        raise ValueError(f"num_hidden_layers: got {layers}; accepted: a positive integer")
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    kinds = raw.get("layer_types")
    if kinds is None:
        full = layers if window is None else min(max(integer(raw, "max_window_layers", 28), 0), layers)
    elif isinstance(kinds, list) and len(kinds) == layers and all(kind in WINDOWS for kind in kinds):
        full = kinds.count("full_attention")
    else:
        raise ValueError(f"layer_types: got {kinds!r}; accepted: a list of {layers}, each one of {list(WINDOWS)}")
    if full == layers:
        return None
    if window is None:
        why = "sliding_window: got null" if raw.get("use_sliding_window") else "use_sliding_window: got false"
        raise ValueError(f"{why} with layer_types of sliding_attention; accepted: a window, and true")
    if full:
        raise ValueError(
            f"layer_types: got {full} layers of full_attention and {layers - full} of sliding_attention; accepted: all "
            "full_attention or all sliding_attention"
        )
    return window


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


def number_of_labels(raw: Mapping[str, Any], default: int = 2) -> int:
    """Return the number of entries in `id2label`, or else `num_labels`, or else `default`.

    Raises:
        ValueError: `id2label` is not an object, or `num_labels` is not an integer.
    """
    labels = raw.get("id2label")
    if labels is None:
        return integer(raw, "num_labels", default)
    if not isinstance(labels, Mapping):
        raise ValueError(f"id2label: got {labels!r}; accepted: an object with a name for each class")
    return len(labels)


def labels(config: Any) -> dict[str, Any]:
    """Return `id2label` and `label2id` with generic class names ("LABEL_0", …), or {} for a head without classes."""
    if "num_classes" in config.unused_fields():
        return {}
    names = [f"LABEL_{i}" for i in range(config.num_classes)]
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
