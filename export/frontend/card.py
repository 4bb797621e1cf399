"""Who made a model and what others may do with it, written where readers of each format look for it.

- ONNX: ``doc_string`` has the description, ``metadata_props`` have ``model_author`` and ``model_license``
  (onnx/docs/MetadataProps.md).
- TFLite: the fields of ``ModelMetadata``, which Android Studio, Netron and MediaPipe read.
- LiteRT-LM: system metadata by the fields' names, and what the TFLite file in it has.

In ours it is JSON too, for ``export.describe``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...checks import meant
from ...runtime.metadata import CARD

FIELDS = ("name", "description", "version", "author", "license")
ONNX_NAMES = {"author": "model_author", "license": "model_license"}


def as_card(given: Any) -> dict[str, str]:
    """A card in the order of ``FIELDS``; empty for None.

    Raises:
        ValueError: no mapping, a field that there is not, or one that is no text.
    """
    if given is None:
        return {}
    accepted = f"accepted: texts by {', '.join(FIELDS)}"
    if not isinstance(given, Mapping):
        raise ValueError(f"card: got {type(given).__name__}; {accepted}")
    if unknown := [name for name in given if name not in FIELDS]:
        raise ValueError(f"card: got {unknown}; {meant(unknown, FIELDS)}{accepted}")
    for name, text in given.items():
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise ValueError(f"card: got {text!r} for {name}; {accepted}")
    return {name: given[name] for name in FIELDS if name in given}


def own_metadata(card: Mapping[str, str]) -> dict[str, str]:
    """What a file of either format has for ``export.describe``."""
    return {CARD: json.dumps(card)} if card else {}


def set_onnx_card(model: Any, card: Mapping[str, str]) -> None:
    """Write it where readers of an ``ir.Model`` look."""
    if "description" in card:
        model.doc_string = card["description"]
    model.metadata_props.update({known: card[name] for name, known in ONNX_NAMES.items() if name in card})
