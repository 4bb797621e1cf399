"""The dialect of KerasHub's Whisper, after keras-hub 0.32: a backbone alone, with logits from its embedding table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...weights.rules import Dialect, Field, Rule
from ...weights.tensors import Shape
from ...weights.transforms import Transform
from .. import keras_hub_rules as hub


def _three(shape: Shape) -> Shape:
    return 3, shape[0] // 3, shape[1]


_KERNEL = Transform(  # (3, inputs, units), the first axis along time, as (3 · inputs, units)
    lambda theirs, shapes: [theirs.reshape(shapes[0])],
    lambda ours: ours[0].reshape(_three(ours[0].shape)),
    lambda shapes: _three(shapes[0]),
)


def _rules(c: Any) -> tuple[Rule, ...]:
    rules = [
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("encoder_position_embedding.position_embeddings", "encoder_positions/embeddings"),
        Rule("decoder_embeddings.position_embedding.position_embeddings", "decoder_positions/embeddings"),
    ]
    for i in range(2):
        rules.append(Rule(f"encoder_conv_layer_{i + 1}.kernel", f"convolution_{i}/kernel", _KERNEL))
        rules.append(Rule(f"encoder_conv_layer_{i + 1}.bias", f"convolution_{i}/bias"))
    for side in ("encoder", "decoder"):
        rules += hub.transformer_layers(c, f"{side}_transformer_layers.{{i}}.", f"{side}_block_{{i}}")
        rules += hub.layer_norm(f"{side}_layer_norm", f"{side}_norm")
    crossed, ours = "decoder_transformer_layers.{i}._cross_attention_layer", "decoder_block_{i}/cross_attention"
    rules += hub.attention(crossed, c.num_heads, c.num_heads, ours)
    return (*rules, *hub.layer_norm(f"{crossed}_norm", f"{ours}_norm"))


def _read(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    words = raw["vocabulary_size"]
    last = 50_257 if words > 51_864 else 50_256  # the end token of the multilingual vocabularies, or of the English one
    start = last + 1 if last < words - 1 else 0
    return {
        "max_source_length": raw["max_encoder_sequence_length"] // 2,
        "attention_dropout": raw["dropout"],
        **{"decoder_start_token_id": start, "eos_token_id": last, "pad_token_id": last},
    }


KERAS_WHISPER = Dialect(
    fields=(
        *(entry for entry in hub.FIELDS if entry.ours != "max_length"),
        Field("max_decoder_sequence_length", "max_length"),
        Field("num_mels", "num_mel_bins"),
    ),
    fixed={"activation": "gelu", "norm_epsilon": 1e-5, "norm_first": True, "use_key_bias": False},
    read=_read,
    write=lambda c: {"max_encoder_sequence_length": 2 * c.max_source_length},
    rules=_rules,
    silent=("decoder_start_token_id", "eos_token_id", "pad_token_id"),
    heads={None: "WhisperBackbone", "seq2seq_lm": "WhisperBackbone"},
)
