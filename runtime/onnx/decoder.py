"""Decoders whose key/value cache stays in ONNX Runtime values, without copies to NumPy and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...generation.decoder import KEPT, TOKENS, GraphDecoder, GraphRunner, align
from ...signature import Signature
from ..runner import running

Array = np.ndarray
ROOM = 64  # slots added to a full buffer, since the number of further tokens is unknown


class OnnxDecoder(GraphDecoder):
    """A decoder with a growing cache: every step returns a cache that is one token longer."""

    def start_state(self, rows: int, slots: int, given: Mapping[str, Any]) -> None:
        super().start_state(rows, slots, given)
        graph: Any = self.graphs["decoder"]  # its state may be float16 although the encoder's outputs are float32
        self.state = {name: _value(array) for name, array in graph.feeds(self.state).items()}

    def select(self, rows: Array) -> None:
        kept, self.state = self.state, {}
        super().select(rows)
        self.state = {name: _value(value.numpy()[rows]) for name, value in kept.items()}

    def run(self, inputs: dict[str, Any]) -> Array:
        graph: Any = self.graphs["decoder"]
        signature = graph.signature
        check_values(signature, inputs)
        values = {name: _value(array) for name, array in graph.feeds(inputs).items()}
        outputs = graph.run_values(values | self.state)
        self.state = {old: outputs[new] for old, new in signature.state.items()}
        return outputs["logits"].numpy()[:, -1]


class FixedCacheDecoder(GraphDecoder):
    """A decoder whose sizes are all fixed. Every call moves the cache on: the newest slots are the next past.

    Slots before the first token are hidden by the mask. If a call takes several tokens, those of a prompt are padded on
    the left, and so is the one of a step, and the padding takes slots too.
    """

    def __init__(
        self, graphs: Mapping[str, GraphRunner], config: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        super().__init__(graphs, config, defaults)
        sizes = self.graphs["decoder"].signature.sizes
        self.rows, self.new, self.slots = (sizes[dim] for dim in ("batch", "sequence", "past_sequence"))
        self.max_length = min(self.max_length, (self.slots + self.new) // self.new)

    def prompt(self, input_ids: Array, attention_mask: Array, room: int, first: Array | None = None) -> Array:
        if len(input_ids) > self.rows:
            raise ValueError(f"input_ids: got {len(input_ids)} rows; accepted: at most {self.rows}, as exported")
        ids, mask = align(input_ids, attention_mask)
        before = -ids.shape[1] % self.new
        ids, mask = (np.pad(np.asarray(array, "int64"), ((0, 0), (before, 0))) for array in (ids, mask))
        self.count, self.fixed = 0, {}
        self.start_state(self.rows, self.slots, {})
        self.kept = np.zeros((self.rows, self.slots), "int64")
        logits = np.zeros(0)
        for start in range(0, ids.shape[1], self.new):
            logits = self._call(ids[:, start : start + self.new], mask[:, start : start + self.new])
        return logits

    def step(self, tokens: Array) -> Array:
        before = ((0, 0), (self.new - 1, 0))
        return self._call(np.pad(tokens[:, None], before), np.pad(np.ones((len(tokens), 1), "int64"), before))

    def select(self, rows: Array) -> None:
        if len(rows) > self.rows:
            raise ValueError(f"rows: got {len(rows)}; accepted: at most {self.rows}, as exported")
        every = np.concatenate([rows, np.zeros(self.rows - len(rows), "int64")]).astype("int64")
        self.kept = self.kept[every]
        self.state = {name: value[every] for name, value in self.state.items()}

    def _call(self, tokens: Array, mask: Array) -> Array:
        rows = len(tokens)
        tokens, mask = (np.pad(array, ((0, self.rows - rows), (0, 0))) for array in (tokens, mask))
        self.mask = np.concatenate([self.kept, mask], axis=1)
        logits = self.run(self._inputs(tokens))
        self.kept = self.mask[:, self.new :]
        self.state = {name: value[:, :, self.new :] for name, value in self.state.items()}
        return logits[:rows]


class SharedCacheDecoder(GraphDecoder):
    """A decoder whose cache is a preallocated buffer that is updated in place, for graphs with ``GroupQueryAttention``.

    Every row begins in the first slot: prompts are padded on the right, and the next token of a row is written after
    its last token, over the values that the padding left there.
    """

    def __init__(
        self, graphs: Mapping[str, GraphRunner], config: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        super().__init__(graphs, config, defaults)
        self.graph: Any = graphs["decoder"]
        specs = {spec.name: spec for spec in self.graph.signature.inputs}
        self.tokens = next(name for name in TOKENS if name in specs)
        logits = next(spec for spec in self.graph.signature.outputs if spec.name == "logits")
        self.vocab_size = int(logits.dims[-1])
        self.caches = {name: (specs[name], new) for name, new in self.graph.signature.state.items()}

    def prompt(self, input_ids: Array, attention_mask: Array, room: int, first: Array | None = None) -> Array:
        kept = np.asarray(attention_mask, bool)
        order = np.argsort(~kept, axis=1, kind="stable")  # the tokens of a row in order, then its padding
        ids = np.take_along_axis(np.asarray(input_ids), order, 1)
        self.lengths = kept.sum(1)
        longest = int(self.lengths.max())
        ids = np.where(np.arange(longest) < self.lengths[:, None], ids[:, :longest], 0)
        self.room = min(longest + max(room, 1), self.max_length)
        self._buffers(len(ids), {})
        even = bool((self.lengths == longest).all())
        logits = self._call(ids, 1 if even else 0)
        return logits[:, -1] if even else logits[np.arange(len(ids)), self.lengths - 1]

    def step(self, tokens: Array) -> Array:
        self.lengths = self.lengths + 1
        if self.lengths.max() > self.room:
            self.room = min(self.room + ROOM, self.max_length)
            self._buffers(len(tokens), self.buffers)
        return self._call(tokens[:, None], 1)[:, -1]

    def select(self, rows: Array) -> None:
        self.lengths = self.lengths[rows]
        self._buffers(len(rows), {name: _value(value.numpy()[rows]) for name, value in self.buffers.items()})

    def _buffers(self, rows: int, given: Mapping[str, Any]) -> None:
        """Allocate a buffer for each key and value tensor, copy `given` into it, and bind it as input and output."""
        self.buffers: dict[str, Any] = {}
        self.logits: Any = None  # buffer for the logits of the last token, reused by all steps
        self.binding = self.graph.session.io_binding()
        for name, (spec, new) in self.caches.items():
            _, heads, _, width = spec.dims
            array = np.zeros((rows, heads, self.room, width), spec.dtype)
            if name in given:
                before = given[name].numpy()
                array[:, :, : before.shape[2]] = before
            self.buffers[name] = value = _value(array)
            self.binding.bind_ortvalue_input(name, value)
            self.binding.bind_ortvalue_output(new, value)

    def _call(self, tokens: Array, kept: int) -> Array:
        mask = np.arange(int(self.lengths.max())) < self.lengths[:, None]
        given = {self.tokens: tokens, "attention_mask": mask, KEPT: np.array(kept)}
        check_values(self.graph.signature, given)
        for name, array in self.graph.feeds(given).items():
            self.binding.bind_ortvalue_input(name, _value(array))
        if kept != 1:
            self.binding.bind_output("logits")
            with running("ONNX Runtime"):
                self.graph.session.run_with_iobinding(self.binding)
            return self.binding.get_outputs()[-1].numpy()  # the outputs are in the order of binding
        if self.logits is None:
            self.logits = _value(np.zeros((len(tokens), 1, self.vocab_size), "float32"))
            self.binding.bind_ortvalue_output("logits", self.logits)
        with running("ONNX Runtime"):
            self.graph.session.run_with_iobinding(self.binding)
        return self.logits.numpy().copy()  # the next step overwrites the buffer


def check_values(signature: Signature, inputs: Mapping[str, Any]) -> None:
    """Check that token ids are within the vocabulary. The sizes need no check, as the decoder sets them itself."""
    for spec in signature.inputs:
        if spec.name in inputs:
            spec.check_values(np.asarray(inputs[spec.name]))


def _value(array: Array) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))  # unlike ascontiguousarray, keeps 0-D
