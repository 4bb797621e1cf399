"""Check that a tokenizer does not multiply texts: forty replacements of "a" by "aa" make a terabyte of one letter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

GREATEST = 256  # how many times as long a text may become
LONGEST = 4096  # characters or tokens that one step adds
STEPS = ("normalizers", "pretokenizers", "decoders", "processors")  # of a sequence of steps


def check_growth(backend: Any) -> None:
    """Check the normalizer, pre-tokenizer, decoder and post-processor of a ``tokenizers.Tokenizer``.

    Raises:
        ValueError: one of them makes texts longer than ``GREATEST`` times, or adds more than ``LONGEST`` characters.
    """
    for name in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        part = getattr(backend, name)
        try:
            state = json.loads(part.__getstate__()) if part is not None else None
        except Exception:  # steps that are written in Python have no state, and come from the caller
            continue
        if (growth := _growth(name, state)) > GREATEST:
            raise ValueError(
                f"{name}: got steps that make texts {growth:.3g} times as long; accepted: {GREATEST} times"
            )


def _growth(name: str, step: Any) -> float:
    """Return how many times as long a text becomes by a step, at most."""
    if not isinstance(step, Mapping):
        return 1.0
    found = 1.0
    for inner in next((step[key] for key in STEPS if isinstance(step.get(key), list)), []):
        found *= _growth(name, inner)
    if step.get("type") == "Replace":
        pattern = step.get("pattern")
        text = pattern.get("String") if isinstance(pattern, Mapping) else None
        found *= max(1.0, len(step.get("content") or "") / max(len(text or ""), 1))
    if step.get("type") == "TemplateProcessing":
        for key in ("single", "pair"):
            pieces = step.get(key) or []
            texts = sum("Sequence" in piece for piece in pieces)
            found = max(found, float(texts))
            _check_added(name, len(pieces) - texts)
        for token in (step.get("special_tokens") or {}).values():
            _check_added(name, len(token.get("ids") or []))
    for key in ("prepend", "prefix", "suffix"):
        _check_added(name, len(step.get(key) or "") if isinstance(step.get(key), str) else 0)
    return found


def _check_added(name: str, count: int) -> None:
    if count > LONGEST:
        raise ValueError(f"{name}: got a step that adds {count} characters or tokens; accepted: at most {LONGEST}")
