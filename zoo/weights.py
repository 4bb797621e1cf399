"""Models in folders: ``config.json`` and ``model.safetensors``. Nothing is ever unpickled or executed.

config.json: ``{"format": "attention_zoo", "version": 1, "family": …, "dtype": …, "config": {…}}``. Tensors carry the
names of ``weight_name``, such as ``block_0/attention/query/kernel``, in Keras' layout (in, out).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .base import ZooModel, weight_name
from .registry import family

FORMAT, VERSION = "attention_zoo", 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path`, renamed to it when the block ends well and removed when it does not."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are for their owner only
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def save(model: ZooModel, folder: str | os.PathLike[str]) -> Path:
    """Write `model` to `folder` as config.json and model.safetensors; ``load`` reads it back.

    Raises:
        ValueError: not one of our models, or `folder` is a file.
    """
    from safetensors.numpy import save_file

    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a model of attention_zoo")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: got {folder}, which is a file; accepted: a folder, made if it is not there")
    tensors = {weight_name(v): np.ascontiguousarray(keras.ops.convert_to_numpy(v)) for v in model.weights}
    config = {
        "format": FORMAT,
        "version": VERSION,
        "family": model.family,
        "dtype": model.dtype_policy.name,
        "config": model.config.to_dict(),
    }
    with written(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT})
    with written(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")
    return folder


def load(path: str | os.PathLike[str], *, dtype: Any = None) -> ZooModel:
    """The model in a folder that ``save`` wrote.

    Args:
        path: the folder.
        dtype: a Keras dtype policy in the place of the saved one.

    Raises:
        ValueError: no such folder, another format, or weights that do not fit the config: missing, surplus, or of
            another shape.
    """
    folder = Path(path)
    raw = _read_config(folder)
    try:
        cls = family(raw["family"])
        config = cls.config_class.from_dict(raw["config"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"path: {folder / CONFIG_FILE} lacks or mistypes a field: {error}") from error
    if dtype is None:
        try:
            dtype = keras.dtype_policies.get(raw.get("dtype"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"path: {folder / CONFIG_FILE}: {error}") from error
    model = cls(config, dtype=dtype)
    _read_weights(model, folder / WEIGHTS_FILE)
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    accepted = f"accepted: a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as attention_zoo.save writes it"
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"path: got {folder}, without {CONFIG_FILE}; {accepted}")
    try:
        raw = json.loads((folder / CONFIG_FILE).read_text())
    except ValueError as error:
        raise ValueError(f"path: {folder / CONFIG_FILE} is not JSON: {error}; {accepted}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ValueError(f"path: {folder / CONFIG_FILE} is not of this format; {accepted}")
    if raw.get("version") != VERSION:
        raise ValueError(f"path: got format version {raw.get('version')!r}; accepted: {VERSION}")
    return raw


def _read_weights(model: ZooModel, file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    variables = {weight_name(v): v for v in model.weights}
    try:
        with safe_open(file, framework="numpy") as tensors:
            names = set(tensors.keys())
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names & set(variables)}
            problems = [f"missing {name}" for name in sorted(set(variables) - names)]
            problems += [f"surplus {name}" for name in sorted(names - set(variables))]
            problems += [
                f"{name} has shape {shape} for {tuple(variables[name].shape)}"
                for name, shape in sorted(shapes.items())
                if shape != tuple(variables[name].shape)
            ]
            if problems:
                raise ValueError(f"path: {file} does not fit its config: {'; '.join(problems[:8])}")
            for name, variable in variables.items():  # one tensor in memory at a time
                variable.assign(tensors.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: {file} cannot be read: {error}; accepted: a safetensors file") from error
