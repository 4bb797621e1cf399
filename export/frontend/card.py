"""The model card (author, license, description), written to the fields where readers of each file format expect it.

- ONNX: ``doc_string`` holds the description, ``metadata_props`` hold ``model_author`` and ``model_license``
  (onnx/docs/MetadataProps.md).
- TFLite: the fields of ``ModelMetadata``, which Android Studio, Netron and MediaPipe read.
- LiteRT-LM: system metadata under the names of the fields, and the metadata of the TFLite file in the bundle.

ONNX and TFLite files also store the card as JSON, which ``export.describe`` reads.
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
    """Return the card as a dict in the order of ``FIELDS``; an empty dict for None.

    Raises:
        ValueError: `given` is not a mapping, or has an unknown field or a value that is not a non-empty text.
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
    """Return the metadata entry of the card that ``export.describe`` reads, for either file format."""
    return {CARD: json.dumps(card)} if card else {}


def set_onnx_card(model: Any, card: Mapping[str, str]) -> None:
    """Write the card to the fields of `model`, an ``ir.Model``, where readers of ONNX files expect it."""
    if "description" in card:
        model.doc_string = card["description"]
    model.metadata_props.update({known: card[name] for name, known in ONNX_NAMES.items() if name in card})
