"""Functions that the tables of several decoders share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....weights.rules import Field, Rule, linear
from ...huggingface import HF_ACTIVATIONS, activation, gated_activation, labels, number_of_labels
from ...sentences import SILENT
from ..config import GPTConfig

QUIET = (*SILENT, "score_activation")  # fields that the files of sentence-transformers store
CLASSES = {
    **{"causal_lm": "ForCausalLM", None: "Model", "sentence_embedding": "Model"},
    **{"sequence_classification": "ForSequenceClassification", "token_classification": "ForTokenClassification"},
}


def each(name: str) -> tuple[str, ...]:
    """Return `name` three times, with "query", "key" and "value" in place of ``{}``."""
    return tuple(name.replace("{}", part) for part in ("query", "key", "value"))


def special_ids(bos: int | None, eos: int | tuple[int, ...] | None, pad: int | None = None) -> tuple[Field, ...]:
    """Return the entries of the special tokens, with transformers' defaults."""
    return (
        Field("bos_token_id", "bos_token_id", bos),
        Field("eos_token_id", "eos_token_id", eos),
        Field("pad_token_id", "pad_token_id", pad),
    )


def heads_of(name: str, *without: str) -> dict[str, Any]:
    """Return `heads` and `other_classes` of a dialect whose classes begin with `name`, except the heads `without`."""
    heads = {head: name + end for head, end in CLASSES.items() if head not in without}
    return {"heads": heads, "other_classes": {f"{name}Model": None}}


def classifiers(c: GPTConfig) -> tuple[Rule, ...]:
    """Return the rules of the classification heads of a model whose token classifier is named "classifier"."""
    return linear("classifier" if c.head == "token_classification" else "score", "classifier", outside=True)


def reading(
    default: str,
    entry: str = "hidden_act",
    gated: bool = False,
    more: Callable[[Mapping[str, Any]], Any] = lambda _: {},
) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    """Return the ``read`` of a dialect with this entry and default of an activation, and the fields `more` returns."""
    read = gated_activation if gated else activation
    return lambda raw, _: {
        "activation": read(raw, entry, default),
        "num_classes": number_of_labels(raw),
        **more(raw),
    }


def writing(
    entry: str = "hidden_act", more: Callable[[GPTConfig], dict[str, Any]] = lambda _: {}
) -> Callable[[GPTConfig], dict[str, Any]]:
    """Return the ``write`` of a dialect that stores an activation without a gate under `entry`."""
    return lambda c: {entry: HF_ACTIVATIONS[c.activation], **labels(c), **more(c)}


def shortest_inverse(value: float) -> float:
    """Return the shortest decimal number whose inverse is `value`, or else 1 / `value`."""
    candidates = (float(f"{1 / value:.{digits}g}") for digits in range(1, 18))
    return next((number for number in candidates if number and 1 / number == value), 1 / value)
