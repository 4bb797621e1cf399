"""Suppression of messages that native libraries write directly to standard error, bypassing Python."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _StandardError:
    """The standard error of the process, shared by all threads: the first block redirects it, the last restores it."""

    def __init__(self) -> None:
        self.lock, self.blocks, self.saved = threading.Lock(), 0, -1

    def drop(self) -> None:
        with self.lock:
            if self.blocks == 0:
                sys.stderr.flush()
                self.saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)
            self.blocks += 1

    def restore(self) -> None:
        with self.lock:
            self.blocks -= 1
            if self.blocks == 0:
                os.dup2(self.saved, 2)
                os.close(self.saved)


_standard_error = _StandardError()


@contextmanager
def quiet() -> Iterator[None]:
    """Discard what is written to standard error within the block, such as by C++ code. Exceptions are unaffected."""
    _standard_error.drop()
    try:
        yield
    finally:
        _standard_error.restore()


def quiet_at_exit() -> None:
    """Discard what native libraries write to standard error when the process exits and they are unloaded.

    Use it only in a process of this package, such as its command line.
    """
    atexit.register(_standard_error.drop)
