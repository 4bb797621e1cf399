"""The special tokens of a tokenizer, and the post-processor that adds them to every text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checks import shown
from .vocabularies import SPECIAL, added_contents, added_token


def register_special_tokens(backend: Any, config: Mapping[str, Any]) -> dict[str, tuple[str | None, int | None]]:
    """Register the special tokens of `config` in `backend`, and return the content and id of each by its name.

    Both are None for a token that `config` does not have.

    Raises:
        ValueError: a token that is not in the vocabulary, or is neither a string nor an object with "content".
    """
    found: dict[str, tuple[str | None, int | None]] = {}
    for name in SPECIAL:
        token = added_token(name, config.get(name))
        content = None if token is None else token.content
        number = None if content is None else backend.token_to_id(content)
        if content is not None and number is None:
            raise ValueError(
                f"{name}: got {shown(content)}, which is not in the vocabulary; accepted: one of its tokens"
            )
        found[name] = (content, number)
        if token is not None and content not in added_contents(backend):
            backend.add_special_tokens([token])  # its id stays the same; from now on it is matched as a whole in texts
    return found


def set_frame(backend: Any, tokens: Mapping[str, str], *, bos: Any, eos: Any) -> None:
    """Set the post-processor that adds bos before and eos after every text, as `bos` and `eos` ask.

    transformers does the same if the config has "add_bos_token" or "add_eos_token". Without either, `backend` is left
    unchanged.

    Args:
        tokens: contents of the special tokens by name.
        bos, eos: whether to add the token; None for what the post-processor of `backend` does.

    Raises:
        ValueError: `bos` or `eos` is set, but `tokens` has no such token.
    """
    if bos is None and eos is None:
        return
    added = backend.encode("").tokens
    bos = tokens.get("bos_token") in added[:1] if bos is None else bool(bos)
    eos = tokens.get("eos_token") in added[-1:] if eos is None else bool(eos)
    from tokenizers.processors import TemplateProcessing

    for wanted, name in ((bos, "bos_token"), (eos, "eos_token")):
        if wanted and name not in tokens:
            raise ValueError(f"add_{name}: got True without a {name}; accepted: False, or a {name}")
    before = [tokens["bos_token"]] if bos else []
    behind = [tokens["eos_token"]] if eos else []
    parts = [[f"{token}:{n}" for token in before] + [f"${'AB'[n]}:{n}"] + [f"{t}:{n}" for t in behind] for n in (0, 1)]
    backend.post_processor = TemplateProcessing(
        single=parts[0],
        pair=parts[0] + parts[1],
        special_tokens=[(token, backend.token_to_id(token)) for token in {*before, *behind}],
    )


def check_frame(backend: Any, vocabulary: Mapping[str, int]) -> None:
    """Check that the post-processor of `backend` adds only ids of `vocabulary`, and token types that fit in int32.

    Raises:
        ValueError: it adds other ids or types.
    """
    one, two = backend.encode(""), backend.encode("", "")
    framed = {*one.ids, *two.ids}
    if (highest := max((*one.type_ids, *two.type_ids), default=0)) >= 2**31:
        raise ValueError(f"post_processor: got token type {highest}; accepted: 0 to {2**31 - 1}")
    if surplus := sorted(framed - set(vocabulary.values())):
        raise ValueError(f"post_processor: got ids {surplus}; accepted: ids of the vocabulary")
