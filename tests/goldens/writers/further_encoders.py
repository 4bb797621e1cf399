"""Reference checkpoints of encoders that differ from BERT in more than names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import (
    LABELS,
    SEQUENCE,
    STATES,
    TAGS,
    case,
    golden,
    ids,
    labels,
    mask_of,
    new,
    pad,
    reread,
    results,
    seed_of,
    write_golden,
)
from .encoders import write_encoder

STATE = STATES[:1]


def small(cls: Any, **changes: Any) -> Any:
    sizes = {"vocab_size": 67, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    return cls(**{**sizes, "num_attention_heads": 2, "max_position_embeddings": 40, **changes})


def counted(cls: Any, **changes: Any) -> Any:
    """Return a config of a model whose positions begin at pad_token_id + 1 = 2."""
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return small(cls, **{"max_position_embeddings": 42, **tokens, **changes})


@golden
def megatron_bert(folder: Path) -> None:
    """Pre-norm, with a normalization after the last layer and none of the embeddings."""
    write_encoder(folder, hf.MegatronBertForMaskedLM, small(hf.MegatronBertConfig), SEQUENCE)


@golden
def xlm_roberta_xl(folder: Path) -> None:
    """Pre-norm; the head has two layers."""
    config = counted(hf.XLMRobertaXLConfig, **labels(LABELS))
    write_encoder(folder, hf.XLMRobertaXLForSequenceClassification, config, SEQUENCE, left=True)


@golden
def roberta_prelayernorm(folder: Path) -> None:
    """Pre-norm, with normalized embeddings."""
    config = counted(hf.RobertaPreLayerNormConfig, hidden_act="relu")
    write_encoder(folder, hf.RobertaPreLayerNormForMaskedLM, config, SEQUENCE, left=True)


@golden
def big_bird(folder: Path) -> None:
    """Full attention without biases of queries, keys and values; the activation of the head is that of the body."""
    config = small(hf.BigBirdConfig, attention_type="original_full", use_bias=False, **labels(LABELS))
    write_encoder(folder, hf.BigBirdForSequenceClassification, config, SEQUENCE)


@golden
def electra(folder: Path) -> None:
    """The generator: tables narrower than the hidden states, and exact GELU in the head."""
    config = small(hf.ElectraConfig, embedding_size=12, hidden_act="relu")
    write_encoder(folder, hf.ElectraForMaskedLM, config, SEQUENCE)


@golden
def electra_discriminator(folder: Path) -> None:
    """One logit for each token; tables as wide as the hidden states have no projection."""
    write_encoder(folder, hf.ElectraForPreTraining, small(hf.ElectraConfig, embedding_size=16), SEQUENCE)


@golden
def electra_sequence(folder: Path) -> None:
    """The dense layer of the head has exact GELU."""
    config = small(hf.ElectraConfig, embedding_size=12, hidden_act="relu", **labels(LABELS))
    write_encoder(folder, hf.ElectraForSequenceClassification, config, SEQUENCE)


@golden
def albert(folder: Path) -> None:
    """Five layers share the weights of two groups."""
    config = small(hf.AlbertConfig, embedding_size=12, num_hidden_layers=5, num_hidden_groups=2)
    write_encoder(folder, hf.AlbertForMaskedLM, config, SEQUENCE)


@golden
def albert_backbone(folder: Path) -> None:
    """Three layers of the same two blocks; the pooler is named without a part."""
    config = small(hf.AlbertConfig, embedding_size=12, num_hidden_layers=3, inner_group_num=2)
    write_encoder(folder, hf.AlbertModel, config, STATES)


@golden
def mpnet(folder: Path) -> None:
    """Relative position biases, shared by all layers, beside learned positions."""
    write_encoder(folder, hf.MPNetModel, counted(hf.MPNetConfig), STATES, left=True)


@golden
def nomic_bert(folder: Path) -> None:
    """Rotary positions, SwiGLU and no biases; heads of another size than their share of the width."""
    write_encoder(folder, hf.NomicBertForMaskedLM, small(hf.NomicBertConfig, head_dim=6), SEQUENCE)


@golden
def nomic_bert_backbone(folder: Path) -> None:
    """Scaled rotary positions, and no pooler."""
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
    write_encoder(folder, hf.NomicBertModel, small(hf.NomicBertConfig, rope_parameters=rope), STATE)


def disentangled(cls: Any, *terms: str, **changes: Any) -> Any:
    return small(cls, relative_attention=True, pos_att_type=list(terms), **changes)


@golden
def deberta(folder: Path) -> None:
    """Joined projections without a bias of the keys; a row of the table for each of seven distances."""
    config = disentangled(hf.DebertaConfig, "c2p", "p2c", max_relative_positions=7)
    write_encoder(folder, hf.DebertaForMaskedLM, config, SEQUENCE)


@golden
def deberta_backbone(folder: Path) -> None:
    """One term, token types, and no positions in the embeddings."""
    config = disentangled(hf.DebertaConfig, "c2p", position_biased_input=False, type_vocab_size=2)
    write_encoder(folder, hf.DebertaModel, config, STATE)


@golden
def deberta_v2(folder: Path) -> None:
    """As in the third version: logarithmic buckets of distances, shared projections and a normalized table."""
    buckets = {"position_buckets": 4, "position_biased_input": False}
    shared = {"share_att_key": True, "norm_rel_ebd": "layer_norm"}
    config = disentangled(hf.DebertaV2Config, "p2c", "c2p", **buckets, **shared)
    write_encoder(folder, hf.DebertaV2ForMaskedLM, config, SEQUENCE)


@golden
def deberta_v2_sequence(folder: Path) -> None:
    """Projections of the distances of their own; another activation of the pooler."""
    config = disentangled(hf.DebertaV2Config, "p2c", position_buckets=6, pooler_hidden_act="tanh", **labels(LABELS))
    write_encoder(folder, hf.DebertaV2ForSequenceClassification, config, SEQUENCE)


def modern(**changes: Any) -> Any:
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return small(hf.ModernBertConfig, num_hidden_layers=3, local_attention=6, **tokens, **changes)


@golden
def modernbert(folder: Path) -> None:
    """Local attention in two of three layers, two bases of rotary positions, no biases; no norm in front of all."""
    write_encoder(folder, hf.ModernBertForMaskedLM, modern(), SEQUENCE)


@golden
def modernbert_sequence(folder: Path) -> None:
    """The mean of the tokens; all the biases that the config can ask for; the second layer alone is local."""
    biases = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = modern(classifier_pooling="mean", layer_types=kinds, **biases, **labels(LABELS))
    write_encoder(folder, hf.ModernBertForSequenceClassification, config, SEQUENCE)


@golden
def modernbert_token(folder: Path) -> None:
    """The classifier follows the transform of the masked LM head; the activation is another."""
    config = modern(classifier_activation="relu", global_attn_every_n_layers=2, **labels(TAGS))
    write_encoder(folder, hf.ModernBertForTokenClassification, config, SEQUENCE)


def write_choices(folder: Path, cls: Any, config: Any) -> None:
    """Write cases of two choices in each row, which differ in their lengths."""
    model = new(folder, cls, config)
    model.save_pretrained(folder)
    rng, lengths = np.random.default_rng(seed_of(folder)), (11, 4, 7, 1, 9, 11)
    mask = mask_of(lengths)
    flat = {"input_ids": pad(ids(rng, tuple(mask.shape), config.vocab_size), mask, 0), "attention_mask": mask}
    flat["token_type_ids"] = torch.tensor(rng.integers(0, 2, tuple(mask.shape))) * mask
    inputs = {name: value.reshape(3, 2, -1) for name, value in flat.items()}
    write_golden(folder, case("right", inputs, results(model, inputs, SEQUENCE)))
    reread(folder, cls)


@golden
def bert_choice(folder: Path) -> None:
    """One logit for each of two choices, from the pooler."""
    write_choices(folder, hf.BertForMultipleChoice, small(hf.BertConfig))


@golden
def electra_choice(folder: Path) -> None:
    """The dense layer on the first token is named as a summary, and has exact GELU."""
    write_choices(folder, hf.ElectraForMultipleChoice, small(hf.ElectraConfig, embedding_size=12, hidden_act="relu"))


@golden
def bert_next(folder: Path) -> None:
    """Whether the second text follows the first one."""
    write_encoder(folder, hf.BertForNextSentencePrediction, small(hf.BertConfig), SEQUENCE)
