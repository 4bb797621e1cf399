"""Generation of text from text, for every model or runner that has a tokenizer: a Keras model, an ONNX or LiteRT file.

Examples:
    model.generate_text("Once upon a time")  # returns the continuation
    model.generate_text([{"role": "user", "content": "What is gravity?"}])  # returns the answer; needs a chat template
    for piece in runner.stream_text("Once upon a time"):  # yields the continuation as it is generated
        print(piece, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from .. import checks
from .decoder import Decoder
from .new_text import NewText
from .search import GenerateOptions, generate, stop_tokens, stream

MOST_NEW_TOKENS = 256  # default of `max_new_tokens`, if the model has room for as many


@dataclass(frozen=True)
class Continuation:
    """The continuation of one prompt.

    Attributes:
        prompt: the prompt: a text, messages or ids.
        ids: ids of the new tokens, without the stop token.
        text: the decoded new tokens, up to a stop string.
        finish_reason: "stop" if a stop token or stop string ended the continuation, else "length".
    """

    prompt: Any
    ids: list[int]
    text: str
    finish_reason: str


def end_tokens(*given: Any) -> list[int]:
    """Return the sorted union of the arguments, each an id, a list of ids or None."""
    return sorted({int(number) for some in given for number in stop_tokens(some)})


def check_fits(tokenizer: Any, vocab_size: int | None) -> None:
    """Check that a tokenizer does not have more tokens than a model, because it would belong to another model.

    A tokenizer may have fewer tokens, because embedding tables are often padded to a round number of rows.

    Raises:
        ValueError: `tokenizer` has more tokens than `vocab_size`.
    """
    tokens = getattr(tokenizer, "vocab_size", None)
    if vocab_size is not None and isinstance(tokens, int) and tokens > vocab_size:
        raise ValueError(
            f"tokenizer: got one of {tokens} tokens; accepted: one of at most {vocab_size}, the model's vocab_size"
        )


class TextGenerating:
    """Base class that adds ``generate_text`` and ``stream_text`` to models and runners.

    Attributes:
        tokenizer: the tokenizer, or None.
    """

    tokenizer: Any

    def decoder(self) -> Decoder:
        """Return a decoder, which computes the logits."""
        raise NotImplementedError

    @property
    def stop_tokens(self) -> list[int]:
        """The ids of the end tokens of config, generation config and tokenizer. Each of them ends a text."""
        raise NotImplementedError

    @property
    def _vocab_size(self) -> int | None:
        """The vocabulary size of the model, or None if it is not known."""
        raise NotImplementedError

    def generate_text(self, prompts: Any, **options: Unpack[GenerateOptions]) -> Any:
        """Generate continuations of texts, or answers in conversations.

        Args:
            prompts: one text or several; or one conversation, a list of messages ``{"role": "user", "content": …}``
                that the tokenizer's chat template formats, or several conversations.
            max_new_tokens: greatest number of new tokens. Default: that of the model's generation config, or else 256,
                or fewer if the model has no room for as many.
            stop_tokens: ids that end a text. Default: ``stop_tokens`` of this model.
            tokenizer: the tokenizer to use. Default: that of this model.
            options: all other options of ``generation.search.generate``, except `num_return_sequences`.

        Returns:
            The generated text, without the prompt, the stop token and the stop string; a list for several prompts. It
            begins with a space if that belongs between the prompt and the text; an answer in a conversation does not.

        Raises:
            ValueError: no tokenizer or one that does not fit the model, messages without a chat template, prompts of
                another type or without tokens, or an option that is not accepted.
        """
        found = self.continuations(prompts, **options)
        return found[0].text if is_single(prompts) else [one.text for one in found]

    def continuations(self, prompts: Any, **options: Unpack[GenerateOptions]) -> list[Continuation]:
        """Generate as ``generate_text`` does, and return a list of ``Continuation``, also for a single prompt.

        A prompt may also be a list of ids. If all prompts are, no tokenizer is needed; without one, ``text`` is empty.
        """
        request = _Request(self, prompts, dict(options))
        written = generate(request.decoder, request.ids, request.mask, **request.options)
        return [
            request.continuation(prompt, row, number)
            for number, (prompt, row) in enumerate(
                zip(request.prompts, written[:, request.behind :].tolist(), strict=True)
            )
        ]

    def stream_text(self, prompt: Any, **options: Unpack[GenerateOptions]) -> Iterator[str]:
        """Return an iterator over the pieces of the text that ``generate_text`` returns, as they are generated.

        An incomplete character is held back until all its bytes are generated, and so is text that may become a stop
        string.

        Args:
            prompt: one text or one conversation.
            options: as in ``generate_text``.

        Raises:
            ValueError: as in ``generate_text``, raised by this call; several prompts, or `num_beams` above 1.
        """
        if not is_single(prompt):
            raise ValueError("prompt: got several for a stream; accepted: one text or conversation")
        request = _Request(self, prompt, dict(options))
        return request.pieces(stream(request.decoder, request.ids, request.mask, **request.options))


class _Request:
    """The prompts of one request as ids, and its options with the defaults filled in."""

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
        for i, row in enumerate(rows):  # an encoder gets its padding behind the text, as in training
            place = slice(width - len(row), None) if self.decoder.start_token is None else slice(0, len(row))
            self.ids[i, place], self.mask[i, place] = row, 1
        self.behind = width if self.decoder.start_token is None else 1
        room = self.decoder.max_length - self.behind
        defaults = getattr(self.decoder, "defaults", {})
        if options.get("max_new_tokens") is None:
            if room < 1:
                raise ValueError(f"prompts: got {width} tokens; accepted: fewer than {self.decoder.max_length}")
            options = {name: value for name, value in options.items() if name != "max_new_tokens"}
            if not {"max_new_tokens", "max_length"} & set(defaults):
                options["max_new_tokens"] = min(MOST_NEW_TOKENS, room)
        target: Any = self.tokenizer
        if getattr(target, "tgt_lang", None) is not None and self.decoder.start_token is not None:
            options.setdefault("forced_bos_token_id", target.language_id(target.tgt_lang))
        if options.setdefault("num_return_sequences", 1) != 1:
            raise ValueError(
                f"num_return_sequences: got {options['num_return_sequences']!r} for texts; accepted: 1, or ids in "
                "generate"
            )
        if options.get("stop_tokens") is None:
            options = {**options, "stop_tokens": source.stop_tokens}
        self.options = {**options, "tokenizer": self.tokenizer}
        self.stops = set(stop_tokens(options["stop_tokens"]).tolist())
        strings = options.get("stop_strings", defaults.get("stop_strings")) or ()
        self.strings = [strings] if isinstance(strings, str) else list(strings)

    def _ids(self, prompt: Any) -> Any:
        """Return the ids of a prompt."""
        if is_ids(prompt):
            return prompt
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt).ids
            if len(ids) > 1 and ids[0] == ids[1] == getattr(self.tokenizer, "bos_token_id", None):
                checks.warn(
                    f"prompt: {self.tokenizer.bos_token!r} begins the text, and the tokenizer adds another; a text "
                    "of a chat template is passed as messages, or as encode(text, add_special_tokens=False).ids"
                )
            return ids
        return self.tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=True)

    def continuation(self, prompt: Any, row: list[int], number: int = 0) -> Continuation:
        """Return the continuation of the prompt of this number for its new ids `row`, maybe followed by padding."""
        end = next((place for place, token in enumerate(row) if token in self.stops), None)
        if self.tokenizer is None:
            return Continuation(prompt, row[:end], "", "length" if end is None else "stop")
        new, ids = self._new_text(number), []
        for token in row[:end]:
            ids.append(token)
            new.add(token)
            if new.stopped:  # tokens after the stop string are padding
                break
        new.finish()
        reason = "stop" if end is not None or new.stopped else "length"
        return Continuation(prompt, ids, self._shown(new.text, ids, number), reason)

    def pieces(self, steps: Iterator[np.ndarray]) -> Iterator[str]:
        """Yield the text of the tokens (1,) of each step in pieces."""
        new, ids, sent = self._new_text(0), list[int](), 0
        for step in steps:
            if int(step[0]) in self.stops:
                break
            ids.append(int(step[0]))
            new.add(ids[-1])
            ready = self._shown(new.text[: len(new.text) - len(new.held_back())], ids, 0)
            if len(ready) > sent:
                yield ready[sent:]
                sent = len(ready)
            if new.stopped:
                break
        new.finish()
        if rest := self._shown(new.text, ids, 0)[sent:]:
            yield rest

    def _new_text(self, number: int) -> NewText:
        behind = self.decoder.start_token is None  # else the new tokens are a text of their own
        prompt = self.ids[number][self.mask[number] == 1].tolist() if behind else []
        return NewText(self.tokenizer, self.strings, prompt)

    def _shown(self, text: str, ids: list[int], number: int) -> str:
        """Return the text of a continuation. An answer does not begin with the space between two words of a text."""
        answer = self.decoder.start_token is None and not (
            isinstance(self.prompts[number], str) or is_ids(self.prompts[number])
        )
        return text[1:] if answer and text[:1] == " " and self.tokenizer.decode(ids)[:1] != " " else text


def is_single(prompts: Any) -> bool:
    """Return whether `prompts` is one text or one conversation, rather than several."""
    return isinstance(prompts, str) or (
        isinstance(prompts, list | tuple) and bool(prompts) and isinstance(prompts[0], Mapping)
    )


def several(prompts: Any) -> list[Any]:
    """Return several prompts as a list.

    Raises:
        ValueError: no prompts, or one that is not a text, a conversation or a list of ids.
    """
    rows = list(prompts) if isinstance(prompts, Sequence | np.ndarray) else []
    if not rows or not all(is_single(row) or is_ids(row) for row in rows):
        raise ValueError(
            f"prompts: got {type(prompts).__name__} {prompts!r:.60}; accepted: a text, texts, a list of messages "
            "{'role', 'content'}, or several such lists"
        )
    return rows


def is_ids(prompt: Any) -> bool:
    """Return whether a prompt is a list of ids."""
    return isinstance(prompt, list) and all(checks.is_integer(token) for token in prompt)
