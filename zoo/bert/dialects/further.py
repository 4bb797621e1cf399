"""Dialects of encoders that differ from BERT in the order of normalizations, in their embeddings or in their positions.

These are Megatron, XLM-RoBERTa XL and RoBERTa with pre-norm, BigBird with full attention, ELECTRA, ALBERT, MPNet and
Nomic's BERT.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ....weights.rules import Dialect, Field, Rule, layer_norm, linear
from ....weights.transforms import joined
from ...huggingface import (
    HF_ACTIVATIONS,
    activation,
    gated_activation,
    labels,
    number_of_labels,
)
from ...huggingface_layers import read_rope, write_rope
from ...sentence_transformers import PROJECTION_RULES
from ..config import BERTConfig
from .bert import (
    BERT_LIKE,
    EMBEDDINGS,
    QKV,
    bert_rules,
    block_rules,
    classes,
    classifier_rules,
    output_rules,
    pooler_of,
    read_roberta,
    roberta,
    roberta_rules,
    with_defaults,
    without,
)

PRE_NORM = {"norm_first": True, "embedding_norm": False}

MEGATRON = replace(
    BERT_LIKE,
    fields=with_defaults(
        BERT_LIKE.fields,
        vocab_size=29056,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    ),
    fixed=PRE_NORM,
    rules=lambda c: bert_rules(
        c,
        (
            *EMBEDDINGS,
            *block_rules("encoder.layer.{i}.", norms=("attention.ln", "ln")),
            *layer_norm("encoder.ln", "final_norm"),
        ),
    ),
    heads=classes("MegatronBert", *BERT_LIKE.heads),
    other_classes={"MegatronBertModel": None, "MegatronBertForPreTraining": "masked_lm"},
)

XLM_ROBERTA_XL = replace(
    roberta(
        "XLMRobertaXL",
        vocab_size=250880,
        hidden_size=2560,
        num_hidden_layers=36,
        num_attention_heads=32,
        intermediate_size=10240,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
    fixed={**PRE_NORM, "transform_activation": "gelu"},
    read=lambda raw, names: read_roberta(raw, names, 514),
    rules=lambda c: roberta_rules(
        c,
        (
            *EMBEDDINGS,
            *block_rules("encoder.layer.{i}.", norms=("attention.self_attn_layer_norm", "LayerNorm")),
            *layer_norm("encoder.LayerNorm", "final_norm"),
        ),
    ),
)

ROBERTA_PRE_NORM = replace(
    roberta("RobertaPreLayerNorm", "roberta_prelayernorm.", vocab_size=50265),
    fixed={"norm_first": True, "transform_activation": "gelu"},
    rules=lambda c: roberta_rules(
        c,
        (
            *EMBEDDINGS,
            *block_rules("encoder.layer.{i}.", norms=("attention.LayerNorm", "intermediate.LayerNorm")),
            *layer_norm("LayerNorm", "final_norm"),
        ),
    ),
)


def _read_big_bird(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    kind = raw.get("attention_type") or "block_sparse"
    if kind != "original_full":
        raise ValueError(f"attention_type: got {kind!r}; accepted: 'original_full'")
    own = activation(raw, "hidden_act", "gelu_new")
    return {**BERT_LIKE.read(raw, names), "activation": own, "classifier_activation": own}


BIG_BIRD = replace(
    BERT_LIKE,
    fields=(
        *with_defaults(BERT_LIKE.fields, vocab_size=50358, max_position_embeddings=4096),
        Field("use_bias", "use_qkv_bias", True),
    ),
    demanded={**BERT_LIKE.demanded, "rescale_embeddings": False},
    read=_read_big_bird,
    write=lambda c: {**BERT_LIKE.write(c), "attention_type": "original_full"},
    rules=lambda c: (
        *EMBEDDINGS,
        *block_rules("encoder.layer.{i}."),
        *classifier_rules(c, linear("pooler", "pooler")),
        *linear("cls.predictions.transform.dense", "transform", outside=True),
        *layer_norm("cls.predictions.transform.LayerNorm", "transform_norm", outside=True),
        *output_rules(c, "cls.predictions.decoder", "cls.predictions.bias"),
    ),
    # Its question answering head masks the question and has a feed-forward network of its own.
    heads=classes(
        "BigBird", None, "masked_lm", "sequence_classification", "token_classification", "sentence_embedding"
    ),
    other_classes={"BigBirdModel": None, "BigBirdForPreTraining": "masked_lm"},
    unused={**BERT_LIKE.unused, r"^pooler\.": False},
)


def _read_electra(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    if "ElectraForMultipleChoice" in (raw.get("architectures") or ()):  # the others do not read these entries
        wanted = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}
        for name, value in wanted.items():
            if raw.get(name, value) != value:
                raise ValueError(f"{name}: got {raw[name]!r}; accepted: {value!r}")
    return {**BERT_LIKE.read(raw, names), "pooler": False}


ELECTRA = replace(
    BERT_LIKE,
    fields=(
        *with_defaults(BERT_LIKE.fields, hidden_size=256, num_attention_heads=4, intermediate_size=1024),
        Field("embedding_size", "token_dim", 128),
    ),
    fixed={"transform_activation": "gelu", "classifier_activation": "gelu"},  # independent of the body's activation
    read=_read_electra,
    rules=lambda c: (
        *EMBEDDINGS,
        *linear("embeddings_project", "embedding_projection"),
        *block_rules("encoder.layer.{i}."),
        *_electra_heads(c),
    ),
    prefix="electra.",
    heads={**classes("Electra"), "replaced_tokens": "ElectraForPreTraining"},
    other_classes={"ElectraModel": None},
    unused={},
    tied={"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
    output="generator_lm_head.weight",
)


def _electra_heads(c: BERTConfig) -> tuple[Rule, ...]:
    if c.head == "replaced_tokens":
        return (
            *linear("discriminator_predictions.dense", "transform", outside=True),
            *linear("discriminator_predictions.dense_prediction", "classifier", outside=True),
        )
    return (
        *classifier_rules(c, linear("sequence_summary.summary", "pooler", outside=True)),
        *linear("generator_predictions.dense", "transform", outside=True),
        *layer_norm("generator_predictions.LayerNorm", "transform_norm", outside=True),
        *output_rules(c, "generator_lm_head", "generator_lm_head.bias"),
    )


def _albert_rules(c: BERTConfig) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for i in range(c.depth):
        group, inner = divmod(i, c.layers_per_group)
        rules += block_rules(
            f"encoder.albert_layer_groups.{group}.albert_layers.{inner}.",
            f"block_{i}",
            query="attention.query",
            key="attention.key",
            value="attention.value",
            output="attention.dense",
            norms=("attention.LayerNorm", "full_layer_layer_norm"),
            up="ffn",
            down="ffn_output",
        )
    return (
        *EMBEDDINGS,
        *linear("encoder.embedding_hidden_mapping_in", "embedding_projection"),
        *rules,
        *linear("pooler", "pooler"),
        *linear("classifier", "classifier", outside=True),
        *linear("qa_outputs", "span", outside=True),
        *PROJECTION_RULES,
        *linear("predictions.dense", "transform", outside=True),
        *layer_norm("predictions.LayerNorm", "transform_norm", outside=True),
        *output_rules(c, "predictions.decoder", "predictions.bias"),
    )


ALBERT = replace(
    BERT_LIKE,
    fields=(
        *with_defaults(
            BERT_LIKE.fields,
            vocab_size=30000,
            hidden_size=4096,
            num_attention_heads=64,
            intermediate_size=16384,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        Field("embedding_size", "token_dim", 128),
        Field("num_hidden_groups", "num_layer_groups", 1),
        Field("inner_group_num", "layers_per_group", 1),
    ),
    fixed={"project_embeddings": True},
    read=lambda raw, names: {
        **BERT_LIKE.read(raw, names),
        "activation": activation(raw, "hidden_act", "gelu_new"),
    },
    rules=_albert_rules,
    prefix="albert.",
    heads=classes("Albert"),
    other_classes={"AlbertModel": None, "AlbertForPreTraining": "masked_lm"},
    unused={r"^pooler\.": False, r"^sop_classifier\.": True, r"^predictions\.bias$": True},
    tied={
        "predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    output="predictions.decoder.weight",
)

_MPNET = roberta("MPNet", "mpnet.", vocab_size=30527)
MPNET = replace(
    _MPNET,
    fields=without(_MPNET.fields, "type_vocab_size", "pad_token_id"),
    # In its code, positions begin at 2 and there are 32 buckets, regardless of the config.
    fixed={**_MPNET.fixed, "type_vocab_size": 0, "pad_token_id": 1, "position": ("learned", "relative")},
    demanded={"pad_token_id": 1, "relative_attention_num_buckets": 32},
    rules=lambda c: roberta_rules(
        c,
        (
            *EMBEDDINGS,
            Rule("encoder.relative_attention_bias.weight", "attention_positions/embeddings"),
            *block_rules(
                "encoder.layer.{i}.",
                query="attention.attn.q",
                key="attention.attn.k",
                value="attention.attn.v",
                output="attention.attn.o",
                norms=("attention.LayerNorm", "output.LayerNorm"),
            ),
        ),
    ),
)


FUSED = joined(0, transposed=True)  # one kernel (3 · width, width) for queries, keys and values
# Entries of the configs that Nomic published, under GPT-2's names, and the only values that are supported.
_NOMIC_PUBLISHED = {
    "prenorm": False,
    "causal": False,
    "parallel_block": False,
    "use_rms_norm": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "activation_function": "swiglu",
}
_NOMIC_WORDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "hidden_dropout_prob": "resid_pdrop",
    "attention_probs_dropout_prob": "attn_pdrop",
}


def _read_nomic(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    for name, value in _NOMIC_PUBLISHED.items():
        if name in raw and raw[name] != value:
            raise ValueError(f"{name}: got {raw[name]!r}; accepted: {value!r}")
    words = {"rope_theta": raw["rotary_emb_base"]} if "rotary_emb_base" in raw else {}
    return {
        "activation": gated_activation(raw, "hidden_act", "silu"),
        "num_classes": number_of_labels(raw),
        "pooler": pooler_of(names),
        **read_rope({**words, **raw}, 2048, 1000.0),
    }


NOMIC = Dialect(
    fields=(
        *(
            replace(entry, synonym=_NOMIC_WORDS.get(entry.theirs))
            for entry in with_defaults(
                BERT_LIKE.fields,
                vocab_size=30528,
                max_position_embeddings=2048,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        ),
        Field("head_dim", "head_dim", None),
    ),
    silent=BERT_LIKE.silent,
    fixed={"position": "rotary", "use_bias": False},
    read=_read_nomic,
    write=lambda c: {"hidden_act": HF_ACTIVATIONS[c.transform_activation], **labels(c), **write_rope(c)},
    rules=lambda c, block="encoder.layers.{i}.", ours="block_{i}": (
        *EMBEDDINGS[:3],
        *layer_norm("emb_ln", "embedding_norm"),
        Rule(f"{block}attn.Wqkv.weight", tuple(f"{ours}/attention/{part}/kernel" for part in QKV), FUSED),
        *linear(f"{block}attn.out_proj", f"{ours}/attention/output"),
        *layer_norm(f"{block}norm1", f"{ours}/attention_norm"),
        *linear(f"{block}mlp.fc11", f"{ours}/feedforward/up"),
        *linear(f"{block}mlp.fc12", f"{ours}/feedforward/gate"),
        *linear(f"{block}mlp.fc2", f"{ours}/feedforward/down"),
        *layer_norm(f"{block}norm2", f"{ours}/feedforward_norm"),
        *linear("pooler.dense", "pooler"),
        *linear("classifier", "classifier", outside=True),
        *PROJECTION_RULES,
        *linear("cls.predictions.transform.dense", "transform", outside=True),
        *layer_norm("cls.predictions.transform.layer_norm", "transform_norm", outside=True),
        *output_rules(c, "cls.predictions.decoder", "cls.predictions.bias"),
    ),
    prefix="nomic_bert.",
    heads=classes(
        "NomicBert", None, "masked_lm", "sequence_classification", "token_classification", "sentence_embedding"
    ),
    other_classes={"NomicBertModel": None},
    ignored=(*BERT_LIKE.ignored, r"^rotary_emb\."),
    unused={r"^pooler\.dense\.": False, r"^cls\.predictions\.bias$": True},
    tied=BERT_LIKE.tied,
    output=BERT_LIKE.output,
)
