"""The keys of a tokenizer's config, and the checks of their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..checks import is_number, shown
from .growth import check_growth
from .vocabularies import SPECIAL

OPTIONS = (
    *SPECIAL,
    "model_max_length",
    "padding_side",
    "truncation_side",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "model_input_names",
    "chat_template",
    "tokenizer_class",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "lowercase",
    "prompts",
    "default_prompt_name",
    "include_prompt",
    "src_lang",
    "tgt_lang",
    "legacy_behaviour",
    "languages",
)
BERT_KINDS = ("bert", "distilbert", "electra", "mobilebert", "mpnet")
# Kinds of BERT's vocabulary whose models have no token types, and classes for any vocabulary, which return none.
ONE_SEGMENT = ("DistilBert", "MPNet", "Splinter", "PreTrainedTokenizer", "TokenizersBackend")
_UNLIMITED = 10**9  # Hugging Face writes "no limit" as a very large number


def check_names(names: Iterable[str]) -> None:
    """Check that every name is a key of the config.

    Raises:
        ValueError: an unknown name.
    """
    if unknown := sorted(set(names) - set(OPTIONS)):
        raise ValueError(f"config: got {unknown}; accepted: {list(OPTIONS)}")


def known_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `config` whose keys a ``Tokenizer`` accepts."""
    return {name: config[name] for name in OPTIONS if name in config}


def with_backend_settings(backend: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Disable truncation and padding in `backend` and return `config`, with their settings as its defaults.

    Raises:
        ValueError: steps of `backend` make texts too long; see ``check_growth``.
    """
    check_growth(backend)
    truncation, padding = backend.truncation or {}, backend.padding or {}
    backend.no_truncation()
    backend.no_padding()
    defaults = {
        "model_max_length": truncation.get("max_length"),
        "padding_side": padding.get("direction", "right"),
        "truncation_side": truncation.get("direction", "right"),
    }
    merged = {**defaults, **config}
    if config.get("pad_token") is None and padding.get("pad_token") in backend.get_vocab():
        merged["pad_token"] = padding["pad_token"]
    return merged


def vocabulary_size(vocabulary: Mapping[str, int]) -> int:
    """Return the highest id of `vocabulary` plus one.

    Raises:
        ValueError: an empty vocabulary, ids that do not fit in int32, or ids far above the number of tokens, for which
            tables of gigabytes would be made.
    """
    size = max(vocabulary.values(), default=-1) + 1
    if size > 2**20 + 16 * len(vocabulary):
        raise ValueError(f"vocabulary: got ids up to {size - 1} of {len(vocabulary)} tokens; accepted: few gaps")
    if not 0 < size < 2**31:
        raise ValueError(f"vocabulary: got ids up to {size - 1}; accepted: 0 to {2**31 - 1}")
    return size


def length_limit(limit: Any) -> int | None:
    """Return `limit`, the value of `model_max_length`, as an integer, or None for no limit.

    Raises:
        ValueError: `limit` is neither None nor a number of at least 1.
    """
    if limit is not None and (not is_number(limit) or not limit >= 1):
        raise ValueError(f"model_max_length: got {shown(limit)}; accepted: a positive integer, or None for no limit")
    return None if limit is None or limit > _UNLIMITED else int(limit)


def uses_token_types(backend: Any, config: Mapping[str, Any]) -> bool:
    """Return whether the model has the input "token_type_ids", from `model_input_names` or else the kind of tokenizer.

    Raises:
        ValueError: `model_input_names` is not a list of strings.
    """
    names = config.get("model_input_names")
    if names is None:
        kind = str(config.get("tokenizer_class") or "Bert")
        names = ["token_type_ids"] * (type(backend.model).__name__ == "WordPiece" and not kind.startswith(ONE_SEGMENT))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"model_input_names: got {shown(names)}; accepted: a list of names")
    return "token_type_ids" in names


def set_bert_options(backend: Any, config: Mapping[str, Any], kind: str) -> None:
    """Set the options of BERT's normalizer as `config` specifies them, rather than as tokenizer.json does.

    Like transformers, tokenizers of BERT's kinds take these options from tokenizer_config.json, and if they are missing
    there, from the defaults. Other kinds, and those with another normalizer, leave `backend` unchanged.
    """
    normalizer = backend.normalizer
    if kind not in BERT_KINDS or type(normalizer).__name__ != "BertNormalizer":
        return
    from tokenizers.normalizers import BertNormalizer

    accents = config.get("strip_accents")
    if accents is not None and not isinstance(accents, bool):
        raise ValueError(f"strip_accents: got {shown(accents)}; accepted: True, False, or None to follow lowercase")
    backend.normalizer = BertNormalizer(
        clean_text=normalizer.clean_text,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=accents,
        lowercase=bool(config.get("do_lower_case", True)),
    )


def set_lowercase(backend: Any) -> None:
    """Convert texts to lower case before the normalizer of `backend`, as `do_lower_case` of sentence-transformers does.

    A normalizer that has this step already is left unchanged.
    """
    from tokenizers.normalizers import Lowercase, Sequence

    old: Any = backend.normalizer
    steps = [] if old is None else list(old) if type(old).__name__ == "Sequence" else [old]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps]) if steps else Lowercase()


def checked_prompts(config: Mapping[str, Any]) -> tuple[dict[str, str], str | None, bool]:
    """Return the prompts by name, the name of the default one or None, and whether prompts are pooled.

    Raises:
        ValueError: one of them has another type, or no prompt has the default name.
    """
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    include = config.get("include_prompt")
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for pair in prompts.items() for text in pair):
        raise ValueError(f"prompts: got {shown(prompts)}; accepted: texts by name")
    if default is not None and default not in prompts:
        raise ValueError(f"default_prompt_name: got {shown(default)}; accepted: {list(prompts)}, or None")
    if include is not None and not isinstance(include, bool):
        raise ValueError(f"include_prompt: got {shown(include)}; accepted: True or False")
    return dict(prompts), default, include is not False


def set_prefix_space(backend: Any, wanted: Any) -> None:
    """Set `add_prefix_space` in a byte-level pre-tokenizer; None and other pre-tokenizers leave `backend` unchanged."""
    pre_tokenizer = backend.pre_tokenizer
    if wanted is not None and type(pre_tokenizer).__name__ == "ByteLevel":
        pre_tokenizer.add_prefix_space = bool(wanted)
        backend.pre_tokenizer = pre_tokenizer
