"""Names to models: ``list_models``, ``create``, and the register of families. Keras is imported on first need."""

from __future__ import annotations

import fnmatch
import importlib
from typing import TYPE_CHECKING, Any

from ..checks import meant
from ..needs import named_extras
from .presets import FAMILIES, PRESETS, Preset

if TYPE_CHECKING:
    from .base import ZooModel

_classes: dict[str, type[ZooModel]] = {}


def register(cls: type[ZooModel]) -> type[ZooModel]:
    """Make a family known to ``create``, ``load``, the command line and ``keras.models.load_model``: one of ours, or
    one that a program brings with it.

    Raises:
        ValueError: another class has this family's name.
    """
    import keras

    registered = _classes.get(cls.family)
    known = FAMILIES.get(cls.family, cls.__qualname__) if registered is None else registered.__qualname__
    if known != cls.__qualname__:
        raise ValueError(f"family: got {cls.family!r} for {cls.__qualname__}, which {known} has; accepted: another")
    _classes[cls.family] = cls
    return keras.saving.register_keras_serializable(package="attention_zoo")(cls)


def families() -> dict[str, type[ZooModel]]:
    """Every family's class by name, imported."""
    return {name: family(name) for name in family_names()}


def own_dialects(attribute: str) -> dict[str, tuple[str, Any]]:
    """Family and dialect by kind, of the families that say `attribute` themselves: one that is made from another's
    class inherits its tables to save by, and must not take its files over."""
    found = {name: vars(cls).get(attribute, {}) for name, cls in families().items()}
    return {kind: (name, dialect) for name, dialects in found.items() for kind, dialect in dialects.items()}


def family_names() -> list[str]:
    """Names of our families, and of those registered by others."""
    return list(dict.fromkeys((*FAMILIES, *_classes)))


def family(name: str) -> type[ZooModel]:
    """The class of one family.

    Raises:
        ValueError: a name that is none.
    """
    if name not in family_names():
        raise ValueError(f"family: got {name!r}; {meant([name], family_names())}accepted: {sorted(family_names())}")
    if name in FAMILIES:
        with named_extras():
            importlib.import_module("keras")  # before, so that Keras is told of all families; see ``_keras_hook.py``
            importlib.import_module(f".{name}", __package__)
    return _classes[name]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the presets that match a shell pattern, such as ``"vit*"``."""
    return [name for name in PRESETS if fnmatch.fnmatch(name, pattern)]


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: an unknown name, with the nearest known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"name: got {name!r}; {meant([name], PRESETS)}accepted: {list(PRESETS)}")
    return PRESETS[name]


def create(name: str, *, dtype: Any = None, **overrides: Any) -> ZooModel:
    """A preset's model with random weights.

    Args:
        name: one of ``list_models()``, or a family ("gpt", "bert", "vit") to start from its default config.
        dtype: a Keras dtype policy, such as "mixed_bfloat16".
        overrides: config fields to change, such as ``num_layers=4`` or ``head="masked_lm"``.

    Raises:
        ValueError: an unknown name, an unknown field, or a value the config does not accept.
    """
    if name in family_names():
        chosen, config = name, {}
    else:
        chosen, config = preset(name).family, preset(name).config
    cls = family(chosen)
    return cls(cls.config_class.from_dict({**config, **overrides}), dtype=dtype)
