"""Decoder graphs with a key/value cache, for models made of Transformer blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..layers.cache import DynamicCache, StaticCache
from ..signature import Dim, Graph, Signature, TensorSpec
from .decoder import KEPT

Tensor = Any
Step = Callable[[Mapping[str, Tensor], Any], Tensor]  # maps inputs by name and the cache, which it updates, to logits


def decoder_graph(
    step: Step,
    blocks: Sequence[Any],
    inputs: Sequence[TensorSpec],
    logits: TensorSpec,
    *,
    static: bool,
    limits: Mapping[str, int],
    defaults: Mapping[str, int],
) -> Graph:
    """Return the graph of `step`, which computes the logits of the tokens that follow those in the cache.

    The cache consists of the inputs ``past_key_values.{i}.key/.value`` and the outputs ``present.{i}.key/.value``,
    float32 tensors (batch, kv_heads, length, head_dim). Their lengths are ``past_sequence`` and ``total_sequence``.
    With `static`, both are ``slots``, and the new keys and values are written from slot ``cache_position`` (1,) on.

    Args:
        step: the function of the graph.
        blocks: the decoder's blocks, which specify the number of key/value heads and their sizes.
        inputs: the inputs of `step` other than the cache, the tokens first.
        logits: the output of `step`.
        static: use a cache with a fixed number of slots.
        limits, defaults: as in ``Signature``.
    """
    past = cache_specs(blocks, "past_key_values.{i}.{part}", "slots" if static else "past_sequence")
    present = cache_specs(blocks, "present.{i}.{part}", "slots" if static else "total_sequence")
    position = [TensorSpec("cache_position", "int32", (1,), below=limits["total_sequence"])] if static else []
    signature = Signature(
        (inputs[0], *position, *inputs[1:], *past),
        (logits, *present),
        limits=limits,
        defaults={**defaults, "past_sequence": 0},
        sums={} if static else {"total_sequence": ("past_sequence", "sequence")},
        state={old.name: new.name for old, new in zip(past, present, strict=True)},
    )

    def function(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pairs = cache_pairs(given[name] for name in signature.state)
        cache = StaticCache(pairs, given["cache_position"][0]) if static else DynamicCache(pairs)
        found = step(given, cache)
        return {"logits": found, **cache_tensors(signature.state.values(), cache)}

    return Graph(signature, function)


def kept_logits(longest: int) -> TensorSpec:
    """Return the input that specifies for how many of the last tokens a graph returns logits; 0 means all tokens.

    It is optional: exported files use 0 if it is not given. Optimum and transformers.js use the same name.

    Args:
        longest: the greatest number of tokens.
    """
    return TensorSpec(KEPT, "int32", (), below=longest + 1, optional=True)


def cache_specs(blocks: Sequence[Any], name: str, length: Dim) -> list[TensorSpec]:
    """Return the specs of the keys and values of every block, of length `length`.

    In `name`, ``{i}`` stands for the index of the block and ``{part}`` for "key" or "value".
    """
    return [
        TensorSpec(name.format(i=i, part=part), "float32", ("batch", heads, length, width), optional=True)
        for i, block in enumerate(blocks)
        for heads in (block.attention.num_kv_heads,)
        for part, width in (("key", block.attention.key_dim), ("value", block.attention.value_dim))
    ]


def cache_pairs(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the pairs of a cache's state from `tensors`, which alternate between keys and values."""
    flat = list(tensors)
    return list(zip(flat[::2], flat[1::2], strict=True))


def cache_tensors(names: Iterable[str], cache: DynamicCache | StaticCache) -> dict[str, Tensor]:
    """Return the tensors of a cache by name; `names` alternate between keys and values."""
    return dict(zip(names, [part for pair in cache.state for part in pair], strict=True))
