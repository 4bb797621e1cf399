"""Terminal input and output of the command line: a progress line, errors, and a chat."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


def accept_any_text() -> None:
    """Let standard output and input have characters and bytes that the terminal's encoding has not.

    An answer of a model may have any character: those that the console cannot show become "?". Bytes that are no text
    become lone surrogates, which the tokenizer refuses by name.
    """
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "replace"), (sys.stdin, "surrogateescape")):
        if hasattr(stream, "reconfigure"):  # not if a test or a notebook replaced the stream
            stream.reconfigure(errors=errors)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show `what` and the elapsed time on standard error until the block ends, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # A duplicate descriptor, because descriptor 2 is redirected to the null device to silence libraries.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as own:
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        with Progress(*columns, console=Console(file=own), transient=True, redirect_stdout=False) as progress:
            progress.add_task(what, total=None)
            yield


def complain(error: BaseException | str, code: int) -> int:
    """Print an error as one line on standard error, and return the exit code `code`."""
    print(f"attention-zoo: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def talk(conversation: Any, questions: Sequence[str], *, silent: bool = False) -> None:
    """Ask `questions`, or the lines of standard input if there are none, and print the answers as they are generated.

    Args:
        conversation: a ``generation.chat.Conversation``.
        questions: the questions. With none, /new starts a new conversation and /exit or /quit ends the chat.
        silent: do not print the answers.

    Raises:
        ValueError: a question is rejected, for example because it is too long. In an interactive chat the error is
            printed instead.
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
        except KeyboardInterrupt:  # Ctrl+C ends a long answer, not an interactive chat
            if not typing:
                raise
        except ValueError as error:  # for example, the question is too long
            if not typing:
                raise
            complain(error, 2)
        if not silent:
            print()
        if conversation.forgotten:
            print(f"({conversation.forgotten} earlier messages no longer fit)", file=sys.stderr)


def _typed(typing: bool) -> Iterator[str]:
    """Yield the non-empty lines of standard input, until its end, /exit or /quit.

    With `typing`, which is for a terminal, show a prompt and keep a history.
    """
    if typing:
        with suppress(ImportError):  # it does not exist on every system
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
