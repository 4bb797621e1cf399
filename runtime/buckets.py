"""Signatures of one graph exported for several lengths: their names, and the choice among them. Requires NumPy only.

``serving_default_32`` and ``serving_default_128`` are the same model for up to 32 and up to 128 tokens. Two numbers in
a name are the lengths of the source and the target. ``encode_64`` and ``decode_64`` belong together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..generation.decoder import Decoder, GraphRunner
from ..signature import as_array

Array = np.ndarray

BUCKET = re.compile(r"(serving_default|encode|decode)((?:_\d+)+)")


def bucket_name(name: str, lengths: Sequence[int]) -> str:
    return "_".join([name, *map(str, lengths)])


def bucket_of(name: str) -> tuple[str, tuple[int, ...]]:
    """Split the name of a signature into its base name and its lengths, which are empty if it has none."""
    found = BUCKET.fullmatch(name)
    return (found[1], tuple(map(int, found[2].split("_")[1:]))) if found else (name, ())


def by_length(names: Collection[str], base: str) -> list[str]:
    """Return the signatures whose base name is `base`, shortest first."""
    return sorted((name for name in names if bucket_of(name)[0] == base), key=lambda name: bucket_of(name)[1])


class ShortestFitting:
    """Graphs of one model for several lengths, used as one graph: the shortest graph that fits an input runs it.

    Attributes:
        signature: The signature of the longest graph.
    """

    def __init__(self, graphs: Sequence[Any]) -> None:
        self.graphs = list(graphs)
        self.signature, self.padding = self.graphs[-1].signature, self.graphs[-1].padding

    def run(self, inputs: Mapping[str, Any] | Array) -> dict[str, Array]:
        """Run the shortest graph that fits the inputs; see ``LoadedGraph.run``."""
        named = inputs if isinstance(inputs, Mapping) else {self.signature.inputs[0].name: inputs}
        arrays = {name: as_array(name, value) for name, value in named.items() if value is not None}
        return self._fitting(arrays).run(arrays)

    def _fitting(self, arrays: Mapping[str, Array]) -> GraphRunner:
        """Return the shortest graph that fits the inputs. If none fits, return the longest, which will reject them."""
        given: dict[Any, int] = {}
        for spec in self.signature.inputs:
            if spec.name in arrays:
                given.update(zip(spec.dims, arrays[spec.name].shape, strict=False))
        for graph in self.graphs:
            sizes = graph.signature.sizes
            if all(given.get(dim, 0) <= sizes[dim] for dim in graph.signature.padded if dim in sizes):
                return graph
        return self.graphs[-1]


def main_graph(graphs: Mapping[str, Any], main: str) -> Any:
    """Return the graph that ``run`` uses: the graph `main`, or all its lengths as one ``ShortestFitting`` graph."""
    names = by_length(graphs, bucket_of(main)[0])
    return ShortestFitting([graphs[name] for name in names]) if len(names) > 1 else graphs[main]


def decoder_of(graphs: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Decoder]) -> Decoder:
    """Return a decoder for the graphs "encode" and "decode", which may exist for several lengths.

    Args:
        graphs: The graphs by name.
        make: Returns a decoder for the graphs of one length, by base name.
    """
    parts: dict[tuple[int, ...], dict[str, Any]] = {}
    for name, graph in graphs.items():
        base, lengths = bucket_of(name)
        parts.setdefault(lengths, {})[base] = graph
    if len(parts) == 1:
        return make(graphs)
    return BucketDecoder({lengths[0]: make(part) for lengths, part in parts.items()})


class BucketDecoder:
    """A ``generation.search.Decoder`` that delegates to the shortest of several decoders that fits the prompt.

    The decoders differ only in the length of the prompt that they accept.

    Args:
        decoders: The decoders by the length of the longest prompt that each accepts.
    """

    def __init__(self, decoders: Mapping[int, Decoder]) -> None:
        self.decoders = dict(sorted(decoders.items()))
        self.chosen: Any = list(self.decoders.values())[-1]
        self.start_token, self.max_length = self.chosen.start_token, self.chosen.max_length
        self.eos_token, self.pad_token = self.chosen.eos_token, self.chosen.pad_token
        self.defaults: Mapping[str, Any] = getattr(self.chosen, "defaults", {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chosen, name)

    def prompt(self, input_ids: Array, attention_mask: Array, room: int, first: Array | None = None) -> Array:
        fitting = [size for size in self.decoders if size >= input_ids.shape[1]]
        self.chosen = self.decoders[fitting[0] if fitting else max(self.decoders)]
        return self.chosen.prompt(input_ids, attention_mask, room, *([] if first is None else [first]))

    def step(self, tokens: Array) -> Array:
        return self.chosen.step(tokens)

    def select(self, rows: Array) -> None:
        self.chosen.select(rows)
