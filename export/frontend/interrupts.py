"""Ctrl-C within an export.

Python raises ``KeyboardInterrupt`` in whatever code runs when the signal is handled. In a conversion that is often a
``__del__`` method, since TensorFlow collects garbage right after its long call into native code. Python ignores what is
raised there, and so do some callbacks of native code: the export would go on as if nothing had happened.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERVAL = 0.1  # seconds between two attempts


class _Interrupt:
    """Raises ``KeyboardInterrupt`` again until one of them gets through."""

    def __init__(self) -> None:
        self.raised: list[KeyboardInterrupt] = []
        self.over = threading.Event()
        self.again: threading.Thread | None = None

    def handle(self, *_: Any) -> None:
        if self.over.is_set() or self.unwinding():
            return
        self.raised.append(KeyboardInterrupt())
        if self.again is None:
            self.again = threading.Thread(target=self.repeat, daemon=True)
            self.again.start()
        raise self.raised[-1]

    def unwinding(self) -> bool:
        """Return whether code runs because of an interrupt, such as the removal of temporary files."""
        error = sys.exc_info()[1]
        while error is not None:
            if any(error is one for one in self.raised):
                return True
            error = error.__context__
        return False

    def repeat(self) -> None:
        while not self.over.wait(INTERVAL):
            _thread.interrupt_main()

    def end(self) -> None:
        self.over.set()
        if self.again is not None:
            self.again.join()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the block with ``KeyboardInterrupt``, also if third-party code ignores the first one.

    The handler of a program that has its own stays in place, as does that of an enclosing block. Threads other than the
    main one do not get signals.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupt = _Interrupt()
    signal.signal(signal.SIGINT, interrupt.handle)
    try:
        yield
    except Exception as error:  # that third-party code has made of the interrupt
        if interrupt.raised:
            raise KeyboardInterrupt from error
        raise
    finally:
        interrupt.end()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupt.raised:
        raise KeyboardInterrupt
