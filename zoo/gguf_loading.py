"""Loading of GGUF files: the model with dequantized weights, its tokenizer and the tokens that end a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import checks
from ..text.tokenizer import Tokenizer
from ..weights.gguf_file import GGUFFile
from ..weights.rules import Dialect
from .base import ZooModel
from .building import build_model
from .config import Config
from .gguf_architectures import ROTARY
from .gguf_tables import ARCHITECTURES
from .model_tokenizer import readable_tokenizer
from .registry import family, own_dialects

ENDS = ("eos", "eot", "eom")  # GGUF's names for the end of a text, of a turn and of a message


def _with_special_ids_of(config: Config, dialect: Dialect, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `raw` without the special token ids that lie outside the vocabulary, which the config does not have."""
    ids = {entry.theirs: entry.ours for entry in dialect.fields if entry.ours.endswith("_token_id")}
    rows = config.to_dict()["vocab_size"]
    return {k: v for k, v in raw.items() if k not in ids or not checks.is_integer(v) or 0 <= v < rows}


def architectures() -> list[str]:
    """Return the architectures of GGUF files that can be loaded."""
    known = own_dialects("dialects")
    return sorted(name for name, one in ARCHITECTURES.items() if one.model_type in known)


def load_gguf(file: Path, dtype: Any, overrides: dict[str, Any], tokenizer: Tokenizer | None) -> ZooModel:
    tensors = GGUFFile(file)
    raw = dict(tensors.fields)
    for name in ROTARY:
        if f"{name}.weight" in tensors.shapes:
            raw[name] = tensors.read(f"{name}.weight")
    kind, dialects = raw.get("general.architecture"), own_dialects("dialects")
    if kind not in architectures():
        raise ValueError(f"path: {file}: general.architecture: got {kind!r}; accepted: {architectures()}")
    head: dict[str, Any] = {}
    if kind == "llama":
        name, dialect = dialects["gguf"]
    else:
        architecture = ARCHITECTURES[kind]
        name, theirs = dialects[architecture.model_type]
        dialect = architecture.dialect(theirs, raw)
        try:
            raw = architecture.raw(raw, tensors.shapes)
            found = architecture.head(raw)
            raw["architectures"] = [theirs.heads[found.get("head", architecture.heads[0])]]
        except ValueError as error:
            raise ValueError(f"path: {file}: {error}") from error
        head = {} if "head" in overrides else found
    model = build_model(family(name), dialect, raw, tensors, dtype, head, overrides, file)
    ends = [raw[key] for name in ENDS if checks.is_integer(raw.get(key := f"tokenizer.ggml.{name}_token_id"))]
    model.generation_config = {"eos_token_id": sorted(set(map(int, ends)))} if ends and model.generates else {}
    if tokenizer is None and raw.get("tokenizer.ggml.model", "none") not in ("none", "no_vocab"):
        fields = _with_special_ids_of(model.config, dialect, raw)
        model.tokenizer = readable_tokenizer(file, lambda: Tokenizer.from_gguf(fields))
    return model
