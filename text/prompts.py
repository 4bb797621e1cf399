"""Prompts as people write them on the command line: texts, chats or ids in, texts or ids out."""

from __future__ import annotations

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
    """The continuation of every prompt: its ``ids``, up to the end token, its ``text`` where there is a tokenizer, and
    its ``finish_reason``, "stop" or "length".

    Args:
        source: a Keras model or an exported file's runner, which generates.
        texts, ids: prompts of one kind.
        chat: each text is what a user asks, for the chat template; `system` stands before it.
        options: of ``generate_text``.

    Raises:
        ValueError: no prompt or both kinds, no tokenizer for texts, or an option that is not accepted.
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


def find_tokenizer(source: Any, name: str, given: Path | None, *, needed: bool = True) -> Any:
    """The tokenizer at `given` (a folder, a tokenizer.json or a GGUF file); else that of `source`, a model or a runner
    from the path `name`; else the one that lies beside it, or in it.

    Raises:
        ValueError: `source` does not generate; nothing at `given`; or nothing anywhere, where one is `needed`.
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
