"""Texts in which special tokens are ordinary characters, such as a user's words inside a chat template.

A chat template writes special tokens around the messages. If a message itself contains the characters of one, such as
"<|im_end|>", it must not end the user's turn. The characters of special tokens in messages are therefore marked before
the template is rendered, and afterwards the template's own special tokens are told from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

# Unicode's noncharacters, which no text contains: around the number of a special token in a message, and of a
# special token of the template.
IN_MESSAGE, OF_TEMPLATE = "\ufdd0{}\ufdd1", "\ufdd2{}\ufdd3"
NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")


class PlainTokens:
    """An encoder that takes special tokens in texts for ordinary characters.

    Args:
        backend: a ``tokenizers.Tokenizer``, which is copied.
    """

    def __init__(self, backend: Any) -> None:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Backend

        found = {token.content: (i, token) for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self.contents = sorted(found, key=lambda content: (-len(content), content))  # the longest matches first
        self.backend = Backend.from_str(backend.to_str())
        self.backend.encode_special_tokens = True
        self.backend.no_truncation()
        self.backend.no_padding()
        self.ids: dict[int, int] = {}  # of the special tokens, by the ids that the copy has in their place
        for number, content in enumerate(self.contents):
            own, token = found[content]
            name = OF_TEMPLATE.format(number)
            sides = {"lstrip": token.lstrip, "rstrip": token.rstrip}
            self.backend.add_tokens([AddedToken(name, normalized=False, special=False, **sides)])
            placeholder: Any = self.backend.token_to_id(name)
            self.ids[placeholder] = own
        self.pattern = re.compile("|".join(map(re.escape, self.contents))) if self.contents else None

    def occur_in(self, value: Any) -> bool:
        """Return whether a text in `value`, which has JSON types, contains a special token."""
        found = (self.pattern is not None and self.pattern.search(text) is not None for text in texts_in(value))
        return any(found)

    def encode_rendered(
        self, messages: Sequence[Mapping[str, Any]], render: Callable[[Sequence[Mapping[str, Any]]], str]
    ) -> list[int]:
        """Return the ids of the text that `render` makes of `messages`, whose special tokens are split."""
        numbers = {content: number for number, content in enumerate(self.contents)}
        pattern = self.pattern or re.compile("(?!)")  # which matches nothing

        def marked(text: str) -> str:
            return pattern.sub(lambda m: IN_MESSAGE.format(numbers[m[0]]), NONCHARACTERS.sub("\ufffd", text))

        written = render([_mapped(message, marked, {"role"}) for message in messages])
        written = pattern.sub(lambda m: OF_TEMPLATE.format(numbers[m[0]]), written)
        begin, end = IN_MESSAGE.split("{}")
        written = re.sub(f"{begin}([0-9]+){end}", lambda m: self.contents[int(m[1])], written)
        ids = self.backend.encode(written, add_special_tokens=False).ids
        return [self.ids.get(number, number) for number in ids]


def texts_in(value: Any) -> list[str]:
    """Return all texts in `value`, which has JSON types; of objects, the values."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    return [text for part in parts for text in texts_in(part)]


def _mapped(value: Any, change: Callable[[str], str], kept: Collection[str] = ()) -> Any:
    """Return `value` with every text changed, except those of the keys `kept` of a mapping."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: part if key in kept else _mapped(part, change) for key, part in value.items()}
    return [_mapped(part, change) for part in value] if isinstance(value, list | tuple) else value
