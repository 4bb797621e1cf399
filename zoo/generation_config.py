"""The generation config of a Hugging Face folder, whose entries are the defaults of ``generate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import checks
from ..files import read_json
from ..generation.defaults import known_entries, obeyed


def read_generation_config(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of generation_config.json or, without that file, the entries for it in config.json.

    Folders written before 2023 have them there, and transformers reads them in the same way.

    Args:
        file: the path of generation_config.json.
        config: the content of config.json.

    Raises:
        ValueError: the file cannot be read, or its end tokens are not token ids.
    """
    raw = read_json(file) if file.is_file() else known_entries(config)
    ends = raw.get("eos_token_id")
    if ends is not None and not all(map(checks.is_integer, ends if isinstance(ends, list) else [ends])):
        raise ValueError(f"path: {file}: eos_token_id: got {ends!r}; accepted: a token, or several")
    return raw


def warn_of_generation_config(model: Any, where: object) -> None:
    """Warn about entries of the generation config that ``generate`` does not obey.

    Args:
        model: a model that was loaded.
        where: the file or folder, for the warning.
    """
    if not model.generates or not model.generation_config:
        return
    _, problems = obeyed(model.generation_config, model._vocab_size, texts=model.tokenizer is not None)
    if problems:
        checks.warn(f"{where}: generate does not obey these entries of the generation config: {'; '.join(problems)}")
