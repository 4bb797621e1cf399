"""How the command line talks while it works and when it cannot: a line of progress, and errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def working(what: str) -> Iterator[None]:
    """`what` with a clock on standard error while the block runs, gone afterwards. Only a terminal sees it."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # A descriptor of its own, as libraries are silenced by closing the usual one.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as own:
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        with Progress(*columns, console=Console(file=own), transient=True, redirect_stdout=False) as progress:
            progress.add_task(what, total=None)
            yield


def complain(error: BaseException | str, code: int) -> int:
    """Print an error as one line; gives `code`."""
    print(f"attention-zoo: {' '.join(str(error).split())}", file=sys.stderr)
    return code
