"""Dialects of Hugging Face checkpoints for Transformer: BART and the models like it; those of T5 are in ``t5.py``.

Each dialect maps the entries of a config.json and the names of the tensors to those of this package. NLLB's checkpoints
have the model_type of M2M-100.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import ROW, TRANSPOSED
from ..huggingface import HF_ACTIVATIONS, activation, labels, number_of_labels
from .config import TransformerConfig
from .keras_hub import KERAS_HUB
from .model import Transformer
from .t5 import T5_DIALECTS

SIDES = ("encoder", "decoder")
SINUSOIDS = r"^(en|de)coder\.embed_positions\.weights?$"


def stack_rules(side: str) -> tuple[Rule, ...]:
    """Return the rules of the encoder or the decoder."""
    theirs, ours = f"{side}.layers.{{i}}.", f"{side}_block_{{i}}/"
    attentions = {"self_attn": "attention", **({"encoder_attn": "cross_attention"} if side == "decoder" else {})}
    rules = [
        Rule(f"{side}.embed_positions.weight", f"{side}_positions/embeddings"),
        *layer_norm(f"{side}.layernorm_embedding", f"{side}_embedding_norm"),
        *linear(theirs + "fc1", ours + "feedforward/up"),
        *linear(theirs + "fc2", ours + "feedforward/down"),
    ]
    for name, attention in attentions.items():
        for part in ("query", "key", "value"):
            rules += linear(f"{theirs}{name}.{part[0]}_proj", f"{ours}{attention}/{part}")
        rules += linear(f"{theirs}{name}.out_proj", f"{ours}{attention}/output")
        rules += layer_norm(f"{theirs}{name}_layer_norm", f"{ours}{attention}_norm")
    rules += layer_norm(theirs + "final_layer_norm", ours + "feedforward_norm")
    return (*rules, *layer_norm(f"{side}.layer_norm", f"{side}_norm"))


def _rules(c: TransformerConfig) -> tuple[Rule, ...]:
    tables = (Rule("shared.weight", "embedding/embeddings"),)
    if not c.share_embeddings:
        names = {"encoder": "embedding", "decoder": "decoder_embedding"}
        tables = tuple(Rule(f"{side}.embed_tokens.weight", f"{names[side]}/embeddings") for side in SIDES)
    return (
        *tables,
        *(rule for side in SIDES for rule in stack_rules(side)),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        Rule("final_logits_bias", "logits_bias", ROW, outside=True, optional=True),
        *linear("classification_head.dense", "pooler", outside=True),
        *linear("classification_head.out_proj", "classifier", outside=True),
    )


# transformers' defaults of the entries: those of BART, which hold for a model unless it has its own.
_DEFAULTS: dict[str, Any] = {
    **{"vocab_size": 50265, "d_model": 1024, "max_position_embeddings": 1024, "activation_function": "gelu"},
    **{f"{side}_layers": 12 for side in SIDES},
    **{f"{side}_attention_heads": 16 for side in SIDES},
    **{f"{side}_ffn_dim": 4096 for side in SIDES},
    **{"scale_embedding": False, "attention_dropout": 0.0, "num_labels": 2},
    **{"decoder_start_token_id": 2, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
}


def _dialect(
    name: str,
    fixed: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    classifies: bool = False,
    two_vocabularies: bool = False,
) -> Dialect:
    """Return the dialect of BART or a model like it.

    Args:
        name: the beginning of the names of its classes.
        fixed: config fields with the same value in all models of this kind.
        defaults: transformers' defaults where they differ from `_DEFAULTS`.
        classifies: whether transformers has a class with a classification head.
        two_vocabularies: whether source and target may have vocabularies of their own.
    """
    known = {**_DEFAULTS, **defaults}

    def entry(theirs: str, ours: str, synonym: str | None = None) -> Field:
        return Field(theirs, ours, known[theirs], synonym=synonym)

    def read(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
        found = {
            "activation": activation(raw, "activation_function", known["activation_function"]),
            "num_classes": number_of_labels(raw, known["num_labels"]),
        }
        if raw.get("decoder_start_token_id", known["decoder_start_token_id"]) is None:  # as in transformers
            found["decoder_start_token_id"] = raw.get("bos_token_id", known["bos_token_id"])
        if fixed["numbering"] == "tokens":
            found["position_offset"] = raw.get("pad_token_id", known["pad_token_id"]) + 1
        return found | (_read_vocabularies(raw, known["vocab_size"]) if two_vocabularies else {})

    def write(c: TransformerConfig) -> dict[str, Any]:
        found = {"activation_function": {**HF_ACTIVATIONS, "silu": "swish"}[c.activation], **labels(c)}
        if two_vocabularies:
            found |= {"decoder_vocab_size": c.decoder_vocab_size, "tie_word_embeddings": c.tie_embeddings}
            found["share_encoder_decoder_embeddings"] = c.share_embeddings
        return found

    first, normalized = fixed.get("norm_first", False), fixed.get("embedding_norm", False)
    # transformers ignores these entries, which older versions obeyed in one class for all these models.
    demanded = {"normalize_before": first, "add_final_layer_norm": first, "normalize_embedding": normalized}
    heads: dict[str | None, str] = {
        "seq2seq_lm": f"{name}{'MTModel' if two_vocabularies else 'ForConditionalGeneration'}"
    }
    computed = not fixed["position"].startswith("learned")
    return Dialect(
        fields=(
            entry("vocab_size", "vocab_size"),
            entry("encoder_layers", "num_layers", "num_hidden_layers"),
            entry("decoder_layers", "num_decoder_layers"),
            entry("encoder_attention_heads", "num_heads", "num_attention_heads"),
            entry("decoder_attention_heads", "num_decoder_heads"),
            entry("d_model", "hidden_dim", "hidden_size"),
            entry("encoder_ffn_dim", "intermediate_dim"),
            entry("decoder_ffn_dim", "decoder_intermediate_dim"),
            entry("max_position_embeddings", "max_length"),
            Field("dropout", "dropout", 0.1),
            entry("attention_dropout", "attention_dropout"),
            entry("scale_embedding", "scale_embeddings"),
            entry("decoder_start_token_id", "decoder_start_token_id"),
            entry("eos_token_id", "eos_token_id"),
            entry("pad_token_id", "pad_token_id"),
        ),
        fixed={"norm_epsilon": 1e-5, **fixed},
        demanded={**demanded, "is_decoder": False} | ({} if two_vocabularies else {"tie_word_embeddings": True}),
        read=read,
        write=write,
        rules=_rules,
        prefix="model.",
        headless=(),
        heads=heads | ({"sequence_classification": f"{name}ForSequenceClassification"} if classifies else {}),
        other_classes={f"{name}Model": "seq2seq_lm"},  # the body, to which transformers ties the output
        # Sinusoids, which the model computes, and fairseq's version. Only Pegasus saves its sinusoids.
        ignored=(r"^(en|de)coder\.version$", *((SINUSOIDS,) if computed else ())),
        unused={SINUSOIDS: False} if name == "Pegasus" else {},
        tied={
            "lm_head.weight": "decoder.embed_tokens.weight",
            **{f"{side}.embed_tokens.weight": "shared.weight" for side in SIDES},
        },
        silent=("numbering",) if fixed["numbering"] == "columns" else (),  # no effect if padding follows the tokens
    )


def _read_vocabularies(raw: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return the fields of Marian's vocabularies, of which there are two if the embeddings are not shared."""
    source = raw.get("vocab_size") or vocab_size
    target = raw.get("decoder_vocab_size") or source
    shared, tied = (raw.get(name) is not False for name in ("share_encoder_decoder_embeddings", "tie_word_embeddings"))
    if shared and target != source:
        raise ValueError(f"decoder_vocab_size: got {target}; accepted: {source}")
    if shared and not tied:
        raise ValueError("tie_word_embeddings: got False with share_encoder_decoder_embeddings; accepted: True")
    return {"decoder_vocab_size": target, "share_embeddings": shared, "tie_embeddings": tied}


_BART = {"position": "learned", "position_offset": 2, "numbering": "columns", "embedding_norm": True}
_BART |= {"use_logits_bias": True}
_SINUSOIDS = {"position": "sinusoidal_halves", "numbering": "columns", "use_logits_bias": True}
_BLENDERBOT = {**_BART, "position_offset": 0}
_START = {"decoder_start_token_id": 1, "bos_token_id": 1, "pad_token_id": 0}
_SMALL = {f"{side}_{what}": number for side in SIDES for what, number in (("layers", 8), ("ffn_dim", 2048))}

Transformer.dialects = {
    "marian": _dialect(
        "Marian",
        _SINUSOIDS,
        {
            **{"vocab_size": 58101, "decoder_start_token_id": 58100, "pad_token_id": 58100, "eos_token_id": 0},
            "bos_token_id": None,
        },
        two_vocabularies=True,
    ),
    **T5_DIALECTS,
    "bart": _dialect("Bart", _BART, {"num_labels": 3}, classifies=True),
    "mbart": _dialect("MBart", {**_BART, "norm_first": True}, {"decoder_start_token_id": None}),
    "m2m_100": _dialect(
        "M2M100",
        {"position": "sinusoidal_fairseq", "numbering": "tokens", "norm_first": True},
        {"vocab_size": 128112, "activation_function": "relu", "scale_embedding": True, "attention_dropout": 0.1},
    ),
    "pegasus": _dialect(
        "Pegasus",
        {**_SINUSOIDS, "norm_first": True},
        {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None},
    ),
    "blenderbot": _dialect(
        "Blenderbot",
        {**_BLENDERBOT, "embedding_norm": False, "norm_first": True},
        {
            **_START,
            **{"vocab_size": 8008, "d_model": 2560, "max_position_embeddings": 128},
            **{"encoder_layers": 2, "decoder_layers": 24},
            **{f"{side}_attention_heads": 32 for side in SIDES},
            **{f"{side}_ffn_dim": 10240 for side in SIDES},
        },
    ),
    "blenderbot-small": _dialect(
        "BlenderbotSmall",
        {**_BLENDERBOT, "norm_before_positions": True},
        {**_START, **_SMALL, "d_model": 512, "max_position_embeddings": 512},
    ),
}
Transformer.keras_hub_dialects = KERAS_HUB
