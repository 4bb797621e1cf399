"""The pictures: who attends to whom, where a ViT looks, positions, and alignments."""

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
    """Draw who attends to whom: a panel for each head, a row of panels for each layer, 12 of each at the most.

    Args:
        model: any with attention.
        inputs: what it is called with. A missing target is generated greedily.
        path: ends in .png or .svg.
        layer: this one only, counted from 0, or from the last with -1. Default: all.
        labels: a text per token, with or without the padding; for "cross" a pair of such, (target, source). Default:
            the tokens of ``model.tokenizer``, or the ids.
        kind: of an encoder-decoder: "encoder", "decoder" or "cross" (the default).

    Returns:
        (layers, heads, query, key), those drawn: where there are more than 12, some that are evenly spread.
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
            axes=("query: the token that looks", "key: the token looked at"),
            bar="attention weight",
        )
    return drawn


def _left_out(layers: Sequence[int], heads: Sequence[int], of_layers: int, of_heads: int) -> str:
    """Which layer, where it is one; and how many layers and heads of how many are drawn, where these are not all."""
    parts = [f"layer {layers[0]}"] if len(layers) == 1 else []
    for word, drawn, count in (("layers", len(layers), of_layers), ("heads", len(heads), of_heads)):
        parts += [f"{drawn} of {count} {word}"] if drawn < count else []
    return "".join(f", {part}" for part in parts)


def rollout(attentions: Sequence[Any]) -> Array:
    """Attention followed through all layers, residuals included (Abnar & Zuidema 2020, arXiv:2005.00928, section 3).

    Args:
        attentions: of every layer, the first one first: (..., heads, tokens, tokens).

    Returns:
        (..., tokens, tokens) float64, the share of each input (column) in each output (row). Rows sum to 1.
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
    """Draw the share that each patch of an image has in a ViT's class token, after all layers.

    Args:
        model: a ViT.
        image: (height, width, channels), or a batch of which the first is drawn, scaled as the model was trained; of
            values from 0 to 255, where the model has its preprocessing inside.
        path: ends in .png or .svg.

    Returns:
        (height / patch_size, width / patch_size). The rest is that of the tokens before the patches.
    """
    with picture(path) as figure:
        if getattr(model, "family", None) != "vit":
            raise ValueError(f"model: got {name_of(model)}; accepted: a ViT")
        pixels = numpy(image).astype("float32")  # of bytes too
        inputs = prepared(model, pixels[None] if pixels.ndim == 3 else pixels)[0]
        maps = attend(model, inputs, None)[0]
        shown = seen(model, inputs)
        drawn = rollout(maps)[0, model.config.num_prefix_tokens :]
        drawn = drawn.reshape(shown.shape[0] // model.config.patch_size, -1)
        over_image(figure, shown, drawn, f"{model.name}: what the class token is made of (attention rollout)")
    return drawn


def position_map(model_or_layer: Any, path: File, *, length: int | None = None) -> Array:
    """Draw what a position encoding does.

    Args:
        model_or_layer: a position layer, or a model that has one; of a Transformer, the encoder's is drawn.
        path: ends in .png or .svg.
        length: how many positions. Default: 64, or 32 of a bias. A ViT has those of its patches.

    Returns:
        (position, feature) of vectors added to the tokens'; (2, position, feature), cosines and sines, of rotary
        positions; (head, query, key) of a bias; (patch, patch), the cosine similarity of the vectors, of a ViT.
    """
    with picture(path) as figure:
        if getattr(model_or_layer, "family", None) == "vit":
            if length is not None:
                raise ValueError(f"length: got {length!r} for a ViT; accepted: None, the positions being its patches'")
            embedding = model_or_layer.embedding
            heading = f"{model_or_layer.name}: how alike the positions of patches are"
            return similarities(figure, patch_positions(embedding), embedding.grid, heading)
        layer, longest, heading = position_layer(model_or_layer)
        biased = layer.kind == "biased"
        count = min(32 if biased else 64, longest) if length is None else length
        if not is_integer(count) or not 1 <= count <= longest:
            raise ValueError(f"length: got {length!r}; accepted: an integer from 1 to {longest}")
        places = np.arange(count, dtype="int32")[None]
        axes, titles, bar = ("position", "feature"), [""], "added to the token's vector"
        if biased:
            drawn = numpy(layer(places, places))[0] + 0.0  # no -0
            drawn = drawn[(heads := spread(len(drawn)))]
            axes, bar = ("position of the query", "position of the key"), "added to the score"
            titles = [f"head {i}: {b.min():.3g} to {b.max():.3g}" for i, b in zip(heads, drawn, strict=True)]
        elif layer.kind == "rotated":
            drawn = np.stack([numpy(part)[0, 0] for part in layer(places)])
            axes, titles, bar = ("position", "pair of features that is rotated"), ["cosine", "sine"], "factor"
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
    """Draw which source tokens (columns) a decoder looks at in each step (row).

    Args:
        model: a Seq2Seq with attention; or a Transformer, for the mean over the heads of its last layer.
        inputs: what it is called with. A missing target is generated greedily, and rows are named after the tokens
            that the steps wrote; with a target, after those that they read.
        path: ends in .png or .svg.
        source_labels, target_labels: a text per token, with or without the padding. Default: the tokens of
            ``model.tokenizer``, or the ids.

    Returns:
        (target, source).
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
            axes=("target: the token read" if new is None else "target: the token written", "source"),
            bar="attention weight",
        )
    return drawn
