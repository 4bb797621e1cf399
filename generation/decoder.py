"""How graphs with a memory are fed: the one decoder behind every runtime's ``generate``. NumPy only.

A decoder graph takes tokens, its encoder's states (if it has one), a mask or a position if it asks for them, and its
state; it gives logits and the state for the next call. The signatures say which is which, so that nothing here knows
a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..signature import Signature

Array = np.ndarray
TOKENS = ("input_ids", "decoder_input_ids")
KEPT = "num_logits_to_keep"  # the input that says of how many last tokens a graph gives logits


class GraphRunner(Protocol):
    """A graph that can be run."""

    signature: Signature

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs by name."""
        ...


class GraphDecoder:
    """A ``search.Decoder`` of the graphs "decoder" and, where there is one, "encoder".

    Args:
        graphs: by name.
        config: the model's, for its special tokens and `max_length`.
    """

    def __init__(self, graphs: Mapping[str, GraphRunner], config: Mapping[str, Any]) -> None:
        self.graphs = graphs
        self.start_token = config.get("decoder_start_token_id") if "encoder" in graphs else None
        self.eos_token, self.pad_token = config.get("eos_token_id"), config.get("pad_token_id")
        sizes = graphs["decoder"].signature.sizes
        self.max_length = min(config["max_length"], sizes.get("slots", config["max_length"]))

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        rows = len(input_ids)
        self.count, self.room = 0, room  # tokens in the cache, and those that may come
        self.fixed: dict[str, Any] = {}
        self.mask: Array | None = None
        tokens = input_ids
        found: dict[str, Any] = {}
        if "encoder" in self.graphs:
            found = self.encode(input_ids, attention_mask)
            found["encoder_attention_mask"] = attention_mask
            tokens = np.full((rows, 1), self.start_token)
        else:
            tokens, self.mask = align(input_ids, attention_mask)
        signature = self.graphs["decoder"].signature
        self.start_state(rows, tokens.shape[1] + room, {name: found[name] for name in signature.state if name in found})
        wanted = {spec.name for spec in signature.inputs} - set(signature.state)
        self.fixed = {name: value for name, value in found.items() if name in wanted}
        return self._feed(tokens)

    def step(self, tokens: Array) -> Array:
        if self.mask is not None:
            self.mask = np.concatenate([self.mask, np.ones((len(tokens), 1), "int64")], axis=1)
        return self._feed(tokens[:, None])

    def select(self, rows: Array) -> None:
        self.fixed = {name: value[rows] for name, value in self.fixed.items()}
        self.mask = None if self.mask is None else self.mask[rows]
        self.state = {name: value[rows] for name, value in self.state.items()}

    def _feed(self, tokens: Array) -> Array:
        return self.run(self._inputs(tokens))

    def _inputs(self, tokens: Array) -> dict[str, Any]:
        """What the decoder graph is fed beside its state, and the count moved on."""
        specs = {spec.name: spec for spec in self.graphs["decoder"].signature.inputs}
        name = next(name for name in TOKENS if name in specs)
        inputs: dict[str, Any] = {name: tokens, **self.fixed}
        if "attention_mask" in specs:
            inputs["attention_mask"] = self.mask
        if "cache_position" in specs:
            inputs["cache_position"] = np.array([self.count], "int32")
        if KEPT in specs:
            inputs[KEPT] = np.ones((), "int64")
        self.count += tokens.shape[1]
        return inputs

    # ---- what a runtime may do in another way ----------------------------------------------------------------------

    def encode(self, input_ids: Array, attention_mask: Array) -> dict[str, Any]:
        """What the encoder says of the prompt."""
        return self.graphs["encoder"].run({"input_ids": input_ids, "attention_mask": attention_mask})

    def start_state(self, rows: int, slots: int, given: Mapping[str, Any]) -> None:
        """The state before the first token: what the encoder gave, else zeros."""
        signature = self.graphs["decoder"].signature
        sizes = {**signature.defaults, **signature.sizes, "batch": rows}
        specs = {spec.name: spec for spec in signature.inputs}
        self.state = {
            name: given[name]
            if name in given
            else np.zeros([sizes[d] if isinstance(d, str) else d for d in specs[name].dims], specs[name].dtype)
            for name in signature.state
        }

    def run(self, inputs: dict[str, Any]) -> Array:
        """(rows, vocab_size) logits of the last token, and the state moved on."""
        graph = self.graphs["decoder"]
        outputs = graph.run({**inputs, **self.state})
        self.state = {name: outputs[new] for name, new in graph.signature.state.items()}
        return outputs["logits"][:, -1]


class RecomputingDecoder:
    """A ``search.Decoder`` of a graph without memory: everything is computed again for every token."""

    start_token: int | None = None

    def __init__(self, graph: GraphRunner, config: Mapping[str, Any]) -> None:
        self.graph = graph
        self.eos_token, self.pad_token = config.get("eos_token_id"), config.get("pad_token_id")
        self.max_length = min(config["max_length"], graph.signature.sizes.get("sequence", config["max_length"]))

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        self.ids, self.mask = align(input_ids, attention_mask)
        return self._run()

    def step(self, tokens: Array) -> Array:
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)
        self.mask = np.concatenate([self.mask, np.ones_like(tokens)[:, None]], axis=1)
        return self._run()

    def select(self, rows: Array) -> None:
        self.ids, self.mask = self.ids[rows], self.mask[rows]

    def _run(self) -> Array:
        return self.graph.run({"input_ids": self.ids, "attention_mask": self.mask})["logits"][:, -1]


def align(input_ids: Array, attention_mask: Array) -> tuple[Array, Array]:
    """Both with every row moved to the right, so that its last token stands in the last column."""
    behind = np.argmax(attention_mask[:, ::-1], axis=1)  # columns of padding after the last token
    columns = (np.arange(input_ids.shape[1])[None] - behind[:, None]) % input_ids.shape[1]
    return np.take_along_axis(input_ids, columns, 1), np.take_along_axis(attention_mask, columns, 1)


def bucket(size: int, least: int) -> int:
    """The smallest of least, 1.5 least, 2 least, 3 least, 4 least, ... that is not below `size`."""
    while size > least:
        if size <= least * 3 // 2:
            return least * 3 // 2
        least *= 2
    return least
