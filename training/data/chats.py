"""Conversations in a tokenizer's own chat template, with labels at the assistant's tokens alone.

model.compile("adamw", az.losses.CausalLM())
model.fit(az.data.chats("chats.jsonl", tokenizer, length=1024))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...layers.vocabulary import IGNORED
from ...text.chat import check_messages
from .encoded import Array, Pieces, checked_length, checked_tokenizer, too_long
from .rows import DocumentRows
from .sources import read


class ChatRows(DocumentRows):
    """Rows of conversations; see ``chats``. `labels` has those of every token of `documents`."""

    def __init__(
        self, documents: Pieces, labels: Pieces, length: int, pad_token_id: int | None, *, pack: bool, **options: Any
    ) -> None:
        self._labels = labels
        super().__init__(documents, length, pad_token_id, pack=pack, **options)

    def labeled(self, documents: list[int], row: int, epoch: int) -> Iterator[tuple[Array, Array]]:
        for document in documents:
            yield self._documents[document], self._labels[document]


def chats(
    conversations: Any,
    tokenizer: Any,
    length: int,
    *,
    pack: bool = True,
    truncate: bool = False,
    column: str = "messages",
    chat_template: str | None = None,
    **options: Any,
) -> ChatRows:
    """Return rows of conversations as the model's chat template writes them, for ``CausalLM``.

    Only what the assistant says has labels, up to and with the special token that ends its turn. Special tokens that
    occur within a message are ordinary text.

    Args:
        conversations: as for ``read``: a list of conversations, or a path. A conversation is a list of messages
            ``{"role": …, "content": …}``.
        tokenizer: a ``Tokenizer`` with a chat template.
        length: tokens of a row.
        pack: put several conversations into a row, each a document of its own, with "segment_ids"; otherwise one,
            padded, with "attention_mask".
        truncate: cut off the end of longer conversations, and leave out those without an answer in what remains.
            Otherwise they are an error.
        column: the key or column of the messages in files.
        chat_template: as for ``Tokenizer.apply_chat_template``.
        options: `batch_size`, `shuffle`, `seed`, `shard`, `drop_remainder` and others of ``TokenBatches``.

    Returns:
        A ``keras.utils.PyDataset``; labels (batch, length) are -100 except at the assistant's tokens.

    Raises:
        ValueError: wrong arguments, conversations that cannot be read or have no answer, one that is longer than
            `length` without `truncate`, or a template that writes an answer differently once others follow.
    """
    tokenizer, length = checked_tokenizer(tokenizer), checked_length(length)
    rows: list[list[int]] = []
    labels: list[list[int]] = []
    source = read([conversations] if _is_chat(conversations) else conversations, column)
    for messages, place in zip(source.values, source.places, strict=True):
        try:
            ids, spoken = assistant_tokens(messages, tokenizer, chat_template)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if len(ids) > length and not truncate:
            raise too_long(place, len(ids), length, "truncate=True")
        if any(spoken[1:length]):
            rows.append(ids[:length])
            labels.append([i if said else IGNORED for i, said in zip(ids[:length], spoken[:length], strict=True)])
    if not rows:
        raise ValueError(f"length: got {length}, within which no answer begins; accepted: more")
    return ChatRows(Pieces(rows), Pieces(labels), length, tokenizer.pad_token_id, pack=bool(pack), **options)


def _is_chat(value: Any) -> bool:
    """Return whether `value` is one conversation."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]


def assistant_tokens(
    messages: Sequence[Mapping[str, Any]], tokenizer: Any, chat_template: str | None = None
) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation, and for each whether the assistant says it.

    The beginning of an answer is where the conversation before it ends with the header that asks for one; its end is
    where the conversation with it ends, or the last special token before that.

    Raises:
        ValueError: no answer, messages that the template does not take, or a template under which the ids of a
            conversation's beginning are not the beginning of its ids.
    """

    def ids_of(part: Sequence[Mapping[str, Any]], prompt: bool = False) -> list[int]:
        options = {"add_generation_prompt": prompt, "chat_template": chat_template, "tokenize": True}
        return tokenizer.apply_chat_template(list(part), **options)

    check_messages(messages)
    ids = ids_of(messages)
    spoken = [False] * len(ids)
    special = tokenizer.special_token_ids
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise ValueError("messages: got none of the assistant; accepted: at least one, which is what is learnt")
    for number in answers:
        before = ids_of(messages[:number], prompt=True) if number else _opening(ids_of(messages[:1]), messages, ids_of)
        after = ids_of(messages[: number + 1])
        if ids[: len(after)] != after or after[: len(before)] != before:
            raise ValueError(
                f"messages: got an answer, number {number}, that the chat template writes differently when messages "
                "follow or precede it; accepted: conversations that end with their first such answer"
            )
        last = next((i for i in reversed(range(len(before), len(after))) if after[i] in special), len(after) - 1)
        spoken[len(before) : last + 1] = [True] * (last + 1 - len(before))
    return ids, spoken


def _opening(ids: list[int], messages: Sequence[Mapping[str, Any]], ids_of: Any) -> list[int]:
    """Return the ids that the template writes before the content of a conversation's first message."""
    content = str(messages[0].get("content"))
    mark = "+" if content.startswith("-") else "-"  # must not be equal to the beginning of the content
    other = ids_of([{**messages[0], "content": mark + content}])
    same = next((i for i, (one, two) in enumerate(zip(ids, other, strict=False)) if one != two), len(ids))
    return ids[:same]
