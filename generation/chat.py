"""A conversation with whatever generates text and has a chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .text_generation import MOST_NEW_TOKENS, TextGenerating


class Conversation:
    """Messages, and the model's answers to them.

    Where a conversation gets longer than the model, its oldest questions and answers are left out of what the model
    reads; `messages` keeps them.

    Attributes:
        messages: all so far, ``{"role": …, "content": …}`` each.
        forgotten: how many of them the last answer did not know of.

    Args:
        source: a model or an exported file's runner, with a tokenizer that has a chat template.
        system: what the model is told first. Default: what its template says.
        options: of ``generate_text``, for every answer.

    Raises:
        ValueError: a source that does not generate, or a tokenizer without a template.
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
        """Begin again, behind what the model is told first."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        self.forgotten = 0

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece as it comes. Only an answer that came to its end is part of the conversation.

        Raises:
            ValueError: a question that alone is too long, or an option that is not accepted, at once.
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
        """`messages` without the oldest turns that leave no room for an answer."""
        told = [message for message in messages if message["role"] == "system"]
        turns = messages[len(told) :]
        wanted = self.options.get("max_new_tokens") or min(MOST_NEW_TOKENS, self.limit // 4)
        while len(turns) > 1 and self._length([*told, *turns]) + wanted > self.limit:
            turns = turns[2:]
        return [*told, *turns]

    def _length(self, messages: list[dict[str, str]]) -> int:
        return len(self.tokenizer.apply_chat_template(messages, tokenize=True))
