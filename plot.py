"""Pictures of what models look at and of how they tell positions apart, as PNG or SVG.

Every function writes one file and returns the numbers it drew. The first row of a batch is drawn, without its padding.
The same call writes the same bytes. Needs matplotlib, which comes with the extra ``attention-zoo[demo]``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from .checks import is_integer
from .needs import named_extras

Array = np.ndarray
File = str | os.PathLike[str]
Side = tuple[list[str], Array]  # what stands along an axis: a text per token, and the places of those that are kept

KINDS = ("attention", "rollout", "positions", "alignment")
MOST = 12  # panels along one side of a grid
LABELLED = 40  # tokens on the longest axis that still has them written on it
LONGEST = 4096  # positions of a layer that sets no limit
DPI = 150
WEIGHTS, SHARES, VALUES = "magma_r", "magma", "viridis"  # perceptually uniform; nothing is light in the first


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
            the ids.
        kind: of an encoder-decoder: "encoder", "decoder" or "cross" (the default).

    Returns:
        (layers, heads, query, key), those drawn: where there are more than 12, some that are evenly spread.
    """
    with _figure(path) as figure:
        maps, (query, key), heading = _attend(model, _prepared(model, inputs)[0], kind)
        count = len(maps)
        if layer is not None and not (is_integer(layer) and -count <= layer < count):
            raise ValueError(f"layer: got {layer!r}; accepted: an integer from {-count} to {count - 1}, or None")
        pair = (labels, labels) if query is key or labels is None else labels
        if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise ValueError(f"labels: got {labels!r}; accepted: a pair of lists, (target, source)")
        layers, heads = _spread(count) if layer is None else [layer % count], _spread(len(maps[0]))
        drawn = np.stack([maps[i][heads][:, query[1]][:, :, key[1]] for i in layers])
        _panels(
            figure,
            drawn.reshape(-1, *drawn.shape[2:]),
            [f"head {head}" for _ in layers for head in heads],
            heading if len(layers) > 1 else f"{heading}, layer {layers[0]}",
            columns=len(heads) if len(layers) > 1 else min(len(heads), 4),
            rows=[f"layer {i}" for i in layers] if len(layers) > 1 else (),
            labels=(_texts("labels", query, pair[0]), _texts("labels", key, pair[1])),
            axes=("query: the token that looks", "key: the token looked at"),
            bar="attention weight",
        )
    return drawn


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
        image: (height, width, channels), or a batch of which the first is drawn, scaled as the model was trained.
        path: ends in .png or .svg.

    Returns:
        (height / patch_size, width / patch_size). The rest is the class token's own and the registers'.
    """
    with _figure(path) as figure:
        if getattr(model, "family", None) != "vit":
            raise ValueError(f"model: got {_name(model)}; accepted: a ViT")
        pixels = _numpy(image)
        inputs = _prepared(model, pixels[None] if pixels.ndim == 3 else pixels)[0]
        maps = _attend(model, inputs, None)[0]
        picture = inputs["pixel_values"][0]
        patch, skipped = model.config.patch_size, 1 + model.config.num_registers
        drawn = rollout(maps)[0, skipped:].reshape(picture.shape[0] // patch, -1)
        _over_image(figure, picture, drawn, f"{model.name}: what the class token is made of (attention rollout)")
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
    with _figure(path) as figure:
        if getattr(model_or_layer, "family", None) == "vit":
            if length is not None:
                raise ValueError(f"length: got {length!r} for a ViT; accepted: None, the positions being its patches'")
            return _similarities(figure, model_or_layer)
        layer, longest, heading = _position_layer(model_or_layer)
        biased = layer.kind == "biased"
        count = min(32 if biased else 64, longest) if length is None else length
        if not is_integer(count) or not 1 <= count <= longest:
            raise ValueError(f"length: got {length!r}; accepted: an integer from 1 to {longest}")
        places = np.arange(count, dtype="int32")[None]
        axes, titles, bar = ("position", "feature"), [""], "added to the token's vector"
        if biased:
            drawn = _numpy(layer(places, places))[0] + 0.0  # no -0
            drawn = drawn[(heads := _spread(len(drawn)))]
            axes, bar = ("position of the query", "position of the key"), "added to the score"
            titles = [f"head {i}: {b.min():.3g} to {b.max():.3g}" for i, b in zip(heads, drawn, strict=True)]
        elif layer.kind == "rotated":
            drawn = np.stack([_numpy(part)[0, 0] for part in layer(places)])
            axes, titles, bar = ("position", "pair of features that is rotated"), ["cosine", "sine"], "factor"
        else:
            drawn = _numpy(layer(places))[0]
        maps = drawn if drawn.ndim == 3 else drawn[None]
        look: Any = {"columns": min(len(maps), 4), "colours": VALUES, "stretched": not biased}
        _panels(figure, maps, titles, heading, axes=axes, bar=bar, **look)
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
        source_labels, target_labels: a text per token, with or without the padding. Default: the ids.

    Returns:
        (target, source).
    """
    with _figure(path) as figure:
        if getattr(model, "family", None) not in ("seq2seq", "transformer"):
            raise ValueError(f"model: got {_name(model)}; accepted: a Seq2Seq with attention, or a Transformer")
        named, new = _prepared(model, inputs)
        maps, (target, source), _ = _attend(model, named, "cross")
        drawn = maps[-1].mean(axis=0)[target[1]][:, source[1]]
        if new is not None:
            target = [str(token) for token in new], target[1]
        _panels(
            figure,
            drawn[None],
            [""],
            f"{model.name}: alignment",
            labels=(_texts("target_labels", target, target_labels), _texts("source_labels", source, source_labels)),
            axes=("target: the token read" if new is None else "target: the token written", "source"),
            bar="attention weight",
        )
    return drawn


def command(
    kind: str,
    model: Any,
    path: File,
    *,
    tokens: Sequence[int] | None = None,
    image: File | None = None,
    length: int | None = None,
    layer: int | None = None,
) -> Array:
    """Draw one of ``KINDS``, as the command line has it.

    Args:
        tokens: ids of a text or source. Default: 16 random ones, always the same.
        image: a file, scaled to the model's size and to -1 ... 1. Default: a bright square.
        length: how many "positions".
        layer: the only one whose "attention" is drawn.
    """
    picture_format(path)
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}; accepted: {list(KINDS)}")
    sees = getattr(model, "family", None) == "vit"
    uses = ["length"] if kind == "positions" else ["image" if sees else "tokens"]
    uses += ["layer"] if kind == "attention" else []
    for name, value in {"tokens": tokens, "image": image, "length": length, "layer": layer}.items():
        if value is not None and name not in uses:
            raise ValueError(f"{name}: got {value!r} for {kind} of {_name(model)}; accepted: {uses}")
    if kind == "positions":
        return position_map(model, path, length=length)
    if kind == "rollout":
        return attention_rollout(model, _image(model, image) if sees else None, path)
    inputs = _image(model, image)[None] if sees else {"input_ids": _ids(model, tokens)}
    return attention_maps(model, inputs, path, layer=layer) if kind == "attention" else alignment(model, inputs, path)


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def _name(thing: Any) -> str:
    return getattr(thing, "name", None) or type(thing).__name__


def _numpy(value: Any) -> Array:
    from keras import ops

    array = ops.convert_to_numpy(value)
    return array if array.dtype.kind in "iub" else array.astype("float32")


def _spread(count: int, most: int = MOST) -> list[int]:
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _prepared(model: Any, inputs: Any) -> tuple[dict[str, Array], Array | None]:
    """The first row of the inputs by name, and what was generated where an encoder-decoder got no target."""
    from .zoo.base import ZooModel

    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {_name(model)}; accepted: a model of attention_zoo")
    signature, generating = model.signature, cast("Any", model)
    names = [spec.name for spec in signature.inputs]
    given = inputs if isinstance(inputs, Mapping) else {names[0]: inputs}
    arrays = {name: _numpy(value) for name, value in given.items() if value is not None}
    named = {name: array[:1] if array.ndim else array for name, array in arrays.items()}
    new = None
    if "decoder_input_ids" in names and "input_ids" in named and "decoder_input_ids" not in named:
        room = max(1, min(model.config.max_length - 1, 2 * named["input_ids"].shape[-1], LABELLED))
        ids = generating.generate(named["input_ids"], named.get("attention_mask"), max_new_tokens=room)
        named["decoder_input_ids"], new = ids[:, :-1].astype("int32"), ids[0, 1:]
    signature.check_arrays(named)  # Keras would put its own words around the error
    return named, new


def _attend(model: Any, named: Mapping[str, Array], kind: str | None) -> tuple[list[Array], tuple[Side, Side], str]:
    """(heads, query, key) of every layer, what stands along query and key, and a name for it."""
    result = model(dict(named), output_attentions=True, training=False)
    result = result if isinstance(result, Mapping) else {}
    found = {name.rpartition("attentions")[0].strip("_"): result[name] for name in result if "attentions" in name}
    if not found:
        raise ValueError(f"model: got {model.name} without attention; accepted: a model with attention")
    kind = kind or ("cross" if "cross" in found else "")
    if kind not in found:
        raise ValueError(f"kind: got {kind!r} for {model.name}; accepted: {[name or None for name in found]}")
    maps = [_numpy(weights)[0] for weights in found[kind]]
    maps = [weights if weights.ndim == 3 else weights[None] for weights in maps]  # one head of a Seq2Seq

    def side(prefix: str) -> Side:
        if "pixel_values" in named:
            columns = named["pixel_values"].shape[2] // model.config.patch_size
            front = ["class", *(f"register{i}" for i in range(model.config.num_registers))]
            patches = range(maps[0].shape[-1] - len(front))
            texts = front + [f"{i // columns},{i % columns}" for i in patches]
            return texts, np.arange(len(texts))
        ids, mask = named[f"{prefix}input_ids"][0], named.get(f"{prefix}attention_mask")
        kept = np.flatnonzero(np.ones_like(ids) if mask is None else mask[0])
        if not len(kept):
            raise ValueError(f"{prefix}attention_mask: got a first row without any token; accepted: at least one 1")
        return [str(token) for token in ids], kept

    query = side("decoder_" if kind in ("decoder", "cross") else "")
    return maps, (query, side("") if kind == "cross" else query), f"{model.name}: {kind} attention".replace("  ", " ")


def _texts(argument: str, side: Side, given: Any) -> list[str]:
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


def _position_layer(thing: Any) -> tuple[Any, int, str]:
    """The layer, how many positions it has, and a title."""
    kinds = ("added", "rotated", "biased")
    if getattr(thing, "kind", None) in kinds:
        return thing, getattr(thing, "max_length", LONGEST), type(thing).__name__
    for name in ("position_layer", "encoder_positions", "positions"):
        layer = getattr(thing, name, None)
        if getattr(layer, "kind", None) in kinds:
            return layer, thing.config.max_length, f"{thing.name}: {type(layer).__name__}"
    raise ValueError(f"model_or_layer: got {_name(thing)} without positions; accepted: a layer or model of them")


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
    """(image_size, image_size, channels) float32 from -1 to 1: a picture, or a bright square on noise."""
    size, channels = model.config.image_size, model.config.num_channels
    if file is None:
        made = np.random.default_rng(0).normal(-0.6, 0.1, (size, size, channels)).clip(-1, 1)
        made[size // 5 : size // 2, size // 2 : size * 4 // 5] = 0.9
        return made.astype("float32")
    from PIL import Image, UnidentifiedImageError  # comes with matplotlib

    if channels not in (1, 3):
        raise ValueError(f"image: got a file for a model of {channels} channels; accepted: none")
    try:
        with Image.open(file) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BICUBIC)
    except UnidentifiedImageError as error:
        raise ValueError(f"image: got {str(file)!r}, which is no picture; accepted: a PNG or JPEG file") from error
    return (np.asarray(picture, "float32") / 127.5 - 1).reshape(size, size, channels)


# ---- how it is drawn -------------------------------------------------------------------------------------------------


def picture_format(path: File) -> str:
    ending = Path(path).suffix.lower()
    if ending not in (".png", ".svg"):
        raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in .png or .svg")
    return ending[1:]


@contextmanager
def _figure(path: File) -> Iterator[Any]:
    """An empty figure, which becomes the file when the block ends well."""
    format = picture_format(path)
    with named_extras():
        from matplotlib import rc_context
        from matplotlib.figure import Figure  # not pyplot: nobody's backend changes
    from .files import written

    # Names of tokens are no formulas, and the ids in an SVG come from its content.
    own: Any = {"text.parse_math": False, "text.usetex": False, "svg.hashsalt": "attention_zoo"}
    with rc_context({**own, "image.composite_image": False}):
        figure = Figure(layout="constrained")
        yield figure
        with written(path) as temporary:
            dated: Any = {"metadata": {"Date": None}} if format == "svg" else {}
            figure.savefig(temporary, format=format, dpi=DPI, bbox_inches="tight", pad_inches=0.12, **dated)


def _panels(
    figure: Any,
    maps: Array,
    titles: Sequence[str],
    heading: str,
    *,
    columns: int = 1,
    rows: Sequence[str] = (),
    labels: tuple[Sequence[str], Sequence[str]] = ((), ()),
    axes: tuple[str, str],
    bar: str,
    colours: str = WEIGHTS,
    stretched: bool = False,
) -> None:
    """A grid of matrices on one scale, all in one Axes, as a hundred would take seconds.

    `titles` stand over each (with `rows`, over the first line), `rows` beside the lines, `labels` and `axes` along the
    matrices, down and across. A token is a square unless they are `stretched`.
    """
    from matplotlib.colors import Normalize, PowerNorm

    (tall, wide), lines = maps.shape[1:], -(-len(maps) // columns)
    longest = max(tall, wide)
    least = max(1.3, min(4.5, 10 / max(columns, lines)))
    side = min(max(0.22 * longest, least), max(least, 14 / max(columns, lines, 2)))  # of a matrix, in inches
    high, broad = (0.7 * side, side) if stretched else (max(0.3, size / longest) * side for size in (tall, wide))
    cell = 72 * side / longest  # of a token, in points
    size = min(10.0, 0.8 * cell)  # of its text
    texts: Any = labels if longest <= LABELLED and size >= 4 else ((), ())
    down, across = tall * (1 + (0.1 if rows else 0.35) / high), wide * (1 + 0.1 / broad)  # from one to the next
    figure.set_size_inches(columns * (broad + 0.1) + 2.5, lines * (high + (0.1 if rows else 0.35)) + 1.7)
    axis = figure.subplots()
    scale: Any = Normalize(maps.min(), maps.max())
    if colours == WEIGHTS:  # those of many tokens are small: the root makes them visible
        scale = PowerNorm(0.5 if longest > LABELLED else 1.0, 0.0, maps.max())
    shown = None
    for i, (values, title) in enumerate(zip(maps, titles, strict=True)):
        x, y = i % columns * across, i // columns * down
        where = (x, x + wide, y + tall, y)
        shown = axis.imshow(values, cmap=colours, extent=where, interpolation="nearest", norm=scale)
        axis.plot([x, x + wide, x + wide, x, x], [y, y, y + tall, y + tall, y], "k", linewidth=0.5, clip_on=False)
        if not rows or not y:
            axis.text(x + wide / 2, y - 0.05 * tall / high, title, ha="center", va="bottom", fontsize=9)
    width = (columns - 1) * across + wide
    for i, text in enumerate(rows):
        axis.text(width + 0.07 * wide / broad, i * down + tall / 2, text, va="center", rotation=270, fontsize=9)
    axis.set(
        ylabel=axes[0],
        xlabel=axes[1],
        xlim=(0, width),
        ylim=((lines - 1) * down + tall, 0),
        aspect=high / tall * wide / broad,
    )
    axis.spines[:].set_visible(False)
    turned = 90 if max([1, *map(len, texts[1])]) * 0.65 * size > cell else 0
    last = (len(maps) - 1) % columns + 1  # matrices in the last line
    for ruler, starts, part, count, turn in (
        (axis.yaxis, np.arange(lines) * down, texts[0], tall, 0),
        (axis.xaxis, np.arange(last) * across, texts[1], wide, turned),
    ):
        steps = (n * 10**power for power in range(9) for n in (1, 2, 5))
        ticks = range(0, count, 1 if part else next(step for step in steps if count <= step * (4 if side < 2 else 8)))
        names = [*(part or map(str, ticks))] * len(starts)
        places = [start + tick + 0.5 for start in starts for tick in ticks]
        ruler.set_ticks(places, names, fontsize=size if part else 8, rotation=turn)
        ruler.set_tick_params(length=2)
    axis.set_title(heading, pad=22 if titles[0] else 8)
    inches, share = width / wide * broad, min(1.0, 5 / (lines * high))
    beside = axis.inset_axes((1 + (0.4 if rows else 0.2) / inches, (1 - share) / 2, 0.18 / inches, share))
    figure.colorbar(shown, cax=beside, label=bar)


def _similarities(figure: Any, model: Any) -> Array:
    """A small map for each patch of a ViT, as in figure 7 of arXiv:2010.11929."""
    vectors = _numpy(model.embedding.positions)[0, 1:].astype("float64")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    drawn, grid = vectors @ vectors.T, model.embedding.grid
    shown = _spread(grid, 16)  # more would be too small to see
    tiles = drawn.reshape([grid] * 4)[np.ix_(shown, shown)]
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)  # gaps between them
    whole = tiles.transpose(0, 2, 1, 3).reshape(len(shown) * (grid + 1), -1)[:-1, :-1]
    figure.set_size_inches(8.2, 7.2)
    axis = figure.subplots()
    image = axis.imshow(whole, cmap=VALUES, vmin=-1, vmax=1, interpolation="nearest")
    for ruler in (axis.xaxis, axis.yaxis):
        ruler.set_ticks(np.arange(len(shown)) * (grid + 1) + (grid - 1) / 2, shown)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="column of the patch", ylabel="row of the patch")
    figure.suptitle(f"{model.name}: how alike the positions of patches are")
    figure.colorbar(image, ax=axis, label="cosine similarity with the patch of that row and column")
    return drawn


def _over_image(figure: Any, image: Array, weights: Array, heading: str) -> None:
    """The image, the weights of its patches, and both."""
    height, width = image.shape[:2]
    picture = (image - image.min()) / max(float(np.ptp(image)), 1e-12)
    grey = picture.mean(axis=-1)
    figure.set_layout_engine("compressed")
    figure.set_size_inches(12, 0.9 + 3.4 * min(max(height / width, 0.3), 2.5))
    axes = figure.subplots(1, 3)
    at: Any = {"extent": (0, width, height, 0)}
    axes[0].imshow(picture if image.shape[-1] == 3 else grey, cmap="gray", **at)
    shown = axes[1].imshow(weights, cmap=SHARES, interpolation="nearest", **at)
    axes[2].imshow(grey, cmap="gray", **at)
    axes[2].imshow(weights, cmap=SHARES, interpolation="bilinear", alpha=0.6, **at)
    for axis, title in zip(axes, ("the image", "share of each patch", "both"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.suptitle(heading)
    figure.colorbar(shown, ax=axes.tolist(), label="share", shrink=0.8, pad=0.02)
