"""Conversations with any model or runner that generates text and has a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .text_generation import MOST_NEW_TOKENS, TextGenerating


class Conversation:
    """A conversation between a user and a model.

    If the conversation becomes too long for the model, the oldest questions and answers are left out of the prompt.
    They stay in `messages`.

    Attributes:
        messages: all messages so far, each ``{"role": …, "content": …}``.
        forgotten: the number of messages that were left out of the prompt of the last answer.
        limit: the decoder's `max_length`, in tokens.
        tokenizer: the tokenizer that formats and encodes the messages.

    Args:
        source: a model, or the runner of an exported file, with a tokenizer that has a chat template.
        system: system message at the beginning. Default: that of the chat template, if it has one.
        options: options of ``generate_text`` for every answer.

    Raises:
        ValueError: a source that does not generate, or a tokenizer without a chat template.
    """

    def __init__(self, source: TextGenerating, system: str | None = None, **options: Any) -> None:
        self.source, self.options = source, options
        self.limit = source.decoder().max_length
        self.tokenizer = options.get("tokenizer") or source.tokenizer
        if not getattr(self.tokenizer, "chat_templates", None):
            raise ValueError(
                f"tokenizer: got {self.tokenizer!r:.60}, without a chat template; accepted: one that has it, or "
                "generate_text for texts without turns"
            )
        self.messages: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]
        self.forgotten = 0

    def clear(self) -> None:
        """Start again: remove all messages except the system message."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        self.forgotten = 0

    def ask(self, question: str) -> Iterator[str]:
        """Ask a question and return an iterator over the pieces of the answer, as they are generated.

        The question and the answer are added to `messages` only once the iterator is exhausted.

        Raises:
            ValueError: a question that is too long by itself, or an option that is not accepted. The error is raised
                by this call, before the first piece is generated.
        """
        asked = [*self.messages, {"role": "user", "content": question}]
        known = self._fitting(asked)
        self.forgotten = len(asked) - len(known)
        return self._answer(asked, self.source.stream_text(known, **self.options))

    def _answer(self, asked: list[dict[str, str]], pieces: Iterator[str]) -> Iterator[str]:
        said: list[str] = []
        for piece in pieces:
            said.append(piece)
            yield piece
        self.messages = [*asked, {"role": "assistant", "content": "".join(said)}]

    def _fitting(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return `messages` without as many of the oldest turns as are needed to leave room for an answer."""
        told = [message for message in messages if message["role"] == "system"]
        turns = messages[len(told) :]
        wanted = self.options.get("max_new_tokens") or min(MOST_NEW_TOKENS, self.limit // 4)
        while len(turns) > 1 and self._length([*told, *turns]) + wanted > self.limit:
            turns = turns[2:]
        return [*told, *turns]

    def _length(self, messages: list[dict[str, str]]) -> int:
        return len(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True))
