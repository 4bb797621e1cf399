"""Write ``zoo/typed.py``, the types of ``create`` and ``load``, from the families' configs and presets.

    python tools/make_typed.py

Run it after adding a family, a preset or a config field, or changing one. A test compares the file with the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from attention_zoo.zoo.presets import FAMILIES, PRESETS
from attention_zoo.zoo.registry import family

FILE = Path(__file__).resolve().parents[1] / "zoo" / "typed.py"
LINE = 120  # characters
HEADER = '''"""Names and config fields of the families, for type checkers and editors.

Written by ``tools/make_typed.py`` from ``zoo/presets.py`` and the config classes; do not edit. Nothing imports this
module at run time.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict'''


def source() -> str:
    """Return the module's text, formatted as ruff formats it."""
    types: dict[str, list[str]] = {}  # of each field of any family
    parts = [HEADER, ""]
    for name, cls in FAMILIES.items():
        own = {entry.name: str(entry.type) for entry in fields(family(name).config_class)}
        for field, annotation in own.items():
            types.setdefault(field, []).append(annotation)
        names = [name, *(preset for preset, entry in PRESETS.items() if entry.family == name)]
        parts += [*_literal(f"{cls}Name", names), "", ""]
        parts += [*_typed_dict(f"{cls}Fields", f"Config fields of ``{cls}``.", own), "", ""]
    types.setdefault("preprocessing", []).append("bool")  # ``load`` takes True for what the files specify
    parts += _typed_dict("AnyFields", "Config fields of all families.", _unions(types))
    return "\n".join([*parts, ""])


def _literal(name: str, values: list[str]) -> Iterator[str]:
    quoted = [f'"{value}"' for value in values]
    line = f"{name} = Literal[{', '.join(quoted)}]"
    yield from [line] if len(line) <= LINE else [f"{name} = Literal[", *(f"    {value}," for value in quoted), "]"]


def _typed_dict(name: str, title: str, types: Mapping[str, str]) -> Iterator[str]:
    yield f"class {name}(TypedDict, total=False):"
    yield f'    """{title}"""'
    yield ""
    yield from (f"    {field}: {annotation}" for field, annotation in types.items())


def _unions(types: Mapping[str, list[str]]) -> dict[str, str]:
    """Return one annotation for each field, which allows what any of its annotations allows."""
    found = {}
    for field, several in types.items():
        members = dict.fromkeys(member for annotation in several for member in annotation.split(" | "))
        found[field] = " | ".join(sorted(members, key=lambda member: member == "None"))
    return found


if __name__ == "__main__":
    FILE.write_text(source(), "utf-8")
