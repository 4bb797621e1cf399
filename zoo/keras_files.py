"""``.keras`` files, as ``model.save`` writes them: which model is in one, and that model."""

from __future__ import annotations

import contextlib
import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from ..files import LARGEST_JSON
from .base import ZooModel
from .companions import DICTS
from .registry import families

SUFFIX = ".keras"


def load_any_keras(path: Path) -> Any:
    """The model in a ``.keras`` file, not compiled, whoever made it of Keras', KerasHub's or our classes. Keras' safe
    mode: no code is taken from the file.

    Raises:
        ValueError: no such file, another kind of file, or one with classes of others.
    """
    accepted = "accepted: a .keras file of Keras', KerasHub's and attention_zoo's layers"
    if "keras_hub" in json.dumps(_config(path, accepted)):
        with contextlib.suppress(ImportError):  # then Keras says which class it does not know
            importlib.import_module("keras_hub")  # registers its classes
    return _loaded(path, accepted)


def _config(path: Path, accepted: str) -> Any:
    """What the file says that it holds."""
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
    except Exception as error:  # Keras raises what it stumbles over first
        raise ValueError(f"path: {path} cannot be read: {' '.join(str(error).split())[:300]}; {accepted}") from error


def load_keras(path: Path, dtype: Any, overrides: dict[str, Any]) -> tuple[ZooModel, list[str]]:
    """The model in a ``.keras`` file, not compiled, and the names of its weights that are as initialised.

    Keras' safe mode; and nothing is made of a file whose config does not name one of our families.

    Raises:
        ValueError: no such file, another kind of file, another model, or one that Keras cannot read.
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
