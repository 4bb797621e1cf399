"""Decoders for ``search.generate`` that run graphs in any runtime, with or without a key/value cache. NumPy only.

The inputs of a decoder graph are the tokens, the encoder's outputs (if there is an encoder), an attention mask or a
cache position (if the graph has such an input) and its state. Its outputs are the logits and the state for the next
call. The graph's signature specifies which tensor is which, so the code here works for every model family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..signature import Signature

Array = np.ndarray
TOKENS = ("input_ids", "decoder_input_ids")
KEPT = "num_logits_to_keep"  # input: for how many of the last tokens the graph returns logits


class Decoder(Protocol):
    """An object that computes the next-token logits of a batch of rows and keeps the tokens so far in its state.

    A decoder may have two more methods. ``greedy(tokens, count)`` feeds `tokens` (rows,), continues with the most
    likely tokens and returns these (rows, count); plain greedy decoding uses it to avoid a call for every token.
    ``ended(rows)`` gets a boolean for each row, True if the logits of this row are not used any more. It may also have
    the attribute ``defaults``: the generation config of its model; see ``defaults.py``. ``prompt`` of an
    encoder-decoder may take a fourth argument, `first`: the first tokens (rows, n) of the target if they are others
    than the start token. An encoder-decoder may have the attribute ``reads_features``, True if its encoder reads
    features (rows, frames, bins) and not tokens.

    Attributes:
        start_token: first token of the target of an encoder-decoder; None for a model that continues the prompt.
        eos_token: id of the token that ends a row, or several ids, or None.
        pad_token: id that fills rows after their end; None to use the first stop token.
        max_length: greatest number of tokens in a row, prompt included; for an encoder-decoder, in the target.
    """

    start_token: int | None
    eos_token: Any
    pad_token: int | None
    max_length: int

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        """Start a new batch and return the logits after the prompt (rows, vocab_size).

        Args:
            input_ids: (rows, prompt) integers.
            attention_mask: (rows, prompt), 1 = token, 0 = padding.
            room: the greatest number of tokens that will follow.
        """
        ...

    def step(self, tokens: Array) -> Array:
        """Feed one more token for each row, `tokens` (rows,), and return the logits after it (rows, vocab_size)."""
        ...

    def select(self, rows: Array) -> None:
        """Continue with the rows of these indices, in this order; rows may be left out or repeated."""
        ...


class GraphRunner(Protocol):
    """A graph that a runtime can run."""

    signature: Signature

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run the graph on `inputs`, by name, and return its outputs by name."""
        ...


class Configured:
    """The attributes of a ``search.Decoder`` that come from the configs of its model.

    The special tokens of the generation config take precedence over those of the model's own config.

    Args:
        config: the model's config.
        defaults: the entries of its generation config that ``generate`` obeys; see ``defaults.py``.
        encodes: whether the model is an encoder-decoder.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], encodes: bool = False) -> None:
        both = {**config, **defaults}
        self.defaults: Mapping[str, Any] = defaults
        self.start_token: int | None = both.get("decoder_start_token_id") if encodes else None
        self.eos_token: Any = both.get("eos_token_id")
        self.pad_token: int | None = both.get("pad_token_id")


def longest(config: Mapping[str, Any], size: int | None) -> int:
    """Return the greatest number of tokens by the config, and by the `size` of the graph if it is fixed.

    Raises:
        ValueError: the config has no `max_length`.
    """
    if config.get("max_length") is None:
        raise ValueError(f"config: got {sorted(config)}; accepted: one with max_length")
    return config["max_length"] if size is None else min(config["max_length"], size)


class GraphDecoder(Configured):
    """A ``search.Decoder`` that runs a graph with a state, such as a key/value cache.

    Args:
        graphs: the graph "decoder" and, for an encoder-decoder, the graph "encoder".
        config: the model's config, which specifies its special tokens and `max_length`.
        defaults: the entries of its generation config that ``generate`` obeys.
    """

    def __init__(
        self, graphs: Mapping[str, GraphRunner], config: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        super().__init__(config, defaults, "encoder" in graphs)
        self.graphs = graphs
        sizes = graphs["decoder"].signature.sizes
        self.max_length = longest(config, sizes.get("slots"))
        encoder = graphs["encoder"].signature.inputs if "encoder" in graphs else ()
        self.reads_features = any(spec.dtype.startswith("float") for spec in encoder)

    def prompt(self, input_ids: Array, attention_mask: Array, room: int, first: Array | None = None) -> Array:
        rows = len(input_ids)
        self.count, self.room = 0, room  # number of tokens in the cache, and of those that may follow the prompt
        self.fixed: dict[str, Any] = {}
        self.mask: Array | None = None
        tokens = input_ids
        found: dict[str, Any] = {}
        if "encoder" in self.graphs:
            found = self.encode(input_ids, attention_mask)
            found["encoder_attention_mask"] = attention_mask
            tokens = np.full((rows, 1), self.start_token) if first is None else first
        else:
            tokens, self.mask = align(input_ids, attention_mask)
        signature = self.graphs["decoder"].signature
        self.start_state(rows, tokens.shape[1] + room, {name: found[name] for name in signature.state if name in found})
        wanted = {spec.name for spec in signature.inputs} - set(signature.state)
        self.fixed = {name: value for name, value in found.items() if name in wanted}
        taken = next(spec for spec in signature.inputs if spec.name in TOKENS)
        if first is not None:
            taken.check_values(tokens)
        if signature.sizes.get(str(taken.dims[-1]), taken.dims[-1]) == 1:  # the graph takes one token at a time
            for column in tokens.T[:-1]:
                self._feed(column[:, None])
            tokens = tokens[:, -1:]
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
        """Return the inputs of the decoder graph other than its state, and add the new tokens to `count`."""
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

    # ---- methods that a runtime may override -----------------------------------------------------------------------

    def encode(self, input_ids: Array, attention_mask: Array) -> dict[str, Any]:
        """Run the encoder on the prompt and return its outputs by name."""
        return self.graphs["encoder"].run(self.sources(input_ids, attention_mask))

    def sources(self, input_ids: Array, attention_mask: Array) -> dict[str, Array]:
        """Return the inputs of the encoder by name."""
        names = [spec.name for spec in self.graphs["encoder"].signature.inputs]
        return {names[0]: input_ids, **({"attention_mask": attention_mask} if "attention_mask" in names else {})}

    def start_state(self, rows: int, slots: int, given: Mapping[str, Any]) -> None:
        """Set the state before the first token.

        Args:
            rows: batch size.
            slots: number of tokens that the cache must have room for.
            given: parts of the state that the encoder returned; the rest is zeros, of length 0 in a growing cache.
        """
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
        """Run the decoder graph, update the state and return the logits of the last token (rows, vocab_size)."""
        graph = self.graphs["decoder"]
        outputs = graph.run({**inputs, **self.state})
        self.state = {name: outputs[new] for name, new in graph.signature.state.items()}
        return outputs["logits"][:, -1]


class RecomputingDecoder(Configured):
    """A ``search.Decoder`` that runs a graph without a state, on all tokens again at every step.

    Args:
        graph: has the inputs "input_ids" and "attention_mask" and the output "logits".
        config: the model's config, which specifies its special tokens and `max_length`.
        defaults: the entries of its generation config that ``generate`` obeys.
    """

    def __init__(self, graph: GraphRunner, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        super().__init__(config, defaults)
        self.graph = graph
        self.max_length = longest(config, graph.signature.sizes.get("sequence"))

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
    """Return both arrays (rows, columns) with every row rotated so that its last token is in the last column.

    Padding after the tokens of a row becomes padding before them.
    """
    behind = np.argmax(attention_mask[:, ::-1], axis=1)  # number of padding columns after the last token
    columns = (np.arange(input_ids.shape[1])[None] - behind[:, None]) % input_ids.shape[1]
    return np.take_along_axis(input_ids, columns, 1), np.take_along_axis(attention_mask, columns, 1)


def bucket(size: int, least: int) -> int:
    """Return the smallest of ``least * (1, 1.5, 2, 3, 4, 6, 8, …)`` that is at least `size`."""
    while size > least:
        if size <= least * 3 // 2:
            return least * 3 // 2
        least *= 2
    return least
