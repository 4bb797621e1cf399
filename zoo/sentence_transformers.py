"""Read and write the files of sentence-transformers, such as modules.json, which specifies the pooling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .. import checks
from ..files import read_json, write_json

FILE = "sentence_bert_config.json"
_POOLINGS = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}


def read_sentence_modules(folder: Path) -> dict[str, Any]:
    """Return the config fields for the head and pooling that modules.json specifies, or {} if there is no such file.

    Raises:
        ValueError: modules.json is malformed, or specifies a module, a path or a pooling that is not supported.
    """
    if not (folder / "modules.json").is_file():
        return {}
    try:
        modules = read_json(folder / "modules.json", list)
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        paths = [str(module["path"]) for module in modules]
    except (KeyError, TypeError) as error:
        accepted = "accepted: a list of objects with type and path"
        raise ValueError(f"path: {folder / 'modules.json'}: got {error!r}; {accepted}") from error
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(f"path: {folder / 'modules.json'}: got {kinds}; accepted: Transformer, Pooling, Normalize")
    if paths[0] or not re.fullmatch(r"[\w-]+", paths[1]):
        raise ValueError(f"path: {folder / 'modules.json'}: got paths {paths}; accepted: names of folders in it")
    options = read_json(folder / paths[1] / "config.json")
    chosen = sorted(name for name, value in options.items() if name.startswith("pooling_mode_") and value is True)
    by_mode = {mode: name for name, mode in _POOLINGS.items()}
    if len(chosen) != 1 or chosen[0] not in by_mode:
        raise ValueError(f"path: {folder / paths[1]}: got {chosen}; accepted: one of {sorted(by_mode)}")
    return {"head": "sentence_embedding", "pooling": by_mode[chosen[0]], "normalize": "Normalize" in kinds}


def read_sentence_config(folder: Path) -> dict[str, Any]:
    """Return the content of sentence_bert_config.json, which specifies the truncation, or {} if there is no such file.

    Raises:
        ValueError: `max_seq_length` is not a positive integer or null.
    """
    options = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    longest = options.get("max_seq_length")
    if longest is not None and (not checks.is_integer(longest) or longest < 1):
        raise ValueError(
            f"path: {folder / FILE}: max_seq_length: got {longest!r}; accepted: a positive integer or null"
        )
    return options


def sentence_length(model: Any) -> int | None:
    """Return the number of tokens that sentences are truncated to, or None if the model's folder did not specify it."""
    longest = model.sentences.get("max_seq_length")
    return None if longest is None else min(longest, model.config.max_length)


def write_sentence_modules(model: Any, folder: Path) -> None:
    """Write modules.json and the files that belong to it.

    The maximum length is that of the model's tokenizer, or else that of the folder the model was loaded from, but at
    most the model's `max_length`.
    """
    config = model.config
    longest = None if model.tokenizer is None else model.tokenizer.model_max_length
    longest = min(longest or sentence_length(model) or config.max_length, config.max_length)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", **({"2_Normalize": "Normalize"} if config.normalize else {})}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    modes = {mode: name == config.pooling for name, mode in _POOLINGS.items()}
    write_json({"word_embedding_dimension": config.hidden_dim, **modes}, folder / "1_Pooling" / "config.json")
    write_json({"do_lower_case": False, **model.sentences, "max_seq_length": longest}, folder / FILE)
    write_json(modules, folder / "modules.json")
