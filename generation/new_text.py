"""The text of new tokens behind a prompt, token by token, and the stop strings that end it.

A token's text depends on the tokens before it: SentencePiece writes a space in front of a word except at the beginning
of a text, and a character may take several tokens. New tokens are therefore decoded together with some tokens before
them, and a text is certain once it does not end within a character.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

CONTEXT = 6  # tokens of the prompt that are decoded together with the first new token
INCOMPLETE = "\ufffd"  # what the bytes of an incomplete character are decoded to


class NewText:
    """The text that new tokens continue a prompt with.

    Attributes:
        text: the text that is certain, without special tokens; if `stopped`, up to the stop string.
        stopped: whether a stop string was found.

    Args:
        tokenizer: the tokenizer.
        strings: stop strings, which may contain special tokens.
        prompt: ids of the prompt; none if the new tokens begin a text of their own.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str] = (), prompt: Iterable[int] = ()) -> None:
        self.tokenizer, self.strings = tokenizer, list(strings)
        special = any(_overlap(token, string) for token in _special_tokens(tokenizer) for string in self.strings)
        context = [int(token) for token in prompt][-CONTEXT:]
        self.visible = _Piecewise(tokenizer, context, skip=True)
        # Strings with special tokens are looked for in the text that has them.
        self.searched = _Piecewise(tokenizer, list(context), skip=False) if special else self.visible
        self.places = [(0, 0)]  # of the tokens' beginnings in the searched and in the visible text
        self.text, self.stopped = "", False

    def add(self, token: int) -> None:
        """Add a token."""
        for part in self._parts():
            part.add(token)
        self._look()

    def finish(self) -> None:
        """Take also what would become another text with further tokens."""
        for part in self._parts():
            part.finish()
        self._look()

    def held_back(self) -> str:
        """Return the end of `text` that may be the beginning of a stop string, or "" if the text has stopped."""
        if self.stopped:
            return ""
        size = begun(self.searched.text, self.strings)
        return self.text[self._visible_place(len(self.searched.text) - size) :] if size else ""

    def _parts(self) -> list[_Piecewise]:
        return [self.visible] if self.searched is self.visible else [self.visible, self.searched]

    def _look(self) -> None:
        """Update `text`, and look for stop strings in it."""
        if self.stopped:
            return
        self.text = self.visible.text
        text = self.searched.text
        found = [place for string in self.strings if (place := text.find(string)) >= 0]
        if found:
            self.text, self.stopped = self.text[: self._visible_place(min(found))], True
        self.places.append((len(text), len(self.visible.text)))

    def _visible_place(self, place: int) -> int:
        """Return the place in the visible text that corresponds to `place` in the searched one."""
        if self.searched is self.visible:
            return place
        searched, visible = max(pair for pair in self.places if pair[0] <= place)
        after = min((pair[1] for pair in self.places if pair[0] > place), default=len(self.visible.text))
        return min(visible + place - searched, after)


class _Piecewise:
    """The text of tokens that are decoded in windows: from the last certain place but one to the newest token."""

    def __init__(self, tokenizer: Any, context: list[int], *, skip: bool) -> None:
        self.tokenizer, self.skip, self.text = tokenizer, skip, ""
        self.ids = [] if self._decoded(context).endswith(INCOMPLETE) else list(context)
        self.begin, self.read = 0, len(self.ids)

    def add(self, token: int) -> None:
        self.ids.append(int(token))
        before, now = self._decoded(self.ids[self.begin : self.read]), self._decoded(self.ids[self.begin :])
        if len(now) > len(before) and not now.endswith(INCOMPLETE):
            self._take(before, now)

    def finish(self) -> None:
        if self.read < len(self.ids):
            self._take(self._decoded(self.ids[self.begin : self.read]), self._decoded(self.ids[self.begin :]))

    def _take(self, before: str, now: str) -> None:
        # Bytes that are no characters may change how the bytes before them are decoded: then they are decoded alone.
        self.text += now[len(before) :] if now.startswith(before) else self._decoded(self.ids[self.read :])
        self.begin, self.read = self.read, len(self.ids)

    def _decoded(self, ids: list[int]) -> str:
        if self.skip:  # the default of this package's tokenizers; others may not have the argument
            return self.tokenizer.decode(ids)
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def _special_tokens(tokenizer: Any) -> list[str]:
    """Return the contents of the special tokens of a tokenizer of this package; other tokenizers may have none."""
    backend = getattr(tokenizer, "backend", None)
    added = backend.get_added_tokens_decoder().values() if backend is not None else ()
    return [token.content for token in added if token.special]


def _overlap(token: str, string: str) -> bool:
    """Return whether `string` can occur in a text at a place that has characters of `token`."""
    parts = range(1, min(len(token), len(string)))
    return (
        token in string
        or string in token
        or any(token.endswith(string[:n]) or token.startswith(string[-n:]) for n in parts)
    )


def begun(text: str, strings: Iterable[str]) -> int:
    """Return how many characters at the end of `text` may be the beginning of one of the stop strings."""
    lengths = [n for string in strings for n in range(1, len(string)) if text.endswith(string[:n])]
    return max(lengths, default=0)
