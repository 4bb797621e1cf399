"""Ids of special tokens in configs of others: some stand outside of the vocabulary and mean that there is none."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .. import checks
from .config import Config


def without_outside_ids(cls: type[Config], values: Mapping[str, Any], where: object, stacklevel: int) -> dict[str, Any]:
    """`values` of a config without ids that are below 0 or not below ``vocab_size``; a field that had nothing else is
    None then. One warning names them all.

    GPT-2's config says 50256 by default, whatever the size of the vocabulary, and Llama 1's -1 for no padding. Fields
    that a model cannot do without, and values that are no ids at all, are left for the config to refuse.
    """
    kept, strange = dict(values), {}
    rows: Any = values.get("vocab_size")
    optional = [entry.name for entry in fields(cls) if entry.metadata.get("token")]
    for name in optional if checks.is_integer(rows) and rows > 0 and not values.get("position_offset") else ():
        given = values.get(name)
        several = isinstance(given, list | tuple)
        ids: list[Any] = list(given) if several else [given]
        if name not in cls.optional_fields() or not ids or not all(map(checks.is_integer, ids)):
            continue
        inside = [number for number in ids if 0 <= number < rows]
        if len(inside) < len(ids):
            strange[name] = given
            kept[name] = inside if several and inside else None
    if strange:
        named = ", ".join(f"{name}={value}" for name, value in strange.items())
        warnings.warn(
            f"{where}: {named}: outside of a vocabulary of {rows} and taken for none", stacklevel=stacklevel + 1
        )
    return kept
