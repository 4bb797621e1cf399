"""What an argument may be: one check for each kind, with one wording of the error. Python's standard library only.

Every function gives the value back, a number as Python's own, or raises ``ValueError("name: got …; accepted: …")``.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Collection, Iterable
from typing import Any, TypeGuard

INT32 = 2**31  # what ids, positions and sizes must stay below in every runtime


def is_integer(value: Any) -> TypeGuard[int]:
    """An integer of Python's or of another library's, such as NumPy's scalars. ``True`` and ``False`` are integers to
    Python, and mistakes here."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """A real number, as ``is_integer`` means it."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A number as Python's own ``int`` or ``float``, which JSON and every library takes; anything else as it is."""
    if is_integer(value):
        return int(value)
    return float(value) if is_number(value) else value


def meant(names: Iterable[Any], known: Iterable[Any]) -> str:
    """``"did you mean ['…']? "`` for names that are nearly known ones, or nothing."""
    texts = [entry for entry in known if isinstance(entry, str)]
    near = [found for name in names if isinstance(name, str) for found in difflib.get_close_matches(name, texts)]
    return f"did you mean {list(dict.fromkeys(near))}? " if near else ""


def _refused(name: str, value: Any, accepted: str) -> ValueError:
    return ValueError(f"{name}: got {value!r}; accepted: {accepted}")


def integer(name: str, value: Any, *, least: int = 0, below: int | None = None) -> int:
    """An integer of at least `least`."""
    if not is_integer(value) or value < least or (below is not None and value >= below):
        limit = "" if below is None else f" and below {below}"
        raise _refused(name, value, f"an integer of at least {least}{limit}")
    return int(value)


def positive_integer(name: str, value: Any, *, below: int | None = None) -> int:
    """An integer of at least 1."""
    if not is_integer(value) or value < 1 or (below is not None and value >= below):
        limit = "" if below is None else f" below {below}"
        raise _refused(name, value, f"a positive integer{limit}")
    return int(value)


def multiple(name: str, value: Any, divisor: int) -> int:
    """A positive multiple of `divisor`."""
    if not is_integer(value) or value < divisor or value % divisor:
        raise _refused(name, value, f"a positive multiple of {divisor}")
    return int(value)


def positive_number(name: str, value: Any) -> float:
    """A finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise _refused(name, value, "a positive number")
    return plain(value)


def rate(name: str, value: Any) -> float:
    """A number from 0 up to, not including, 1."""
    if not is_number(value) or not 0 <= value < 1:
        raise _refused(name, value, "a number from 0 up to, not including, 1")
    return plain(value)


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise _refused(name, value, "a number from 0 to 1")
    return plain(value)


def choice(name: str, value: Any, accepted: Collection[Any]) -> Any:
    """One of `accepted`."""
    if not any(type(value) is type(known) and value == known for known in accepted):
        raise ValueError(f"{name}: got {value!r}; {meant([value], accepted)}accepted: {list(accepted)}")
    return value
