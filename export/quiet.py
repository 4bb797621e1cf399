"""Silence for libraries that write to the terminal past Python: notes to their own developers."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_within = (
    0  # blocks of all threads; standard error is the process', so the first puts it aside and the last puts it back
)
_saved = -1


@contextmanager
def quiet() -> Iterator[None]:
    """What C++ writes to standard error within the block is dropped. Python's exceptions are not touched."""
    global _within, _saved
    with _lock:
        if _within == 0:
            sys.stderr.flush()
            _saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                os.dup2(_saved, 2)
                os.close(_saved)
