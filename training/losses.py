"""Losses of tokens, for ``model.compile(loss=…)``.

    model.compile("adamw", az.losses.CausalLM(), metrics=[az.metrics.Perplexity()])
    model.fit({"input_ids": ids, "attention_mask": mask})        # the labels are the ids
    model.fit(az.data.pack(texts, tokenizer, length=512))

The loss of a batch is the sum over its counted tokens divided by their number. With sample weights, the sum is weighted
and tokens of weight 0 are not counted: rows of weight 0 change nothing. Batches with different numbers of counted
tokens thus weigh the same in an epoch's mean, and in the gradient under accumulation; ``az.metrics`` are exact.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ..checks import positive_integer, rate, shown
from ..layers import functional as F
from ..layers.vocabulary import IGNORED
from .tokens import Labels, cross_entropy, statistics

Tensor = Any


@keras.saving.register_keras_serializable(package="attention_zoo")
class TokenCrossEntropy(keras.losses.Loss, Labels):
    """Cross-entropy of logits (batch, sequence, vocabulary) with the label of the same position, in float32.

    For masked language models, encoder–decoder models, whose decoder's inputs are shifted already, and token
    classification. Labels (batch, sequence) are integers; `ignore_index` marks positions that do not count. Models of
    this package also leave out the labels of masked tokens ("attention_mask" = 0, "segment_ids" = 0).

    With smoothing ε and z-loss c, the loss of a token with logits z and label y is
    ``lse(z) - (1 - ε) z_y - ε mean(z) + c lse(z)²``, where lse is log-sum-exp: the target distribution is
    ``(1 - ε) onehot(y) + ε / vocabulary``, as in ``keras.losses.CategoricalCrossentropy`` and PyTorch.

    Args:
        label_smoothing: ε, from 0 up to, not including, 1 (Szegedy et al. 2016, arXiv:1512.00567).
        z_loss: c, which keeps the logits from drifting; 1e-4 in PaLM (arXiv:2204.02311).
        chunk_size: number of tokens whose logits exist at once, or "auto" for as many as have 2^24 logits. ``fit`` and
            ``evaluate`` of a GPT with ``head="causal_lm"`` or a BERT with ``head="masked_lm"`` then need no memory for
            (batch · sequence · vocabulary) logits, and compute them a second time in the backward pass; ``predict``
            returns logits as before. None (default) for all logits at once. Without effect for other models' logits.
        pad_token_id: a label that is ignored too. Not needed if the inputs have an attention mask. None for none.
        ignore_index: a negative integer.
        name, dtype: as for ``keras.losses.Loss``. The loss is computed in float32, or in float64 for such logits.

    Raises:
        ValueError: an argument is not accepted; when called: shapes that do not belong together.
    """

    of_next = False

    def __init__(
        self,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        chunk_size: int | str | None = None,
        pad_token_id: int | None = None,
        ignore_index: int = IGNORED,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self._set_labels(self.of_next, pad_token_id, ignore_index)
        self.label_smoothing = rate("label_smoothing", label_smoothing)
        self.z_loss = rate("z_loss", z_loss)
        if isinstance(chunk_size, str):
            if chunk_size != "auto":
                raise ValueError(f"chunk_size: got {shown(chunk_size)}; accepted: a number of tokens, 'auto' or None")
        elif chunk_size is not None:
            positive_integer("chunk_size", chunk_size)
        self.chunk_size = chunk_size
        self._mean = _Value(name=self.name)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return the mean loss of the counted tokens, a scalar; 0 if there are none.

        Labels of tokens that Keras' mask of `y_pred` leaves out are not counted, as with Keras' own losses.
        """
        labels = self.without_masked(y_true, getattr(y_pred, "_keras_mask", None))
        targets = self.targets(labels)
        losses = self._losses(targets, y_pred)
        weights = self.token_weights(targets, sample_weight, losses.dtype)
        number = ops.sum(ops.cast(ops.not_equal(weights, 0), losses.dtype))
        # A token without weight must not give nan for an infinite loss.
        losses = ops.where(ops.equal(weights, 0), 0.0, losses * weights)
        return self._mean(ops.expand_dims(ops.divide_no_nan(ops.sum(losses), number), 0))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each position, (batch, sequence), 0 where there is no label."""
        targets = self.targets(y_true)
        return ops.where(ops.equal(targets, IGNORED), 0.0, self._losses(targets, y_pred))

    def _losses(self, targets: Tensor, y_pred: Tensor) -> Tensor:
        found = F.at_least_float32(statistics(y_pred, targets))
        losses = cross_entropy(found)
        if self.label_smoothing:
            losses = losses + self.label_smoothing * (found[..., 1] - found[..., 2])
        return losses + self.z_loss * ops.square(found[..., 0]) if self.z_loss else losses

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("name", "label_smoothing", "z_loss", "chunk_size")}
        return {**own, **self.label_config()}


@keras.saving.register_keras_serializable(package="attention_zoo")
class CausalLM(TokenCrossEntropy):
    """Cross-entropy of each token with the logits of the position before it: the loss of a causal language model.

    The labels are those of the tokens themselves, as in Hugging Face: the loss shifts them. Without labels
    (``model.fit(inputs)``), they are the "input_ids". Padding does not count, nor does the first token of a row, also
    after padding on the left, or, with "segment_ids", of a document. The arguments are those of ``TokenCrossEntropy``.
    """

    of_next = True


class _Value(keras.losses.Loss):
    """The loss of values, (1,): Keras divides it by the number of replicas under a ``tf.distribute`` strategy."""

    def __call__(self, value: Tensor) -> Tensor:
        return super().__call__(value, value)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return y_pred
