"""Faults of exporters: a correct model is exported with another form of a primitive, or with a changed attribute.

Afterwards, the metadata of the file is that of a correct file, so that the fault can only be found by the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import keras

from attention_zoo.export.onnx.primitives import table as onnx_table
from attention_zoo.export.tflite import operators as tflite_export
from attention_zoo.layers import functional as F

from .fault import NOT_ROTARY, Fault, SoftCap, alibi, bert, decoder, fresh_classifier, gpt2, t5, with_window

Exporting = Callable[[Any], Any]
ATTENTION = "block_0/attention"
FILES, SLOTS = ("onnx", "tflite"), ("tflite", "litertlm")


def lowered(name: str, wrap: Callable[[Any], Any]) -> Exporting:
    """Replace the lowering of a primitive in both exporters. Keras itself is not changed."""

    @contextmanager
    def exporting(_: Any) -> Iterator[None]:
        forms: Any = onnx_table.FORMS
        with mock.patch.dict(forms), mock.patch.dict(tflite_export.LOWERINGS):
            known = forms.get(name, {17: ("", F.PRIMITIVES[name])})
            forms[name] = {opset: (operator, wrap(form)) for opset, (operator, form) in known.items()}
            tflite_export.LOWERINGS[name] = wrap(tflite_export.LOWERINGS.get(name, F.PRIMITIVES[name]))
            yield

    return exporting


def attribute(path: str, value: Callable[[Any], Any]) -> Exporting:
    """Change an attribute of the model, such as ``config.sliding_window``, during the export."""

    @contextmanager
    def exporting(model: Any) -> Iterator[None]:
        *owners, name = path.split(".")
        owner = model
        for part in owners:
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        before = getattr(owner, name)
        object.__setattr__(owner, name, value(before))
        try:
            yield
        finally:
            object.__setattr__(owner, name, before)

    return exporting


def attending(query: Callable[[Any], Any] = lambda query: query, **other: Any) -> Exporting:
    """Change the query of the attention, or its keyword arguments."""
    return lowered(
        "dot_product_attention",
        lambda plain: lambda q, key, value, **kwargs: plain(query(q), key, value, **{**kwargs, **other}),
    )


def of_prompts(query: Any) -> Any:
    """Scale the queries of a call with several tokens only."""
    return query * 1.02 if query.shape[2] is not None and query.shape[2] > 1 else query


def other_heads(plain: Any) -> Any:
    """Assign key heads to query heads in turn, although each key head belongs to a group of neighboring query heads."""

    def attention(query: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        repeat = [keras.ops.concatenate([part] * groups, axis=1) for part in (key, value)]
        return plain(query, *repeat, **kwargs)

    return attention


def swapped(plain: Any) -> Any:
    return lambda query, key, value, **kwargs: plain(key, query, value, **kwargs)


def with_epsilon(epsilon: float) -> Callable[[Any], Any]:
    return lambda plain: lambda *args, **kwargs: plain(*args, **{**kwargs, "epsilon": epsilon})


def window(change: Callable[[int | None], int | None]) -> Exporting:
    return attribute("config.sliding_window", change)


GRAPHS: dict[str, Fault] = {
    "query and key swapped in the graph": Fault(
        fresh_classifier,
        lowered("dot_product_attention", swapped),
        formats=FILES,
        place=(ATTENTION,),
    ),
    "no sliding window": Fault(
        with_window, window(lambda _: None), formats=("onnx", "tflite"), cache=False, place=(ATTENTION,)
    ),
    "no sliding window, with a cache": Fault(with_window, window(lambda _: None), place=(ATTENTION,)),
    "a window one token too wide": Fault(with_window, window(lambda n: (n or 0) + 1), place=(ATTENTION,)),
    "tokens before the last 65 are not seen": Fault(decoder, window(lambda _: 65), place=(ATTENTION,)),
    "other buckets of relative positions": Fault(
        t5,
        attribute("encoder_positions.max_distance", lambda n: n + 4),
        formats=FILES,
        cache=False,
        place=("encoder_block_0/attention",),
    ),
    "the padding mask is ignored": Fault(bert, attending(mask=None), formats=FILES, place=(ATTENTION,)),
    "a position bias is forgotten": Fault(alibi, attending(bias=None), formats=NOT_ROTARY, place=(ATTENTION,)),
    "an epsilon of 1e-3 for 1e-5, in layer norms": Fault(
        gpt2, lowered("layer_norm", with_epsilon(1e-3)), formats=NOT_ROTARY, place=("block_0/attention_norm",)
    ),
    "an epsilon of 1e-2 for 1e-5, in RMS norms": Fault(
        decoder, lowered("rms_norm", with_epsilon(1e-2)), place=("block_0/attention_norm",)
    ),
    "GELU by tanh for GELU by erf": Fault(
        bert,
        lowered("gelu", lambda plain: lambda x, approximate=False: plain(x, approximate=not approximate)),
        formats=FILES,
        place=("feedforward/down",),  # the first one whose output differs by enough
    ),
    "a bias is left out": Fault(
        gpt2,
        lowered("dense", lambda plain: lambda x, kernel, bias=None, **kwargs: plain(x, kernel, **kwargs)),
        formats=NOT_ROTARY,
        place=(ATTENTION,),
    ),
    "another base of the rotary positions": Fault(
        decoder, attribute("position_layer.theta", lambda base: 3 * base), place=(ATTENTION,)
    ),
    "rotary features paired in the other way": Fault(
        decoder,
        lowered("rotary", lambda plain: lambda *args, interleaved=False: plain(*args, interleaved=not interleaved)),
        place=(ATTENTION,),
    ),
    "positions rotated backwards": Fault(
        decoder,
        lowered("rotary", lambda plain: lambda x, cos, sin, **kwargs: plain(x, cos, -sin, **kwargs)),
        place=(ATTENTION,),
    ),
    "key heads dealt out wrongly": Fault(
        decoder,
        lowered("dot_product_attention", other_heads),
        formats=("onnx", "tflite", "litertlm"),
        place=(ATTENTION,),
    ),
    "the scale of the attention is 2 % off": Fault(
        decoder, attending(lambda query: query * 1.02), formats=("onnx", "tflite", "litertlm"), place=(ATTENTION,)
    ),
    "another scale for calls with several tokens": Fault(
        decoder, attending(of_prompts), formats=SLOTS, place=(ATTENTION,)
    ),
    "a cache slot is written one too early": Fault(
        decoder,
        lowered(
            "cache_update",
            lambda plain: lambda cache, new, index: plain(cache, new, keras.ops.maximum(index - 1, 0)),
        ),
        formats=SLOTS,
        place=(ATTENTION,),
    ),
    "blocks in another order": Fault(decoder, attribute("blocks", lambda blocks: blocks[::-1]), place=("block_0",)),
    "an overridden call is not in the cached graph": Fault(SoftCap, lambda _: _nothing(), formats=FILES),
}


@contextmanager
def _nothing() -> Iterator[None]:
    """Export as always: the exporter's own comparison, which would refuse the model, is disabled."""
    yield
