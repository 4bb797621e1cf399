"""How the command line talks while it works and when it cannot: a line of progress, and errors in one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


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


def talk(conversation: Any, questions: Sequence[str], *, silent: bool = False) -> None:
    """Ask `questions`, or where there are none what comes from standard input; print the answers as they come.

    Args:
        conversation: a ``generation.chat.Conversation``.
        silent: print nothing.
    """
    typed, typing = not questions, sys.stdin.isatty()
    for question in _typed(typing) if typed else questions:
        if typed and question == "/new":
            conversation.clear()
            continue
        if not typed and not silent and len(questions) > 1:
            print(f"> {question}")
        try:
            for piece in conversation.ask(question):
                if not silent:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:  # of a long answer
            if not typing:
                raise
        except ValueError as error:  # such as a question that is too long
            if not typing:
                raise
            complain(error, 2)
        if not silent:
            print()
        if conversation.forgotten:
            print(f"({conversation.forgotten} earlier messages no longer fit)", file=sys.stderr)


def _typed(typing: bool) -> Iterator[str]:
    """Lines of standard input, until its end or /exit; where somebody types, with a prompt and its history."""
    if typing:
        with suppress(ImportError):  # not on every system
            importlib.import_module("readline")
    while True:
        try:
            line = input("> " if typing else "").strip()
        except EOFError:
            return
        if line in ("/exit", "/quit"):
            return
        if line:
            yield line
