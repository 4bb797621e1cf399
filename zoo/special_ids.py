"""Special token ids in third-party configs: an id outside the vocabulary means that there is no such token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .. import checks
from .config import Config


def without_outside_ids(cls: type[Config], values: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Return the config fields `values` without special token ids that are negative or not below ``vocab_size``.

    A field without any remaining id becomes None. One warning lists all fields that were changed. Such ids occur in
    published configs: GPT-2's default is 50256 for every vocabulary size, and Llama 1 has -1 for no padding token.
    Required fields and values that are not integers are left unchanged, for the config to check.

    Args:
        cls: the config class, which defines the fields with token ids.
        values: fields of a config.
        where: the file or object that the config comes from, for the warning.
    """
    kept, strange = dict(values), {}
    rows: Any = values.get("decoder_vocab_size") or values.get("vocab_size")
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
        checks.warn(f"{where}: {named}: outside the vocabulary of {rows} tokens, and therefore ignored")
    return kept
