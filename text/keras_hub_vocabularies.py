"""Conversion of KerasHub tokenizers, which have a vocabulary but leave adding special tokens to preprocessors."""

from __future__ import annotations

from typing import Any

from .vocabularies import SPECIAL, byte_level, roberta_frame, wordpiece


def keras_hub_tokenizer(tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    """Return the backend and the config, as the keys of a tokenizer_config.json; see ``Tokenizer.from_keras_hub``."""
    kinds = {parent.__name__ for parent in type(tokenizer).__mro__}
    vocabulary = getattr(tokenizer, "vocabulary", None)
    if not kinds & {"WordPieceTokenizer", "BytePairTokenizer"} or vocabulary is None:
        raise ValueError(
            f"tokenizer: got {type(tokenizer).__name__} with {'no' if vocabulary is None else 'a'} vocabulary; "
            "accepted: KerasHub's WordPieceTokenizer or BytePairTokenizer with a vocabulary"
        )
    own = {name: getattr(tokenizer, name, None) for name in SPECIAL}
    if "WordPieceTokenizer" in kinds:
        own["unk_token"] = tokenizer.oov_token
        numbered = {token: number for number, token in enumerate(vocabulary)}
        backend = wordpiece(
            numbered,
            own,
            lowercase=tokenizer.lowercase,
            strip_accents=tokenizer.strip_accents,
            chinese=tokenizer.split_on_cjk,
            prefix=tokenizer.suffix_indicator,
        )
        return backend, own
    own |= {
        "bos_token": getattr(tokenizer, "start_token", None),
        "eos_token": getattr(tokenizer, "end_token", None),
    }
    splits = {"GPT2": "gpt-2", "Roberta": "gpt-2", "Bart": "gpt-2", "OPT": "gpt-2", "BytePair": "gpt-2"}
    splits |= {"Llama3": "llama-bpe", "Qwen": "qwen2", "QwenMoe": "qwen2", "Qwen3": "qwen2", "Qwen3Moe": "qwen2"}
    name = type(tokenizer).__name__.removesuffix("Tokenizer")
    if name not in splits:
        raise ValueError(f"tokenizer: got {type(tokenizer).__name__}; accepted: the tokenizers of {sorted(splits)}")
    merges = [tuple(str(merge).split(" ")) for merge in tokenizer.merges if not str(merge).startswith("#version")]
    backend = byte_level(vocabulary, merges, splits[name], prefix_space=bool(tokenizer.add_prefix_space))
    backend.add_special_tokens([token for token in tokenizer.unsplittable_tokens or [] if token in vocabulary])
    if name in ("Roberta", "Bart"):
        own |= {"cls_token": own["bos_token"], "sep_token": own["eos_token"]}
        roberta_frame(backend, own, bool(tokenizer.add_prefix_space))
    if name == "Llama3":
        own["add_bos_token"] = True
    return backend, own
