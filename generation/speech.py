"""The first tokens of the text of speech: the start token, the language, the task and "no timestamps". NumPy only.

They and their order are those of transformers' ``WhisperForConditionalGeneration.generate`` (version 5.24) without
timestamps. The entries of the generation config are "lang_to_id", "task_to_id", "no_timestamps_token_id", "language",
"task", "is_multilingual" and, in older ones, "forced_decoder_ids".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import is_integer

Array = np.ndarray
TASKS = ("transcribe", "translate")
ENTRIES = (
    *("lang_to_id", "task_to_id", "no_timestamps_token_id", "language", "task", "is_multilingual"),
    "forced_decoder_ids",
)


def readable(name: str, value: Any) -> Any:
    """Return the value of an entry of a generation config.

    Raises:
        ValueError: the value has another type.
    """
    kinds = {
        "lang_to_id": lambda: isinstance(value, Mapping) and all(map(is_integer, value.values())),
        "task_to_id": lambda: isinstance(value, Mapping) and all(map(is_integer, value.values())),
        "no_timestamps_token_id": lambda: is_integer(value),
        "is_multilingual": lambda: isinstance(value, bool),
        "forced_decoder_ids": lambda: (
            isinstance(value, list)
            and all(isinstance(pair, list | tuple) and len(pair) == 2 and is_integer(pair[0]) for pair in value)
        ),
    }
    if not kinds.get(name, lambda: isinstance(value, str))():
        raise ValueError(f"{name}: got {value!r:.60}; accepted: what Whisper's generation configs have")
    return value


def first_tokens(
    entries: Mapping[str, Any],
    start: int,
    rows: int,
    language: str | Sequence[str] | None,
    task: str | None,
    detect: Callable[[Array], Array],
) -> Array:
    """Return the tokens before the first one that is generated, (rows, n) int64.

    Args:
        entries: the generation config.
        start: the start token.
        rows: number of rows.
        language: code of the language, or one for each row. Default: that of `entries`, or it is detected.
        task: "transcribe" or "translate". Default: that of `entries`.
        detect: function of the ids of all languages that returns the most likely one of each row.

    Raises:
        ValueError: a language or a task that the generation config does not have.
    """
    language = entries.get("language") if language is None else language
    task = entries.get("task") if task is None else task
    languages, tasks = entries.get("lang_to_id"), entries.get("task_to_id") or {}
    for name, value in (("language", language), ("task", task)):
        if value is not None and (entries.get("is_multilingual") is False or not entries.get(f"{name[:4]}_to_id")):
            raise ValueError(f"{name}: got {value!r} for a model without choices of it; accepted: None")
    found: list[Any] = [start]
    if language is None and task is None:
        found += [number for _, number in sorted(entries.get("forced_decoder_ids") or [], key=lambda pair: pair[0])]
    table: Array | None = None
    if language is not None:
        each = [language] if isinstance(language, str) else list(language)
        if len(each) not in (1, rows):
            raise ValueError(f"language: got {len(each)}; accepted: one, or {rows}, one for each row")
        table = np.array([_language_id(languages or {}, one) for one in each], "int64")
    elif languages and (len(found) == 1 or found[1] is None):
        table = detect(np.array(sorted(languages.values())))
    first = np.broadcast_to(
        np.array([[-1 if token is None else token for token in found]], "int64"), (rows, len(found))
    )
    if table is not None:
        column = np.broadcast_to(table, (rows,))[:, None]
        first = np.concatenate([first[:, :1], column, first[:, 2:]], axis=1)
    first = first[:, (first >= 0).all(axis=0)]
    if task is not None:
        if task not in TASKS or task not in tasks:
            raise ValueError(f"task: got {task!r}; accepted: {[name for name in TASKS if name in tasks]}")
        first = first[:, ~np.isin(first[0], list(tasks.values()))]
        first = _with(first, tasks[task])
    elif language is not None and tasks and not np.isin(first[0], list(tasks.values())).any():
        first = _with(first, tasks["transcribe"])
    last = entries.get("no_timestamps_token_id")
    return first if last is None or first[0, -1] == last else _with(first, last)


def _with(tokens: Array, number: int) -> Array:
    return np.concatenate([tokens, np.full((len(tokens), 1), number, "int64")], axis=1)


def _language_id(known: Mapping[str, int], language: Any) -> int:
    """Return the id of a language by its code, such as "en", or its token, such as "<|en|>"."""
    named = str(language).lower()
    for token in (named, f"<|{named}|>"):
        if token in known:
            return known[token]
    codes = sorted(token.strip("<|>") for token in known)
    raise ValueError(f"language: got {language!r}; accepted: a code of {codes}")
