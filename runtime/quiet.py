"""Silence for libraries that write to the terminal past Python: notes to their own developers."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _StandardError:
    """The process' own: of the blocks of all threads the first puts it aside, and the last puts it back."""

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
    """What C++ writes to standard error within the block is dropped. Python's exceptions are not touched."""
    _standard_error.drop()
    try:
        yield
    finally:
        _standard_error.restore()


def quiet_at_exit() -> None:
    """What C++ writes to standard error when this process, which is ours alone, has ended is dropped."""
    atexit.register(_standard_error.drop)
