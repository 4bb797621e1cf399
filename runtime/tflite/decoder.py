"""How TFLite files with a memory are fed, a batch one row after another. NumPy only.

The key/value caches, an encoder's results and recurrent states stay in LiteRT: a row has a ``Memory`` of its own from
its prompt to the end of the text, and a beam that goes on in two ways is the one thing that is ever copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...generation.decoder import GraphDecoder
from ..graph_names import is_prefill
from .compiled import CompiledGraph, Memory

Array = np.ndarray
CALL = 20  # what a call costs, in tokens, before its own: it reads every weight. Of SmolLM2-135M 17 (int8) to 22


class LiteRTDecoder:
    """A ``generation.search.Decoder`` of the graphs "decode" and "prefill_{n}"; see ``litert.py``.

    Rows that ended are not run. The last prefill of a prompt is filled up with tokens that later ones replace.
    """

    start_token: int | None = None

    def __init__(self, graphs: Mapping[str, CompiledGraph], config: Mapping[str, Any]) -> None:
        self.graphs = graphs
        self.eos_token, self.pad_token = config.get("eos_token_id"), config.get("pad_token_id")
        self.slots = self.max_length = graphs["decode"].signature.sizes["slots"]
        self.prefills = {graphs[name].signature.sizes["sequence"]: name for name in graphs if is_prefill(name)}

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        self.memories = [Memory(self.graphs["decode"], {}) for _ in input_ids]
        self.lengths = [0] * len(input_ids)
        self.done = np.zeros(len(input_ids), bool)
        logits = []
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            tokens = ids[mask == 1]
            self._prefill(row, tokens[:-1])
            logits.append(self._run(row, "decode", tokens[-1:], 1)["logits"][0, -1])
        return np.stack(logits)

    def step(self, tokens: Array) -> Array:
        running = np.flatnonzero(~self.done).tolist()
        found = [self._run(row, "decode", tokens[row : row + 1], 1)["logits"][0, -1] for row in running]
        return _spread(found, running, len(tokens))

    def ended(self, rows: Array) -> None:
        self.done = rows.copy()

    def select(self, rows: Array) -> None:
        self.memories, self.lengths = selected(self.memories, rows), [self.lengths[row] for row in rows]
        self.done = self.done[rows]

    def _prefill(self, row: int, tokens: Array) -> None:
        for size in calls_for(len(tokens), list(self.prefills), self.slots - self.lengths[row]):
            new, tokens = tokens[:size], tokens[size:]
            self._run(row, self.prefills.get(size, "decode"), new, size)

    def _run(self, row: int, name: str, tokens: Array, size: int) -> dict[str, Array]:
        first = self.lengths[row]
        positions = np.arange(first, first + size, dtype="int32")
        inputs = {
            "tokens": np.pad(tokens, (0, size - len(tokens))).astype("int32")[None],
            "input_pos": positions,
            "mask": (np.arange(self.slots)[None] <= positions[:, None])[None, None],
        }
        outputs = self.graphs[name].advance(inputs, self.memories[row])
        self.lengths[row] = first + len(tokens)
        return outputs


def calls_for(count: int, sizes: Sequence[int], room: int) -> list[int]:
    """In which calls `count` tokens are taken soonest, of these sizes and of one token.

    Only the last may be larger than what is left for it, where there is `room`: slots from the first token on.
    """
    least = [(0, 0)]  # for so many last tokens as the index says: what they cost, and the first of their calls
    for left in range(1, count + 1):
        fitting = [size for size in (1, *sizes) if size <= left or count - left + size <= room]
        least.append(min((size + CALL + least[max(0, left - size)][0], size) for size in fitting))
    calls = []
    while count > 0:
        calls.append(least[count][1])
        count -= calls[-1]
    return calls


class EncodedDecoder(GraphDecoder):
    """Of the graphs "encoder" and "decoder", where a file has one row."""

    graphs: Mapping[str, CompiledGraph]

    def start_state(self, rows: int, slots: int, given: Mapping[str, Any]) -> None:
        self.begun, self.memories = dict(given), list[Memory]()
        self.done = np.zeros(rows, bool)
        self.state = {}  # which is in the memories

    def run(self, inputs: dict[str, Any]) -> Array:
        graph, rows = self.graphs["decoder"], len(self.done)
        if not self.memories:
            values = {**self.begun, **self.fixed}  # by row, all of them
            self.memories = [Memory(graph, {n: v[row : row + 1] for n, v in values.items()}) for row in range(rows)]
            inputs = {name: value for name, value in inputs.items() if name not in values}
            self.begun, self.fixed = {}, {}
        batched = {spec.name for spec in graph.signature.inputs if spec.dims[:1] == ("batch",)}
        found, running = [], np.flatnonzero(~self.done).tolist()
        for row in running:
            own = {name: value[row : row + 1] if name in batched else value for name, value in inputs.items()}
            found.append(graph.advance(own, self.memories[row])["logits"][0, -1])
        return _spread(found, running, rows)

    def ended(self, rows: Array) -> None:
        self.done = rows.copy()

    def select(self, rows: Array) -> None:
        self.memories, self.done = selected(self.memories, rows), self.done[rows]


def selected(memories: Sequence[Memory], rows: Array) -> list[Memory]:
    """The memories of these rows, in this order: for a row that comes again a copy, in one of a row left out if there
    is any."""
    chosen = rows.tolist()
    spare = [memory for row, memory in enumerate(memories) if row not in chosen]
    found: list[Memory] = []
    for place, row in enumerate(chosen):
        memory = memories[row]
        if row in chosen[:place]:
            memory = spare.pop() if spare else Memory(memory.graph, {})
            memory.become(memories[row])
        found.append(memory)
    return found


def _spread(found: Sequence[Array], running: Sequence[int], rows: int) -> Array:
    """(rows, vocab_size) logits of the rows that run, and zeros."""
    logits = np.zeros((rows, *found[0].shape), found[0].dtype)
    logits[list(running)] = found
    return logits
