"""The base class of configs, and functions that declare a field together with its accepted values.

    @dataclass(frozen=True)
    class MyConfig(Config):
        vocab_size: int = size(1000)
        num_heads: int = size(4)
        hidden_dim: int = size(64)
        head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
        head: str | None = choice("causal_lm", ("causal_lm", None))
        dropout: float = rate(0.0)

A field that is not declared with one of these functions is checked against its annotation: a boolean, a string, or a
finite number of at least 0.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, asdict, dataclass, fields
from dataclasses import field as dataclass_field
from typing import Any, Self

from .. import checks

Heads = Collection[str | None]


def field(
    default: Any,
    check: Callable[[Any, str, Any], Any] | None,
    *,
    derived: Callable[[Any], Any] | None = None,
    heads: Heads | None = None,
    used: Callable[[Any], bool] | None = None,
    **metadata: Any,
) -> Any:
    """Declare a dataclass field.

    Args:
        check: a function of (config, name, value) that returns the value to store or raises ValueError. None: the value
            is checked against the annotation.
        derived: a function of the config, whose other fields are already checked; it computes the value if none is
            given.
        heads: the heads under which the field affects the model's outputs. Default: all.
        used: a function of the config that returns whether the field affects the model's outputs.
        metadata: further entries of the field's metadata.
    """
    if heads is not None:
        used = functools.partial(_has_head, heads)
    return dataclass_field(default=default, metadata={"check": check, "derived": derived, "used": used, **metadata})


def _has_head(heads: Heads, config: Any) -> bool:
    return config.head in heads


def size(default: int | None, *, least: int = 1, **options: Any) -> Any:
    """Declare a size or count: an integer from `least` to 2^31 - 1."""

    def check(_: Any, name: str, value: Any) -> int:
        if least == 1:
            return checks.positive_integer(name, value, below=checks.INT32)
        return checks.integer(name, value, least=least, below=checks.INT32)

    return field(default, check, size=True, **options)


def flag(default: bool | None, **options: Any) -> Any:
    """Declare a boolean."""
    return field(default, None, **options)


def number(default: float | None, **options: Any) -> Any:
    """Declare a finite number of at least 0."""
    return field(default, None, **options)


def rate(default: float) -> Any:
    """Declare a dropout rate: a number in [0, 1), used in training only."""
    return field(default, lambda _, name, value: checks.rate(name, value), training=True)


def choice(default: Any, accepted: Collection[Any], **options: Any) -> Any:
    """Declare a field that takes one of the values in `accepted`."""
    return field(default, lambda _, name, value: checks.choice(name, value, accepted), **options)


def token(default: int | None, *, several: bool = False, of: str = "vocab_size", **options: Any) -> Any:
    """Declare a token id below the vocabulary size in field `of`, or with `several` an id or a tuple of ids."""

    def check(config: Any, name: str, value: Any) -> Any:
        below = getattr(config, of)
        many = several and isinstance(value, list | tuple) and len(value) > 0
        ids: tuple[Any, ...] = tuple(map(checks.plain, value if many else (value,)))
        if not all(checks.is_integer(number) and 0 <= number < below for number in ids):
            accepted = f"a token from 0 to {below - 1}" + (", several of them" if several else "")
            optional = ", or None" if name in config.optional_fields() else ""
            raise ValueError(f"{name}: got {value!r}; accepted: {accepted}{optional}")
        return ids if many else ids[0]

    return field(default, check, last=True, token=True, **options)


@dataclass(frozen=True)
class Config:
    """The sizes and options of a model. All families use the same field names; ``GPTConfig`` documents them."""

    def __post_init__(self) -> None:
        entries = fields(self)
        for derive in (False, True):  # derived values need checked fields
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
        """Check conditions that involve several fields. Raises ValueError. Overridden by the families."""

    def set(self, name: str, value: Any) -> None:
        """Set a field during initialization, although the dataclass is frozen."""
        object.__setattr__(self, name, value)

    def quotient(self, whole: str, part: str) -> int:
        """Return field `whole` divided by field `part`. Raises ValueError if there is a remainder."""
        if getattr(self, whole) % getattr(self, part):
            raise ValueError(
                f"{part}: got {getattr(self, part)}; accepted: a divisor of {whole}={getattr(self, whole)}"
            )
        return getattr(self, whole) // getattr(self, part)

    @classmethod
    def optional_fields(cls) -> frozenset[str]:
        """Return the names of the fields that accept None."""
        return frozenset(name for name, kinds in _kinds(cls).items() if type(None) in kinds)

    def unused_fields(self) -> frozenset[str]:
        """Return the names of the fields that do not affect a model with this config, such as those of another head."""
        tests = {entry.name: entry.metadata.get("used") for entry in fields(self)}
        return frozenset(name for name, used in tests.items() if used is not None and not used(self))

    def training_fields(self) -> frozenset[str]:
        """Return the names of the fields that do not affect inference, such as dropout rates."""
        return frozenset(entry.name for entry in fields(self) if entry.metadata.get("training"))

    def sizes(self) -> dict[str, int]:
        """Return the sizes and counts that are not 0 or None by field name, numbers of layers first."""
        names = [entry.name for entry in fields(self) if entry.metadata.get("size")]
        names.sort(key=lambda name: not name.endswith("layers"))
        return {name: value for name in names if (value := getattr(self, name))}

    @property
    def depth(self) -> int:
        """The total number of blocks or recurrent layers."""
        return self.sizes()["num_layers"]

    def least_parameters(self) -> int:
        """Return a lower bound for the number of parameters.

        ``load`` refuses a file with far fewer values before it builds a model of the sizes in its config.
        """
        return 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a config from the fields in `values`; all other fields have their defaults.

        Raises:
            ValueError: the config does not have a field, or does not accept a value.
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
    """Return the types in each field's annotation; a union has several."""
    hints = typing.get_type_hints(cls)
    return {
        entry.name: typing.get_args(hint) if isinstance(hint := hints[entry.name], types.UnionType) else (hint,)
        for entry in fields(cls)
    }


def _refusal(value: Any, kinds: tuple[Any, ...]) -> str | None:
    """Describe what a field of the types `kinds` accepts if `value` is invalid.

    Returns None if `value` is valid, or if the annotation is not a union of bool, int, float, str and None.
    """
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
