"""Random changes of files and JSON texts, which only depend on a seed."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

BORDERS = (0, 1, 2, -1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, -(2**31), 2**30, 1000, 10**6)
DEEP = "a deep list"
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -1e308, float("nan"), "", "a", "\x00", "é" * 9, "a" * 5000),
    *([], {}, [[]], [None], {"a": None}, [0] * 99, "{{", "../../x", "/etc/passwd", "bool", "float32", DEEP),
)


def changed_bytes(content: bytes, chance: random.Random, places: range | list[int] | None = None) -> bytes:
    """Return `content` with one to four changes: bits, bytes, integers, copied pieces, or another length.

    Args:
        places: the positions that nine of ten changes hit; default: all.
    """
    found = bytearray(content)
    places = places or range(len(found))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if not found:
            break
        place = min(chance.choice(places) if chance.random() < 0.9 else chance.randrange(len(found)), len(found) - 1)
        kind = chance.random()
        if kind < 0.3:
            found[place] ^= 1 << chance.randrange(8)
        elif kind < 0.5:
            found[place] = chance.randrange(256)
        elif kind < 0.9:
            place = place // 4 * 4
            if place + 4 <= len(found):
                old = struct.unpack_from("<i", found, place)[0]
                new = chance.choice((*BORDERS, old + 1, old - 1, old * 2, -old))
                struct.pack_into("<I", found, place, new % 2**32)
        elif kind < 0.96:
            other, size = chance.randrange(len(found)), chance.randrange(1, 64)
            found[place : place + size] = found[other : other + size]
        elif kind < 0.98:
            del found[place:]
        else:
            del found[place : place + chance.randrange(1, 9)]
    return bytes(found)


def changed_json(text: str, chance: random.Random) -> str:
    """Return a JSON text with one to three values replaced, removed, repeated or nested, or with changed characters."""
    if chance.random() < 0.1:
        return changed_bytes(text.encode(), chance).decode(errors="replace")
    value = json.loads(text)
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = changed_value(value, chance)
    return dumped(value)


def dumped(value: Any) -> str:
    """Return JSON, in which ``DEEP`` is a list in a list, 5000 times, too deep for ``json.dumps``."""
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 5000 + "]" * 5000)


def changed_value(value: Any, chance: random.Random) -> Any:
    """Return `value` with a change at a random depth."""
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        # The first and the last entries of long objects, such as vocabularies, are enough.
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys if len(keys) < 20 else keys[:10] + keys[-10:])
        kind, copy = chance.random(), value.copy()
        if kind < 0.1:
            del copy[key]
        elif kind < 0.15 and isinstance(copy, dict):
            copy[str(chance.choice(VALUES))[:50]] = chance.choice(VALUES)
        else:
            copy[key] = changed_value(value[key], chance)
        return copy
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.5:
        return chance.choice((*BORDERS, value + 1, value - 1, value * 1000))
    return chance.choice(VALUES)
