"""What stands in the metadata of a file that we wrote, and the one way to read it. Python's standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

FAMILY = "attention_zoo.family"
CONFIG = "attention_zoo.config"
SIGNATURES = "attention_zoo.signatures"  # by graph
FILES = "attention_zoo.files"  # those beside it, by the graph in each
DIGEST = "attention_zoo.digest"  # of a file, in its own metadata: see ``contents.py``
DIGESTS_BESIDE = "attention_zoo.digests"  # of the files beside it, by graph
# The files of a tokenizer, each by its name in metadata.
TOKENIZER_FILES = {
    name: f"attention_zoo.{name}"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
}
STOP_TOKENS = "attention_zoo.stop_tokens"
CARD = "attention_zoo.card"  # who made it, and what others may do with it
TASK = "attention_zoo.task"  # what the model is for, in Hugging Face's words
PADDING = "attention_zoo.padding"  # of a file that takes it on one side only
PRECISION = "attention_zoo.precision"  # of a file that is not in float32
OURS = "accepted: a file as attention_zoo.export writes it"

Stated = TypeVar("Stated", dict, list, str)


def stated(path: Path, metadata: Mapping[str, str], key: str, kind: type[Stated]) -> Stated:
    """What the metadata of a file have under `key`, as JSON: a dict, a list or a text, empty where there is nothing.

    Raises:
        ValueError: no JSON, or of another kind.
    """
    word = key.partition(".")[2]
    if key not in metadata:
        return kind()
    try:
        found = json.loads(metadata[key])
    except (ValueError, TypeError) as error:
        raise ValueError(f"path: the {word} in {path} cannot be read: {error}; {OURS}") from error
    if not isinstance(found, kind):
        raise ValueError(f"path: the {word} in {path} cannot be read: got {found!r:.40}; {OURS}")
    return found
