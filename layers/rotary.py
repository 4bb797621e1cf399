"""Rotary positions, and what stretches them to texts longer than those trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from ..checks import is_number, multiple, plain, positive_number

Tensor = Any


def angles_of(positions: Tensor, frequencies: np.ndarray) -> Tensor:
    """(batch, length) positions to (batch, length, len(frequencies)) angles, in float32."""
    return ops.expand_dims(ops.cast(positions, "float32"), -1) * ops.convert_to_tensor(frequencies)


def inverse_frequencies(width: int, theta: float) -> np.ndarray:
    """``theta^(-2i/width)`` for i in 0 .. width/2, float32."""
    return (1.0 / theta ** (np.arange(0, width, 2, dtype=np.float64) / width)).astype(np.float32)


SCALINGS: dict[str, dict[str, float | None]] = {  # fields and their defaults; None where there is none
    "linear": {"factor": None},
    "ntk": {"factor": None},
    "factors": {"factors": None},
    "llama3": {
        "factor": None,
        "low_freq_factor": None,
        "high_freq_factor": None,
        "original_max_position_embeddings": None,
    },
    "yarn": {
        "factor": None,
        "original_max_position_embeddings": None,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": 0.0,  # for 0.1 ln(factor) + 1
    },
}


def check_scaling(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`scaling` with its defaults filled in, under the field names of Hugging Face's ``rope_scaling``.

    Raises:
        ValueError: an unknown "rope_type", or fields that are missing, unknown or not positive.
    """
    if scaling is None:
        return None
    if not isinstance(scaling, Mapping):
        raise ValueError(f"rope_scaling: got {scaling!r}; accepted: a dict with rope_type, or None")
    fields = dict(scaling)
    kind = fields.pop("rope_type", None)
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise ValueError(f"rope_scaling: got rope_type {kind!r}; accepted: {sorted(SCALINGS)}")
    accepted = SCALINGS[kind]
    missing = [name for name, default in accepted.items() if default is None and name not in fields]
    if missing or not set(fields) <= set(accepted):
        raise ValueError(f"rope_scaling: got fields {sorted(fields)} for {kind!r}; accepted: {list(accepted)}")
    filled: dict[str, Any] = {**accepted, **fields}
    zero_means_default = {name for name, default in accepted.items() if default == 0.0}
    if bad := {
        name: value
        for name, value in filled.items()
        if name != "factors" and (not is_number(value) or value < 0 or (value == 0 and name not in zero_means_default))
    }:
        raise ValueError(f"rope_scaling: got {bad}; accepted: positive numbers")
    if kind == "factors":
        factors = np.asarray(filled["factors"], np.float64)
        if factors.ndim != 1 or not (np.isfinite(factors) & (factors > 0)).all():
            raise ValueError(f"rope_scaling: got factors {filled['factors']!r}; accepted: positive numbers")
        filled["factors"] = factors.tolist()
    if kind == "llama3" and filled["low_freq_factor"] >= filled["high_freq_factor"]:
        raise ValueError(
            f"rope_scaling: got low_freq_factor {filled['low_freq_factor']}; accepted: less than high_freq_factor "
            f"{filled['high_freq_factor']}"
        )
    return {"rope_type": kind, **{name: plain(value) for name, value in filled.items()}}


def rotary_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, float]:
    """Angles per position, (head_dim / 2,) float32, and the factor on cosines and sines.

    linear: positions / factor (Chen et al. 2023, arXiv:2306.15595). ntk: a larger theta instead, which leaves the
    fastest wave alone. llama3: long waves slowed, short ones kept, a ramp between (Llama 3.1). yarn: the same idea
    with a ramp over features, and sharper scores (Peng et al. 2023, arXiv:2309.00071). factors: one divisor for every
    wave, as GGUF files keep them.
    """
    scaling = check_scaling(scaling)
    if scaling is None:
        return inverse_frequencies(head_dim, theta), 1.0
    kind, factor = scaling["rope_type"], scaling.get("factor", 1.0)
    if kind == "ntk":
        return inverse_frequencies(head_dim, theta * factor ** (head_dim / (head_dim - 2))), 1.0
    plain = inverse_frequencies(head_dim, theta).astype(np.float64)
    if kind == "factors":
        factors = np.array(scaling["factors"], np.float64)
        if len(factors) != head_dim // 2:
            raise ValueError(f"rope_scaling: got {len(factors)} factors; accepted: {head_dim // 2}")
        return (plain / factors).astype(np.float32), 1.0
    if kind == "linear":
        return (plain / factor).astype(np.float32), 1.0
    trained = scaling["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = trained * plain / (2 * math.pi)  # full turns within the trained length
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return (plain * (keep + (1 - keep) / factor)).astype(np.float32), 1.0

    def feature(turns: float) -> float:  # which makes so many turns within the trained length
        return head_dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(feature(scaling["beta_fast"])), 0)
    last = min(math.ceil(feature(scaling["beta_slow"])), head_dim - 1)
    keep = 1 - np.clip((np.arange(head_dim // 2) - first) / max(last - first, 0.001), 0, 1)
    sharper = scaling["attention_factor"] or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return (plain * (keep + (1 - keep) / factor)).astype(np.float32), sharper


@keras.saving.register_keras_serializable(package="attention_zoo")
class RotaryEmbedding(keras.layers.Layer):
    """The cosines and sines that rotate queries and keys (Su et al. 2021, arXiv:2104.09864).

    (batch, length) positions to a pair of (batch, 1, length, head_dim / 2), always float32: in half precision
    the angle of position 4000 would be off by a radian. Give the pair to ``MultiHeadAttention(rotary=…)``.

    Args:
        head_dim: even width of one head.
        theta: base of the wavelengths, 10000 in the paper.
        scaling: for texts longer than those trained on, a dict as Hugging Face's ``rope_scaling``: "rope_type"
            ("linear", "ntk", "llama3", "yarn", "factors"), "factor", and the fields of that type; see
            ``rotary_frequencies``.

    Raises:
        ValueError: an odd `head_dim`, or a `scaling` that is none of these.
    """

    kind: ClassVar[str] = "rotated"

    def __init__(
        self, head_dim: int, theta: float = 10000.0, *, scaling: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.head_dim = multiple("head_dim", head_dim, 2)
        self.theta = positive_number("theta", theta)
        self.scaling = check_scaling(scaling)
        if head_dim == 2 and self.scaling and self.scaling["rope_type"] == "ntk":
            raise ValueError("head_dim: got 2 with ntk scaling; accepted: at least 4, one wave having nothing to scale")

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        frequencies, factor = rotary_frequencies(self.head_dim, self.theta, self.scaling)
        angles = ops.expand_dims(angles_of(position_ids, frequencies), 1)  # (B, 1, T, D/2)
        cos, sin = ops.cos(angles), ops.sin(angles)
        return (cos, sin) if factor == 1.0 else (cos * factor, sin * factor)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = (input_shape[0], 1, input_shape[1], self.head_dim // 2)
        return shape, shape

    def get_config(self) -> dict[str, Any]:
        own = {"head_dim": self.head_dim, "theta": self.theta, "scaling": self.scaling}
        return {**super().get_config(), **own}
