"""A tokenizer's files in a form that ONNX Runtime GenAI reads with the same ids.

GenAI uses the tokenizer of onnxruntime-extensions. Tested with version 0.18: byte-level BPE and SentencePiece's BPE
give the same ids as Hugging Face's `tokenizers`; other vocabularies are rejected, or read without their spaces. If
digits are split off one by one before the bytes (``Digits``, ``ByteLevel``, as in SmolLM), the ids are wrong for white
space before a digit, such as "a\\n\\n1": in 460 of 4,000 random texts. The same splits as regular expressions are right
in all of them.
"""

from __future__ import annotations

import json
from typing import Any

from ...text.tokenizer import Tokenizer
from ...text.vocabularies import FILE

# The regular expression that ByteLevel splits by, from GPT-2.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def genai_files(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the files of ``Tokenizer.to_files``, with an equivalent pre-tokenizer if GenAI would split texts
    differently."""
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
    """Return a warning for a tokenizer that GenAI cannot read, or None."""
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
