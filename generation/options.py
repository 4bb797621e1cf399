"""The options of ``generate``: their names, defaults and accepted values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import numpy as np

from ..checks import is_integer, is_number, plain

Array = np.ndarray
Tokens = Sequence[int]  # ids that follow each other
# Options that restrict sampling, in the order in which they are applied, as in transformers.
FILTERS = ("top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True)
class Options:
    """The options of ``generate``, which documents them.

    Raises:
        ValueError: a value that is not accepted, or options that exclude each other.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    top_h: float | None = None
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    bad_words_ids: Sequence[Tokens] | None = None
    sequence_bias: Any = None
    min_new_tokens: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    decoder_input_ids: Any = None
    language: str | Sequence[str] | None = None
    task: str | None = None
    stop_tokens: int | Sequence[int] | None = None
    stop_strings: str | Sequence[str] | None = None
    tokenizer: Any = None
    callback: Callable[[Array], Any] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, checked(field.name, getattr(self, field.name)))
        filters = [name for name in ("top_k", "top_p", "min_p", *FILTERS) if getattr(self, name) is not None]
        if filters and not self.temperature:
            named = list(dict.fromkeys(filters))
            raise ValueError(f"temperature: got 0 (greedy) with {named}; accepted: a positive number with these")
        if self.num_beams > 1 and (self.temperature or self.callback or self.stop_strings):
            raise ValueError(
                f"num_beams: got {self.num_beams} with temperature, callback or stop_strings; accepted: 1 with these"
            )
        most = self.num_beams if self.num_beams > 1 else self.num_return_sequences if self.temperature else 1
        if self.num_return_sequences > most:
            raise ValueError(
                f"num_return_sequences: got {self.num_return_sequences}; accepted: at most num_beams, here {most}, or "
                "any number with a temperature"
            )
        if self.stop_strings and not hasattr(self.tokenizer, "decode"):
            raise ValueError(
                f"tokenizer: got {self.tokenizer!r} with stop_strings; accepted: an object with decode(list of ids)"
            )


class GenerateOptions(TypedDict, total=False):
    """The fields of ``Options``, for type checkers; a test compares the two."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    top_h: float | None
    repetition_penalty: float
    encoder_repetition_penalty: float
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Tokens] | None
    sequence_bias: Any
    min_new_tokens: int
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    remove_invalid_values: bool
    renormalize_logits: bool
    num_beams: int
    length_penalty: float
    early_stopping: bool | str
    num_return_sequences: int
    decoder_input_ids: Any
    language: str | Sequence[str] | None
    task: str | None
    stop_tokens: int | Sequence[int] | None
    stop_strings: str | Sequence[str] | None
    tokenizer: Any
    callback: Callable[[Array], Any] | None
    seed: int | None


def checked(name: str, value: Any) -> Any:
    """Return the value of an option, with Python numbers and tuples instead of those of NumPy and lists.

    Raises:
        ValueError: the value is not accepted.
    """
    check = _CHECKS.get(name)
    return value if check is None else check(name, value)


def _number(
    low: float = 0, high: float = np.inf, *, whole: bool = False, above: bool = False, none: bool = True
) -> Callable[[str, Any], Any]:
    """Return the check of a number from `low` to `high`.

    Args:
        low, high: the limits.
        whole: only integers are accepted.
        above: `low` itself is not accepted.
        none: None is accepted.
    """

    def check(name: str, value: Any) -> Any:
        if value is None and none:
            return None
        known: Any = value if (is_integer(value) if whole else is_number(value)) else np.nan
        if not known <= high or abs(known) == np.inf or not (known > low if above else known >= low):
            what = "a number" if value is None else "an integer" if whole else "a number"
            limit = f" {'above' if above else 'of at least'} {low}" + ("" if high == np.inf else f" and at most {high}")
            raise ValueError(f"{name}: got {value!r}; accepted: {what}{'' if value is None else limit}")
        return plain(value)

    return check


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: got {value!r}; accepted: True or False")
    return bool(value)


def _early_stopping(name: str, value: Any) -> bool | str:
    if not (isinstance(value, bool | np.bool_) or (isinstance(value, str) and value == "never")):
        raise ValueError(f"{name}: got {value!r}; accepted: True, False or 'never'")
    return value if isinstance(value, str) else bool(value)


def _id(name: str, value: Any) -> int | None:
    if value is not None and (not is_integer(value) or value < 0):
        raise ValueError(f"{name}: got {value!r}; accepted: a token id, or None")
    return plain(value)


def _are_ids(value: Any, least: int = 0) -> bool:
    listed = isinstance(value, list | tuple | np.ndarray) and np.ndim(np.asarray(value, dtype=object)) == 1
    return listed and len(value) >= least and all(is_integer(number) and number >= 0 for number in value)


def _ids(name: str, value: Any) -> tuple[int, ...] | None:
    value = [value] if is_integer(value) else value
    if value is not None and not _are_ids(value):
        raise ValueError(f"{name}: got {value!r:.60}; accepted: token ids, or None")
    return None if value is None else tuple(map(int, value))


def _sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple | np.ndarray) or not all(_are_ids(one, 1) for one in value):
        raise ValueError(f"{name}: got {value!r:.60}; accepted: a list of lists of token ids, or None")
    return tuple(tuple(map(int, one)) for one in value)


def _biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...] | None:
    if value is None:
        return None
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    right = isinstance(pairs, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    if not right or not all(_are_ids(ids, 1) and is_number(bias) and not np.isnan(bias) for ids, bias in pairs):
        raise ValueError(f"{name}: got {value!r:.60}; accepted: pairs of a list of token ids and a number, or None")
    return tuple((tuple(map(int, ids)), float(bias)) for ids, bias in pairs)


def _decay(name: str, value: Any) -> tuple[int, float] | None:
    if value is None:
        return None
    pair = isinstance(value, list | tuple) and len(value) == 2
    if not pair or not is_integer(value[0]) or not is_number(value[1]) or value[0] < 0 or not 0 < value[1] < np.inf:
        raise ValueError(f"{name}: got {value!r:.60}; accepted: a number of tokens and a positive factor, or None")
    return int(value[0]), float(value[1])


def _strings(name: str, value: Any) -> Any:
    strings: Any = () if value is None else value
    strings = [strings] if isinstance(strings, str) else strings
    if not isinstance(strings, list | tuple) or not all(isinstance(part, str) and part for part in strings):
        raise ValueError(f"{name}: got {value!r}; accepted: a text that is not empty, or several")
    return value


def _codes(name: str, value: Any) -> Any:
    listed = isinstance(value, list | tuple) and all(isinstance(code, str) for code in value) and len(value)
    if not (value is None or isinstance(value, str) or listed):
        raise ValueError(f"{name}: got {value!r}; accepted: the code of a language, or one for each row")
    return value


def _callback(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise ValueError(f"{name}: got {value!r}; accepted: a function of the new tokens (batch,)")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_new_tokens": _number(whole=True, none=False),
    "min_new_tokens": _number(whole=True, none=False),
    "temperature": _number(none=False),
    "top_k": _number(1, whole=True),
    "top_p": _number(0, 1, above=True),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1, above=True),
    "epsilon_cutoff": _number(0, 1),
    "eta_cutoff": _number(0, 1),
    "top_h": _number(0, 1, above=True),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), _number(above=True, none=False)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), _number(whole=True)),
    "bad_words_ids": _sequences,
    "sequence_bias": _biases,
    "forced_bos_token_id": _id,
    "forced_eos_token_id": _ids,
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _ids),
    "exponential_decay_length_penalty": _decay,
    **dict.fromkeys(("remove_invalid_values", "renormalize_logits"), _truth),
    "num_beams": _number(1, whole=True, none=False),
    "num_return_sequences": _number(1, whole=True, none=False),
    "length_penalty": _number(-np.inf, none=False),
    "early_stopping": _early_stopping,
    "language": _codes,
    "stop_strings": _strings,
    "callback": _callback,
    "seed": _number(whole=True),
}
