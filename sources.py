"""What the words of a command line mean: models, files, texts, ids. What is not there is refused before the heavy
imports."""

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
    preset(name)  # a wrong name is refused before the heavy imports
    with quiet():
        import keras

        keras.utils.set_random_seed(0)  # the same weights for the command that exports and the one that verifies
        return zoo.create(name)


def any_model(name: str) -> Any:
    """As ``model_of``, and any Keras model in a ``.keras`` file."""
    if name.endswith(".keras") and Path(name).is_file():
        from .runtime.quiet import quiet

        with quiet():
            from .zoo.keras_files import load_any_keras

            return load_any_keras(Path(name))
    return model_of(name)


def runnable(name: str) -> Any:
    """What has a ``generate``: an exported file's runner, also of one in a folder, or a Keras model."""
    from . import export as exporters
    from .export.bundles.folders import file_in
    from .runtime.quiet import quiet

    file = name if is_exported(name) else file_in(name)
    if file is None:
        return model_of(name)
    existing("model", file)
    with quiet():  # LiteRT greets too
        return exporters.load(file)


def is_exported(name: str) -> bool:
    return name.endswith((".onnx", ".tflite", ".litertlm"))


def existing(argument: str, file: Any) -> Any:
    """`file`, which must be there: said before the heavy imports."""
    if not Path(file).is_file():
        raise ValueError(f"{argument}: got {file}, which is not a file; accepted: an .onnx, .tflite or .litertlm file")
    return file


def lines_of(argument: str, file: Path) -> list[str]:
    """The lines of a text file that are not empty."""
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
    """Texts such as "author=Ada", by what stands before the sign."""
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"{argument}: got {text!r}; accepted: a name and a text, such as 'author=Ada'")
        found[name.strip()] = value.strip()
    return found
