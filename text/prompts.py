"""Prompts of the command line (texts, chats or ids), and the tokenizer for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .tokenizer import Tokenizer
from .vocabularies import FILE


def continue_prompts(
    source: Any,
    texts: list[str],
    ids: list[list[int]],
    *,
    chat: bool = False,
    system: str | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Generate a continuation of every prompt.

    Args:
        source: a Keras model that generates, or the runner of an exported file.
        texts, ids: the prompts, as texts or as token ids; one of the two lists must be empty.
        chat: format each text with the chat template, as a user message.
        system: system message before each user message; implies `chat`.
        options: options of ``generate_text``.

    Returns:
        For each prompt a dictionary with "ids", the new tokens without the end token; "text", if there is a
        tokenizer; and "finish_reason", "stop" or "length".

    Raises:
        ValueError: no prompts or both kinds, no tokenizer for texts, or an option that is not accepted.
    """
    if bool(texts) == bool(ids):
        raise ValueError("prompts: got none or both kinds; accepted: texts, or --ids for each prompt")
    if (chat or system is not None) and ids:
        raise ValueError("chat: got it with --ids; accepted: texts")
    prompts: list[Any] = list(texts or ids)
    if chat or system is not None:
        first = [] if system is None else [{"role": "system", "content": system}]
        prompts = [[*first, {"role": "user", "content": text}] for text in texts]
    rows, coder = [], options.get("tokenizer") or source.tokenizer
    for one in source.continuations(prompts, **options):
        text = {"text": one.text} if coder is not None else {}
        rows.append({"ids": one.ids, **text, "finish_reason": one.finish_reason})
    return rows


def unescaped(text: str) -> str:
    """Return `text` with the escapes for a line break, a tab, a carriage return and a backslash replaced."""
    return re.sub(r"\\([ntr\\])", lambda found: {"n": "\n", "t": "\t", "r": "\r"}.get(found[1], found[1]), text)


def find_tokenizer(source: Any, name: str, given: Path | None, *, needed: bool = True) -> Any:
    """Return the tokenizer at `given`, else the tokenizer of `source`, else the one in or next to the path `name`.

    Args:
        source: a model or a runner.
        name: the path that `source` was loaded from.
        given: a folder, a tokenizer.json or a GGUF file, or None.
        needed: raise an error if there is no tokenizer, instead of returning None.

    Raises:
        ValueError: `source` does not generate, `given` does not exist, or no tokenizer was found although `needed`.
    """
    if not hasattr(source, "generate"):
        raise ValueError(
            f"model: got a {source.family}, which does not generate; accepted: a GPT, Transformer or Seq2Seq"
        )
    if given is not None:
        if not given.exists():
            raise ValueError(f"tokenizer: none at {given}; accepted: a folder, a {FILE} or a .gguf file")
        return Tokenizer.load(given)
    if source.tokenizer is not None:
        return source.tokenizer
    path = Path(name)
    places = [path / FILE, path.with_name(FILE)]
    found = next((file for file in places if file.is_file()), None)
    if found is None and needed:
        raise ValueError(
            f"tokenizer: none in {name} nor at {', '.join(map(str, places))}; accepted: --tokenizer with a folder, a "
            f"{FILE} or a .gguf file, or --ids"
        )
    return None if found is None else Tokenizer.load(found)
