"""The registry of model families and presets. Keras is imported only when it is needed."""

from __future__ import annotations

import fnmatch
import importlib
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import meant
from ..needs import named_extras
from .presets import FAMILIES, PRESETS, Preset

if TYPE_CHECKING:
    from .base import ZooModel

_classes: dict[str, type[ZooModel]] = {}
Family = TypeVar("Family", bound="type[ZooModel]")


def register(cls: Family) -> Family:
    """Register a model class under its ``family`` name.

    ``create``, ``load``, the command line and ``keras.models.load_model`` can then find the class. The families of this
    package are registered with this decorator, and a program can register its own.

    Args:
        cls: a subclass of ``ZooModel`` with a ``family`` attribute.

    Returns:
        `cls`, registered with Keras under the package name "attention_zoo".

    Raises:
        ValueError: a class with another name is already registered for this family.
    """
    import keras

    registered = _classes.get(cls.family)
    known = FAMILIES.get(cls.family, cls.__qualname__) if registered is None else registered.__qualname__
    if known != cls.__qualname__:
        raise ValueError(f"family: got {cls.family!r} for {cls.__qualname__}, which {known} has; accepted: another")
    _classes[cls.family] = cls
    return keras.saving.register_keras_serializable(package="attention_zoo")(cls)


def families() -> dict[str, type[ZooModel]]:
    """Import all families and return their classes by family name."""
    return {name: family(name) for name in family_names()}


def own_dialects(attribute: str) -> dict[str, tuple[str, Any]]:
    """Return the (family name, dialect) pair of every checkpoint kind in the class attribute `attribute`.

    Only classes that define the attribute themselves count. A family that subclasses another one inherits its dialects
    for saving, but checkpoints of these kinds are still loaded as the original family.

    Raises:
        ValueError: two families define the same kind.
    """
    found: dict[str, tuple[str, Any]] = {}
    for name, cls in families().items():
        for kind, dialect in vars(cls).get(attribute, {}).items():
            if kind in found:
                raise ValueError(f"{attribute}: got {kind!r} for {name}, which {found[kind][0]} has; accepted: another")
            found[kind] = name, dialect
    return found


def family_names() -> list[str]:
    """Return the names of the built-in families and of those registered by other programs."""
    return list(dict.fromkeys((*FAMILIES, *_classes)))


def family(name: str) -> type[ZooModel]:
    """Import a family if necessary and return its class.

    Raises:
        ValueError: no family has this name.
    """
    if name not in family_names():
        raise ValueError(f"family: got {name!r}; {meant([name], family_names())}accepted: {sorted(family_names())}")
    if name in FAMILIES:
        with named_extras():
            # Import Keras first: ``_keras_hook.py`` then registers all families with it.
            importlib.import_module("keras")
            importlib.import_module(f".{name}", __package__)
    return _classes[name]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the presets.

    Args:
        pattern: a shell-style wildcard pattern, such as ``"vit*"``. Default: all presets.

    Returns:
        The matching names, in the order of ``PRESETS``; an empty list if none matches. ``create`` accepts each of them.
    """
    return [name for name in PRESETS if fnmatch.fnmatch(name, pattern)]


def preset(name: str) -> Preset:
    """Return the preset with the given name.

    Raises:
        ValueError: no preset has this name. The message suggests similar names.
    """
    if name not in PRESETS:
        raise ValueError(f"name: got {name!r}; {meant([name], PRESETS)}accepted: {list(PRESETS)}")
    return PRESETS[name]
