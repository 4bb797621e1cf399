"""Metrics of tokens, for ``model.compile(metrics=[…])``.

They add up sums and counts, so their values are exact however tokens are distributed over batches. They count the
tokens that the losses of ``training/losses.py`` count, and take the same labels: with those losses, ``fit`` leaves out
padding for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ..layers.vocabulary import IGNORED
from .bytes import bytes_per_token
from .tokens import Labels, cross_entropy, statistics

Tensor = Any


class _TokenMetric(keras.metrics.Metric, Labels):
    """A quotient of two sums over tokens."""

    def __init__(
        self,
        shift: bool = True,
        pad_token_id: int | None = None,
        ignore_index: int = IGNORED,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self._set_labels(shift, pad_token_id, ignore_index)
        # A sum in float32 stops growing at about 2^24 additions of its mean. A second number keeps what was rounded.
        self.total, self.total_rest, self.count, self.count_rest = (
            self.add_variable((), initializer="zeros", name=part, dtype="float32")
            for part in ("total", "total_rest", "count", "count_rest")
        )

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch: labels (batch, sequence), logits (batch, sequence, vocabulary) and weights of rows or tokens."""
        targets = self.targets(self.without_masked(y_true, getattr(y_pred, "_keras_mask", None)))
        found = ops.cast(statistics(y_pred, targets), "float32")
        weights = self.token_weights(targets, sample_weight, "float32")
        counted = ops.not_equal(weights, 0)
        values, sizes = self.values(found, ops.maximum(targets, 0))
        self._add(self.total, self.total_rest, ops.sum(ops.where(counted, values * weights, 0.0)))
        self._add(self.count, self.count_rest, ops.sum(ops.where(counted, sizes * weights, 0.0)))

    def _add(self, total: Any, rest: Any, value: Tensor) -> None:
        """Add `value` to `total`, and what is rounded off to `rest` (Knuth's two-sum)."""
        before = ops.convert_to_tensor(total)
        after = before + value
        part = after - before
        rest.assign(rest + ((before - (after - part)) + (value - part)))
        total.assign(after)

    def values(self, found: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a token adds to the sum and to the count, (batch, sequence) each."""
        raise NotImplementedError

    def quotient(self) -> Tensor:
        total, count = self.total + self.total_rest, self.count + self.count_rest
        return ops.divide_no_nan(total, count)

    def result(self) -> Tensor:
        return self.quotient()

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shift": self.shift, **self.label_config()}


@keras.saving.register_keras_serializable(package="attention_zoo")
class Perplexity(_TokenMetric):
    """``exp`` of the mean cross-entropy of the counted tokens, without smoothing and z-loss; 1 if there are none.

    Args:
        shift: whether position t is compared with label t + 1, as ``CausalLM`` does; False as ``TokenCrossEntropy``.
        pad_token_id, ignore_index: as for the losses.
        name, dtype: as for ``keras.metrics.Metric``.
    """

    def __init__(self, shift: bool = True, *args: Any, name: str | None = "perplexity", **kwargs: Any) -> None:
        super().__init__(shift, *args, name=name, **kwargs)

    def values(self, found: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses = cross_entropy(found)
        return losses, ops.ones_like(losses)

    def result(self) -> Tensor:
        return ops.exp(self.quotient())


@keras.saving.register_keras_serializable(package="attention_zoo")
class MaskedAccuracy(_TokenMetric):
    """The share of the counted tokens whose label has the greatest logit; the first of several equal logits counts.

    The arguments are those of ``Perplexity``.
    """

    def __init__(self, shift: bool = True, *args: Any, name: str | None = "accuracy", **kwargs: Any) -> None:
        super().__init__(shift, *args, name=name, **kwargs)

    def values(self, found: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return found[..., 3], ops.ones_like(found[..., 3])


@keras.saving.register_keras_serializable(package="attention_zoo")
class BitsPerByte(_TokenMetric):
    """The cross-entropy of the counted tokens in bits, divided by the number of bytes of their texts in UTF-8.

    Unlike perplexity, it compares models with different tokenizers (Gao et al. 2020, arXiv:2101.00027, section 3.1).
    The bytes of a token are those that it adds to the decoded text. Special tokens have none, but their cross-entropy
    counts: a model must also predict where texts end.

    Args:
        tokenizer: a ``Tokenizer`` with byte-level BPE, or with SentencePiece's word marks ("▁") and bytes. WordPiece
            does not keep the spaces of a text: for it, give the numbers of bytes.
        bytes_per_token: number of bytes of each id, in place of a tokenizer. Exactly one of the two is given.
        shift, pad_token_id, ignore_index, name, dtype: as for ``Perplexity``.

    Raises:
        ValueError: both or none of `tokenizer` and `bytes_per_token`, numbers below 0, or another tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        bytes_per_token: Sequence[int] | np.ndarray | None = None,
        shift: bool = True,
        *args: Any,
        name: str | None = "bits_per_byte",
        **kwargs: Any,
    ) -> None:
        super().__init__(shift, *args, name=name, **kwargs)
        self.bytes_per_token = bytes_per_token_of(tokenizer, bytes_per_token)

    def values(self, found: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # A label beyond the table has no bytes that are known. Backends differ in what they take for it.
        table = ops.append(ops.convert_to_tensor(self.bytes_per_token), math.nan)
        sizes = ops.take(table, ops.minimum(labels, len(self.bytes_per_token)), axis=0)
        return cross_entropy(found) * (1 / math.log(2)), sizes

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bytes_per_token": [int(size) for size in self.bytes_per_token]}


def bytes_per_token_of(tokenizer: Any, given: Any) -> np.ndarray:
    """Return the number of bytes of each id, float32 (vocabulary,)."""
    if (tokenizer is None) == (given is None):
        raise ValueError("tokenizer: got it and bytes_per_token, or neither; accepted: one of the two")
    sizes = np.asarray(bytes_per_token(tokenizer) if given is None else given, "float32")
    if sizes.ndim != 1 or not sizes.size or not (sizes >= 0).all():
        raise ValueError(f"bytes_per_token: got shape {sizes.shape}; accepted: a row of numbers of at least 0")
    return sizes
