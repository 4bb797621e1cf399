"""The keys and values of the tokens seen so far, so that a decoder computes each only once.

Two kinds behind one interface. ``DynamicCache`` is as long as what was seen: every call returns a longer one, as files
for ONNX Runtime have it. ``StaticCache`` has a number of slots from the start and fills them: shapes never change, as
LiteRT and compiled Keras functions want it. Slots that nothing was written to may hold anything; the causal mask
hides them.

    cache = StaticCache.empty(layers=2, batch=1, heads=4, slots=64, head_dim=8)
    logits = model({"input_ids": prompt}, cache=cache)         # the prompt
    cache = StaticCache(cache.state, index=prompt.shape[1])
    logits = model({"input_ids": next_token}, cache=cache)     # one more token
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from . import functional as F
from .position import positions_from_mask

Tensor = Any
State = Sequence[tuple[Tensor, Tensor]]  # for each layer (batch, heads, slots, dim) keys and values


class DynamicCache:
    """Keys and values of `past` tokens; new ones are joined to the end."""

    def __init__(self, state: State) -> None:
        self.state = list(state)
        self.index = ops.shape(self.state[0][0])[2]

    def length_after(self, length: Any) -> Any:
        """How many keys there are to read after `length` new tokens."""
        return self.index + length

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of `layer`, the new ones (batch, heads, T, dim) at the end."""
        past = self.state[layer]
        self.state[layer] = tuple(
            ops.concatenate([old, new], axis=2) for old, new in zip(past, (key, value), strict=True)
        )
        return self.state[layer]


class StaticCache:
    """A number of slots; new keys and values go to those from `index` on.

    Raises:
        ValueError: when used, more tokens than slots are left (where `index` is a number and not being traced).
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
        """How many keys there are to read after `length` new tokens: all slots, written or not."""
        slots = self.state[0][0].shape[2]
        if isinstance(self.index, int | np.integer) and isinstance(length, int) and self.index + length > slots:
            raise ValueError(f"cache: got {length} tokens after {self.index}; accepted: {slots} together")
        return slots

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All slots of `layer`, the new keys and values (batch, heads, T, dim) written to theirs."""
        self.length_after(key.shape[2])  # refuses more than there is room for
        past = self.state[layer]
        self.state[layer] = tuple(F.cache_update(old, x, self.index) for old, x in zip(past, (key, value), strict=True))
        return self.state[layer]


class CausalContext(NamedTuple):
    """Where the new tokens of one call stand, and what they may see.

    Attributes:
        query_positions: of the new tokens, (batch or 1, T).
        key_positions: of all there is to read, (batch or 1, S).
        masks: arguments of every block's attention that say so.
    """

    query_positions: Tensor
    key_positions: Tensor
    masks: dict[str, Any]


def causal_context(
    length: Any,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: DynamicCache | StaticCache | None = None,
    window: int | None = None,
) -> CausalContext:
    """The context of `length` new tokens behind those in `cache`.

    Positions count the kept tokens of `mask`, so padding on any side moves nobody; what is visible goes by slots,
    which padding fills too.

    Args:
        mask: (batch, S), 1 = keep, for every slot there is to read; those after the new tokens do not matter.
        position_ids: (batch or 1, T) in the place of counted positions.
        window: the greatest number of positions, its own included, that a token looks back to.

    Raises:
        ValueError: a mask that is not as wide as there are slots.
    """
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
    if cache is None and window is None:  # the plain causal mask says all
        return CausalContext(queries, keys, {"key_mask": mask, "use_causal_mask": True})

    columns = ops.expand_dims(ops.arange(slots, dtype="int32"), 0)  # (1, S)
    rows = ops.expand_dims(ops.arange(length, dtype="int32"), 1) + index  # (T, 1)
    visible = ops.expand_dims(columns <= rows, 0)  # (1, T, S)
    if window is not None:
        visible = ops.logical_and(visible, within_window(queries, keys, window))
    if mask is not None:
        visible = ops.logical_and(visible, ops.expand_dims(F.boolean_mask(mask, "attention_mask"), 1))
    return CausalContext(queries, keys, {"attention_mask": visible})


def within_window(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """(batch or 1, T, S) booleans: does the query look back that far?"""
    return ops.expand_dims(query_positions, 2) - ops.expand_dims(key_positions, 1) < window
