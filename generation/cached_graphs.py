"""One step of a decoder as a graph with a key/value cache, for every model made of Transformer blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..layers.cache import DynamicCache, StaticCache
from ..signature import Dim, Graph, Signature, TensorSpec
from .decoder import KEPT

Tensor = Any
Step = Callable[[Mapping[str, Tensor], Any], Tensor]  # inputs by name and the cache, which it fills, to logits


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
    """The graph of `step`, which reads the tokens that come behind those in the cache.

    ``past_key_values.{i}.key/.value`` in and ``present.{i}.key/.value`` out, (batch, kv_heads, length, head_dim): of
    ``past_sequence`` and then ``total_sequence``, or with `static` of ``slots``, of which those from
    ``cache_position`` (1,) on are written.

    Args:
        blocks: the decoder's, which say how many heads there are and how wide.
        inputs: what `step` takes beside the cache, the tokens first.
        limits, defaults: of the signature.
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
    """An input for graphs that give logits of all tokens, or of the last so many: 0 for all. A file has 0 for whoever
    leaves it out. The name is that of Optimum and transformers.js."""
    return TensorSpec(KEPT, "int32", (), below=longest + 1, optional=True)


def cache_specs(blocks: Sequence[Any], name: str, length: Dim) -> list[TensorSpec]:
    """The keys and values of every block; ``{i}`` and ``{part}`` in `name` are its number and "key" or "value"."""
    return [
        TensorSpec(name.format(i=i, part=part), "float32", ("batch", heads, length, width), optional=True)
        for i, block in enumerate(blocks)
        for heads in (block.attention.num_kv_heads,)
        for part, width in (("key", block.attention.key_dim), ("value", block.attention.value_dim))
    ]


def cache_pairs(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values in turn, as the pairs that a cache is made of."""
    flat = list(tensors)
    return list(zip(flat[::2], flat[1::2], strict=True))


def cache_tensors(names: Iterable[str], cache: DynamicCache | StaticCache) -> dict[str, Tensor]:
    """A cache's tensors, keys and values in turn, by name."""
    return dict(zip(names, [part for pair in cache.state for part in pair], strict=True))
