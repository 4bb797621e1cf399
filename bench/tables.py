"""Rows of cells as text and as Markdown; and what bars of a picture are."""

from __future__ import annotations

from collections.abc import Sequence

Bar = tuple[str, float | None, str]  # label, length, what is written at its end


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the head."""
    head, *others = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [head, f"|---|{'--:|' * (len(rows[0]) - 1)}", *others]
