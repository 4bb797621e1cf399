"""Key/value caches, which let a decoder compute the keys and values of every token only once.

There are two kinds with one interface. ``DynamicCache`` is as long as the tokens seen so far and grows with every call,
as in the files for ONNX Runtime. ``StaticCache`` has a fixed number of slots and fills them; its shapes never change,
which LiteRT and compiled Keras functions require. Slots that were not yet written may hold any values: the causal mask
hides them.

    cache = StaticCache.empty(layers=2, batch=1, heads=4, slots=64, head_dim=8)
    logits = model({"input_ids": prompt}, cache=cache)         # prefill: the whole prompt
    cache = StaticCache(cache.state, index=prompt.shape[1])
    logits = model({"input_ids": next_token}, cache=cache)     # decode step: one token
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from . import functional as F
from .position import positions_from_mask
from .segments import kept_tokens, positions_in_documents, same_document

Tensor = Any
State = Sequence[tuple[Tensor, Tensor]]  # for each layer: keys and values (batch, heads, slots, dim)


class DynamicCache:
    """A key/value cache that grows: new keys and values are appended to those of the past tokens.

    `state` has one pair of keys and values (batch, heads, past, dim) for each layer; `past` may be 0.
    """

    def __init__(self, state: State) -> None:
        self.state = list(state)
        self.index = ops.shape(self.state[0][0])[2]

    def length_after(self, length: Any) -> Any:
        """Return the number of keys to attend to after `length` new tokens."""
        return self.index + length

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new `key` and `value` (batch, heads, T, dim), and return all keys and values of `layer`."""
        past = self.state[layer]
        self.state[layer] = tuple(
            ops.concatenate([old, new], axis=2) for old, new in zip(past, (key, value), strict=True)
        )
        return self.state[layer]


class StaticCache:
    """A key/value cache with a fixed number of slots; new keys and values are written from slot `index` on.

    `state` has one pair of keys and values (batch, heads, slots, dim) for each layer.

    Raises:
        ValueError: ``length_after`` or ``update`` gets more tokens than there are slots left. This is checked only if
            `index` is a Python or NumPy integer, not a tensor.
    """

    def __init__(self, state: State, index: Any = 0) -> None:
        self.state = list(state)
        self.index = index

    @classmethod
    def empty(
        cls, layers: int, batch: int, heads: int, slots: int, head_dim: int, dtype: Any = "float32"
    ) -> StaticCache:
        shape = (batch, heads, slots, head_dim)
        return cls([(ops.zeros(shape, dtype), ops.zeros(shape, dtype)) for _ in range(layers)])

    def length_after(self, length: Any) -> Any:
        """Return the number of keys to attend to after `length` new tokens: all slots, written or not."""
        slots = self.state[0][0].shape[2]
        if isinstance(self.index, int | np.integer) and isinstance(length, int) and self.index + length > slots:
            raise ValueError(f"cache: got {length} tokens after {self.index}; accepted: {slots} together")
        return slots

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new `key` and `value` (batch, heads, T, dim), and return all slots of `layer`."""
        self.length_after(key.shape[2])  # raises if there are too few slots
        past = self.state[layer]
        self.state[layer] = tuple(F.cache_update(old, x, self.index) for old, x in zip(past, (key, value), strict=True))
        return self.state[layer]


class CausalContext(NamedTuple):
    """The positions of the new tokens of one call, and the keys they may attend to.

    Attributes:
        query_positions: (batch or 1, T), positions of the new tokens.
        key_positions: (batch or 1, S), positions of all keys.
        masks: mask arguments for the attention of blocks that attend to all preceding tokens.
        sliding_masks: the same for blocks that attend to the tokens in the sliding window, if there is one.
    """

    query_positions: Tensor
    key_positions: Tensor
    masks: dict[str, Any]
    sliding_masks: dict[str, Any]


def causal_context(
    length: Any,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: DynamicCache | StaticCache | None = None,
    window: int | None = None,
    segment_ids: Tensor | None = None,
) -> CausalContext:
    """Return the positions and the causal mask of `length` new tokens that follow those in `cache`.

    Positions count only the tokens that `mask` keeps, so padding on either side does not shift them. The causal mask
    compares slots, which include padding.

    Args:
        length: T, the number of new tokens.
        mask: (batch, S), 1 = keep, 0 = padding, one column for each key. Columns after the new tokens have no effect.
        position_ids: (batch or 1, T), used instead of the counted positions.
        cache: the cache before this call; None if there are no earlier tokens.
        window: sliding window: the number of most recent positions, including its own, that a token attends to.
        segment_ids: (batch, T), the documents of each row; see ``layers/segments.py``. Tokens attend to their own
            document, and positions begin anew in each. Only without a `cache`.

    Raises:
        ValueError: `mask` does not have one column for each key.
    """
    if segment_ids is not None:
        return _context_of_documents(length, segment_ids, mask, position_ids, window)
    index = 0 if cache is None else cache.index
    slots = length if cache is None else cache.length_after(length)
    if mask is None:
        keys = ops.expand_dims(ops.arange(slots, dtype="int32"), 0)  # (1, S)
    else:
        if isinstance(slots, int) and mask.shape[1] not in (None, slots):
            raise ValueError(f"attention_mask: got {mask.shape[1]} columns; accepted: {slots}, one for each slot")
        keys = positions_from_mask(mask)  # (B, S)
    if position_ids is not None:
        queries = position_ids
        keys = position_ids if cache is None else keys
    elif cache is None:
        queries = keys
    else:
        queries = ops.take(keys, ops.arange(length, dtype="int32") + index, axis=1)  # (B, T)
    plain = {"key_mask": mask, "use_causal_mask": True}
    if cache is None and window is None:
        return CausalContext(queries, keys, plain, plain)

    columns = ops.expand_dims(ops.arange(slots, dtype="int32"), 0)  # (1, S)
    rows = ops.expand_dims(ops.arange(length, dtype="int32"), 1) + index  # (T, 1)
    visible = ops.expand_dims(columns <= rows, 0)  # (1, T, S)
    if mask is not None:
        visible = ops.logical_and(visible, ops.expand_dims(F.boolean_mask(mask, "attention_mask"), 1))
    context = masked_context(queries, keys, visible, window)
    return context if cache is not None else context._replace(masks=plain)


def _context_of_documents(
    length: Any, segment_ids: Tensor, mask: Tensor | None, position_ids: Tensor | None, window: int | None
) -> CausalContext:
    """Return the context of rows of several documents."""
    kept = kept_tokens(segment_ids, mask)
    same = same_document(segment_ids, kept)
    positions = positions_in_documents(same) if position_ids is None else position_ids
    context = masked_context(positions, positions, ops.logical_and(same, F.causal_mask(length, length)[0]), window)
    masks, sliding = ({**masks, "key_mask": kept} for masks in (context.masks, context.sliding_masks))
    return context._replace(masks=masks, sliding_masks=sliding)


def masked_context(queries: Tensor, keys: Tensor, visible: Tensor, window: int | None) -> CausalContext:
    """Return the context in which queries attend to the keys that `visible` (batch or 1, T, S) allows.

    Args:
        queries, keys: their positions, (batch or 1, T) and (batch or 1, S).
        window: the sliding window; None if no block has one.
    """
    sliding = visible
    if window is not None:
        sliding = ops.logical_and(visible, within_window(queries, keys, window))
    return CausalContext(queries, keys, {"attention_mask": visible}, {"attention_mask": sliding})


def within_window(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """Return a boolean mask (batch or 1, T, S), False where a key is `window` or more positions before the query."""
    return ops.expand_dims(query_positions, 2) - ops.expand_dims(key_positions, 1) < window
