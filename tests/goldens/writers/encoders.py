"""Reference checkpoints of encoders and sentence embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import (
    LABELS,
    LENGTHS,
    SEQUENCE,
    SPANS,
    STATES,
    TAGS,
    case,
    edit_json,
    golden,
    ids,
    labels,
    mask_of,
    new,
    pad,
    reread,
    results,
    seed_of,
    stored,
    write_golden,
    write_json,
    write_tensors,
)


def write_encoder(folder: Path, cls: Any, config: Any, outputs: Sequence[str], left: bool = False) -> Any:
    """Write cases with right padding and, if positions are counted along the tokens (RoBERTa), with left padding."""
    model = new(folder, cls, config)
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed_of(folder))
    rows = ids(rng, (len(LENGTHS), max(LENGTHS)), config.vocab_size)
    types = torch.tensor(rng.integers(0, max(getattr(config, "type_vocab_size", 1), 1), tuple(rows.shape)))
    cases = []
    for name in ("right", "left")[: 2 if left else 1]:
        mask = mask_of(LENGTHS, name == "left")
        inputs = {"input_ids": pad(rows, mask, config.pad_token_id), "attention_mask": mask}
        if getattr(config, "type_vocab_size", 1) > 1:
            inputs["token_type_ids"] = pad(types, mask, 0)
        cases.append(case(name, inputs, results(model, inputs, outputs), mask))
    write_golden(folder, *cases)
    reread(folder, cls)
    return model


def bert_config(hidden_size: int = 16, **changes: Any) -> Any:
    sizes = {"vocab_size": 97, "hidden_size": hidden_size, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": hidden_size // 8, "max_position_embeddings": 40}
    return hf.BertConfig(**{**sizes, **heads, **changes})


@golden
def bert(folder: Path) -> None:
    """Use exact GELU, epsilon 1e-12 and two token types; the decoder is tied and has a bias."""
    write_encoder(folder, hf.BertForMaskedLM, bert_config(24), SEQUENCE)


@golden
def bert_backbone(folder: Path) -> None:
    """Write names without a prefix; three token types, approximate GELU, another epsilon."""
    config = bert_config(24, num_attention_heads=4, type_vocab_size=3, hidden_act="gelu_new", layer_norm_eps=1e-3)
    write_encoder(folder, hf.BertModel, config, STATES)


@golden
def bert_sequence(folder: Path) -> None:
    config = bert_config(hidden_act="relu", layer_norm_eps=1e-4, **labels(LABELS))
    write_encoder(folder, hf.BertForSequenceClassification, config, SEQUENCE)


@golden
def bert_token(folder: Path) -> None:
    """The file has no pooler."""
    write_encoder(folder, hf.BertForTokenClassification, bert_config(**labels(TAGS)), SEQUENCE)


@golden
def bert_qa(folder: Path) -> None:
    """The file has no pooler; ``qa_outputs`` returns start and end logits."""
    write_encoder(folder, hf.BertForQuestionAnswering, bert_config(layer_norm_eps=1e-5), SPANS)


@golden
def bert_published(folder: Path) -> None:
    """Write tensors as in google-bert/bert-base-uncased: pooler, both training heads, gamma and beta, position_ids."""
    config = bert_config()
    write_encoder(folder, hf.BertForPreTraining, config, ["prediction_logits"])
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = stored(folder)
    for now, before in old.items():
        tensors = {name.replace(now, before): tensor for name, tensor in tensors.items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    write_tensors(folder / "model.safetensors", tensors)
    drop = ("dtype", "add_cross_attention", "bos_token_id", "eos_token_id", "is_decoder", "classifier_dropout")
    changes = {
        "architectures": ["BertForMaskedLM"],
        "position_embedding_type": "absolute",
        "gradient_checkpointing": False,
    }
    edit_json(folder / "config.json", (*drop, "tie_word_embeddings"), **changes, transformers_version="4.6.0.dev0")
    rename_output(folder, "prediction_logits", "logits")
    reread(folder, hf.BertForMaskedLM)


def rename_output(folder: Path, old: str, new_name: str) -> None:
    arrays = dict(np.load(folder / "golden.npz"))
    write_golden(folder, {key.replace(f"/{old}", f"/{new_name}"): value for key, value in arrays.items()})


def roberta_config(cls: Any = hf.RobertaConfig, **changes: Any) -> Any:
    """Return a config whose table of 42 positions allows 40 tokens, since positions begin at pad_token_id + 1 = 2."""
    sizes = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 42, "type_vocab_size": 1}
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return cls(**{**sizes, **heads, **tokens, "layer_norm_eps": 1e-5, **changes})


@golden
def roberta(folder: Path) -> None:
    """Use an ``lm_head`` with a bias; there is a single token type, whose embedding is always added."""
    write_encoder(folder, hf.RobertaForMaskedLM, roberta_config(), SEQUENCE, left=True)


@golden
def roberta_backbone(folder: Path) -> None:
    write_encoder(folder, hf.RobertaModel, roberta_config(layer_norm_eps=1e-3), STATES, left=True)


@golden
def roberta_sequence(folder: Path) -> None:
    """The head has two layers with tanh, applied to the first token; there is no pooler."""
    write_encoder(folder, hf.RobertaForSequenceClassification, roberta_config(**labels(LABELS)), SEQUENCE)


@golden
def roberta_token(folder: Path) -> None:
    write_encoder(folder, hf.RobertaForTokenClassification, roberta_config(**labels(TAGS)), SEQUENCE)


@golden
def roberta_qa(folder: Path) -> None:
    write_encoder(folder, hf.RobertaForQuestionAnswering, roberta_config(), SPANS)


@golden
def xlm_roberta(folder: Path) -> None:
    """The model is RoBERTa with another model_type."""
    write_encoder(folder, hf.XLMRobertaForMaskedLM, roberta_config(hf.XLMRobertaConfig), SEQUENCE, left=True)


def distilbert_config(**changes: Any) -> Any:
    sizes = {"vocab_size": 97, "dim": 16, "hidden_dim": 20, "n_layers": 2, "n_heads": 2}
    return hf.DistilBertConfig(**{**sizes, "max_position_embeddings": 40, **changes})


@golden
def distilbert(folder: Path) -> None:
    """There are no token types; positions are learned; epsilon 1e-12 is fixed in the code and not in the config."""
    write_encoder(folder, hf.DistilBertForMaskedLM, distilbert_config(), SEQUENCE)


@golden
def distilbert_sinusoidal(folder: Path) -> None:
    """Use a frozen table of interleaved sines and cosines, which the file still contains, and ReLU."""
    config = distilbert_config(sinusoidal_pos_embds=True, activation="relu")
    write_encoder(folder, hf.DistilBertForMaskedLM, config, SEQUENCE)


@golden
def distilbert_backbone(folder: Path) -> None:
    write_encoder(folder, hf.DistilBertModel, distilbert_config(), ["last_hidden_state"])


@golden
def distilbert_sequence(folder: Path) -> None:
    """The head applies ``pre_classifier`` and ReLU to the first token."""
    write_encoder(folder, hf.DistilBertForSequenceClassification, distilbert_config(**labels(LABELS)), SEQUENCE)


@golden
def distilbert_token(folder: Path) -> None:
    write_encoder(folder, hf.DistilBertForTokenClassification, distilbert_config(**labels(TAGS)), SEQUENCE)


@golden
def distilbert_qa(folder: Path) -> None:
    write_encoder(folder, hf.DistilBertForQuestionAnswering, distilbert_config(), SPANS)


def write_sentence(folder: Path, modules: Sequence[str], pooling: Mapping[str, Any], embed: Callable[..., Any]) -> None:
    """Write a folder as SentenceTransformer.save does for a BertModel; `embed` computes what its modules specify."""
    write_encoder(folder, hf.BertModel, bert_config(), STATES)
    tensors = {**stored(folder), "embeddings.position_ids": torch.arange(40)[None]}
    write_tensors(folder / "model.safetensors", tensors)
    reread(folder, hf.BertModel)
    for index, kind in enumerate(modules):
        path = "" if index == 0 else f"{index}_{kind}"
        modules_json = json.loads((folder / "modules.json").read_text()) if index else []
        entry = {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        write_json(folder / "modules.json", [*modules_json, entry])
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **pooling})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    write_json(folder / "config_sentence_transformers.json", {"__version__": versions})
    arrays = dict(np.load(folder / "golden.npz"))
    states, mask = (torch.tensor(arrays[f"right/{name}"]) for name in ("last_hidden_state", "attention_mask"))
    arrays["right/sentence_embedding"] = embed(states, mask.float()[..., None]).numpy()
    write_golden(folder, arrays)


@golden
def sentence_mean(folder: Path) -> None:
    """Use all-MiniLM's modules: mean over kept tokens, then normalization. The pooling config has the oldest form."""
    modes = {"cls_token": False, "mean_tokens": True, "max_tokens": False, "mean_sqrt_len_tokens": False}
    write_sentence(
        folder,
        ("Transformer", "Pooling", "Normalize"),
        {f"pooling_mode_{name}": value for name, value in modes.items()},
        lambda states, mask: torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1),
    )


@golden
def sentence_cls(folder: Path) -> None:
    """Return the first token's state without Normalize."""
    modes = {"cls_token": True, "mean_tokens": False, "max_tokens": False, "mean_sqrt_len_tokens": False}
    later = {"weightedmean_tokens": False, "lasttoken": False}
    pooling = {f"pooling_mode_{name}": value for name, value in {**modes, **later}.items()}
    modules = ("Transformer", "Pooling")
    write_sentence(folder, modules, {**pooling, "include_prompt": True}, lambda states, mask: states[:, 0])
