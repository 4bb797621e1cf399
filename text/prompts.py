"""Prompts as people write them, for the command line: texts or ids in, texts or ids out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def continue_prompts(
    source: Any, name: str, texts: list[str], ids: list[list[int]], tokenizer: Path | None, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """The continuation of every prompt: its ids, and its text where there is a tokenizer.

    Args:
        source: a Keras model or an exported file's runner, which generates.
        name: its path, beside or in which a tokenizer.json may lie, if it is a file without one.
        texts, ids: prompts of one kind.

    Raises:
        ValueError: no prompt or both kinds, no tokenizer for texts, or a model that does not generate.
    """
    if bool(texts) == bool(ids):
        raise ValueError("prompts: got none or both kinds; accepted: texts, or --ids for each prompt")
    if not hasattr(source, "generate"):
        raise ValueError(
            f"model: got a {source.family}, which does not generate; accepted: a GPT, Transformer or Seq2Seq"
        )
    coder = getattr(source, "tokenizer", None) if tokenizer is None else None  # a model brings its own
    coder = coder or _tokenizer(name, tokenizer, needed=bool(texts) or bool(options.get("stop_strings")))
    rows = [coder.encode(text).ids for text in texts] if texts else ids
    if empty := [number for number, row in enumerate(rows) if not row]:
        raise ValueError(f"prompts: got nothing in number {empty[0]}; accepted: at least one token")
    width = max(map(len, rows))
    tokens, mask = np.zeros((2, len(rows), width), "int64")
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :], mask[i, width - len(row) :] = row, 1
    written = source.generate(tokens, mask, tokenizer=coder, **options)
    behind = width if source.decoder().start_token is None else 1
    results = []
    for row in written[:, behind:].tolist():
        results.append({"ids": row, **({} if coder is None else {"text": coder.decode(row)})})
    return results


def _tokenizer(name: str, given: Path | None, *, needed: bool) -> Any:
    path = Path(name)
    files = [given] if given else [path / "tokenizer.json", path.with_name("tokenizer.json")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        if needed or given:
            raise ValueError(f"tokenizer: none at {', '.join(map(str, files))}; accepted: a tokenizer.json, or --ids")
        return None
    from .tokenizer import Tokenizer

    return Tokenizer.load(found)
