"""Dialects of DeBERTa and of its second and third version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ....weights.rules import Dialect, Rule, layer_norm, linear
from ....weights.transforms import TRANSPOSED, grouped_heads
from ...huggingface import HF_ACTIVATIONS, activation, flag, integer
from ...sentence_transformers import PROJECTION_RULES
from ..config import TERMS, BERTConfig
from .bert import BERT_LIKE, EMBEDDINGS, QKV, block_rules, classes, output_rules, with_defaults


def _read(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the fields that both versions have in common."""
    width = integer(raw, "hidden_size", 768)
    for name in ("embedding_size", "pooler_hidden_size"):
        if integer(raw, name, width) != width:
            raise ValueError(f"{name}: got {raw[name]!r}; accepted: hidden_size={width}")
    terms = raw.get("pos_att_type") or []
    terms = [term.strip() for term in terms.lower().split("|")] if isinstance(terms, str) else terms
    if not isinstance(terms, list) or any(term not in TERMS for term in terms) or len(set(terms)) < len(terms):
        raise ValueError(f"pos_att_type: got {raw['pos_att_type']!r}; accepted: {list(TERMS)}, or one of them")
    relative, added = flag(raw, "relative_attention", False), flag(raw, "position_biased_input", True)
    if terms and not relative:
        raise ValueError(f"pos_att_type: got {terms} without relative_attention; accepted: none, or relative_attention")
    words = (*["learned"] * added, *["disentangled"] * relative)
    return {
        **BERT_LIKE.read(raw, names),
        "pooler": False,
        "position": words if len(words) == 2 else "".join(words) or "none",
        "position_terms": tuple(terms),
        "num_buckets": 2 * _most(raw),
        "max_distance": 0,
        "classifier_activation": activation(raw, "pooler_hidden_act", "gelu"),
    }


def _most(raw: Mapping[str, Any]) -> int:
    """Return the greatest distance that has an embedding."""
    given = integer(raw, "max_relative_positions", -1)
    return given if given >= 1 else integer(raw, "max_position_embeddings", 512)


def _write(c: BERTConfig, most: int) -> dict[str, Any]:
    relative = {
        "max_relative_positions": -1 if most == c.max_length else most,
        "pos_att_type": list(c.position_terms),
    }
    return {
        **BERT_LIKE.write(c),
        "pooler_hidden_act": HF_ACTIVATIONS[c.classifier_activation or "gelu"],
        "position_biased_input": c.added_position == "learned",
        "relative_attention": c.disentangled,
        "legacy": True,  # the names of the masked LM head below
        **(relative if c.disentangled else {}),
    }


def _rules(c: BERTConfig, attention: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Return the rules of a model whose rules for the attention projections are `attention`, in place of BERT's."""
    return (
        *EMBEDDINGS,
        Rule("encoder.rel_embeddings.weight", "attention_positions/embeddings"),
        *layer_norm("encoder.LayerNorm", "attention_positions/norm"),
        *block_rules("encoder.layer.{i}.")[6:],
        *attention,
        *linear("pooler.dense", "pooler", outside=True),
        *linear("classifier", "classifier", outside=True),
        *linear("qa_outputs", "span", outside=True),
        *PROJECTION_RULES,
        *linear("cls.predictions.transform.dense", "transform", outside=True),
        *layer_norm("cls.predictions.transform.LayerNorm", "transform_norm", outside=True),
        *output_rules(c, "cls.predictions.decoder", "cls.predictions.bias"),
    )


_INSIDE, _OURS = "encoder.layer.{i}.attention.self.", "block_{i}/attention/"


def _first_rules(c: BERTConfig) -> tuple[Rule, ...]:
    """Return the rules of the first version, in which one tensor holds all projections without their biases."""
    return _rules(
        c,
        (
            Rule(
                f"{_INSIDE}in_proj.weight",
                tuple(f"{_OURS}{part}/kernel" for part in QKV),
                grouped_heads(c.num_heads, c.num_heads),
            ),
            Rule(f"{_INSIDE}q_bias", f"{_OURS}query/bias"),
            Rule(f"{_INSIDE}v_bias", f"{_OURS}value/bias"),
            Rule(f"{_INSIDE}pos_proj.weight", f"{_OURS}position_key/kernel", TRANSPOSED),
            *linear(f"{_INSIDE}pos_q_proj", f"{_OURS}position_query"),
        ),
    )


def _second_rules(c: BERTConfig) -> tuple[Rule, ...]:
    parts = {part: f"{part}_proj" for part in QKV} | {
        "position_key": "pos_key_proj",
        "position_query": "pos_query_proj",
    }
    named = [linear(_INSIDE + theirs, _OURS + ours) for ours, theirs in parts.items()]
    return _rules(c, tuple(rule for pair in named for rule in pair))


def _read_second(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    width, heads = integer(raw, "hidden_size", 1536), integer(raw, "num_attention_heads", 24)
    if raw.get("attention_head_size") not in (None, width // max(heads, 1)):
        got = raw["attention_head_size"]
        raise ValueError(f"attention_head_size: got {got!r}; accepted: hidden_size / num_attention_heads")
    if integer(raw, "conv_kernel_size", 0) > 0:
        raise ValueError(f"conv_kernel_size: got {raw['conv_kernel_size']}; accepted: 0, as convolutions are not built")
    norms = [name.strip() for name in str(raw.get("norm_rel_ebd") or "none").lower().split("|")]
    fields = {
        **_read({"hidden_size": width, **raw}, names),
        "norm_positions": "layer_norm" in norms,
        "share_position_projections": flag(raw, "share_att_key", False),
    }
    if (buckets := integer(raw, "position_buckets", -1)) > 0:
        fields |= {"num_buckets": 2 * buckets, "max_distance": _most(raw)}
    return fields


def _write_second(c: BERTConfig) -> dict[str, Any]:
    own = {
        "position_buckets": -1 if not c.max_distance else c.num_buckets // 2,
        "norm_rel_ebd": "layer_norm" if c.norm_positions else "none",
        "share_att_key": c.share_position_projections,
    }
    return {**_write(c, c.max_distance or c.num_buckets // 2), **(own if c.disentangled else {})}


DEBERTA = Dialect(
    fields=with_defaults(BERT_LIKE.fields, vocab_size=50265, type_vocab_size=0, layer_norm_eps=1e-7),
    silent=BERT_LIKE.silent,
    fixed={"use_key_bias": False},
    demanded={"talking_head": False},
    read=_read,
    write=lambda c: _write(c, c.num_buckets // 2),
    rules=_first_rules,
    prefix="deberta.",
    heads=classes("Deberta", *(head for head in BERT_LIKE.heads if head not in ("multiple_choice", "next_sentence"))),
    other_classes={"DebertaModel": None},
    aliases={
        **BERT_LIKE.aliases,
        # The masked LM head of configs with "legacy": false.
        r"^lm_predictions\.lm_head\.(dense|LayerNorm)\.": r"cls.predictions.transform.\1.",
        r"^lm_predictions\.lm_head\.bias$": "cls.predictions.bias",
    },
    ignored=(*BERT_LIKE.ignored, r"^embeddings\.position_embeddings\."),
    unused={
        r"^mask_predictions\.": True,
        r"^cls\.predictions\.bias$": True,
        r"^encoder\.LayerNorm\.": False,
    },
    tied=BERT_LIKE.tied,
    output=BERT_LIKE.output,
)

DEBERTA_V2 = replace(
    DEBERTA,
    fields=with_defaults(
        DEBERTA.fields,
        vocab_size=128100,
        hidden_size=1536,
        num_hidden_layers=24,
        num_attention_heads=24,
        intermediate_size=6144,
    ),
    fixed={},
    demanded={},
    read=_read_second,
    write=_write_second,
    rules=_second_rules,
    heads=classes("DebertaV2"),
    other_classes={"DebertaV2Model": None},
)
