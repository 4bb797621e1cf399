"""Preparation of the plots: inputs by name, attention weights, position layers and token labels of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from .drawing import LABELLED

Array = np.ndarray
Side = tuple[list[str], Array]  # one axis: a text per token, and the indices of the tokens that are not padding

LONGEST = 4096  # largest number of positions of a layer that sets no limit


def name_of(thing: Any) -> str:
    """Return the name of a model or layer, or the name of its class."""
    return getattr(thing, "name", None) or type(thing).__name__


def numpy(value: Any) -> Array:
    """Convert a tensor to NumPy: integers and booleans keep their dtype, all others become float32."""
    from keras import ops

    array = ops.convert_to_numpy(value)
    return array if array.dtype.kind in "iub" else array.astype("float32")


def prepared(model: Any, inputs: Any) -> tuple[dict[str, Array], Array | None]:
    """Return the first row of the inputs by name, and the target ids if they were generated.

    If an encoder-decoder gets no target, it generates one greedily. The ids are without the start token; they are None
    if nothing was generated.

    Raises:
        ValueError: `model` is not a model of attention_zoo, or the inputs do not match its signature.
    """
    from ..zoo.base import ZooModel

    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {name_of(model)}; accepted: a model of attention_zoo")
    signature, generating = model.signature, cast("Any", model)
    names = [spec.name for spec in signature.inputs]
    given = inputs if isinstance(inputs, Mapping) else {names[0]: inputs}
    arrays = {name: numpy(value) for name, value in given.items() if value is not None}
    named = {name: array[:1] if array.ndim else array for name, array in arrays.items()}
    new = None
    if "decoder_input_ids" in names and "input_ids" in named and "decoder_input_ids" not in named:
        room = max(1, min(model.config.max_length - 1, 2 * named["input_ids"].shape[-1], LABELLED))
        ids = generating.generate(named["input_ids"], named.get("attention_mask"), max_new_tokens=room)
        named["decoder_input_ids"], new = ids[:, :-1].astype("int32"), ids[0, 1:]
    signature.check_arrays(named)  # here, because Keras would wrap the error in a message of its own
    return named, new


def attend(model: Any, named: Mapping[str, Array], kind: str | None) -> tuple[list[Array], tuple[Side, Side], str]:
    """Return the attention weights, (heads, query, key) for each layer, the query and key axes, and a title.

    Raises:
        ValueError: the model has no attention, or none of this `kind`, or its first row is all padding.
    """
    result = model(dict(named), output_attentions=True, training=False)
    result = result if isinstance(result, Mapping) else {}
    found = {name.rpartition("attentions")[0].strip("_"): result[name] for name in result if "attentions" in name}
    if not found:
        raise ValueError(f"model: got {model.name} without attention; accepted: a model with attention")
    kind = kind or ("cross" if "cross" in found else "")
    if kind not in found:
        raise ValueError(f"kind: got {kind!r} for {model.name}; accepted: {[name or None for name in found]}")
    maps = [numpy(weights)[0] for weights in found[kind]]
    maps = [weights if weights.ndim == 3 else weights[None] for weights in maps]  # a Seq2Seq has no head axis

    def side(prefix: str) -> Side:
        if model.family == "vit":
            c = model.config
            columns = seen(model, named).shape[1] // c.patch_size
            front = ["class", *["distillation"] * c.distillation_token]
            front += [f"register{i}" for i in range(c.num_registers)]
            patches = range(maps[0].shape[-1] - len(front))
            texts = front + [f"{i // columns},{i % columns}" for i in patches]
            return texts, np.arange(len(texts))
        ids, mask = named[f"{prefix}input_ids"][0], named.get(f"{prefix}attention_mask")
        kept = np.flatnonzero(np.ones_like(ids) if mask is None else mask[0])
        if not len(kept):
            raise ValueError(f"{prefix}attention_mask: got a first row without any token; accepted: at least one 1")
        return words(model, ids), kept

    query = side("decoder_" if kind in ("decoder", "cross") else "")
    return maps, (query, side("") if kind == "cross" else query), f"{model.name}: {kind} attention".replace("  ", " ")


def seen(model: Any, named: Mapping[str, Array]) -> Array:
    """Return the first image, (height, width, channels), after the preprocessing that is part of a ViT, if any."""
    (pixels,) = named.values()
    return numpy(pixels[:1] if model.processor is None else model.processor(pixels[:1]))[0]


def patch_positions(embedding: Any) -> Array:
    """Return the position embeddings of a ViT's patches, (grid², width) float64."""
    if embedding.positions is None:
        return numpy(embedding.fixed_positions(np.arange(embedding.grid**2)[None], columns=embedding.grid))[0].astype(
            float
        )
    return numpy(embedding.positions)[0, -(embedding.grid**2) :].astype("float64")  # after those of the prefix tokens


def words(model: Any, ids: Iterable[Any]) -> list[str]:
    """Return a text per token: the token alone, decoded by the model's tokenizer, or else its id."""
    backend = getattr(model.tokenizer, "backend", None)

    def word(token: int) -> str:
        own = None if backend is None else backend.id_to_token(token)
        if backend is None or own is None:
            return str(token)
        text = backend.decode([token], skip_special_tokens=False)
        if not text.strip() or "\ufffd" in text:  # part of a character, or a token that the decoder drops
            return own
        return f" {text}" if own.startswith("▁") and not text.startswith(" ") else text

    return [word(int(token)) for token in ids]


def texts(argument: str, side: Side, given: Any) -> list[str]:
    """Return the labels of an axis: those `given`, or else the texts of its tokens, of at most 16 characters each.

    Raises:
        ValueError: the number of labels is neither that of all tokens nor that of the tokens without padding.
            `argument` is the name for the message.
    """
    names, kept = side
    if given is None:
        given = names
    if isinstance(given, str) or not hasattr(given, "__len__") or len(given) not in (len(names), len(kept)):
        raise ValueError(
            f"{argument}: got {given!r}; accepted: a list of {len(kept)} texts, or of {len(names)} with the padding"
        )
    chosen = [given[i] for i in kept] if len(given) == len(names) else given
    visible = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text)).replace(" ", "␣") for text in chosen]
    return [text if len(text) <= 16 else f"{text[:15]}…" for text in visible]


def position_layer(thing: Any) -> tuple[Any, int, str]:
    """Return the position layer of a layer or model, its number of positions, and a title.

    Raises:
        ValueError: `thing` has no position layer.
    """
    kinds = ("added", "rotated", "biased")
    if getattr(thing, "kind", None) in kinds:
        return thing, getattr(thing, "max_length", None) or LONGEST, type(thing).__name__
    for name in ("position_layer", "encoder_positions", "positions"):
        layer = getattr(thing, name, None)
        if getattr(layer, "kind", None) in kinds:
            return layer, thing.config.max_length, f"{thing.name}: {type(layer).__name__}"
    raise ValueError(f"model_or_layer: got {name_of(thing)} without positions; accepted: a layer or model of them")
