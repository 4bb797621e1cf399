"""Text in, text out, of whatever generates and has a tokenizer: a Keras model, an ONNX file, a LiteRT file.

model.generate_text("Once upon a time")  # what follows
model.generate_text([{"role": "user", "content": "What is gravity?"}])  # the answer, by the chat template
for piece in runner.stream_text("Once upon a time"):  # as it comes
    print(piece, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import is_integer
from .search import Decoder, generate, stop_tokens, stream

MOST_NEW_TOKENS = 256  # of a text, where nobody says and there is room


@dataclass(frozen=True)
class Continuation:
    """What follows one prompt.

    Attributes:
        prompt: what was asked: a text, or messages.
        ids: the new tokens, without what ended them.
        text: of these, up to a stop string.
        finish_reason: "stop" where a stop token or string ended it, else "length".
    """

    prompt: Any
    ids: list[int]
    text: str
    finish_reason: str


def end_tokens(*given: Any) -> list[int]:
    """The union of ids, lists of ids and Nones."""
    return sorted({int(number) for some in given for number in stop_tokens(some)})


def check_fits(tokenizer: Any, vocab_size: int | None) -> None:
    """Refuse a tokenizer with more tokens than a model has: it belongs to another.

    Fewer are usual, as tables are padded to a round number of rows.

    Raises:
        ValueError: it has.
    """
    tokens = getattr(tokenizer, "vocab_size", None)
    if vocab_size is not None and isinstance(tokens, int) and tokens > vocab_size:
        raise ValueError(
            f"tokenizer: got one of {tokens} tokens; accepted: one of at most {vocab_size}, the model's vocab_size"
        )


class TextGenerating:
    """Adds ``generate_text`` and ``stream_text`` to what has a `tokenizer`, a ``decoder`` and ``stop_tokens``."""

    tokenizer: Any

    def decoder(self) -> Decoder:
        """What gives the logits."""
        raise NotImplementedError

    @property
    def stop_tokens(self) -> list[int]:
        """What ends a text: the end tokens of config, generation config and tokenizer together."""
        raise NotImplementedError

    @property
    def _vocab_size(self) -> int | None:
        """How many tokens the model knows, or None where that is not known."""
        raise NotImplementedError

    def generate_text(self, prompts: Any, **options: Any) -> Any:
        """Continue texts, or answer in conversations.

        Args:
            prompts: a text, or texts; or a conversation, a list of messages ``{"role": "user", "content": …}`` which
                the tokenizer's chat template writes out, or a list of conversations.
            max_new_tokens: how many at the most. Default: 256, or as many as there is room for.
            stop_tokens: default: ``stop_tokens`` of this model.
            tokenizer: in the place of the one it came with.
            options: all others of ``generate``.

        Returns:
            What follows, without the prompt, the end token and the stop string: a text, or a list of texts.

        Raises:
            ValueError: no tokenizer or one that does not fit, messages without a chat template, prompts of another
                kind or without tokens, or an option that is not accepted.
        """
        found = self.continuations(prompts, **options)
        return found[0].text if is_single(prompts) else [one.text for one in found]

    def continuations(self, prompts: Any, **options: Any) -> list[Continuation]:
        """As ``generate_text``, with the tokens and why each ended, a list also of one. A prompt may be a list of ids
        too; where all are, no tokenizer is needed and ``text`` is empty."""
        request = _Request(self, prompts, options)
        written = generate(request.decoder, request.ids, request.mask, **request.options)
        return [
            request.continuation(prompt, row)
            for prompt, row in zip(request.prompts, written[:, request.behind :].tolist(), strict=True)
        ]

    def stream_text(self, prompt: Any, **options: Any) -> Iterator[str]:
        """As ``generate_text`` of one prompt: pieces that joined are its result, each as soon as it stands.

        A character whose bytes are not all there waits for them, and so does what may become a stop string.

        Raises:
            ValueError: as ``generate_text``, at once; several prompts, or `num_beams`.
        """
        if not is_single(prompt):
            raise ValueError("prompt: got several for a stream; accepted: one text or conversation")
        request = _Request(self, prompt, options)
        return request.pieces(stream(request.decoder, request.ids, request.mask, **request.options))


class _Request:
    """One call: prompts as ids, options with their defaults."""

    def __init__(self, source: TextGenerating, prompts: Any, options: dict[str, Any]) -> None:
        given = options.get("tokenizer")
        self.tokenizer: Any = source.tokenizer if given is None else given
        self.prompts = [prompts] if is_single(prompts) else several(prompts)
        if self.tokenizer is None and not (all(map(is_ids, self.prompts)) and not options.get("stop_strings")):
            raise ValueError(
                "tokenizer: got a model without one; accepted: tokenizer=…, or a model whose `tokenizer` is set"
            )
        check_fits(self.tokenizer, source._vocab_size)
        self.decoder = source.decoder()
        rows = [self._ids(prompt) for prompt in self.prompts]
        if empty := [number for number, row in enumerate(rows) if not len(row)]:
            raise ValueError(f"prompts: got nothing in number {empty[0]}; accepted: at least one token")
        width = max(map(len, rows))
        self.ids, self.mask = np.zeros((2, len(rows), width), "int64")
        for i, row in enumerate(rows):
            self.ids[i, width - len(row) :], self.mask[i, width - len(row) :] = row, 1
        self.behind = width if self.decoder.start_token is None else 1
        room = self.decoder.max_length - self.behind
        if options.get("max_new_tokens") is None:
            if room < 1:
                raise ValueError(f"prompts: got {width} tokens; accepted: fewer than {self.decoder.max_length}")
            options = {**options, "max_new_tokens": min(MOST_NEW_TOKENS, room)}
        if options.get("stop_tokens") is None:
            options = {**options, "stop_tokens": source.stop_tokens}
        self.options = {**options, "tokenizer": self.tokenizer}
        self.stops = set(stop_tokens(options["stop_tokens"]).tolist())
        strings = options.get("stop_strings") or ()
        self.strings = [strings] if isinstance(strings, str) else strings

    def _ids(self, prompt: Any) -> Any:
        if is_ids(prompt):
            return prompt
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt).ids
        return self.tokenizer.apply_chat_template(list(prompt), tokenize=True)

    def continuation(self, prompt: Any, row: list[int]) -> Continuation:
        end = next((place for place, token in enumerate(row) if token in self.stops), None)
        ids = row[:end]
        text = self._text(ids)
        cut = self._before_strings(text)
        if len(cut) < len(text):  # what stands behind the string is padding of a batch
            ids = next(ids[:n] for n in range(1, len(ids) + 1) if self._has_string(self._text(ids[:n])))
        return Continuation(prompt, ids, cut, "stop" if end is not None or len(cut) < len(text) else "length")

    def _text(self, ids: list[int]) -> str:
        return "" if self.tokenizer is None else self.tokenizer.decode(ids)

    def _has_string(self, text: str) -> bool:
        return any(string in text for string in self.strings)

    def _before_strings(self, text: str) -> str:
        found = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(found)] if found else text

    def pieces(self, steps: Iterator[np.ndarray]) -> Iterator[str]:
        """The text of the steps' tokens, of one row."""
        ids: list[int] = []
        sent = ""
        for step in steps:
            if int(step[0]) in self.stops:
                break
            ids.append(int(step[0]))
            text = self._before_strings(self._text(ids))
            ready = text.rstrip("\ufffd")
            ready = ready[: len(ready) - begun(ready, self.strings)]
            if len(ready) > len(sent) and ready.startswith(sent):
                yield ready[len(sent) :]
                sent = ready
        rest = self._before_strings(self._text(ids))[len(sent) :]
        if rest:
            yield rest


def begun(text: str, strings: Iterable[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    lengths = [n for string in strings for n in range(1, len(string)) if text.endswith(string[:n])]
    return max(lengths, default=0)


def is_single(prompts: Any) -> bool:
    """One text, or one conversation."""
    return isinstance(prompts, str) or (
        isinstance(prompts, list | tuple) and bool(prompts) and isinstance(prompts[0], Mapping)
    )


def several(prompts: Any) -> list[Any]:
    rows = list(prompts) if isinstance(prompts, Sequence | np.ndarray) else []
    if not rows or not all(is_single(row) or is_ids(row) for row in rows):
        raise ValueError(
            f"prompts: got {type(prompts).__name__} {prompts!r:.60}; accepted: a text, texts, a list of messages "
            "{'role', 'content'}, or several such lists"
        )
    return rows


def is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(is_integer(token) for token in prompt)
