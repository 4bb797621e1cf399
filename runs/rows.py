"""The rows that a model is trained on, from files of conversations, prompts with completions, or texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import shown
from ..files import read_text
from ..layers.vocabulary import IGNORED
from ..training.data import ChatRows, Records
from ..training.data.chats import assistant_tokens
from ..training.data.encoded import Pieces
from ..training.data.sources import JSON_LINES, TABLES, json_lines

MOST = 2**31  # bytes of a text
KEYS = 'an object with "messages", of which the assistant has one, "text", or "prompt" and "completion"'
OTHER = (".json", ".csv", ".tsv", ".gz", ".zip", *TABLES)  # data, but neither a text nor JSON lines


def read_examples(argument: str, file: Path) -> Records:
    """Return the examples of a file of JSON lines (.jsonl, .ndjson), or the one text of any other file.

    Raises:
        ValueError: the file is empty or of another kind, a line is not JSON, or an example has other keys; the message
            has its number.
    """
    suffix = file.suffix.lower()
    if suffix in OTHER:
        raise ValueError(f"{argument}: got {file}; accepted: JSON lines, as .jsonl or .ndjson, or a text file")
    if suffix not in JSON_LINES:
        try:
            text = read_text(file, most=MOST)
        except ValueError as error:
            raise ValueError(f"{argument}: {str(error).removeprefix('path: ')}") from error
        text = text.removeprefix("\ufeff").replace("\r\n", "\n")  # as files of Windows have them
        if not text.strip():
            raise ValueError(f"{argument}: got {file}, which is empty; accepted: a text file")
        return Records([{"text": text}], [str(file)])
    examples, places = [], []
    try:
        for example, place in json_lines(file, KEYS):
            if not _known(example):
                raise ValueError(f"{place}: got {shown(example)}; accepted: {KEYS}")
            examples.append(example)
            places.append(place)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error
    if not examples:
        raise ValueError(f"{argument}: got {file}, which is empty; accepted: lines with {KEYS}")
    return Records(examples, places)


def _known(example: Mapping[str, Any]) -> bool:
    if "messages" in example:
        turns = example["messages"]
        return isinstance(turns, list) and any(isinstance(t, dict) and t.get("role") == "assistant" for t in turns)
    if "text" in example:
        return isinstance(example["text"], str) and bool(example["text"])
    return all(isinstance(example.get(key), str) for key in ("prompt", "completion"))


def split(examples: Records, share: float, seed: int) -> tuple[Records, Records]:
    """Return the examples to train on and the `share` of them that is held out, at least one if it is not 0."""
    number = math.ceil(share * len(examples) - 1e-9)  # 0.07 · 100 is 7.000000000000001
    held = set(np.random.default_rng(seed).permutation(len(examples))[:number].tolist())
    parts = [i for i in range(len(examples)) if i not in held], sorted(held)
    if not parts[0]:
        raise ValueError(f"data.held_out: got {share} of {len(examples)} examples; accepted: a share that leaves some")
    values, places = examples.values, examples.places
    train, validation = (Records([values[i] for i in part], [places[i] for i in part]) for part in parts)
    return train, validation


def encoded(tokenizer: Any, examples: Records, length: int, **options: Any) -> tuple[ChatRows, int]:
    """Return the batches of the examples, for ``CausalLM``, and how many of them are cut.

    A conversation is a row, with labels as those of ``az.data.chats``; so is a prompt with its completion, which
    becomes a conversation if the tokenizer has a chat template. Texts are joined, with the end token between them, and
    cut into rows in which every token is a target. Rows are padded on the right to the length of the longest, rounded
    up to a multiple of 8. A row has at most `length` tokens: longer ones are cut at the end, and left out if no target
    remains.

    Args:
        tokenizer: the tokenizer.
        examples: as ``read_examples`` returns them.
        length: most tokens of a row.
        options: those of ``TokenBatches``.

    Raises:
        ValueError: a conversation that cannot be written, no chat template or end token where one is needed, or no
            target within `length`.
    """
    rows: list[tuple[list[int], list[int]]] = []
    stream: list[int] = []
    for example, place in zip(examples.values, examples.places, strict=True):
        if "messages" in example and not tokenizer.chat_templates:
            raise ValueError(
                f"model.source: got a tokenizer without a chat template for {place}, a conversation; accepted: a model "
                'for chats, or data with "prompt" and "completion"'
            )
        try:
            if "text" in example and "messages" not in example:
                stream += [*_unended(tokenizer, example["text"]), _end(tokenizer)]
            else:
                rows.append(_turns(tokenizer, example))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    cut = sum(len(row) > length for row, _ in rows)
    parts = [stream[start : start + length] for start in range(0, len(stream), length)]
    rows += [(part, part) for part in parts]
    kept = [(ids[:length], labels[:length]) for ids, labels in rows]
    kept = [(ids, labels) for ids, labels in kept if any(label != IGNORED for label in labels[1:])]
    if not kept:
        raise ValueError(f"data.length: got {length}; accepted: so many tokens that a row has an answer")
    ids, labels = (Pieces(part) for part in zip(*kept, strict=True))
    width = min(length, -(-int(ids.lengths.max()) // 8) * 8)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else _end(tokenizer)
    return ChatRows(ids, labels, width, pad, pack=False, **options), cut


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("model.tokenizer: got one without an end token; accepted: one with eos_token")
    return tokenizer.eos_token_id


def _unended(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text without the end token that some tokenizers add to it."""
    ids = list(tokenizer.encode(text).ids)
    return ids[:-1] if ids[-1:] == [_end(tokenizer)] else ids


def _turns(tokenizer: Any, example: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the ids and the labels of a conversation, or of a prompt and its completion."""
    if "messages" not in example:
        if not tokenizer.chat_templates:
            before, after = _unended(tokenizer, example["prompt"]), example["completion"]
            answer = [*tokenizer.encode(after, add_special_tokens=False).ids, _end(tokenizer)]
            return [*before, *answer], [*[IGNORED] * len(before), *answer]
        asked = {"role": "user", "content": example["prompt"]}
        example = {"messages": [asked, {"role": "assistant", "content": example["completion"]}]}
    ids, spoken = assistant_tokens(example["messages"], tokenizer)
    return ids, [token if said else IGNORED for token, said in zip(ids, spoken, strict=True)]


def prompt_length(tokenizer: Any, prompt: Any) -> int:
    """Return the number of tokens of a text to continue, or of a conversation to answer."""
    if isinstance(prompt, str):
        return len(tokenizer.encode(prompt).ids)
    return len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True))
