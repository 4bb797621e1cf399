"""Functions that draw attention weights, attention rollout, position encodings and alignments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import is_integer
from .drawing import VALUES, Array, File, over_image, panels, picture, similarities, spread
from .looking import attend, name_of, numpy, patch_positions, position_layer, prepared, seen, texts, words


def attention_maps(
    model: Any, inputs: Any, path: File, *, layer: int | None = None, labels: Any = None, kind: str | None = None
) -> Array:
    """Draw attention weights: one panel per head, one row of panels per layer, at most 12 of each.

    Args:
        model: a model of this package with attention.
        inputs: the inputs of the model, by name, or its first input alone. A missing target is generated greedily.
        path: the file to write; ends in .png or .svg.
        layer: index of the only layer to draw; a negative index counts from the last layer. Default: all layers.
        labels: a text per token, with or without padding tokens; for "cross", a pair of such lists, (target, source).
            Default: the tokens decoded by ``model.tokenizer``, or the ids.
        kind: the attention of an encoder-decoder: "encoder", "decoder" or "cross" (the default).

    Returns:
        (layers, heads, query, key), the weights that are drawn. Of more than 12 layers or heads, 12 that are evenly
        spaced.

    Raises:
        ValueError: an argument is not accepted, or the model has no attention.
    """
    with picture(path) as figure:
        maps, (query, key), heading = attend(model, prepared(model, inputs)[0], kind)
        count = len(maps)
        if layer is not None and not (is_integer(layer) and -count <= layer < count):
            raise ValueError(f"layer: got {layer!r}; accepted: an integer from {-count} to {count - 1}, or None")
        pair = (labels, labels) if query is key or labels is None else labels
        if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise ValueError(f"labels: got {labels!r}; accepted: a pair of lists, (target, source)")
        layers, heads = spread(count) if layer is None else [layer % count], spread(len(maps[0]))
        drawn = np.stack([maps[i][heads][:, query[1]][:, :, key[1]] for i in layers])
        panels(
            figure,
            drawn.reshape(-1, *drawn.shape[2:]),
            [f"head {head}" for _ in layers for head in heads],
            heading + _left_out(layers, heads, count if layer is None else 1, len(maps[0])),
            columns=len(heads) if len(layers) > 1 else min(len(heads), 4),
            rows=[f"layer {i}" for i in layers] if len(layers) > 1 else (),
            labels=(texts("labels", query, pair[0]), texts("labels", key, pair[1])),
            axes=("query: attending token", "key: attended token"),
            bar="attention weight",
        )
    return drawn


def _left_out(layers: Sequence[int], heads: Sequence[int], of_layers: int, of_heads: int) -> str:
    """Return the end of the heading: the layer if only one is drawn, and "m of n layers" or heads if not all are."""
    parts = [f"layer {layers[0]}"] if len(layers) == 1 else []
    for word, drawn, count in (("layers", len(layers), of_layers), ("heads", len(heads), of_heads)):
        parts += [f"{drawn} of {count} {word}"] if drawn < count else []
    return "".join(f", {part}" for part in parts)


def rollout(attentions: Sequence[Any]) -> Array:
    """Compute attention rollout with residual connections (Abnar & Zuidema 2020, arXiv:2005.00928, section 3).

    Args:
        attentions: attention weights of every layer, from first to last: (..., heads, tokens, tokens).

    Returns:
        (..., tokens, tokens) float64, the share of each input token (column) in each output token (row). Rows sum to 1.

    Raises:
        ValueError: the shapes are not those of attention weights, or differ in more than the number of heads.
    """
    layers = [np.asarray(weights, "float64") for weights in attentions]
    shapes = [weights.shape for weights in layers]
    alike = {(s[:-3], *s[-2:]) for s in shapes}
    if len(alike) != 1 or min(map(len, shapes)) < 3 or shapes[0][-1] != shapes[0][-2]:
        raise ValueError(f"attentions: got shapes {shapes}; accepted: (batch, heads, tokens, tokens) of every layer")
    residual = np.eye(shapes[0][-1])
    flow = residual
    for weights in layers:
        mixed = 0.5 * weights.mean(axis=-3) + 0.5 * residual
        flow = mixed / mixed.sum(axis=-1, keepdims=True) @ flow
    return flow


def attention_rollout(model: Any, image: Any, path: File) -> Array:
    """Draw the share of each image patch in the class token of a ViT after all layers (attention rollout).

    Args:
        model: a ViT.
        image: (height, width, channels), or a batch, whose first image is drawn. Scaled as in training, or with values
            from 0 to 255 if the preprocessing is part of the model.
        path: the file to write; ends in .png or .svg.

    Returns:
        (height / patch_size, width / patch_size). The remaining share is that of the tokens before the patches.

    Raises:
        ValueError: `model` is not a ViT, or it does not accept `image`.
    """
    with picture(path) as figure:
        if getattr(model, "family", None) != "vit":
            raise ValueError(f"model: got {name_of(model)}; accepted: a ViT")
        pixels = numpy(image).astype("float32")  # the image may be uint8
        inputs = prepared(model, pixels[None] if pixels.ndim == 3 else pixels)[0]
        maps = attend(model, inputs, None)[0]
        shown = seen(model, inputs)
        drawn = rollout(maps)[0, model.config.num_prefix_tokens :]
        drawn = drawn.reshape(shown.shape[0] // model.config.patch_size, -1)
        over_image(figure, shown, drawn, f"{model.name}: share of the patches in the class token (attention rollout)")
    return drawn


def position_map(model_or_layer: Any, path: File, *, length: int | None = None) -> Array:
    """Draw the values of a position encoding.

    Args:
        model_or_layer: a position layer, or a model that has one; for a Transformer, the encoder's is drawn.
        path: the file to write; ends in .png or .svg.
        length: number of positions. Default: 64, or 32 for a bias. For a ViT it must be None: the positions are those
            of the patches.

    Returns:
        The values that are drawn. For vectors that are added to the token embeddings, (position, feature); for rotary
        positions, (2, position, feature), cosines and sines; for a bias, (head, query, key); for a ViT, (patch, patch),
        the cosine similarities of the position embeddings.

    Raises:
        ValueError: there is no position layer, or `length` is not accepted.
    """
    with picture(path) as figure:
        if getattr(model_or_layer, "family", None) == "vit":
            if length is not None:
                raise ValueError(f"length: got {length!r} for a ViT; accepted: None, the positions being its patches'")
            embedding = model_or_layer.embedding
            heading = f"{model_or_layer.name}: similarity of the position embeddings of the patches"
            return similarities(figure, patch_positions(embedding), embedding.grid, heading)
        layer, longest, heading = position_layer(model_or_layer)
        biased = layer.kind == "biased"
        count = min(32 if biased else 64, longest) if length is None else length
        if not is_integer(count) or not 1 <= count <= longest:
            raise ValueError(f"length: got {length!r}; accepted: an integer from 1 to {longest}")
        places = np.arange(count, dtype="int32")[None]
        axes, titles, bar = ("position", "feature"), [""], "value added to the token embedding"
        if biased:
            drawn = numpy(layer(places, places))[0] + 0.0  # turns -0 into 0
            drawn = drawn[(heads := spread(len(drawn)))]
            axes, bar = ("position of the query", "position of the key"), "value added to the attention score"
            titles = [f"head {i}: {b.min():.3g} to {b.max():.3g}" for i, b in zip(heads, drawn, strict=True)]
        elif layer.kind == "rotated":
            drawn = np.stack([numpy(part)[0, 0] for part in layer(places)])
            axes, titles, bar = ("position", "pair of rotated features"), ["cosine", "sine"], "factor"
        else:
            drawn = numpy(layer(places))[0]
        maps = drawn if drawn.ndim == 3 else drawn[None]
        look: Any = {"columns": min(len(maps), 4), "colours": VALUES, "stretched": not biased}
        panels(figure, maps, titles, heading, axes=axes, bar=bar, **look)
    return drawn


def alignment(
    model: Any,
    inputs: Any,
    path: File,
    *,
    source_labels: Sequence[Any] | None = None,
    target_labels: Sequence[Any] | None = None,
) -> Array:
    """Draw how much each decoder step (row) attends to each source token (column).

    Args:
        model: a Seq2Seq with attention; or a Transformer, for the mean over the heads of its last layer.
        inputs: the inputs of the model, by name, or its first input alone. If there is a target, a row has the label of
            the token that the step gets as input. Otherwise the target is generated greedily, and a row has the label
            of the token that the step generates.
        path: the file to write; ends in .png or .svg.
        source_labels, target_labels: a text per token, with or without padding tokens. Default: the tokens decoded by
            ``model.tokenizer``, or the ids.

    Returns:
        (target, source), the weights that are drawn.

    Raises:
        ValueError: an argument is not accepted, or the model has no attention between decoder and encoder.
    """
    with picture(path) as figure:
        if getattr(model, "family", None) not in ("seq2seq", "transformer"):
            raise ValueError(f"model: got {name_of(model)}; accepted: a Seq2Seq with attention, or a Transformer")
        named, new = prepared(model, inputs)
        maps, (target, source), _ = attend(model, named, "cross")
        drawn = maps[-1].mean(axis=0)[target[1]][:, source[1]]
        if new is not None:
            target = words(model, new), target[1]
        panels(
            figure,
            drawn[None],
            [""],
            f"{model.name}: alignment",
            labels=(texts("target_labels", target, target_labels), texts("source_labels", source, source_labels)),
            axes=("target: input token" if new is None else "target: generated token", "source"),
            bar="attention weight",
        )
    return drawn
