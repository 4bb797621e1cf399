"""A causal decoder as LiteRT-LM has it: its graph, and how a file of such graphs is fed.

Signatures ``decode`` and ``prefill_{n}`` take one row, whose tokens stand without padding in the slots from 0 on;
whoever runs them numbers the positions and makes the mask. NumPy only, but for ``litert_graph``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..generation.decoder import GraphRunner
from ..signature import Graph, Signature, TensorSpec

Array = np.ndarray


def litert_graph(model: Any) -> Graph:
    """One step of a model that has ``hidden_states(ids, context, cache)`` and ``head``, such as a GPT.

    ``tokens`` (1, T), ``input_pos`` (T,), ``mask`` (1, 1, T, slots) booleans, and the cache ``kv_cache_k_{i}``,
    ``kv_cache_v_{i}`` (1, kv_heads, slots, head_dim), in and out.
    """
    from keras import ops

    from ..generation.cached_graphs import cache_pairs, cache_specs, cache_tensors
    from ..layers.cache import CausalContext, StaticCache, within_window

    c = model.config
    window = c.to_dict().get("sliding_window")
    found = cache_specs(model.blocks, "kv_cache_{part}_{i}", "slots")
    names = [spec.name.replace("_key_", "_k_").replace("_value_", "_v_") for spec in found]
    caches = [TensorSpec(name, spec.dtype, spec.dims) for name, spec in zip(names, found, strict=True)]
    signature = Signature(
        (
            TensorSpec("tokens", "int32", ("batch", "sequence"), below=c.vocab_size),
            TensorSpec("input_pos", "int32", ("sequence",), below=c.max_length),
            TensorSpec("mask", "bool", ("batch", 1, "sequence", "slots")),
            *caches,
        ),
        (TensorSpec("logits", "float32", ("batch", "sequence", c.vocab_size)), *caches),
        limits={"slots": c.max_length, "sequence": c.max_length},
        state={name: name for name in names},
    )

    def function(inputs: Mapping[str, Any]) -> dict[str, Any]:
        positions = inputs["input_pos"]
        cache = StaticCache(cache_pairs(inputs[name] for name in names), positions[0])
        queries = ops.expand_dims(positions, 0)  # (1, T)
        keys = ops.expand_dims(ops.arange(cache.length_after(0), dtype="int32"), 0)  # (1, S)
        visible = inputs["mask"][:, 0]  # (1, T, S)
        if window is not None:
            visible = ops.logical_and(visible, within_window(queries, keys, window))
        context = CausalContext(queries, keys, {"attention_mask": visible})
        x = model.hidden_states(inputs["tokens"], context, cache, training=False)
        return {"logits": model.head(x), **cache_tensors(names, cache)}

    return Graph(signature, function)


class LiteRTDecoder:
    """A ``generation.search.Decoder`` of the graphs "decode" and "prefill_{n}".

    A batch is one row after another, each with its own cache; rows that ended are not run. What a prompt leaves over of
    a prefill is filled up with tokens that later ones replace.
    """

    start_token: int | None = None

    def __init__(self, graphs: Mapping[str, GraphRunner], config: Mapping[str, Any]) -> None:
        self.graphs = graphs
        self.eos_token, self.pad_token = config.get("eos_token_id"), config.get("pad_token_id")
        self.signature = graphs["decode"].signature
        self.slots = self.max_length = self.signature.sizes["slots"]
        prefills = [name for name in graphs if name.startswith("prefill_")]
        self.prefills = {graphs[name].signature.sizes["sequence"]: name for name in prefills}

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        specs = {spec.name: spec for spec in self.signature.inputs}
        empty = {
            name: np.zeros([int(n) for n in self.signature.shape(specs[name])], "float32")
            for name in self.signature.state
        }
        self.caches = [empty] * len(input_ids)
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
        logits = np.zeros((len(tokens), *found[0].shape), found[0].dtype)
        logits[running] = found
        return logits

    def ended(self, rows: Array) -> None:
        self.done = rows.copy()

    def select(self, rows: Array) -> None:
        self.caches, self.lengths = [self.caches[row] for row in rows], [self.lengths[row] for row in rows]
        self.done = self.done[rows]

    def _prefill(self, row: int, tokens: Array) -> None:
        while len(tokens):
            fitting = [size for size in sorted(self.prefills) if self.lengths[row] + size <= self.slots]
            size = next((size for size in fitting if size >= len(tokens)), fitting[-1] if fitting else 1)
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
        outputs = self.graphs[name].run({**inputs, **self.caches[row]})
        self.caches[row] = {name: outputs[new] for name, new in self.signature.state.items()}
        self.lengths[row] = first + len(tokens)
        return outputs
