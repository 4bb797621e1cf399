"""Metadata keys of exported files, and the function that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from ..checks import brief

FAMILY = "attention_zoo.family"
CONFIG = "attention_zoo.config"
SIGNATURES = "attention_zoo.signatures"  # by graph
FILES = "attention_zoo.files"  # names of the other files of the model, by the graph in each
DIGEST = "attention_zoo.digest"  # digest of the file itself; see ``export/digests.py``
DIGESTS_BESIDE = "attention_zoo.digests"  # digests of the other files of the model, by graph
# Metadata keys by name of the tokenizer file.
TOKENIZER_FILES = {
    name: f"attention_zoo.{name}"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
}
STOP_TOKENS = "attention_zoo.stop_tokens"
GENERATION = "attention_zoo.generation"  # defaults of ``generate``, with the names of generation_config.json
CARD = "attention_zoo.card"  # author, license and other fields of the model card
TASK = "attention_zoo.task"  # a Hugging Face task name
PADDING = "attention_zoo.padding"  # the padding side, if the file accepts only one
FOLDED = "attention_zoo.folded"  # how initializers of an ONNX file are made of the weights; see ``export/folding.py``
PRECISION = "attention_zoo.precision"  # details of the precision, if it is not float32
CONSTANTS = "attention_zoo.constants"  # in float32, of a float16 file: small ones that are no weights, by name
MEASURED = "attention_zoo.measured"  # how far rounding moves each output; see ``export/precision/spread.py``
OURS = "accepted: a file as attention_zoo.export writes it"

Stated = TypeVar("Stated", dict, list, str)


def stated(path: Path, metadata: Mapping[str, str], key: str, kind: type[Stated]) -> Stated:
    """Return the JSON value that a file's metadata holds under `key`.

    Args:
        path: The file, for error messages.
        metadata: The metadata of the file.
        key: One of the keys of this module.
        kind: The expected type: dict, list or str.

    Returns:
        The value, or an empty `kind` if there is no such key.

    Raises:
        ValueError: If the value is not JSON or is not of type `kind`.
    """
    word = key.partition(".")[2]
    if key not in metadata:
        return kind()
    try:
        found = json.loads(metadata[key])
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"path: the {word} in {path} cannot be read: {brief(error)}; {OURS}") from error
    if not isinstance(found, kind):
        raise ValueError(f"path: the {word} in {path} cannot be read: got {found!r:.40}; {OURS}")
    return found
