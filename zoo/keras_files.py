"""Load models from ``.keras`` files, the files that ``model.save`` writes."""

from __future__ import annotations

import contextlib
import importlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from ..files import LARGEST_JSON
from .base import ZooModel
from .companions import DICTS
from .registry import families

SUFFIX = ".keras"


def load_any_keras(path: Path) -> Any:
    """Load any model of Keras, KerasHub or attention_zoo classes from a ``.keras`` file.

    The model is not compiled. It is loaded in Keras' safe mode, which runs no code from the file.

    Raises:
        ValueError: the file does not exist, is not a ``.keras`` file, or contains classes that Keras does not know.
    """
    accepted = "accepted: a .keras file of Keras', KerasHub's and attention_zoo's layers"
    if "keras_hub" in json.dumps(_config(path, accepted)):
        with contextlib.suppress(ImportError):  # without KerasHub, Keras reports the unknown class
            importlib.import_module("keras_hub")  # registers its classes with Keras
    return _loaded(path, accepted)


def _config(path: Path, accepted: str) -> Any:
    """Return the parsed config.json of a ``.keras`` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("config.json")
            if entry.file_size > LARGEST_JSON:
                raise ValueError(f"config.json of {entry.file_size} bytes")
            return json.loads(archive.read(entry))
    except (OSError, KeyError, ValueError, RecursionError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"path: {path} cannot be read: {error}; {accepted}") from error


def _loaded(path: Path, accepted: str) -> Any:
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types of error for an invalid file
        if unknown := sorted(set(_unknown_classes(_config(path, accepted)))):
            raise ValueError(
                f"path: {path} holds objects of the classes {unknown}, which are not known; {accepted}, or of classes "
                "whose modules were imported before (--import MODULE on the command line)"
            ) from error
        raise ValueError(f"path: {path} cannot be read: {' '.join(str(error).split())[:300]}; {accepted}") from error


def _unknown_classes(config: Any) -> Iterator[str]:
    """Yield the names of the classes in a config that neither belong to Keras nor are registered with it."""
    if isinstance(config, dict):
        name, module = config.get("registered_name") or config.get("class_name"), config.get("module")
        if isinstance(name, str) and "config" in config and "module" in config:
            home = str(module or "")
            known = (
                home.split(".", maxsplit=1)[0] in ("keras", "builtins")
                or keras.saving.get_registered_object(name) is not None
            )
            if not known:
                yield f"{home}.{name}" if home and ">" not in name else name
    for inner in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _unknown_classes(inner)


def load_keras(path: Path, dtype: Any, overrides: dict[str, Any]) -> tuple[ZooModel, list[str]]:
    """Load a model of this package from a ``.keras`` file.

    The model is not compiled. It is loaded in Keras' safe mode, and only if its config names a registered family.

    Args:
        path: the ``.keras`` file.
        dtype: a dtype policy that replaces the saved one; None to keep it.
        overrides: config fields that replace the saved ones.

    Returns:
        The model, and the names of the weights of a new head, which keep their initial values.

    Raises:
        ValueError: the file does not exist, is not a ``.keras`` file, holds another model, or cannot be read by Keras.
    """
    accepted = "accepted: a .keras file of one of attention_zoo's models"
    raw = _config(path, accepted)
    registered = raw.get("registered_name") if isinstance(raw, dict) else None
    known = {f"attention_zoo>{cls.__name__}" for cls in families().values()}
    if registered not in known:
        raise ValueError(f"path: {path} has a {registered!r:.80}; accepted: one of {sorted(known)}")
    model = _loaded(path, accepted)
    if dtype is None and not overrides:
        return model, []
    values = {**model.config.to_dict(), **overrides}
    twin = type(model)(model.config_class.from_dict(values), dtype=model.dtype_policy if dtype is None else dtype)
    fresh = twin.transfer_weights(model)
    if wrong := [name for name in fresh if not twin.of_head(name)]:
        raise ValueError(f"path: {path} does not fit its config: missing {wrong[:8]}; accepted: sizes as saved")
    same_head = values.get("head") == model.config.to_dict().get("head")
    twin.unused = model.unused if same_head else {}
    for name in ("tokenizer", *DICTS):
        setattr(twin, name, getattr(model, name))
    return twin, fresh
