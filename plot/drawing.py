"""Drawing functions: grids of matrices, and weights laid over an image. matplotlib is imported on first use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..files import written
from ..needs import named_extras

Array = np.ndarray
File = str | os.PathLike[str]

MOST = 12  # largest number of panels along one side of a grid
LABELLED = 40  # an axis of more tokens gets no token labels
DPI = 150
WEIGHTS, SHARES, VALUES = "magma_r", "magma", "viridis"  # perceptually uniform; in the first one, 0 is light


def spread(count: int, most: int = MOST) -> list[int]:
    """Return at most `most` indices below `count`, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def picture_format(path: File) -> str:
    """Return the format that the suffix of `path` names, "png" or "svg"; raise ValueError for any other suffix."""
    ending = Path(path).suffix.lower()
    if ending not in (".png", ".svg"):
        raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in .png or .svg")
    return ending[1:]


def need_pictures(path: File) -> None:
    """Check the suffix of `path`, and that matplotlib is installed, before a long computation begins.

    Raises:
        ValueError: `path` does not end in .png or .svg.
        ModuleNotFoundError: matplotlib is missing.
    """
    picture_format(path)
    with named_extras():
        import matplotlib.figure  # noqa: F401


@contextmanager
def picture(path: File) -> Iterator[Any]:
    """Yield an empty figure, and write it to `path` if the block ends without an error."""
    format = picture_format(path)
    with named_extras():
        from matplotlib import rc_context
        from matplotlib.figure import Figure  # not pyplot, which would select a backend for the whole process

    # Token texts must not be parsed as formulas. The fixed salt makes the ids in an SVG file reproducible.
    own: Any = {"text.parse_math": False, "text.usetex": False, "svg.hashsalt": "attention_zoo"}
    with rc_context({**own, "image.composite_image": False}):
        figure = Figure(layout="constrained")
        yield figure
        with written(path) as temporary:
            dated: Any = {"metadata": {"Date": None}} if format == "svg" else {}
            figure.savefig(temporary, format=format, dpi=DPI, bbox_inches="tight", pad_inches=0.12, **dated)


def panels(
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
    """Draw a grid of matrices with one color scale, all in one Axes, because a hundred Axes would take seconds.

    Args:
        maps: (panels, down, across), the matrices, line by line.
        titles: a text above each matrix; with `rows`, only above those of the first line.
        columns: matrices per line.
        rows: a text to the right of each line.
        labels: texts along the vertical and the horizontal side of each matrix.
        axes: names of the vertical and the horizontal axis.
        bar: label of the color bar.
        stretched: draw matrices with a fixed aspect ratio instead of square cells.
    """
    from matplotlib.colors import Normalize, PowerNorm

    (tall, wide), lines = maps.shape[1:], -(-len(maps) // columns)
    longest = max(tall, wide)
    least = max(1.3, min(4.5, 10 / max(columns, lines)))
    side = min(max(0.22 * longest, least), max(least, 14 / max(columns, lines, 2)))  # longer side of a matrix, inches
    high, broad = (0.7 * side, side) if stretched else (max(0.3, size / longest) * side for size in (tall, wide))
    cell = 72 * side / longest  # size of a token, in points
    size = min(10.0, 0.8 * cell)  # font size of its label
    texts: Any = labels if longest <= LABELLED and size >= 4 else ((), ())
    down, across = tall * (1 + (0.1 if rows else 0.35) / high), wide * (1 + 0.1 / broad)  # grid spacing
    figure.set_size_inches(columns * (broad + 0.1) + 2.5, lines * (high + (0.1 if rows else 0.35)) + 1.7)
    axis = figure.subplots()
    scale: Any = Normalize(maps.min(), maps.max())
    if colours == WEIGHTS:  # with many tokens the weights are small, and the square root makes them visible
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
    last = (len(maps) - 1) % columns + 1  # number of matrices in the last line
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


def similarities(figure: Any, vectors: Array, grid: int, heading: str) -> Array:
    """Draw a small similarity map for each patch of a ViT, as in figure 7 of arXiv:2010.11929.

    Args:
        vectors: (grid², width), the position embeddings of the patches.

    Returns:
        (grid², grid²), the cosine similarities.
    """
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    drawn = vectors @ vectors.T
    shown = spread(grid, 16)  # more maps would be too small to read
    tiles = drawn.reshape([grid] * 4)[np.ix_(shown, shown)]
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)  # gaps between the maps
    whole = tiles.transpose(0, 2, 1, 3).reshape(len(shown) * (grid + 1), -1)[:-1, :-1]
    figure.set_size_inches(8.2, 7.2)
    axis = figure.subplots()
    image = axis.imshow(whole, cmap=VALUES, vmin=-1, vmax=1, interpolation="nearest")
    for ruler in (axis.xaxis, axis.yaxis):
        ruler.set_ticks(np.arange(len(shown)) * (grid + 1) + (grid - 1) / 2, shown)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="column of the patch", ylabel="row of the patch")
    figure.suptitle(heading)
    figure.colorbar(image, ax=axis, label="cosine similarity with the patch of that row and column")
    return drawn


def over_image(figure: Any, image: Array, weights: Array, heading: str) -> None:
    """Draw the image, the weights of its patches, and the weights over the image, side by side."""
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
    for axis, title in zip(axes, ("image", "share of each patch", "overlay"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.suptitle(heading)
    figure.colorbar(shown, ax=axes.tolist(), label="share", shrink=0.8, pad=0.02)
