"""Sentence embeddings: pooling of hidden states, projections, normalization and truncation, for several families.

The steps are those of sentence-transformers (Reimers & Gurevych 2019, arXiv:1908.10084): its modules ``Pooling``,
``Dense`` and ``Normalize``, and its option `truncate_dim`, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from .. import checks
from ..layers.core import Dense, LayerNormalization
from ..layers.feedforward import ACTIVATIONS
from ..signature import TensorSpec
from .config import Config, field, flag, size

Tensor = Any

HEAD = "sentence_embedding"
POOLINGS = ("first", "max", "mean", "mean_sqrt_length", "weighted_mean", "last")
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"linear": lambda x: x, "sigmoid": ops.sigmoid, **ACTIVATIONS}
PROJECTION = {"units": None, "activation": "linear", "use_bias": True, "residual": False}


def _poolings(_: Any, name: str, value: Any) -> str | tuple[str, ...]:
    several = (value,) if isinstance(value, str) or not isinstance(value, list | tuple) else tuple(value)
    if not several or len(set(map(str, several))) < len(several) or any(one not in POOLINGS for one in several):
        raise ValueError(f"{name}: got {value!r}; accepted: one of {list(POOLINGS)}, or several different ones")
    return several[0] if len(several) == 1 else several


def _projections(_: Any, name: str, value: Any) -> tuple[dict[str, Any], ...]:
    accepted = "accepted: a list of objects with units, and optionally activation, use_bias and residual; or with norm"
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: got {value!r}; {accepted}")
    found = []
    for one in value:
        if isinstance(one, Mapping) and set(one) == {"norm"}:
            checks.choice(f"{name}: norm", one["norm"], ("layer_norm",))
            found.append(dict(one))
            continue
        if not isinstance(one, Mapping) or "units" not in one or set(one) - set(PROJECTION):
            raise ValueError(f"{name}: got {one!r}; {accepted}")
        full = {**PROJECTION, **one}
        full["units"] = checks.positive_integer(f"{name}: units", full["units"], below=checks.INT32)
        checks.choice(f"{name}: activation", full["activation"], FUNCTIONS)
        if any(not isinstance(full[key], bool) for key in ("use_bias", "residual")):
            raise ValueError(f"{name}: got {one!r}; accepted: use_bias and residual that are true or false")
        found.append(full)
    return tuple(found)


@dataclass(frozen=True)
class SentenceConfig(Config):
    """The fields of ``head="sentence_embedding"``, which several families have.

    Attributes:
        pooling: how the hidden states are combined, or a tuple of several ways whose results are concatenated: "mean",
            "mean_sqrt_length" (the sum divided by the square root of the number of tokens), "weighted_mean" (with the
            positions 1, 2, … as weights), "max", "first" or "last" (token).
        pool_prompt: whether the tokens of a prompt are pooled too. If not, the model has an input `pooling_mask`.
        projections: dense layers after the pooling, each a dict with `units`, and optionally `activation` (one of
            ``FUNCTIONS``; default "linear"), `use_bias` (default True) and `residual` (default False); or
            ``{"norm": "layer_norm"}`` for a layer normalization in their place.
        normalize: whether to scale the embedding to unit length.
        truncate_dim: number of leading features that are kept, after the normalization; None for all of them.
    """

    pooling: str | tuple[str, ...] = field("mean", _poolings, heads=(HEAD,))
    pool_prompt: bool = flag(True, heads=(HEAD,))
    projections: tuple[dict[str, Any], ...] = field((), _projections, heads=(HEAD,))
    normalize: bool = flag(False, heads=(HEAD,))
    truncate_dim: int | None = size(None, heads=(HEAD,))

    @property
    def embedding_dim(self) -> int:
        """The number of features of a sentence embedding."""
        width = projected_width(pooled_width(self), self.projections)
        return min(width, self.truncate_dim or width)


# Entries of third-party configs that store none of these fields; the files of sentence-transformers do.
SILENT = ("pooling", "pool_prompt", "projections", "normalize", "truncate_dim")


def pooled_width(config: Any) -> int:
    """Return the number of features after the pooling."""
    return config.hidden_dim * (1 if isinstance(config.pooling, str) else len(config.pooling))


def projected_width(width: int, projections: Any) -> int:
    """Return the number of features after `projections`, of which the first gets `width`."""
    return next((one["units"] for one in reversed(projections) if "units" in one), width)


@keras.saving.register_keras_serializable(package="attention_zoo")
class Projections(keras.layers.Layer):
    """The layers after the pooling: (batch, pooled width) becomes (batch, units of the last dense one)."""

    def __init__(self, projections: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.projections = tuple(dict(one) for one in projections)
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        self.steps = [
            LayerNormalization(epsilon=1e-5, name=f"norm_{i}", **shared)
            if "norm" in one
            else Dense(one["units"], use_bias=one["use_bias"], name=f"dense_{i}", **shared)
            for i, one in enumerate(self.projections)
        ]

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        for i, (one, layer) in enumerate(zip(self.projections, self.steps, strict=True)):
            layer.build((None, width))
            if "norm" in one:
                continue
            if one["residual"] and one["units"] != width:  # the residual connection has a projection of its own
                residual = Dense(one["units"], use_bias=False, name=f"residual_{i}", dtype=self.dtype_policy)
                residual.build((None, width))
                setattr(self, residual.name, residual)
            width = one["units"]
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        for i, (one, layer) in enumerate(zip(self.projections, self.steps, strict=True)):
            if "norm" in one:
                x = layer(x)
                continue
            result = FUNCTIONS[one["activation"]](layer(x))
            if one["residual"]:
                residual = getattr(self, f"residual_{i}", None)
                result = result + (x if residual is None else residual(x))
            x = result
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], projected_width(input_shape[-1], self.projections))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "projections": self.projections}


def projections_of(config: Any, **shared: Any) -> Projections | None:
    """Return the layer for the projections of `config`, named "projection", or None if it has none."""
    if config.head != HEAD or not config.projections:
        return None
    return Projections(config.projections, name="projection", **shared)


def sentence_inputs(config: Any) -> tuple[TensorSpec, ...]:
    """Return the additional input of a model whose pooling excludes the prompt, or nothing.

    `pooling_mask`, (batch, sequence), is 1 for the tokens that are pooled; see ``Tokenizer.__call__``.
    """
    if config.head != HEAD or config.pool_prompt:
        return ()
    return (TensorSpec("pooling_mask", "int32", ("batch", "sequence"), below=2, optional=True, fill=1),)


def sentence_outputs(config: Any) -> tuple[TensorSpec, ...]:
    """Return the output of ``head="sentence_embedding"``."""
    return (TensorSpec("sentence_embedding", "float32", ("batch", config.embedding_dim)),)


def sentence_embedding(
    config: Any, x: Tensor, mask: Tensor | None, pooling_mask: Tensor | None, projection: Projections | None
) -> Tensor:
    """Return the sentence embeddings, (batch, embedding_dim), in float32.

    Args:
        config: a config with the fields of ``SentenceConfig``.
        x: hidden states, (batch, sequence, hidden_dim).
        mask: attention mask, (batch, sequence), 1 = keep. Default: all tokens.
        pooling_mask: 1 for the tokens that are pooled, as far as `mask` keeps them. Default: all tokens.
        projection: the layer of ``projections_of``.
    """
    x = ops.cast(x, "float32")
    mask = ops.ones_like(x[..., 0], dtype="int32") if mask is None else ops.cast(mask, "int32")  # (B, T)
    pooled = mask if pooling_mask is None else mask * ops.cast(pooling_mask, "int32")
    modes = (config.pooling,) if isinstance(config.pooling, str) else config.pooling
    parts = [_pooled(mode, x, pooled, mask) for mode in modes]
    result = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)  # (B, pooled width)
    if projection is not None:
        result = ops.cast(projection(result), "float32")
    if config.normalize:
        length = ops.sqrt(ops.sum(ops.square(result), axis=-1, keepdims=True))  # (B, 1)
        result = result / ops.maximum(length, 1e-12)
    return result[:, : config.embedding_dim]


def scored(config: Any, logits: Tensor) -> Any:
    """Return `logits`, or with `score_activation` a dict of them and their `scores`, as of a cross-encoder."""
    if not _has_scores(config):
        return logits
    return {"logits": logits, "scores": FUNCTIONS[config.score_activation](logits)}


def _has_scores(config: Any) -> bool:
    return config.score_activation not in (None, "linear")


def scored_outputs(config: Any) -> tuple[TensorSpec, ...]:
    """Return the outputs of ``head="sequence_classification"``."""
    names = ("logits", *["scores"] * _has_scores(config))
    return tuple(TensorSpec(name, "float32", ("batch", config.num_classes)) for name in names)


def _pooled(mode: str, x: Tensor, mask: Tensor, attended: Tensor) -> Tensor:
    """Return the hidden states `x` (B, T, D) at the tokens of `mask` combined to (B, D), or zeros where there are none.

    `attended` is the attention mask: positions start at its first token, even if that is not pooled.
    """
    if mode == "max":
        kept = ops.expand_dims(ops.cast(mask, "bool"), -1)  # (B, T, 1)
        highest = ops.max(ops.where(kept, x, -1e9), axis=1)  # (B, D)
        return ops.where(ops.any(kept, axis=1), highest, 0.0)  # rows without tokens: -1e9, or -inf in float16
    if mode in ("first", "last"):
        counted = ops.cumsum(mask, axis=1)
        at = 1 if mode == "first" else ops.sum(mask, axis=1, keepdims=True)
        return _weighted_sum(x, ops.cast(counted == at, "int32") * mask)  # 1 at one token
    if mode == "weighted_mean":
        before = ops.sum(ops.cast(ops.equal(ops.cumsum(attended, axis=1), 0), "int32"), axis=1, keepdims=True)
        mask = mask * (ops.cumsum(ops.ones_like(mask), axis=1) - before)  # 1, 2, … from the first token
    total = ops.cast(ops.sum(mask, axis=1, keepdims=True), x.dtype)  # (B, 1)
    if mode == "mean_sqrt_length":
        total = ops.sqrt(total)
    return _weighted_sum(x, mask) / ops.maximum(total, 1.0)


def _weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    return ops.sum(x * ops.expand_dims(ops.cast(weights, x.dtype), -1), axis=1)
