"""The rows that a model is trained on, from files of conversations, prompts with completions, or texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import shown
from ..files import read_text
from ..layers.vocabulary import IGNORED

MOST = 2**31  # bytes of a data file
KEYS = 'an object with "messages", "text", or "prompt" and "completion"'


def read_examples(argument: str, file: Path) -> list[dict[str, Any]]:
    """Return the examples of a .jsonl file, or the one text of any other file.

    Raises:
        ValueError: the file is empty, a line is not JSON, or an example has other keys; the message has its number.
    """
    text = read_text(file, most=MOST)
    if file.suffix != ".jsonl":
        if not text.strip():
            raise ValueError(f"{argument}: got {file}, which is empty; accepted: a text file")
        return [{"text": text}]
    examples = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{argument}: {file}, line {number}: {error}; accepted: {KEYS}") from error
        if not isinstance(example, dict) or not _known(example):
            raise ValueError(f"{argument}: {file}, line {number}: got {shown(example)}; accepted: {KEYS}")
        examples.append(example)
    if not examples:
        raise ValueError(f"{argument}: got {file}, which is empty; accepted: lines with {KEYS}")
    return examples


def _known(example: Mapping[str, Any]) -> bool:
    if "messages" in example:
        turns = example["messages"]
        return isinstance(turns, list) and any(isinstance(t, dict) and t.get("role") == "assistant" for t in turns)
    if "text" in example:
        return isinstance(example["text"], str) and bool(example["text"])
    return all(isinstance(example.get(key), str) for key in ("prompt", "completion"))


def split(examples: Sequence[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """Return the examples to train on and the `share` of them that is held out, at least one if it is not 0."""
    held = set(np.random.default_rng(seed).permutation(len(examples))[: int(np.ceil(share * len(examples)))].tolist())
    parts = [e for i, e in enumerate(examples) if i not in held], [e for i, e in enumerate(examples) if i in held]
    if not parts[0]:
        raise ValueError(f"data.held_out: got {share} of {len(examples)} examples; accepted: a share that leaves some")
    return parts


def encoded(tokenizer: Any, examples: Sequence[Mapping[str, Any]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and the labels, each (rows, at most `length`) int32, of causal language modeling.

    A conversation is a row, in which the tokens of the assistant's messages, with the text that ends them, are the
    targets; so is a prompt with its completion, which becomes a conversation if the tokenizer has a chat template.
    Texts are joined, with the end token between them, and cut into rows in which every token is a target. A label is
    the token itself; the loss compares each with the prediction at the position before. Labels that are no targets
    are -100. Rows are padded on the right; longer ones are cut at the end.

    Raises:
        ValueError: no chat template or end token where one is needed, or no target within `length`.
    """
    rows: list[tuple[list[int], list[int]]] = []
    stream: list[int] = []
    for example in examples:
        if "text" in example and "messages" not in example:
            stream += [*tokenizer.encode(example["text"]).ids, _end(tokenizer)]
        else:
            rows.append(_turns(tokenizer, example))
    if stream:
        longest = [stream[start : start + length] for start in range(0, len(stream), length)]
        rows += [(part, part) for part in longest if len(part) > 1]
    kept = [(ids[:length], labels[:length]) for ids, labels in rows]
    kept = [(ids, labels) for ids, labels in kept if any(label != IGNORED for label in labels[1:])]
    if not kept:
        raise ValueError(f"data.length: got {length}; accepted: so many tokens that a row has an answer")
    width = -(-max(len(ids) for ids, _ in kept) // 8) * 8
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else _end(tokenizer)
    all_ids = np.full((len(kept), min(width, length)), pad, "int32")
    all_labels = np.full(all_ids.shape, IGNORED, "int32")
    for number, (ids, labels) in enumerate(kept):
        all_ids[number, : len(ids)], all_labels[number, : len(ids)] = ids, labels
    return all_ids, all_labels


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("model.tokenizer: got one without an end token; accepted: one with eos_token")
    return tokenizer.eos_token_id


def _turns(tokenizer: Any, example: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the ids and the labels of a conversation, or of a prompt and its completion."""
    if "messages" not in example:
        if not tokenizer.chat_templates:
            before, after = tokenizer.encode(example["prompt"]).ids, example["completion"]
            answer = [*tokenizer.encode(after, add_special_tokens=False).ids, _end(tokenizer)]
            return [*before, *answer], [*[IGNORED] * len(before), *answer]
        asked = {"role": "user", "content": example["prompt"]}
        example = {"messages": [asked, {"role": "assistant", "content": example["completion"]}]}
    ids: list[int] = []
    labels: list[int] = []
    for text, target in _pieces(tokenizer, example["messages"]):
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        labels += piece if target else [IGNORED] * len(piece)
    return ids, labels


def _pieces(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of the formatted conversation in order, and whether the assistant wrote each of them."""
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    done = 0
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(messages[:number], tokenize=False, add_generation_prompt=True)
        upto = tokenizer.apply_chat_template(messages[: number + 1], tokenize=False)
        if not upto.startswith(before) or not whole.startswith(upto):
            raise ValueError(
                "data.train: got conversations whose chat template writes an answer otherwise once more follow; "
                "accepted: one answer in each conversation, at its end"
            )
        yield whole[done : len(before)], False
        yield whole[len(before) : len(upto)], True
        done = len(upto)
