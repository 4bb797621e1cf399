"""Configs as data: what a field may be, and when it means something, stands on the field.

    @dataclass(frozen=True)
    class MyConfig(Config):
        vocab_size: int = size(1000)
        num_heads: int = size(4)
        hidden_dim: int = size(64)
        head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
        head: str | None = choice("causal_lm", ("causal_lm", None))
        dropout: float = rate(0.0)

A field without one of these words is checked by its annotation: a boolean, a string, a finite number of at least 0.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Self

from .. import checks

Heads = Collection[str | None]


def _field(
    default: Any,
    check: Callable[[Any, str, Any], Any] | None,
    *,
    derived: Callable[[Any], Any] | None = None,
    heads: Heads | None = None,
    used: Callable[[Any], bool] | None = None,
    **metadata: Any,
) -> Any:
    """A dataclass field.

    Args:
        check: of (config, name, value): the value to keep; raises ValueError. None for what the annotation says.
        derived: the value where none is given, of a config whose other fields are checked.
        heads: under other heads than these the field changes no result.
        used: as `heads`, of the whole config.
    """
    if heads is not None:
        used = functools.partial(_has_head, heads)
    return field(default=default, metadata={"check": check, "derived": derived, "used": used, **metadata})


def _has_head(heads: Heads, config: Any) -> bool:
    return config.head in heads


def size(default: int | None, *, least: int = 1, **options: Any) -> Any:
    """A number of things: an integer of at least `least`, below 2^31."""

    def check(_: Any, name: str, value: Any) -> int:
        if least == 1:
            return checks.positive_integer(name, value, below=checks.INT32)
        return checks.integer(name, value, least=least, below=checks.INT32)

    return _field(default, check, size=True, **options)


def flag(default: bool, **options: Any) -> Any:
    """True or False."""
    return _field(default, None, **options)


def number(default: float | None, **options: Any) -> Any:
    """A finite number of at least 0."""
    return _field(default, None, **options)


def rate(default: float) -> Any:
    """A share of what is dropped in training: from 0 up to, not including, 1."""
    return _field(default, lambda _, name, value: checks.rate(name, value), training=True)


def choice(default: Any, accepted: Collection[Any], **options: Any) -> Any:
    """One of `accepted`."""
    return _field(default, lambda _, name, value: checks.choice(name, value, accepted), **options)


def token(default: int | None, *, several: bool = False, **options: Any) -> Any:
    """An id below ``vocab_size``, or with `several` a tuple of them."""

    def check(config: Any, name: str, value: Any) -> Any:
        below = config.vocab_size
        many = several and isinstance(value, list | tuple) and len(value) > 0
        ids: tuple[Any, ...] = tuple(map(checks.plain, value if many else (value,)))
        if not all(checks.is_integer(number) and 0 <= number < below for number in ids):
            accepted = f"a token from 0 to {below - 1}" + (", several of them" if several else "")
            optional = ", or None" if name in config.optional_fields() else ""
            raise ValueError(f"{name}: got {value!r}; accepted: {accepted}{optional}")
        return ids if many else ids[0]

    return _field(default, check, last=True, token=True, **options)


@dataclass(frozen=True)
class Config:
    """A family's sizes and choices. One vocabulary for all: see the fields of ``GPTConfig``."""

    def __post_init__(self) -> None:
        entries = fields(self)
        for derive in (False, True):  # what others are derived from is checked first
            for entry in entries:
                self._check_field(entry, derive)
        self.check()

    def _check_field(self, entry: Field[Any], second: bool) -> None:
        value, derived = getattr(self, entry.name), entry.metadata.get("derived")
        if second != ((derived is not None and value is None) or entry.metadata.get("last", False)):
            return
        if value is None and derived is not None:
            value = derived(self)
        elif value is None and entry.name in self.optional_fields():
            return
        check = entry.metadata.get("check") or type(self)._check_annotation
        self.set(entry.name, check(self, entry.name, value))

    def _check_annotation(self, name: str, value: Any) -> Any:
        accepted = _refusal(value, _kinds(type(self))[name])
        if accepted is not None:
            raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")
        return checks.plain(value)

    def check(self) -> None:
        """What depends on several fields. Raises ValueError."""

    def set(self, name: str, value: Any) -> None:
        """Put a field's value in its final form (the dataclass is frozen for everybody else)."""
        object.__setattr__(self, name, value)

    def quotient(self, whole: str, part: str) -> int:
        """``whole / part``, which must be an integer. Raises ValueError."""
        if getattr(self, whole) % getattr(self, part):
            raise ValueError(
                f"{part}: got {getattr(self, part)}; accepted: a divisor of {whole}={getattr(self, whole)}"
            )
        return getattr(self, whole) // getattr(self, part)

    @classmethod
    def optional_fields(cls) -> frozenset[str]:
        """Names of the fields that take None."""
        return frozenset(name for name, kinds in _kinds(cls).items() if type(None) in kinds)

    def unused_fields(self) -> frozenset[str]:
        """Names of the fields that change no result of a model with this config, such as another head's."""
        tests = {entry.name: entry.metadata.get("used") for entry in fields(self)}
        return frozenset(name for name, used in tests.items() if used is not None and not used(self))

    def training_fields(self) -> frozenset[str]:
        """Names of the fields that matter before inference only."""
        return frozenset(entry.name for entry in fields(self) if entry.metadata.get("training"))

    def sizes(self) -> dict[str, int]:
        """The fields that are numbers of things, by name, depth first."""
        names = [entry.name for entry in fields(self) if entry.metadata.get("size")]
        names.sort(key=lambda name: not name.endswith("layers"))
        return {name: value for name in names if (value := getattr(self, name))}

    @property
    def depth(self) -> int:
        """Blocks, or recurrent layers, in all."""
        return self.sizes()["num_layers"]

    def least_parameters(self) -> int:
        """Numbers that a model of these sizes has at the least. A file with far fewer is refused before a model of the
        sizes it claims is made."""
        return 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A config of these values and defaults for the rest.

        Raises:
            ValueError: a field this family does not have, or a value it does not accept.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            hint = checks.meant(unknown, known)
            raise ValueError(f"{cls.__name__}: got unknown fields {unknown}; {hint}accepted: {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@functools.cache
def _kinds(cls: type[Config]) -> dict[str, tuple[Any, ...]]:
    """The types that each field's annotation names."""
    hints = typing.get_type_hints(cls)
    return {
        entry.name: typing.get_args(hint) if isinstance(hint := hints[entry.name], types.UnionType) else (hint,)
        for entry in fields(cls)
    }


def _refusal(value: Any, kinds: tuple[Any, ...]) -> str | None:
    """What a field of these types takes in the place of `value`; None where that is good or not for us to say."""
    if not set(kinds) <= {bool, int, float, str, type(None)} or (value is None and type(None) in kinds):
        return None
    if bool in kinds:
        return None if isinstance(value, bool) else "true or false"
    if str in kinds:
        return None if isinstance(value, str) else "a string"
    if not checks.is_number(value):
        return "a number"
    if float in kinds:
        return None if 0 <= value < 2**63 else "a finite number of at least 0"
    return None if checks.is_integer(value) and abs(value) < checks.INT32 else "an integer below 2^31"
