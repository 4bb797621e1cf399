"""Formatting of tables as text and as Markdown, and the type of a bar in a chart."""

from __future__ import annotations

from collections.abc import Sequence

Bar = tuple[str, float | None, str]  # label, length, text at the end of the bar


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, with the first column aligned left and the others aligned right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table. The first row is the header."""
    head, *others = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [head, f"|---|{'--:|' * (len(rows[0]) - 1)}", *others]
