"""Several documents in one row: which tokens may attend to each other, and their positions.

``segment_ids`` (batch, sequence) number the documents of each row: 1, 2, … for their tokens, 0 for padding.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from . import functional as F

Tensor = Any


def kept_tokens(segment_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Return a boolean (batch, sequence), False for padding: segment 0, and what `attention_mask` leaves out."""
    kept = ops.not_equal(segment_ids, 0)
    return F.combine_masks(kept, None if attention_mask is None else F.boolean_mask(attention_mask, "attention_mask"))


def same_document(segment_ids: Tensor, kept: Tensor) -> Tensor:
    """Return a boolean mask (batch, query, key): whether a key is kept and of the query's document."""
    same = ops.equal(ops.expand_dims(segment_ids, 1), ops.expand_dims(segment_ids, 2))
    return ops.logical_and(same, ops.expand_dims(kept, 1))


def positions_in_documents(same: Tensor) -> Tensor:
    """Return int32 positions (batch, sequence) that begin at 0 in every document.

    Args:
        same: what ``same_document`` returns. A key that it leaves out is not counted.
    """
    length = ops.shape(same)[1]
    before = ops.cast(ops.logical_and(same, F.causal_mask(length, length)[0]), "int32")
    return ops.maximum(ops.sum(before, axis=-1) - 1, 0)
