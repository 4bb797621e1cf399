"""Entries that a Hugging Face config lacks: the model has the values that transformers takes for them.

``transformers_defaults.json`` has the defaults of the config classes of transformers, read from its dataclass fields.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attention_zoo.zoo.loading import model_types
from attention_zoo.zoo.registry import family

STORED = json.loads((Path(__file__).parent / "transformers_defaults.json").read_text("utf-8"))["defaults"]
YARN = {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}
# Values of other entries with which the missing one has an effect.
CONTEXTS: dict[str, list[dict[str, Any]]] = {
    "llama": [YARN],
    "mistral": [YARN],
    "qwen2": [YARN, *({"use_sliding_window": True, "num_hidden_layers": layers} for layers in (20, 28))],
    "qwen3": [YARN, *({"use_sliding_window": True, "num_hidden_layers": layers} for layers in (20, 28))],
    "mixtral": [YARN],
    "olmoe": [YARN],
    "gpt_oss": [YARN],
    "qwen2_moe": [YARN],
    "qwen3_moe": [YARN, {"use_sliding_window": True}],
    "t5": [{"feed_forward_proj": "gated-gelu"}],
    "gpt2": [{"vocab_size": 50257}],
}
# Entries whose default is refused.
NEEDED: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "starcoder2": {"bos_token_id": 0, "eos_token_id": 0},  # outside of its vocabulary
}
# Entries that are read from older or extended configs, and that these config classes do not declare.
UNDECLARED = {
    **{key: {"head_dim"} for key in ("qwen2", "olmoe", "granite", "olmo2", "olmo3", "phi3", "smollm3", "starcoder2")},
    "bloom": {"seq_length"},
    "ernie4_5": {"attention_dropout"},
    "qwen2_moe": {"head_dim"},
    "qwen3_moe": {"head_dim"},
    "t5": {"n_positions", "decoder_start_token_id"},
    "mt5": {"n_positions"},
    "umt5": {"n_positions"},
}


def outcome(kind: str, raw: dict[str, Any]) -> Any:
    """Return the fields of the model's config for `raw`, or the message if an entry is required or refused."""
    cls = family(model_types()[kind])
    try:
        values = cls.dialects[kind].config(raw, {"lm_head.weight": (1, 1)})
        kept = {name: value for name, value in values.items() if value is not None or name.endswith("_token_id")}
        if "tower" in kept:  # an encoder alone, which has other heads than the family's default
            kept["head"] = next(iter(cls.dialects[kind].heads))
        return cls.config_class.from_dict(kept).to_dict()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("kind", sorted(model_types()))
def test_missing_entries_are_those_of_transformers(kind: str) -> None:
    for context in [{}, *CONTEXTS.get(kind, [])]:
        given = {**NEEDED.get(kind, {}), **context}
        whole = {**STORED[kind], **given}
        expected = outcome(kind, whole)
        assert isinstance(expected, dict), expected
        for name in sorted(set(STORED[kind]) - set(given)):
            found = outcome(kind, {key: value for key, value in whole.items() if key != name})
            assert found in (expected, f"{name}: not in the config; accepted: a value"), (name, context)


@pytest.mark.parametrize("kind", sorted(model_types()))
def test_defaults_of_all_entries_are_known(kind: str) -> None:
    """Every entry that a dialect reads under its own name is one whose default is compared above."""
    entries = {entry.theirs for entry in family(model_types()[kind]).dialects[kind].fields}
    assert entries - set(STORED[kind]) == UNDECLARED.get(kind, set())


@pytest.mark.parametrize(
    ("kind", "values", "field", "expected"),
    [
        ("mistral", {"num_key_value_heads": None}, "num_kv_heads", 32),
        ("mistral", {"sliding_window": None}, "sliding_window", None),
        ("qwen2", {"num_key_value_heads": None, "num_attention_heads": 16}, "num_kv_heads", 16),
        ("qwen3", {"use_sliding_window": True, "sliding_window": None}, "sliding_window", None),
        ("llama", {"eos_token_id": None}, "eos_token_id", None),
        ("gpt2", {"hidden_size": 96}, "hidden_dim", 96),  # the name that all configs of transformers share wins
        ("t5", {"num_attention_heads": 4}, "num_heads", 4),
    ],
)
def test_null_and_shared_names(kind: str, values: dict[str, Any], field: str, expected: Any) -> None:
    assert outcome(kind, {**STORED[kind], **values})[field] == expected
