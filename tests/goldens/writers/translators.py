"""Reference checkpoints of encoder–decoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import LENGTHS, case, edit_json, golden, ids, mask_of, pad, reread, results, seed_of, write_golden
from .decoders import generating


def write_translator(folder: Path, cls: Any, config: Any, prepare: Callable[[Any], None]) -> None:
    """Write sources and targets of different lengths, padded on the right, and greedy tokens after the start token."""
    config._attn_implementation = "eager"
    model = cls(config)
    prepare(model)
    rng = np.random.default_rng(seed_of(folder))
    source, target = mask_of(LENGTHS), mask_of((5, 8, 2))
    prompt = {"input_ids": pad(ids(rng, source.shape, 96), source, config.pad_token_id), "attention_mask": source}
    continuation = generating(model, prompt, seed_of(folder))
    decoder = pad(ids(rng, target.shape, 96), target, config.pad_token_id)
    decoder[:, 0] = config.decoder_start_token_id
    inputs = {**prompt, "decoder_input_ids": decoder, "decoder_attention_mask": target}
    write_golden(folder, case("right", inputs, results(model, inputs, ["logits"]), target), continuation)
    model.save_pretrained(folder)


@golden
def marian(folder: Path) -> None:
    """Use scaled embeddings, sines then cosines, SiLU, and a bias on the logits.

    The padding token is the start token; there are one encoder layer and two decoder layers.
    """
    sizes = {"vocab_size": 97, "d_model": 20, "max_position_embeddings": 40, "encoder_layers": 1, "decoder_layers": 2}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    inner = {f"{side}_ffn_dim": 28 for side in ("encoder", "decoder")}
    tokens = {"pad_token_id": 96, "decoder_start_token_id": 96, "eos_token_id": 0, "forced_eos_token_id": 0}
    config = hf.MarianConfig(
        **sizes,
        **heads,
        **inner,
        **tokens,
        scale_embedding=True,
        activation_function="swish",
        normalize_embedding=False,
    )

    def prepare(model: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=generator) * 0.2)

    write_translator(folder, hf.MarianMTModel, config, prepare)
    reread(folder, hf.MarianMTModel)


@golden
def t5(folder: Path) -> None:
    """Use version 1.1: gated GELU, a separate output matrix, and d_kv × num_heads ≠ d_model.

    There are 8 buckets up to distance 12.
    """
    sizes = {"vocab_size": 97, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_heads": 3, "num_layers": 3}
    buckets = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
    config = hf.T5Config(
        **sizes,
        **buckets,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-4,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )

    def prepare(model: Any) -> None:
        """Untie the output matrix, as in files of version 1.1; transformers 5 ties it in every T5."""
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())

    write_translator(folder, hf.T5ForConditionalGeneration, config, prepare)
    # The config is that of google/t5-v1_1-small.
    edit_json(
        folder / "config.json", ("dense_act_fn", "is_gated_act", "scale_decoder_outputs"), tie_word_embeddings=False
    )
    reread(folder, hf.T5ForConditionalGeneration)
