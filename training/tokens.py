"""What the losses and metrics of tokens share: which labels count, at which position, and their cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops

from ..checks import integer
from ..layers import functional as F
from ..layers.vocabulary import IGNORED, logit_statistics, wanted_statistics

Tensor = Any
MASKS = ("attention_mask", "segment_ids")  # inputs that say which tokens of a row are padding


class Labels:
    """Mixin of losses and metrics that compare each position's logits with a label.

    Attributes:
        shift: whether position t is compared with label t + 1, as in a causal language model.
        pad_token_id: label that is ignored as well as `ignore_index`, or None.
        ignore_index: label of positions that do not count.
    """

    shift: bool
    pad_token_id: int | None
    ignore_index: int

    def _set_labels(self, shift: bool, pad_token_id: int | None, ignore_index: int) -> None:
        self.shift = bool(shift)
        self.pad_token_id = None if pad_token_id is None else integer("pad_token_id", pad_token_id)
        self.ignore_index = integer("ignore_index", ignore_index, least=-(2**31), below=0)

    def labels_of(self, x: Any, y: Any) -> Tensor:
        """Return the labels (batch, sequence) at the tokens' own positions, ``ignore_index`` at padding.

        Where `x` has "attention_mask" or "segment_ids" that belong to the labels' tokens, masked tokens have no label.
        With `shift` neither has the first token of a row or document, which nothing precedes: with padding on the left,
        too, so that a row has the same loss wherever its padding is.

        Args:
            x: the inputs of the model, by name or the ids alone.
            y: the labels, integers (batch, sequence) or (batch, sequence, 1). None for the ids of `x` themselves.

        Raises:
            ValueError: no labels, and `x` has no ids that are labels.
        """
        named = x if isinstance(x, Mapping) else {"input_ids": x}
        if y is None:
            if not self.shift or "input_ids" not in named or "decoder_input_ids" in named:
                raise ValueError(f"y: got None with inputs {sorted(named)}; accepted: labels (batch, sequence)")
            y = named["input_ids"]
        labels = _of_two_dimensions(y)
        if "decoder_input_ids" in named:
            named = {"attention_mask": named.get("decoder_attention_mask")}
        for name in MASKS:
            labels = self.without_masked(labels, named.get(name))
        return labels

    def without_masked(self, labels: Tensor, mask: Any) -> Tensor:
        """Return `labels` (batch, sequence) with ``ignore_index`` where the logits or the token are masked.

        Args:
            labels: at the tokens' own positions, also (batch, sequence, 1).
            mask: (batch, sequence), 0 for padding: a mask, or the numbers of documents. None, or one of another rank,
                is without effect.
        """
        labels = _of_two_dimensions(labels)
        if mask is None or len(mask.shape) != len(labels.shape):
            return labels
        mask = ops.cast(mask, "int32")
        kept = ops.not_equal(mask, 0)
        if self.shift:  # the logits are those of the token before, which must be of the same document
            same = ops.equal(mask[:, 1:], mask[:, :-1])
            kept = ops.logical_and(kept, ops.concatenate([ops.zeros_like(kept[:, :1]), same], axis=1))
        return ops.where(kept, labels, self.ignore_index)

    def targets(self, labels: Tensor) -> Tensor:
        """Return the label of each position of the logits, (batch, sequence), ``IGNORED`` where there is none."""
        labels = _of_two_dimensions(labels)
        out = ops.equal(labels, self.ignore_index)
        if self.pad_token_id is not None:
            out = ops.logical_or(out, ops.equal(labels, self.pad_token_id))
        labels = ops.where(out, IGNORED, labels)
        return _shifted(labels, IGNORED) if self.shift else labels

    def token_weights(self, targets: Tensor, sample_weight: Tensor | None, dtype: str) -> Tensor:
        """Return the weight of each position, (batch, sequence): 0 where there is no label, 1 or its sample weight.

        Args:
            targets: what ``targets`` returns.
            sample_weight: (batch,), (batch, 1) or (batch, sequence), as Keras passes it, or None. In the last form,
                each weight is that of the label in its place.
            dtype: of the result.
        """
        counted = ops.cast(ops.not_equal(targets, IGNORED), dtype)
        if sample_weight is None:
            return counted
        weight = ops.cast(sample_weight, dtype)
        if len(weight.shape) == 3:
            weight = ops.squeeze(weight, -1)
        if len(weight.shape) == 1:
            weight = ops.expand_dims(weight, -1)
        if self.shift and weight.shape[1] != 1:
            weight = _shifted(weight, 0.0)
        return counted * weight

    def label_config(self) -> dict[str, Any]:
        return {"pad_token_id": self.pad_token_id, "ignore_index": self.ignore_index}


def _of_two_dimensions(labels: Any) -> Tensor:
    """Return `labels` (batch, sequence) or (batch, sequence, 1) as int32 (batch, sequence)."""
    labels = ops.cast(labels, "int32")
    return ops.squeeze(labels, -1) if len(labels.shape) == 3 and labels.shape[-1] == 1 else labels


def _shifted(values: Tensor, fill: Any) -> Tensor:
    """Return `values` (batch, sequence) moved one column to the left, with `fill` in the last one."""
    return ops.concatenate([values[:, 1:], ops.full_like(values[:, :1], fill)], axis=1)


def statistics(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``logit_statistics`` of `logits`, or `logits` themselves where a model has returned statistics.

    Raises:
        ValueError: shapes that do not belong together.
    """
    logits = ops.convert_to_tensor(logits)
    same = all(None in pair or pair[0] == pair[1] for pair in zip(logits.shape, targets.shape, strict=False))
    if len(logits.shape) != 3 or len(targets.shape) != 2 or not same:
        raise ValueError(
            f"y_pred: got shape {tuple(logits.shape)} with labels of shape {tuple(targets.shape)}; accepted: logits "
            "(batch, sequence, vocabulary) for labels (batch, sequence)"
        )
    return logits if wanted_statistics() is not None else logit_statistics(logits, targets)


def cross_entropy(found: Tensor) -> Tensor:
    """Return -log(probability of the label) from statistics (batch, sequence, 4), at least in float32."""
    found = F.at_least_float32(found)
    return found[..., 0] - found[..., 1]
