"""Names to models: ``list_models``, ``create``, and the register of families. Keras is imported on first need."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
from typing import TYPE_CHECKING, Any

from .presets import FAMILIES, PRESETS, Preset

if TYPE_CHECKING:
    from .base import ZooModel

_classes: dict[str, type[ZooModel]] = {}


def register(cls: type[ZooModel]) -> type[ZooModel]:
    """Make a family known to ``create``, ``load``, the command line, the tests and ``keras.models.load_model``."""
    import keras

    _classes[cls.family] = cls
    return keras.saving.register_keras_serializable(package="attention_zoo")(cls)


def families() -> dict[str, type[ZooModel]]:
    """Every family's class by name, imported."""
    return {name: family(name) for name in FAMILIES}


def family(name: str) -> type[ZooModel]:
    """The class of one family.

    Raises:
        ValueError: a name that is none.
    """
    if name not in FAMILIES:
        raise ValueError(f"family: got {name!r}; accepted: {sorted(FAMILIES)}")
    importlib.import_module(f".{FAMILIES[name]}", __package__)
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
        near = difflib.get_close_matches(name, PRESETS, n=3)
        hint = f"did you mean {near}? " if near else ""
        raise ValueError(f"name: got {name!r}; {hint}accepted: {list(PRESETS)}")
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
    if name in FAMILIES:
        chosen, config = name, {}
    else:
        chosen, config = preset(name).family, preset(name).config
    cls = family(chosen)
    return cls(cls.config_class.from_dict({**config, **overrides}), dtype=dtype)
