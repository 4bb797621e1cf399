"""A tokenizer's files as ONNX Runtime GenAI reads them: the same ids, in words that it takes as they are meant.

Its tokenizer is that of onnxruntime-extensions. Tried with 0.18: byte-level BPE and SentencePiece's BPE have the ids
that Hugging Face's `tokenizers` gives; other vocabularies are refused, or read without their spaces. Where digits are
cut off one by one before the bytes (``Digits``, ``ByteLevel``, as SmolLM has it) it goes wrong at white space before a
digit, such as "a\\n\\n1": 460 of 4,000 random texts. The same cuts as regular expressions are right in all of them.
"""

from __future__ import annotations

import json
from typing import Any

from ...text.tokenizer import Tokenizer
from ...text.vocabularies import FILE

# What ByteLevel cuts by: GPT-2's own expression.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def genai_files(tokenizer: Tokenizer) -> dict[str, str]:
    """As ``Tokenizer.to_files``, with another pre-tokenizer that cuts alike where theirs would not."""
    files = tokenizer.to_files()
    raw = json.loads(files[FILE])
    if not _cuts_digits(raw.get("pre_tokenizer")):
        return files
    raw["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            _split(r"\p{N}"),
            _split(WORDS),
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    return files | {FILE: json.dumps(raw, indent=2, ensure_ascii=False)}


def unread(tokenizer: Tokenizer) -> str | None:
    """What to say of a tokenizer that GenAI cannot read."""
    raw = json.loads(tokenizer.backend.to_str())
    kind, bytewise = raw["model"]["type"], "ByteLevel" in json.dumps(raw.get("pre_tokenizer"))
    if kind == "BPE" and (bytewise or raw["model"].get("byte_fallback")):
        return None
    said = kind if kind != "BPE" else "BPE of characters"
    return f"onnxruntime-genai does not read a vocabulary of this kind ({said}): give the folder ids"


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _cuts_digits(pre_tokenizer: Any) -> bool:
    steps = (pre_tokenizer or {}).get("pretokenizers", [])
    if [step["type"] for step in steps] != ["Digits", "ByteLevel"]:
        return False
    digits, level = steps
    return digits["individual_digits"] and level.get("use_regex", True) and not level["add_prefix_space"]
