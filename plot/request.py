"""Plots for the command line, whose inputs are a text, token ids, an image file, or synthetic values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .drawing import Array, File, picture_format
from .looking import name_of
from .pictures import alignment, attention_maps, attention_rollout, position_map

KINDS = ("attention", "rollout", "positions", "alignment")


def command(
    kind: str,
    model: Any,
    path: File,
    *,
    tokens: Sequence[int] | None = None,
    text: str | None = None,
    image: File | None = None,
    length: int | None = None,
    layer: int | None = None,
    random: bool = True,
) -> Array:
    """Draw a plot with the options of the command line.

    Args:
        kind: one of ``KINDS``.
        model: the model to draw.
        path: the file to write; ends in .png or .svg.
        tokens: token ids of a text or source. Default: at most 16 random ids, the same in every call.
        text: a text instead of ids, for the model's tokenizer.
        image: an image file. It goes through the model's preprocessing; without any, it is resized to the model's image
            size and scaled to -1 ... 1. Default: a synthetic image of a bright square.
        length: number of positions, for "positions".
        layer: the only layer to draw, for "attention".
        random: whether a missing input may be replaced by a synthetic one, which shows nothing about a trained model.

    Returns:
        The values that are drawn, as documented for the function of each kind.

    Raises:
        ValueError: an argument is not accepted, does not belong to this kind of plot or model, or is missing.
    """
    picture_format(path)
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}; accepted: {list(KINDS)}")
    sees = getattr(model, "family", None) == "vit"
    source = ["image"] if sees else ["tokens", "text"]
    uses = ["length"] if kind == "positions" else list(source)
    uses += ["layer"] if kind == "attention" else []
    given = {"tokens": tokens, "text": text, "image": image, "length": length, "layer": layer}
    for name, value in given.items():
        if value is not None and name not in uses:
            raise ValueError(f"{name}: got {value!r} for {kind} of {name_of(model)}; accepted: {uses}")
    if text is not None and tokens is not None:
        raise ValueError(f"text: got {text!r} beside ids; accepted: one of the two")
    if kind != "positions" and not random and all(given[name] is None for name in source):
        raise ValueError(
            f"{source[-1]}: got none for {name_of(model)}, whose weights were loaded; accepted: "
            f"{' or '.join(source)}, or random=True for something made up"
        )
    if kind == "positions":
        return position_map(model, path, length=length)
    if kind == "rollout":
        return attention_rollout(model, _image(model, image) if sees else None, path)
    inputs = _image(model, image)[None] if sees else _tokens(model, tokens, text)
    return attention_maps(model, inputs, path, layer=layer) if kind == "attention" else alignment(model, inputs, path)


def _tokens(model: Any, tokens: Sequence[int] | None, text: str | None) -> dict[str, Array]:
    """Return the inputs of the model by name."""
    if text is None:
        return {"input_ids": _ids(model, tokens)}
    if model.tokenizer is None:
        raise ValueError(f"text: got {text!r} for {name_of(model)} without a tokenizer; accepted: ids")
    names = {spec.name for spec in model.signature.inputs}
    inputs = {name: array for name, array in model.tokenizer([text]).items() if name in names}
    if not inputs["input_ids"].size:
        raise ValueError(f"text: got {text!r}, of no token; accepted: at least one")
    return inputs


def _ids(model: Any, tokens: Sequence[int] | None) -> Array:
    if tokens is not None and not len(tokens):
        raise ValueError("tokens: got none; accepted: at least one id")
    if tokens is not None:
        return np.array([list(tokens)], "int32")
    c = model.config
    special = {getattr(c, name, None) for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id")}
    usual = [token for token in range(c.vocab_size) if token not in special] or [0]
    return np.random.default_rng(0).choice(usual, (1, min(16, c.max_length))).astype("int32")


def _image(model: Any, file: File | None) -> Array:
    """Return an image as the model expects it, (height, width, channels) float32: the file, or a square on noise."""
    from ..layers.images import ImageProcessor

    size, channels = model.config.image_size, model.config.num_channels
    if file is None:
        made = np.random.default_rng(0).normal(-0.6, 0.1, (size, size, channels)).clip(-1, 1)
        made[size // 5 : size // 2, size // 2 : size * 4 // 5] = 0.9
        return (made if model.processor is None else (made + 1) * 127.5).astype("float32")
    from PIL import Image, UnidentifiedImageError  # a dependency of matplotlib

    if channels not in (1, 3):
        raise ValueError(f"image: got a file for a model of {channels} channels; accepted: none")
    if not Path(file).is_file():
        raise ValueError(f"image: got {str(file)!r}, which is not a file; accepted: a PNG or JPEG file")
    try:
        with Image.open(file) as opened:
            photo = opened.convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"image: got {str(file)!r}, which is no picture; accepted: a PNG or JPEG file") from error
    pixels = np.asarray(photo, "float32").reshape(photo.height, photo.width, channels)
    if model.processor is not None:  # the preprocessing is part of the model
        return pixels
    if model.preprocessor:
        from keras import ops

        return ops.convert_to_numpy(ImageProcessor.from_huggingface(model.preprocessor)(pixels[None]))[0]
    photo = photo.resize((size, size), Image.Resampling.BICUBIC)
    return (np.asarray(photo, "float32") / 127.5 - 1).reshape(size, size, channels)
