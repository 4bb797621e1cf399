"""The parts of ``.keras`` files other than config and weights: the tokenizer, metadata, and weights no head uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from ..text.tokenizer import Tokenizer
from ..text.vocabularies import FILE as TOKENIZER_FILE
from ..weights.tensors import SafetensorsFiles, save_tensors

FILE, WEIGHTS_FILE = "attention_zoo.json", "model.safetensors"
# Attributes of a model that hold the JSON files it was loaded from, unchanged.
DICTS = ("huggingface", "preprocessor", "sentences", "sentence_options", "generation_config")


def save_companions(model: Any, folder: Path) -> None:
    """Write the tokenizer, metadata and unused weights of `model` to `folder`, as JSON and safetensors files."""
    said = {name: value for name in DICTS if (value := getattr(model, name))}
    if said:
        write_json(said, folder / FILE)
    if model.unused:
        save_tensors(model.unused, folder / WEIGHTS_FILE, {})
    if model.tokenizer is not None:
        model.tokenizer.save(folder)


def load_companions(model: Any, folder: Path) -> None:
    """Set the attributes of `model` from the files that ``save_companions`` wrote to `folder`.

    Raises:
        ValueError: a file cannot be read, or its content has another type than expected.
    """
    said = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    for name in DICTS:
        if not isinstance(said.get(name, {}), dict):
            raise ValueError(f"{FILE}: {name}: got {type(said[name]).__name__}; accepted: an object")
        setattr(model, name, said.get(name, {}))
    if (folder / WEIGHTS_FILE).is_file():
        tensors = SafetensorsFiles(folder)
        model.unused = {name: tensors.read(name) for name in tensors.shapes}
    if (folder / TOKENIZER_FILE).is_file():
        model.tokenizer = Tokenizer.load(folder)
