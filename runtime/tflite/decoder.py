"""Decoders for TFLite files with a state, which process a batch row by row. Requires NumPy only.

Key/value caches, encoder outputs and recurrent states stay in LiteRT: each row has its own ``Memory`` from its prompt
to the end of its text. A state is copied only if beam search continues one row in several ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...generation.decoder import Configured, GraphDecoder
from ..graph_names import is_prefill
from ..inputs import slot_mask
from .compiled import CompiledGraph, Memory

Array = np.ndarray
# The fixed cost of a call, which reads every weight, in units of the cost of one token. For SmolLM2-135M, 17 (int8) to
# 22 were measured.
CALL = 20


class LiteRTDecoder(Configured):
    """A ``generation.search.Decoder`` for the graphs "decode" and "prefill_{n}"; see ``export/frontend/graphs.py``.

    Rows that have ended are not run. The last prefill call of a prompt is padded with tokens whose cache slots are
    overwritten by later tokens.
    """

    def __init__(
        self, graphs: Mapping[str, CompiledGraph], config: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        super().__init__(config, defaults)
        self.graphs = graphs
        if any("slots" not in graph.signature.sizes for graph in graphs.values()):
            raise ValueError("path: got a file whose cache has no number of slots; accepted: one of attention_zoo")
        self.slots = self.max_length = graphs["decode"].signature.sizes["slots"]
        self.mask_dtype = next(s.dtype for s in graphs["decode"].signature.inputs if s.name == "mask")
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
            "mask": slot_mask((np.arange(self.slots)[None] <= positions[:, None])[None, None], self.mask_dtype),
        }
        outputs = self.graphs[name].advance(inputs, self.memories[row])
        self.lengths[row] = first + len(tokens)
        return outputs


def calls_for(count: int, sizes: Sequence[int], room: int) -> list[int]:
    """Return the sizes of the calls that process `count` tokens at the least cost.

    Args:
        count: The number of tokens.
        sizes: The sizes of the prefill graphs. Calls with one token are always possible.
        room: The number of free slots. The last call may be larger than the number of remaining tokens if it fits.
    """
    least = [(0, 0)]  # by the number of tokens that are left: the least cost, and the size of the next call
    for left in range(1, count + 1):
        fitting = [size for size in (1, *sizes) if size <= left or count - left + size <= room]
        least.append(min((size + CALL + least[max(0, left - size)][0], size) for size in fitting))
    calls = []
    while count > 0:
        calls.append(least[count][1])
        count -= calls[-1]
    return calls


class EncodedDecoder(GraphDecoder):
    """A decoder for the graphs "encoder" and "decoder" of a file with batch size 1."""

    graphs: Mapping[str, CompiledGraph]

    def start_state(self, rows: int, slots: int, given: Mapping[str, Any]) -> None:
        self.begun, self.memories = dict(given), list[Memory]()
        self.done = np.zeros(rows, bool)
        self.state = {}  # the state is in `memories`

    def run(self, inputs: dict[str, Any]) -> Array:
        graph, rows = self.graphs["decoder"], len(self.done)
        if not self.memories:
            values = {**self.begun, **self.fixed}  # the first dimension of each is the batch
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
    """Return the memories of `rows`, in this order.

    A row that occurs more than once is copied, into the memory of a row that was dropped if there is one.
    """
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
    """Return (rows, vocab_size) logits: `found` for the `running` rows, and zeros for the others."""
    logits = np.zeros((rows, *found[0].shape), found[0].dtype)
    logits[list(running)] = found
    return logits
