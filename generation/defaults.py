"""The generation config of a model, in the words of transformers' generation_config.json, as defaults of ``generate``.

Explicit options take precedence over it. An entry that it does not have keeps the default of ``generate``, with one
exception: a generation config that samples (``do_sample``) and has no ``top_k`` implies 50, as in transformers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..checks import is_integer, plain
from .options import FILTERS, checked
from .speech import ENTRIES, readable

# Entries with the name and the meaning of an option of ``generate``.
OPTIONS = (
    *("max_new_tokens", "min_new_tokens", "temperature", *FILTERS),
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty"),
    *("remove_invalid_values", "renormalize_logits", "num_beams", "length_penalty", "early_stopping"),
    *("num_return_sequences", "stop_strings"),
)
LENGTHS = ("max_length", "min_length")  # numbers of tokens with the prompt
TOKENS = ("eos_token_id", "pad_token_id", "decoder_start_token_id", "bos_token_id")
# Entries that change what transformers generates and that ``generate`` lacks, with the values that have no effect.
# Entries that are in neither list, such as those of the cache or of speculative decoding, do not change the tokens.
WITHOUT_COUNTERPART: Mapping[str, tuple[Any, ...]] = {
    "guidance_scale": (1,),
    "watermarking_config": (),
    "token_healing": (False,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "constraints": (),
    "force_words_ids": (),
    "max_time": (),
    "return_timestamps": (False,),
}
# Values with which an entry has no effect.
NEUTRAL: Mapping[str, Any] = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "num_beams", "num_return_sequences"), 1),
    **dict.fromkeys(("min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0),
    **dict.fromkeys(("remove_invalid_values", "renormalize_logits"), False),
    **{"bad_words_ids": [], "top_p": 1, "min_p": 0, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "top_h": 1},
}
IDS = ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")


def known_entries(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a config.json that belong to a generation config.

    transformers reads them there if a folder has no generation_config.json. The result is empty if there are none
    except special tokens, which the model's own config has too.
    """
    names = (*OPTIONS, *LENGTHS, *TOKENS, *ENTRIES, "do_sample", *WITHOUT_COUNTERPART)
    found = {name: raw[name] for name in names if raw.get(name) is not None}
    if raw.get("force_bos_token_to_be_generated") is True and raw.get("bos_token_id") is not None:
        found["forced_bos_token_id"] = raw["bos_token_id"]  # the name before forced_bos_token_id existed
    return found if set(found) - set(TOKENS) else {}


def obeyed(raw: Mapping[str, Any], vocab_size: int | None, *, texts: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Return the entries of a generation config that ``generate`` obeys, and why it does not obey others.

    Args:
        raw: the content of a generation_config.json.
        vocab_size: the number of tokens of the model, or None if it is not known. Forbidden tokens and end tokens
            outside of the vocabulary never occur and are left out.
        texts: whether the model has a tokenizer, which stop strings require.

    Returns:
        The entries, with JSON values that ``resolved`` accepts; and one short text for each entry that is not obeyed.
    """
    kept: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in raw.items():
        if value is None:
            continue
        try:
            if name in WITHOUT_COUNTERPART and not any(value == plainly for plainly in WITHOUT_COUNTERPART[name]):
                problems.append(f"{name}={value!r:.60} has no counterpart")
            elif name in ENTRIES:
                kept[name] = readable(name, value)
            elif name in (*OPTIONS, *LENGTHS, *TOKENS, "do_sample"):
                found = _read(name, value, vocab_size)
                if found is not None:
                    kept[name] = found
        except ValueError as error:
            problems.append(str(error).replace("; accepted:", ", not"))
    beams = kept.get("num_beams", 1) > 1
    if beams and kept.get("do_sample"):
        problems.append(f"do_sample with num_beams={kept['num_beams']}: beam search is used, without sampling")
        del kept["do_sample"]
    if kept.get("num_return_sequences", 1) > (kept["num_beams"] if beams else 1) and not kept.get("do_sample"):
        problems.append(f"num_return_sequences={kept.pop('num_return_sequences')} without as many beams or sampling")
    if "stop_strings" in kept and (beams or not texts):
        problems.append(f"stop_strings={kept.pop('stop_strings')!r} {'with beams' if beams else 'without a tokenizer'}")
    return kept, problems


def _read(name: str, value: Any, vocab_size: int | None) -> Any:
    """Return the value of an entry as JSON; None if it has no effect.

    Raises:
        ValueError: the value is not accepted.
    """
    limit = float("inf") if vocab_size is None else vocab_size
    if name == "do_sample" and not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}; accepted: true or false")
    if name in (*LENGTHS, "max_new_tokens") and not (is_integer(value) and value >= (name != "min_length")):
        raise ValueError(f"{name}: got {value!r}; accepted: a number of tokens")
    if name in TOKENS:
        return _special(name, value, limit)
    if name == "top_k" and is_integer(value) and value == 0:
        return 0  # no restriction, where a missing entry can mean 50
    found = checked(name, value)
    if name.startswith("forced_") and max(found if isinstance(found, tuple) else (found,), default=0) >= limit:
        raise ValueError(f"{name}: got {value}; accepted: ids of the vocabulary")
    if name == "bad_words_ids":
        found = [list(word) for word in found if max(word) < limit] or None
    elif name == "sequence_bias":
        found = [[list(word), bias] for word, bias in found if max(word) < limit] or None
    elif name in IDS and isinstance(found, tuple):
        found = [number for number in found if number < limit] or None
        found = plain(value) if found and is_integer(value) else found
    return list(found) if isinstance(found, tuple) else plain(found)


def _special(name: str, value: Any, limit: float) -> Any:
    """Return special token ids without those of at least `limit`, or None; raises ValueError as ``_read``."""
    several = name == "eos_token_id" and isinstance(value, list | tuple)
    ids: list[Any] = list(value) if several else [value]
    if not all(map(is_integer, ids)):
        raise ValueError(f"{name}: got {value!r:.60}; accepted: a token id")
    inside = [int(number) for number in ids if 0 <= number < limit]
    if not inside and name in ("pad_token_id", "decoder_start_token_id"):
        raise ValueError(f"{name}: got {value}; accepted: ids of the vocabulary")
    return inside if several and inside else inside[0] if inside else None


def resolved(
    given: Mapping[str, Any], defaults: Mapping[str, Any], *, width: int, limit: int, single: bool = False
) -> dict[str, Any]:
    """Return the options of a request: those given, completed by the defaults of the model.

    A default gives way if it does not go together with what was given: `num_beams` for one of the options that exclude
    beam search, and filters of sampling for greedy decoding.

    Args:
        given: options given by the caller.
        defaults: the entries of a generation config, as ``obeyed`` returns them, and optionally the model's
            "tokenizer".
        width: number of tokens before the first new one.
        limit: the greatest number of tokens, with these.
        single: the request cannot have beams or several results of a prompt, such as a stream.

    Raises:
        ValueError: the prompt is longer than the generation config allows.
    """
    apart = {*LENGTHS, *TOKENS, *FILTERS, *ENTRIES, "do_sample", "tokenizer", "stop_strings", "temperature"}
    found = {name: value for name, value in defaults.items() if name not in apart} | dict(given)
    if "max_new_tokens" not in given and (most := _most_new(defaults, width, limit)) is not None:
        found["max_new_tokens"] = most
    if "min_new_tokens" not in found and "min_length" in defaults:
        found["min_new_tokens"] = max(0, defaults["min_length"] - width)
    sampling = given.get("temperature", 0)
    if "num_beams" not in given and (single or sampling or given.get("callback") or given.get("stop_strings")):
        found["num_beams"] = 1
    beams = is_integer(found.get("num_beams")) and found["num_beams"] > 1
    if "temperature" not in given and defaults.get("do_sample") and not beams:
        sampling = found["temperature"] = defaults.get("temperature", 1.0)
    if sampling:
        filters = {"top_k": 50} if defaults.get("do_sample") else {}
        filters |= {name: defaults[name] for name in FILTERS if name in defaults}
        found |= {name: value or None for name, value in filters.items() if name not in given}
    if "num_return_sequences" not in given and "num_return_sequences" in found:
        most = 1 if single else found["num_beams"] if beams else found["num_return_sequences"] if sampling else 1
        found["num_return_sequences"] = min(found["num_return_sequences"], most)
    if "stop_strings" in defaults and "stop_strings" not in given and not beams:
        tokenizer = found.get("tokenizer") or defaults.get("tokenizer")
        if tokenizer is not None:
            found |= {"stop_strings": defaults["stop_strings"], "tokenizer": tokenizer}
    return found


def without_fields(defaults: Mapping[str, Any], engine: str, known: Collection[str]) -> list[str]:
    """Return a warning, or nothing, about entries of a generation config that another engine does not obey.

    Args:
        defaults: the entries, as ``obeyed`` returns them.
        engine: the name of the engine.
        known: the entries that it obeys. With "suppress_tokens", it also obeys `bad_words_ids` of one token. Special
            tokens and the greatest length are always left out, as the engine gets them in another way.
    """
    sampling, beams = defaults.get("do_sample"), defaults.get("num_beams", 1) > 1
    if "suppress_tokens" in known and "bad_words_ids" in defaults:
        longer = [word for word in defaults["bad_words_ids"] if len(word) > 1]
        defaults = {**defaults, "bad_words_ids": longer}
    lost = [
        f"{name}={value!r:.40}"
        for name, value in defaults.items()
        if name not in (*known, *TOKENS, *ENTRIES, LENGTHS[0], "max_new_tokens", "tokenizer")
        and not (name in NEUTRAL and value == NEUTRAL[name])
        and not (name in (*FILTERS, "temperature", "do_sample") and not sampling)
        and not (name in ("length_penalty", "early_stopping") and not beams)
    ]
    return [f"{engine} does not obey these entries of the generation config: {', '.join(lost)}"] if lost else []


def _most_new(defaults: Mapping[str, Any], width: int, limit: int) -> int | None:
    """Return the greatest number of new tokens by a generation config, or None if it does not specify it."""
    if "max_new_tokens" in defaults:
        return max(1, min(defaults["max_new_tokens"], limit - width))
    if "max_length" not in defaults:
        return None
    if min(defaults["max_length"], limit) <= width:
        raise ValueError(
            f"input_ids: got {width} tokens; accepted: fewer than {min(defaults['max_length'], limit)}, the max_length "
            "of the model's generation config, or max_new_tokens"
        )
    return min(defaults["max_length"], limit) - width
