"""Entries of Hugging Face configs about rotary positions, and about layers that differ from each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import is_number
from .huggingface import flag, integer, number
from .layer_kinds import FULL, KINDS, SLIDING

# Entries of rope_scaling that have an effect in transformers for some types only.
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
    "longrope": ("short_factor", "long_factor", "attention_factor", "original_max_position_embeddings"),
}


def read_rope(
    raw: Mapping[str, Any], max_length: int = 2048, theta: float = 10_000.0, partial: float | None = None
) -> dict[str, Any]:
    """Return the config fields `rope_theta` and `rope_scaling`, and `max_length` where the scaling changes it.

    transformers 5 writes them as ``rope_parameters``; earlier versions wrote ``rope_theta`` and ``rope_scaling``. If a
    config has both, this function uses ``rope_scaling`` alone, as transformers 5 does.

    Args:
        raw: the third-party config.
        max_length: transformers' default of ``max_position_embeddings``.
        theta: transformers' default of ``rope_theta``.
        partial: transformers' default of ``partial_rotary_factor``, for models that rotate a part of the features; the
            result then has `rotary_dim` too. None if the model has no such entry.

    Raises:
        ValueError: the entries are malformed, differ between layers, or specify that a part of the features is
            rotated in a model without `partial`.
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
    part = {} if partial is None else {"rotary_dim": _rotary_dim(raw, scaling, partial)}
    if kind == "default":  # transformers then ignores all other entries, in most models partial_rotary_factor too
        return {"rope_theta": float(theta), "rope_scaling": None, **part}
    kind = LONGROPE.get(kind, kind) if "short_factor" in scaling else kind
    _check_rope(raw, name, kind, scaling, partial is not None)
    if kind == "longrope":
        return {"rope_theta": float(theta), **_longrope(raw, scaling, max_length), **part}
    length = integer(raw, "max_position_embeddings", max_length)
    found = {entry: scaling[entry] for entry in _ROPE_USED[kind] if entry in scaling}
    if kind == "dynamic":
        found["original_max_position_embeddings"] = length
    elif kind != "linear":
        original = raw.get("original_max_position_embeddings")  # takes precedence in transformers 5
        found["original_max_position_embeddings"] = original or found.get("original_max_position_embeddings", length)
    if kind == "yarn":
        found |= _yarn(scaling, found, length, name)
        found |= {} if scaling.get("truncate", True) is True else {"truncate": scaling["truncate"]}
    fields = {"rope_theta": float(theta), "rope_scaling": {"rope_type": kind, **found}, **part}
    if kind == "yarn" and "original_max_position_embeddings" in scaling:
        # Published configs often state the original length, such as Qwen's; "factor" times as many tokens can be read.
        extended = int(found["factor"] * found["original_max_position_embeddings"])
        fields["max_length"] = max(length, extended)
    return fields


LONGROPE = {"su": "longrope", "yarn": "longrope"}  # the names in early files of Phi-3


def _rotary_dim(raw: Mapping[str, Any], scaling: Mapping[str, Any], partial: float) -> int:
    """Return the number of features of a head that are rotated."""
    part = number({**raw, **scaling}, "partial_rotary_factor", partial)
    heads = integer(raw, "num_attention_heads", 1)
    head_dim = integer(raw, "head_dim", integer(raw, "hidden_size", 0) // max(1, heads))
    if not 0 < int(head_dim * part) <= head_dim:
        raise ValueError(f"partial_rotary_factor: got {part!r}; accepted: above 0 and at most 1")
    return int(head_dim * part)


def _longrope(raw: Mapping[str, Any], scaling: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Return `rope_scaling` and `max_length` of a model with separate factors for short and long texts.

    `max_length` is the length up to which the short factors apply; a larger `max_length` in ``load`` selects the long
    factors.
    """
    longest = integer(raw, "max_position_embeddings", max_length)
    trained = integer({**scaling, **raw}, "original_max_position_embeddings", longest)
    fields = {entry: scaling.get(entry) for entry in ("short_factor", "long_factor")}
    factor = scaling.get("attention_factor")
    sharper = {} if factor is None else {"attention_factor": number(scaling, "attention_factor", 1.0)}
    sizes = {"original_max_position_embeddings": trained, "max_position_embeddings": longest}
    if factor is None and scaling.get("factor") and "original_max_position_embeddings" not in raw:
        sizes["max_position_embeddings"] = round(trained * number(scaling, "factor", 1.0))
    return {
        "rope_scaling": {"rope_type": "longrope", **fields, **sizes, **sharper},
        "max_length": min(trained, longest),
    }


def _check_rope(raw: Mapping[str, Any], name: str, kind: str, scaling: Mapping[str, Any], partial: bool) -> None:
    """Check the entries of a scaling of the type `kind`, found under `name` in `raw`, except its numbers."""
    if kind not in _ROPE_USED:
        raise ValueError(f"{name}: got rope_type {kind!r}; accepted: {['default', *sorted(_ROPE_USED)]}")
    if not partial and (part := scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor"))) not in (
        None,
        1,
    ):
        where = (
            f"{name}: got partial_rotary_factor" if "partial_rotary_factor" in scaling else "partial_rotary_factor: got"
        )
        raise ValueError(f"{where} {part!r}; accepted: 1.0")
    if kind == "yarn" and "factor" not in raw[name]:  # null is accepted
        raise ValueError(f"{name}: got no factor for 'yarn'; accepted: a number, or null")
    known = {*_ROPE_ENTRIES, *_ROPE_USED[kind], "type", "rope_type", "rope_theta", "partial_rotary_factor"}
    if unknown := sorted(set(scaling) - known):
        raise ValueError(f"{name}: got {unknown} for {kind!r}; accepted: {list(_ROPE_USED[kind])}")


def _yarn(scaling: Mapping[str, Any], found: Mapping[str, Any], length: int, name: str) -> dict[str, float]:
    """Return the entries of YaRN's scaling that transformers derives from other entries."""
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


def write_rope(config: Any, partial: bool = False) -> dict[str, Any]:
    """Return the rotary position entries of a Hugging Face config, in the formats of both transformers 4 and 5.

    With `partial`, these include the part of the features that is rotated.

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
        del scaling["original_max_position_embeddings"]  # transformers then uses max_position_embeddings
    entries: dict[str, Any] = {}
    if scaling["rope_type"] == "longrope":
        entries["max_position_embeddings"] = scaling.pop("max_position_embeddings")
        entries["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    part = {"partial_rotary_factor": _part(config)} if partial else {}
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else scaling,
        "rope_parameters": {"rope_theta": config.rope_theta, **scaling, **part},
        **part,
        **entries,
    }


def _part(config: Any) -> float:
    """Return the factor by which transformers computes `rotary_dim`, rounding down."""
    rotated = config.rotary_dim or config.head_dim
    part = rotated / config.head_dim
    return part if int(config.head_dim * part) == rotated else (rotated + 0.5) / config.head_dim


def read_ropes(
    raw: Mapping[str, Any], max_length: int, theta: float, sliding_theta: float, old: str = "rope_local_base_freq"
) -> dict[str, Any]:
    """Return the fields of ``read_rope`` for layers of full attention, and `sliding_rope_theta` for sliding attention.

    Args:
        raw: the third-party config. Its ``rope_parameters`` have an object for each kind of layer.
        max_length, theta, sliding_theta: transformers' defaults.
        old: the entry for `sliding_theta` before transformers 5, where ``rope_scaling`` applied to full attention only.

    Raises:
        ValueError: as in ``read_rope``, or the positions of sliding attention are scaled.
    """
    given = {} if raw.get("rope_parameters") is None else raw["rope_parameters"]
    if not isinstance(given, Mapping) or not all(isinstance(given.get(kind) or {}, Mapping) for kind in KINDS):
        raise ValueError(f"rope_parameters: got {given!r}; accepted: an object for each of {list(KINDS)}")
    full, near = ({name: v for name, v in (given.get(kind) or {}).items() if v is not None} for kind in KINDS)
    full |= raw.get("rope_scaling") or {} if isinstance(raw.get("rope_scaling"), Mapping | None) else {}
    outer = {name: value for name, value in raw.items() if name not in ("rope_parameters", "rope_scaling")}
    fields = read_rope({**outer, "rope_parameters": full}, max_length, theta)
    near = {"rope_theta": number(raw, old, sliding_theta), **near}
    sliding = read_rope({**outer, "rope_parameters": near}, max_length, sliding_theta)
    if sliding["rope_scaling"] is not None:
        raise ValueError(f"rope_parameters: got {near!r} for {SLIDING}; accepted: rope_type 'default'")
    return {**fields, "sliding_rope_theta": sliding["rope_theta"]}


def write_ropes(config: Any, old: str | None = "rope_local_base_freq") -> dict[str, Any]:
    """Return the rotary position entries of a config with an object for each kind of layer."""
    theta = config.rope_theta if config.sliding_rope_theta is None else config.sliding_rope_theta
    full = write_rope(config)
    by_kind = {FULL: full["rope_parameters"], SLIDING: {"rope_type": "default", "rope_theta": theta}}
    return {"rope_parameters": by_kind, "rope_theta": config.rope_theta, **({} if old is None else {old: theta})}


def read_kinds(
    raw: Mapping[str, Any], sliding: Sequence[bool], *, window: int | None, entry: str = "layer_types"
) -> dict[str, Any]:
    """Return the fields `layer_types` and `sliding_window`.

    Args:
        raw: the third-party config.
        sliding: for each layer, whether its attention is limited to the window if the config does not say so.
        window: the default of ``sliding_window``.
        entry: the name of the list of kinds.

    Raises:
        ValueError: the list does not have one kind for each layer, or there is a layer of sliding attention without a
            window.
    """
    given = raw.get(entry)
    layers = len(sliding)
    if given is None:
        given = [SLIDING if each else FULL for each in sliding]
    if not isinstance(given, list) or len(given) != layers or not all(kind in KINDS for kind in given):
        raise ValueError(f"{entry}: got {given!r}; accepted: a list of {layers}, each one of {list(KINDS)}")
    if SLIDING not in given:
        return {"layer_types": None, "sliding_window": None}
    if (width := raw.get("sliding_window", window)) is None:
        raise ValueError(f"sliding_window: got null with {entry} of {SLIDING}; accepted: a number of tokens")
    return {"layer_types": tuple(given) if FULL in given else None, "sliding_window": width}


def write_kinds(config: Any) -> dict[str, Any]:
    """Return `layer_types` and `sliding_window` of a Hugging Face config."""
    kinds = [SLIDING if sliding else FULL for sliding in config.sliding_layers]
    return {"layer_types": kinds, "sliding_window": config.sliding_window}


def layers_of(raw: Mapping[str, Any], entry: str = "num_hidden_layers", default: int = 1) -> range:
    """Return the indices of the layers, whose number is under `entry`, or `default`.

    Raises:
        ValueError: the number of layers is not a positive integer of reasonable size.
    """
    if not 0 < (layers := integer(raw, entry, default)) < 100_000:
        raise ValueError(f"{entry}: got {layers}; accepted: a positive integer")
    return range(layers)


def read_qwen(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields `layer_types` and `sliding_window` of a Qwen config.

    Raises:
        ValueError: a layer has a sliding window and the config has none, or `layer_types` is malformed.
    """
    used = flag(raw, "use_sliding_window", False)
    window = raw.get("sliding_window", 4096) if used else None
    first = integer(raw, "max_window_layers", 28)
    used = used and (window is not None or raw.get("layer_types") is not None)
    found = read_kinds(
        {**raw, "sliding_window": window or 1}, [used and i >= first for i in layers_of(raw)], window=None
    )
    if found["sliding_window"] is not None and window is None:
        why = "sliding_window: got null" if used else "use_sliding_window: got false"
        raise ValueError(f"{why} with layer_types of {SLIDING}; accepted: a window, and true")
    return found


def write_qwen(config: Any) -> dict[str, Any]:
    """Return the entries of a Qwen config about sliding windows; the inverse of ``read_qwen``."""
    sliding = config.sliding_layers
    first = sliding.index(True) if any(sliding) else config.num_layers
    return {**write_kinds(config), "use_sliding_window": any(sliding), "max_window_layers": first}
