"""Checks of arguments, with uniform error messages. This module uses only Python's standard library.

Every check takes the name and the value of an argument. It returns the value, converted to a Python number if it is a
number, or raises ``ValueError("name: got …; accepted: …")``.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import os
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeGuard

INT32 = 2**31  # limit of ids, positions and sizes, which runtimes store as int32


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether `value` is an integer of Python or another library, such as a NumPy scalar.

    Booleans, which are integers in Python, do not count.
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether `value` is a real number of Python or another library, and not a boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Convert a number to ``int`` or ``float``, for JSON and libraries that need it; return anything else unchanged."""
    if is_integer(value):
        return int(value)
    return float(value) if is_number(value) else value


def meant(names: Iterable[Any], known: Iterable[Any]) -> str:
    """Return ``"did you mean ['…']? "`` if any of `names` is similar to `known` ones, else an empty string."""
    texts = [entry for entry in known if isinstance(entry, str)]
    near = [found for name in names if isinstance(name, str) for found in difflib.get_close_matches(name, texts)]
    return f"did you mean {list(dict.fromkeys(near))}? " if near else ""


def shown(value: Any) -> str:
    """Return the ``repr`` of a value on one line, without the rest of a long one such as an array's."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def brief(error: BaseException | str) -> str:
    """Return a message on one line, without the rest of a long one. Those of native libraries may have many lines."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def path_like(name: str, value: Any) -> Path:
    """Return a path given as a string or a path object."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{name}: got {shown(value)}; accepted: a path, as a string or a pathlib.Path")
    return Path(value)


def warn(message: str) -> None:
    """Issue a ``UserWarning`` for the line of the user's code that called this package, at any depth of calls."""
    inside = (__name__.partition(".")[0], "contextlib", "keras")  # the latter two stand between calls of this package
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in inside:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _refused(name: str, value: Any, accepted: str) -> ValueError:
    return ValueError(f"{name}: got {shown(value)}; accepted: {accepted}")


def integer(name: str, value: Any, *, least: int = 0, below: int | None = None) -> int:
    """Check that `value` is an integer of at least `least`, and below `below` if that is given."""
    if not is_integer(value) or value < least or (below is not None and value >= below):
        limit = "" if below is None else f" and below {below}"
        raise _refused(name, value, f"an integer of at least {least}{limit}")
    return int(value)


def positive_integer(name: str, value: Any, *, below: int | None = None) -> int:
    """Check that `value` is an integer of at least 1, and below `below` if that is given."""
    if not is_integer(value) or value < 1 or (below is not None and value >= below):
        limit = "" if below is None else f" below {below}"
        raise _refused(name, value, f"a positive integer{limit}")
    return int(value)


def multiple(name: str, value: Any, divisor: int) -> int:
    """Check that `value` is a positive multiple of `divisor`."""
    if not is_integer(value) or value < divisor or value % divisor:
        raise _refused(name, value, f"a positive multiple of {divisor}")
    return int(value)


def positive_number(name: str, value: Any) -> float:
    """Check that `value` is a finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise _refused(name, value, "a positive number")
    return plain(value)


def rate(name: str, value: Any) -> float:
    """Check that `value` is a number in [0, 1), such as a dropout rate."""
    if not is_number(value) or not 0 <= value < 1:
        raise _refused(name, value, "a number from 0 up to, not including, 1")
    return plain(value)


def fraction(name: str, value: Any) -> float:
    """Check that `value` is a number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise _refused(name, value, "a number from 0 to 1")
    return plain(value)


def choice(name: str, value: Any, accepted: Collection[Any]) -> Any:
    """Check that `value` is one of `accepted`, of the same type."""
    if not any(type(value) is type(known) and value == known for known in accepted):
        raise ValueError(f"{name}: got {shown(value)}; {meant([value], accepted)}accepted: {list(accepted)}")
    return value
