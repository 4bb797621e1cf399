"""Resolution of command-line arguments to models, files, texts and ids.

Wrong names and missing files are rejected before Keras or a runtime is imported, which is slow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def model_of(name: str) -> Any:
    from . import zoo
    from .runtime.quiet import quiet
    from .zoo.registry import preset

    if Path(name).exists():
        with quiet():
            return zoo.load(name)
    if os.sep in name or name.endswith((".gguf", ".keras", ".safetensors", ".onnx", ".tflite", ".litertlm")):
        raise ValueError(
            f"model: got {name}, which is not there; accepted: a folder, a .gguf or .keras file, or a preset"
        )
    preset(name)  # rejects an unknown name before importing Keras
    with quiet():
        import keras

        keras.utils.set_random_seed(0)  # the same weights for export and verification
        return zoo.create(name)


def any_model(name: str) -> Any:
    """Return the model for `name` as ``model_of`` does, but accept any Keras model in a ``.keras`` file."""
    if name.endswith(".keras") and Path(name).is_file():
        from .runtime.quiet import quiet

        with quiet():
            from .zoo.keras_files import load_any_keras

            return load_any_keras(Path(name))
    return model_of(name)


def runnable(name: str) -> Any:
    """Return an object with a ``generate`` method: the runner of an exported file, or a Keras model.

    `name` is an exported file, a folder that contains one, or a name accepted by ``model_of``.
    """
    from . import export as exporters
    from .export.bundles.folders import file_in
    from .runtime.quiet import quiet

    file = name if is_exported(name) else file_in(name)
    if file is None:
        return model_of(name)
    existing("model", file)
    with quiet():  # LiteRT prints messages as well
        return exporters.load(file)


def is_exported(name: str) -> bool:
    return name.endswith((".onnx", ".tflite", ".litertlm"))


def existing(argument: str, file: Any) -> Any:
    """Check that `file` exists, before anything slow is imported, and return it."""
    if not Path(file).is_file():
        raise ValueError(f"{argument}: got {file}, which is not a file; accepted: an .onnx, .tflite or .litertlm file")
    return file


def lines_of(argument: str, file: Path) -> list[str]:
    """Return the non-empty lines of a text file, without surrounding whitespace."""
    if not file.is_file():
        raise ValueError(f"{argument}: got {file}, which is not a file; accepted: a text file")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{argument}: got {file}, which is empty; accepted: texts, one a line")
    return lines


def ids_of(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"ids: got {text!r}; accepted: integers, such as '5 6 7'") from error


def fields_of(argument: str, given: Iterable[str]) -> dict[str, str]:
    """Parse texts such as "author=Ada" into a dict from names to values."""
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"{argument}: got {text!r}; accepted: a name and a text, such as 'author=Ada'")
        found[name.strip()] = value.strip()
    return found
