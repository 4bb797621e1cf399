"""Bar charts of benchmark results of one file, or of several files side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .drawing import VALUES, File, picture

Bar = tuple[str, float | None, str]  # label, value, text at the end of the bar


class Measured(Protocol):
    """The results of ``export.benchmark`` and ``export.compare``."""

    def bars(self) -> Mapping[str, Sequence[Bar]]:
        """Return the bars of each panel, by the title of the panel."""
        ...

    def title(self) -> str:
        """Return the title of the figure."""
        ...


def measurements(measured: Measured, path: File) -> dict[str, list[float | None]]:
    """Draw a result of ``export.benchmark`` or ``export.compare``: one panel per quantity, each with its own scale.

    Args:
        measured: the result to draw.
        path: the file to write; ends in .png or .svg.

    Returns:
        The lengths of the bars by panel title; None for a quantity that was not measured for a file.

    Raises:
        ValueError: `path` has another suffix.
    """
    panels = measured.bars()
    with picture(path) as figure:
        from matplotlib import colormaps

        columns = min(3, len(panels))
        lines = -(-len(panels) // columns)
        most = max(map(len, panels.values()))
        figure.set_size_inches(4.2 * columns, lines * (0.34 * most + 0.6) + 0.3)
        axes: Any = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
        colours = colormaps[VALUES]
        for axis, (title, bars) in zip(axes, panels.items(), strict=False):
            lengths = [value or 0.0 for _, value, _ in bars]
            shades = [colours(0.15 + 0.7 * i / max(1, most - 1)) for i in range(len(bars))]
            drawn = axis.barh(range(len(bars)), lengths, color=shades, height=0.7)
            axis.bar_label(drawn, [text for _, _, text in bars], padding=3, fontsize=8)
            axis.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=8)
            axis.set(ylim=(most - 0.5, -0.5), xlim=(0, 1.55 * max(lengths) or 1.0))
            axis.set_title(title, fontsize=9, loc="left")
            axis.set_xticks([])
            axis.tick_params(length=0)
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        figure.suptitle(measured.title(), fontsize=9)
    return {title: [value for _, value, _ in bars] for title, bars in panels.items()}
