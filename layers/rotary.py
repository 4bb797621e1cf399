"""Rotary position embeddings, and their scaling to sequences longer than those seen in training."""

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
    """Return positions · frequencies in float32, (batch, length, len(frequencies)), for positions (batch, length)."""
    return ops.expand_dims(ops.cast(positions, "float32"), -1) * ops.convert_to_tensor(frequencies)


def inverse_frequencies(width: int, theta: float) -> np.ndarray:
    """Return ``theta^(-2i/width)`` for i from 0 to width/2 - 1, float32."""
    return (1.0 / theta ** (np.arange(0, width, 2, dtype=np.float64) / width)).astype(np.float32)


SCALINGS: dict[str, dict[str, float | None]] = {  # fields and their defaults; None = required
    "linear": {"factor": None},
    "ntk": {"factor": None},
    "dynamic": {"factor": None, "original_max_position_embeddings": None},
    "factors": {"factors": None, "attention_factor": 1.0},
    "longrope": {
        "short_factor": None,
        "long_factor": None,
        "original_max_position_embeddings": None,
        "max_position_embeddings": None,
        "attention_factor": 0.0,  # stands for the published formula
    },
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
        "attention_factor": 0.0,  # stands for 0.1 ln(factor) + 1
    },
}


LISTS = frozenset(("factors", "short_factor", "long_factor"))  # fields with one number for each pair of features


def check_scaling(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Check `scaling` and return it with its defaults filled in, under the names of Hugging Face's ``rope_scaling``.

    Raises:
        ValueError: "rope_type" is unknown, or a field is missing, unknown or not positive.
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
    whole = fields.pop("truncate", True) if kind == "yarn" else True
    if not isinstance(whole, bool):
        raise ValueError(f"rope_scaling: got truncate {whole!r}; accepted: True or False")
    missing = [name for name, default in accepted.items() if default is None and name not in fields]
    if missing or not set(fields) <= set(accepted):
        raise ValueError(f"rope_scaling: got fields {sorted(fields)} for {kind!r}; accepted: {list(accepted)}")
    filled: dict[str, Any] = {**accepted, **fields}
    zero_means_default = {name for name, default in accepted.items() if default == 0.0}
    if bad := {
        name: value
        for name, value in filled.items()
        if name not in LISTS and (not is_number(value) or value < 0 or (value == 0 and name not in zero_means_default))
    }:
        raise ValueError(f"rope_scaling: got {bad}; accepted: positive numbers")
    for name in filled.keys() & LISTS:
        try:
            factors = np.asarray(filled[name], np.float64)
        except (TypeError, ValueError):
            factors = np.zeros(())
        if factors.ndim != 1 or not (np.isfinite(factors) & (factors > 0)).all():
            raise ValueError(f"rope_scaling: got {name} {filled[name]!r}; accepted: positive numbers")
        filled[name] = factors.tolist()
    if kind == "llama3" and filled["low_freq_factor"] >= filled["high_freq_factor"]:
        raise ValueError(
            f"rope_scaling: got low_freq_factor {filled['low_freq_factor']}; accepted: less than high_freq_factor "
            f"{filled['high_freq_factor']}"
        )
    exact = {} if whole else {"truncate": False}
    return {"rope_type": kind, **{name: plain(value) for name, value in filled.items()}, **exact}


def rotary_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None, max_length: int | None = None
) -> tuple[np.ndarray, float]:
    """Return the rotation in radians per position, (head_dim / 2,) float32, and the factor on cosines and sines.

    The types of `scaling` are:

    - linear: positions are divided by `factor` (Chen et al. 2023, arXiv:2306.15595).
    - ntk: theta is increased, which leaves the highest frequency unchanged.
    - dynamic: ntk whose factor grows with the sequence beyond `original_max_position_embeddings` tokens. Only sequences
      of at most that length are supported; their frequencies are unchanged.
    - llama3: low frequencies are divided by `factor`, high ones are kept, with a ramp in between (Llama 3.1).
    - yarn: the same with a ramp over the feature index, and cosines and sines are multiplied by a factor, which
      sharpens the attention (Peng et al. 2023, arXiv:2309.00071). The ramp begins and ends at whole indices, unless
      "truncate" is False.
    - factors: every frequency has its own divisor, and cosines and sines a factor, as stored in GGUF files.
    - longrope: the same with `short_factor` for texts of up to `original_max_position_embeddings` tokens, and with
      `long_factor` for longer ones (Ding et al. 2024, arXiv:2402.13753; Phi-3). `max_length`, the length of the longest
      text, chooses between them, so that one model computes the same with and without a cache.

    Raises:
        ValueError: ``check_scaling`` rejects `scaling`, or there are not head_dim / 2 factors.
    """
    scaling = check_scaling(scaling)
    if scaling is None:
        return inverse_frequencies(head_dim, theta), 1.0
    kind, factor = scaling["rope_type"], scaling.get("factor", 1.0)
    if kind == "ntk":
        return inverse_frequencies(head_dim, theta * factor ** (head_dim / (head_dim - 2))), 1.0
    plain = inverse_frequencies(head_dim, theta).astype(np.float64)
    if kind in ("factors", "longrope"):
        trained = scaling.get("original_max_position_embeddings", 0)
        name = kind if kind == "factors" else "long_factor" if (max_length or 0) > trained else "short_factor"
        factors = np.array(scaling[name], np.float64)
        if len(factors) != head_dim // 2:
            raise ValueError(f"rope_scaling: got {len(factors)} factors; accepted: {head_dim // 2}")
        return (plain / factors).astype(np.float32), scaling["attention_factor"] or _of_longrope(scaling)
    if kind in ("linear", "dynamic"):
        return (plain / (factor if kind == "linear" else 1.0)).astype(np.float32), 1.0
    trained = scaling["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = trained * plain / (2 * math.pi)  # number of full turns within the trained length
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return (plain * (keep + (1 - keep) / factor)).astype(np.float32), 1.0

    def feature(turns: float) -> float:  # index of the pair that makes `turns` turns within it
        return head_dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = feature(scaling["beta_fast"]), feature(scaling["beta_slow"])
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    keep = 1 - np.clip((np.arange(head_dim // 2) - first) / max(last - first, 0.001), 0, 1)
    sharper = scaling["attention_factor"] or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return (plain * (keep + (1 - keep) / factor)).astype(np.float32), sharper


def _of_longrope(scaling: Mapping[str, Any]) -> float:
    """Return the factor on cosines and sines: sqrt(1 + ln(extension) / ln(trained length)) for an extended model."""
    trained = scaling["original_max_position_embeddings"]
    extension = scaling["max_position_embeddings"] / trained
    return math.sqrt(1 + math.log(extension) / math.log(trained)) if extension > 1 else 1.0


@keras.saving.register_keras_serializable(package="attention_zoo")
class RotaryEmbedding(keras.layers.Layer):
    """Rotary position embedding: cosines and sines that rotate queries and keys (Su et al. 2021, arXiv:2104.09864).

    Integer position ids (batch, length) become a pair (cos, sin), (batch, 1, length, head_dim / 2) each. Both are
    always float32: in half precision the angle of position 4000 could be off by a radian. Pass the pair as `rotary`
    when calling ``MultiHeadAttention``. The layer has no weights.

    Args:
        head_dim: number of features of a head that are rotated, an even number: all of them, or fewer for a partial
            rotation (``MultiHeadAttention`` then leaves the others as they are).
        theta: base of the wavelengths, 10000 in the paper.
        scaling: for sequences longer than those seen in training, a dict like Hugging Face's ``rope_scaling``:
            "rope_type" ("linear", "ntk", "dynamic", "llama3", "yarn", "factors", "longrope"), "factor", and the other
            fields of that type; see ``rotary_frequencies``. None for no scaling.
        max_length: length of the longest text, by which "longrope" chooses its factors.

    Raises:
        ValueError: `head_dim` is odd, `theta` is not positive, or `scaling` is not one of these. A wrong number of
            factors raises when the layer is called.
    """

    kind: ClassVar[str] = "rotated"

    def __init__(
        self,
        head_dim: int,
        theta: float = 10000.0,
        *,
        scaling: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.head_dim = multiple("head_dim", head_dim, 2)
        self.theta = positive_number("theta", theta)
        self.scaling = check_scaling(scaling)
        self.max_length = max_length
        if head_dim == 2 and self.scaling and self.scaling["rope_type"] == "ntk":
            raise ValueError("head_dim: got 2 with ntk scaling; accepted: at least 4, one wave having nothing to scale")

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        frequencies, factor = rotary_frequencies(self.head_dim, self.theta, self.scaling, self.max_length)
        angles = ops.expand_dims(angles_of(position_ids, frequencies), 1)  # (B, 1, T, D/2)
        cos, sin = ops.cos(angles), ops.sin(angles)
        return (cos, sin) if factor == 1.0 else (cos * factor, sin * factor)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = (input_shape[0], 1, input_shape[1], self.head_dim // 2)
        return shape, shape

    def get_config(self) -> dict[str, Any]:
        own = {"head_dim": self.head_dim, "theta": self.theta, "scaling": self.scaling, "max_length": self.max_length}
        return {**super().get_config(), **own}
