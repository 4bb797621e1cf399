"""The registry of model families, and ``list_models`` and ``create``. Keras is imported only when it is needed."""

from __future__ import annotations

import fnmatch
import importlib
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from ..checks import meant
from ..needs import named_extras
from .presets import FAMILIES, PRESETS, Preset

if TYPE_CHECKING:
    from . import typed
    from .base import ZooModel
    from .bert import BERT
    from .gpt import GPT
    from .seq2seq import Seq2Seq
    from .transformer import Transformer
    from .vit import ViT

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
    """
    found = {name: vars(cls).get(attribute, {}) for name, cls in families().items()}
    return {kind: (name, dialect) for name, dialects in found.items() for kind, dialect in dialects.items()}


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


# For type checkers: ``create`` of a family or preset takes that family's fields and returns its class.
@overload
def create(name: typed.GPTName, *, dtype: Any = None, **overrides: Unpack[typed.GPTFields]) -> GPT: ...
@overload
def create(name: typed.BERTName, *, dtype: Any = None, **overrides: Unpack[typed.BERTFields]) -> BERT: ...
@overload
def create(name: typed.ViTName, *, dtype: Any = None, **overrides: Unpack[typed.ViTFields]) -> ViT: ...
@overload
def create(
    name: typed.TransformerName, *, dtype: Any = None, **overrides: Unpack[typed.TransformerFields]
) -> Transformer: ...
@overload
def create(name: typed.Seq2SeqName, *, dtype: Any = None, **overrides: Unpack[typed.Seq2SeqFields]) -> Seq2Seq: ...
@overload
def create(name: str, *, dtype: Any = None, **overrides: Unpack[typed.AnyFields]) -> ZooModel: ...
# Only ``**mapping`` gives `_mapping`, which is required. Its fields are not checked, so that any mapping is accepted.
@overload
def create(name: str, *, dtype: Any = None, _mapping: Any, **overrides: Any) -> ZooModel: ...
def create(name: str, *, dtype: Any = None, **overrides: Any) -> ZooModel:
    """Create a model with randomly initialized weights from a preset or a family's default config.

    Args:
        name: the name of a preset (see ``list_models()``), or of a family, such as "gpt", "bert", "vit", "transformer"
            or "seq2seq", for the default config of that family.
        dtype: a Keras dtype policy, such as "mixed_bfloat16". Default: Keras' global dtype policy.
        overrides: config fields that replace those of the preset, such as ``num_layers=4`` or ``head="masked_lm"``.
            Type checkers know the fields of this package's families; pass those of others as ``**mapping``.

    Returns:
        A built model of the family's class, such as ``GPT``.

    Raises:
        ValueError: `name` is unknown, the config has no such field, or it does not accept a value.
    """
    if name in family_names():
        chosen, config = name, {}
    else:
        chosen, config = preset(name).family, preset(name).config
    cls = family(chosen)
    return cls(cls.config_class.from_dict({**config, **overrides}), dtype=dtype)
