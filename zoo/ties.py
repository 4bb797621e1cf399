"""What ties the config of a folder to its weights: a digest of the config, which both files have.

Weights of one model under the config of another, of the same sizes, would load in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "attention_zoo_config"  # in config.json, and in the metadata of model.safetensors


def tied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with its digest, under `KEY`."""
    text = json.dumps(config, sort_keys=True)
    return {**config, KEY: f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"}


def untied(config: Mapping[str, Any], metadata: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Return a config without the digest, after a comparison with that in the metadata of the weights.

    The digest is not computed again, so that entries of the config can be edited. Weights that another program wrote
    have none, and go with any config.

    Raises:
        ValueError: the weights are those of another config.
    """
    if metadata.get(KEY) not in (None, config.get(KEY)):
        raise ValueError(
            f"path: the config.json and model.safetensors in {folder} are not of one save; accepted: both of one"
        )
    return {name: value for name, value in config.items() if name != KEY}
