"""The graphs of a model by their names in a file, including the graph of a causal decoder in the form of LiteRT-LM.

The LiteRT-LM signatures ``decode`` and ``prefill_{n}`` take one row, whose tokens fill the cache from slot 0 on,
without padding. The caller, such as ``runtime/tflite/decoder.py``, supplies the position ids and the attention mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...runtime.graph_names import FOREIGN, layout_of
from ...signature import Graph, Signature, TensorSpec


def model_graphs(model: Any, names: Collection[str]) -> dict[str, Graph]:
    """Return the model's graphs by their names in a file whose graphs have the names `names`."""
    layout = layout_of(names)
    if getattr(model, "family", None) == FOREIGN:
        graphs = model.graphs()
        return graphs if len(graphs) > 1 else dict(zip(names, graphs.values(), strict=False))
    if layout.kind == "litert":
        return dict.fromkeys(names, litert_graph(model))
    graphs = model.graphs(layout.kind)
    return {name: graphs[role] for name, role in layout.roles.items() if role in graphs}


def litert_graph(model: Any) -> Graph:
    """Return one step of a causal decoder as a graph with the inputs and outputs that LiteRT-LM expects.

    The inputs are ``tokens`` (1, T), ``input_pos`` (T,), ``mask`` (1, 1, T, slots) float32, and the key/value cache
    ``kv_cache_k_{i}``, ``kv_cache_v_{i}`` (1, kv_heads, slots, head_dim). The outputs are ``logits`` (1, T, vocab_size)
    and the updated cache. The mask is 0 for slots to attend to, and a large negative number for all others: LiteRT.js
    and LiteRT's GPU delegate have no boolean inputs.

    Args:
        model: a model with ``hidden_states(ids, context, cache)`` and ``head``, such as a GPT.
    """
    from keras import ops

    from ...generation.cached_graphs import cache_pairs, cache_specs, cache_tensors
    from ...layers.cache import StaticCache, masked_context

    c = model.config
    window = c.to_dict().get("sliding_window")
    found = cache_specs(model.blocks, "kv_cache_{part}_{i}", "slots")
    names = [spec.name.replace("_key_", "_k_").replace("_value_", "_v_") for spec in found]
    caches = [TensorSpec(name, spec.dtype, spec.dims) for name, spec in zip(names, found, strict=True)]
    signature = Signature(
        (
            TensorSpec("tokens", "int32", ("batch", "sequence"), below=c.vocab_size),
            TensorSpec("input_pos", "int32", ("sequence",), below=c.max_length),
            TensorSpec("mask", "float32", ("batch", 1, "sequence", "slots")),
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
        visible = inputs["mask"][:, 0] > -1.0  # (1, T, S)
        context = masked_context(queries, keys, visible, window)
        x = model.hidden_states(inputs["tokens"], context, cache, training=False)
        return {"logits": model.head(x), **cache_tensors(names, cache)}

    return Graph(signature, function)
