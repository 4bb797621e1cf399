"""Every config field of every family rejects values of another type, and the error names the field."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from attention_zoo.zoo.registry import families

WRONG: tuple[Any, ...] = ("no", [1.5], object(), {"a": 1}, float("nan"))
CASES = [(name, entry.name) for name, cls in families().items() for entry in fields(cls.config_class)]


@pytest.mark.parametrize(("family", "field"), CASES)
def test_values_of_another_type(family: str, field: str) -> None:
    for value in WRONG:
        if field == "preprocessing" and isinstance(value, dict):
            continue  # a preprocessor_config.json may contain other entries
        with pytest.raises(ValueError, match=rf"{field}.*(got|accepted)"):
            families()[family].config_class.from_dict({field: value})
