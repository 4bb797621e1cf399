"""Description of the contents of a LiteRT-LM bundle, of this package or of a third party.

Requires ``litert-lm-builder`` and ``ai-edge-litert``, but not the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...checks import brief
from ...signature import Signature
from ...text.tokenizer import Tokenizer
from ..tflite.flatbuffer import operators, signatures, unpacked
from .runner import ACCEPTED, LiteRTLMRunner, section, sections, tokenizer_text

MODEL = "TFLiteModel"
ROLES = ("system", "user", "model")


def describe_bundle(runner: LiteRTLMRunner) -> dict[str, Any]:
    """Describe the sections and the metadata of a bundle, without its model.

    Returns:
        A dictionary with ``sections`` (``kind`` and ``bytes`` of each, and for a model its ``model_type``, else None);
        ``max_tokens`` (the context length); ``stop_tokens`` (ids); ``start_text`` (the start token as text, or None)
        and ``stop_texts``; ``prompts`` (``prefix`` and ``suffix`` by role); ``chat_template`` (whether there is one);
        and ``vocabulary`` (the number of tokens, or None if the tokenizer is not a tokenizer.json).

    Raises:
        ValueError: If the tokenizer is damaged.
    """
    said, tokenizer = runner.said, _tokenizer(runner)
    parts = [(part.kind, part.end - part.begin, part.model_type) for part in sections(runner.path)]
    prompts = {role: getattr(said.prompt_templates, role) for role in ROLES if said.prompt_templates.HasField(role)}
    return {
        "sections": [{"kind": kind, "bytes": size, "model_type": purpose} for kind, size, purpose in parts],
        "max_tokens": int(said.max_num_tokens),
        "stop_tokens": runner.stop_tokens,
        "start_text": next(iter(_texts([said.start_token], tokenizer)), None),
        "stop_texts": _texts(said.stop_tokens, tokenizer),
        "prompts": {role: {"prefix": text.prefix, "suffix": text.suffix} for role, text in prompts.items()},
        "chat_template": bool(said.jinja_prompt_template),
        "vocabulary": None if tokenizer is None else tokenizer.vocab_size,
    }


def model_in(runner: LiteRTLMRunner) -> tuple[dict[str, Signature], list[str]]:
    """Return the signatures of the first TFLite model in a bundle, and the operator of each of its nodes.

    Raises:
        ValueError: If the model is damaged.
    """
    place = section(runner.path, MODEL)
    try:
        model = unpacked(np.memmap(runner.path, "uint8", "r", place.begin, (place.end - place.begin,)))
        return signatures(model), [name for _, _, name in operators(model)]
    except Exception as error:  # the flatbuffer reader raises arbitrary exceptions for a damaged file
        raise ValueError(
            f"path: {runner.path} has a damaged model: {error!r:.80}; accepted: a LiteRT-LM file"
        ) from error


def _tokenizer(runner: LiteRTLMRunner) -> Tokenizer | None:
    """Return the tokenizer that the engine uses, or None if it is not a tokenizer.json."""
    text = tokenizer_text(runner.path)
    try:
        return None if text is None else Tokenizer.from_files({"tokenizer.json": text})
    except ValueError as error:
        raise ValueError(f"path: {runner.path} has a damaged tokenizer: {brief(error)}; {ACCEPTED}") from error


def _texts(tokens: Iterable[Any], tokenizer: Tokenizer | None) -> list[str]:
    """Return the texts of tokens that are stored as ids or texts. Without a tokenizer, ids are returned as numbers."""
    found = []
    for token in tokens:
        if token.token_str:
            found.append(token.token_str)
        elif ids := list(token.token_ids.ids):
            numbers = " ".join(map(str, ids))
            found.append(numbers if tokenizer is None else tokenizer.decode(ids, skip_special_tokens=False))
    return found
