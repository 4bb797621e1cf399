"""The dialect of Hugging Face's checkpoints for Whisper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...weights.rules import Dialect, Field, Rule
from ...weights.transforms import Transform
from ..huggingface import HF_ACTIVATIONS, activation
from ..transformer.checkpoints import SIDES, stack_rules
from .keras_hub import KERAS_WHISPER
from .model import Whisper

# Kernels of PyTorch's Conv1d are (out, in, 3); those of ``TimeConvolution`` are (3 · in, out).
_CONVOLUTION = Transform(
    load=lambda theirs, _: [theirs.transpose(2, 1, 0).reshape(-1, theirs.shape[0])],
    save=lambda ours: np.ascontiguousarray(ours[0].reshape(3, -1, ours[0].shape[1]).transpose(2, 1, 0)),
    shape=lambda shapes: (shapes[0][1], shapes[0][0] // 3, 3),
)


def _read(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    return {"activation": activation(raw, "activation_function", "gelu")}


_WHISPER = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 51865),
        Field("num_mel_bins", "num_mel_bins", 80),
        Field("encoder_layers", "num_layers", 4, synonym="num_hidden_layers"),
        Field("decoder_layers", "num_decoder_layers", 4),
        Field("encoder_attention_heads", "num_heads", 6, synonym="num_attention_heads"),
        Field("decoder_attention_heads", "num_decoder_heads", 6),
        Field("d_model", "hidden_dim", 384, synonym="hidden_size"),
        Field("encoder_ffn_dim", "intermediate_dim", 1536),
        Field("decoder_ffn_dim", "decoder_intermediate_dim", 1536),
        Field("max_source_positions", "max_source_length", 1500),
        Field("max_target_positions", "max_length", 448),
        Field("dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("decoder_start_token_id", "decoder_start_token_id", 50257),
        Field("eos_token_id", "eos_token_id", 50256),
        Field("pad_token_id", "pad_token_id", 50256),
    ),
    demanded={"tie_word_embeddings": True},
    read=_read,
    write=lambda c: {"activation_function": HF_ACTIVATIONS[c.activation]},
    rules=(
        *(
            rule
            for i in range(2)
            for rule in (
                Rule(f"encoder.conv{i + 1}.weight", f"convolution_{i}/kernel", _CONVOLUTION),
                Rule(f"encoder.conv{i + 1}.bias", f"convolution_{i}/bias"),
            )
        ),
        Rule("decoder.embed_tokens.weight", "embedding/embeddings"),
        *(rule for side in SIDES for rule in stack_rules(side)),
    ),
    prefix="model.",
    headless=(),
    heads={"seq2seq_lm": "WhisperForConditionalGeneration"},
    other_classes={"WhisperModel": "seq2seq_lm"},  # the body, to which transformers ties the output
    tied={"proj_out.weight": "decoder.embed_tokens.weight"},
)

Whisper.dialects = {"whisper": _WHISPER}
Whisper.keras_hub_dialects = {"Whisper": KERAS_WHISPER}
