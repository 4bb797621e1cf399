"""Ctrl-C that third-party code ignores, as ``__del__`` methods do, still ends an export."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from attention_zoo.export.frontend.interrupts import interruptible


@pytest.fixture(autouse=True)
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use Python's own handler, which a shell may have replaced, and hide what ``__del__`` methods raise."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are handled in the main thread only")
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Released:
    """An object that gets the signal while it is collected."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def ignored() -> None:
    Released()


def work(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.005)


def test_an_ignored_interrupt_comes_again() -> None:
    ignored()  # nothing is raised
    steps = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            ignored()
            work(10)
        finally:
            work(0.5)  # the removal of files is not interrupted by the repetitions
            steps.append("removed")
    assert steps == ["removed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    work(0.3)  # and nothing comes later


def test_an_interrupt_ignored_at_the_very_end() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        ignored()


def test_an_interrupt_that_became_another_error() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("in native code") from error


def test_other_errors_and_handlers_stay() -> None:
    with pytest.raises(RuntimeError, match="own"), interruptible():
        raise RuntimeError("own")
    calls: list[Any] = []
    signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    with interruptible():
        signal.raise_signal(signal.SIGINT)
    assert calls == [1]
    thread = threading.Thread(target=lambda: interruptible().__enter__())
    thread.start()
    thread.join()
