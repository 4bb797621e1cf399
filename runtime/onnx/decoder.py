"""Decoders whose key/value cache stays in ONNX Runtime values, without copies to NumPy and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...generation.decoder import KEPT, TOKENS, GraphDecoder, GraphRunner
from ...signature import Signature

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

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        kept = np.asarray(attention_mask, bool)
        first = np.argsort(~kept, axis=1, kind="stable")  # the tokens of a row in order, then its padding
        ids = np.take_along_axis(np.asarray(input_ids), first, 1)
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
            self.graph.session.run_with_iobinding(self.binding)
            return self.binding.get_outputs()[-1].numpy()  # the outputs are in the order of binding
        if self.logits is None:
            self.logits = _value(np.zeros((len(tokens), 1, self.vocab_size), "float32"))
            self.binding.bind_ortvalue_output("logits", self.logits)
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
