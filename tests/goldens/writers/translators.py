"""Reference checkpoints of encoder–decoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import (
    LABELS,
    LENGTHS,
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
    write_golden,
)
from .decoders import generating


def write_translator(
    folder: Path, cls: Any, config: Any, prepare: Callable[[Any], None] | None = None, *, left: bool = True
) -> None:
    """Write sources and targets of different lengths, padded on the right, and greedy tokens after the start token.

    With `left`, also sources that are padded on the left.
    """
    config._attn_implementation = "eager"
    model = cls(config)
    if prepare is not None:
        prepare(model)
    rows = getattr(config, "decoder_vocab_size", config.vocab_size)  # and special tokens at the end
    rng = np.random.default_rng(seed_of(folder))
    source, target = mask_of(LENGTHS), mask_of((5, 8, 2))
    real = ids(rng, source.shape, min(rows, config.vocab_size) - 1)
    prompt = {"input_ids": pad(real, source, config.pad_token_id), "attention_mask": source}
    continuation = generating(model, prompt, seed_of(folder))
    decoder = pad(ids(rng, target.shape, rows - 1), target, config.pad_token_id)
    decoder[:, 0] = config.decoder_start_token_id
    inputs = {**prompt, "decoder_input_ids": decoder, "decoder_attention_mask": target}
    cases = [case("right", inputs, results(model, inputs, ["logits"]), target)]
    if left:
        other = mask_of(LENGTHS, left=True)
        inputs |= {"input_ids": pad(real, other, config.pad_token_id), "attention_mask": other}
        cases.append(case("left", inputs, results(model, inputs, ["logits"]), target))
    write_golden(folder, *cases, continuation)
    model.save_pretrained(folder)


def sizes(**changes: Any) -> dict[str, Any]:
    """Return the sizes of a small model of BART's line: one encoder layer and two decoder layers."""
    found = {"vocab_size": 61, "d_model": 12, "max_position_embeddings": 20, "encoder_layers": 1, "decoder_layers": 2}
    found |= {"encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 16, "decoder_ffn_dim": 10}
    return {**found, **changes}


def biased(model: Any) -> None:
    """Give the bias of the logits random values; it is a buffer."""
    generator = torch.Generator().manual_seed(1)
    model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=generator) * 0.2)


@golden
def marian(folder: Path) -> None:
    """Use scaled embeddings, sines then cosines, SiLU, and a bias on the logits.

    The padding token is the start token; there are one encoder layer and two decoder layers.
    """
    widths = {"vocab_size": 97, "d_model": 20, "max_position_embeddings": 40, "encoder_layers": 1, "decoder_layers": 2}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    inner = {f"{side}_ffn_dim": 28 for side in ("encoder", "decoder")}
    tokens = {"pad_token_id": 96, "decoder_start_token_id": 96, "eos_token_id": 0, "forced_eos_token_id": 0}
    config = hf.MarianConfig(
        **widths,
        **heads,
        **inner,
        **tokens,
        scale_embedding=True,
        activation_function="swish",
        normalize_embedding=False,
    )

    write_translator(folder, hf.MarianMTModel, config, biased, left=False)
    reread(folder, hf.MarianMTModel)


@golden
def t5(folder: Path) -> None:
    """Use version 1.1: gated GELU, a separate output matrix, and d_kv × num_heads ≠ d_model.

    There are 8 buckets up to distance 12.
    """
    widths = {"vocab_size": 97, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_heads": 3, "num_layers": 3}
    buckets = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
    config = hf.T5Config(
        **widths,
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

    write_translator(folder, hf.T5ForConditionalGeneration, config, prepare, left=False)
    # The config is that of google/t5-v1_1-small.
    edit_json(
        folder / "config.json", ("dense_act_fn", "is_gated_act", "scale_decoder_outputs"), tie_word_embeddings=False
    )
    reread(folder, hf.T5ForConditionalGeneration)


def t5_sizes(**changes: Any) -> dict[str, Any]:
    buckets = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
    return {
        "vocab_size": 61,
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 20,
        "num_heads": 2,
        "num_layers": 2,
        **buckets,
        **changes,
    }


@golden
def t5_relu(folder: Path) -> None:
    """Use version 1.0: ReLU, and a tied output that is scaled."""
    config = hf.T5Config(**t5_sizes(num_decoder_layers=1), decoder_start_token_id=0)
    write_translator(folder, hf.T5ForConditionalGeneration, config)
    reread(folder, hf.T5ForConditionalGeneration)


@golden
def t5_encoder(folder: Path) -> None:
    """Write the encoder alone, with a mask with a hole."""
    config = hf.T5Config(**t5_sizes(feed_forward_proj="gated-gelu"))
    write_encoder(folder, hf.T5EncoderModel, config)


@golden
def umt5(folder: Path) -> None:
    """Use a relative bias of its own in every layer."""
    config = hf.UMT5Config(**t5_sizes(num_decoder_layers=1), decoder_start_token_id=0)
    write_translator(folder, hf.UMT5ForConditionalGeneration, config)
    reread(folder, hf.UMT5ForConditionalGeneration)


@golden
def umt5_encoder(folder: Path) -> None:
    write_encoder(folder, hf.UMT5EncoderModel, hf.UMT5Config(**t5_sizes()))


def write_encoder(folder: Path, cls: Any, config: Any) -> None:
    model = new(folder, cls, config)
    rows = ids(np.random.default_rng(seed_of(folder)), (len(LENGTHS), max(LENGTHS)), config.vocab_size)
    cases = []
    for name, mask in (("right", mask_of(LENGTHS)), ("left", mask_of(LENGTHS, left=True)), ("hole", mask_of(LENGTHS))):
        if name == "hole":
            mask[0, 3:6] = 0
        inputs = {"input_ids": pad(rows, mask, config.pad_token_id), "attention_mask": mask}
        cases.append(case(name, inputs, results(model, inputs, ["last_hidden_state"]), mask))
    write_golden(folder, *cases)
    model.save_pretrained(folder)
    reread(folder, cls)


@golden
def marian_two(folder: Path) -> None:
    """Use a vocabulary for the source and another for the target."""
    own = {"decoder_vocab_size": 53, "share_encoder_decoder_embeddings": False, "scale_embedding": True}
    special = {"pad_token_id": 52, "decoder_start_token_id": 52, "eos_token_id": 0, "forced_eos_token_id": 0}
    config = hf.MarianConfig(**sizes(activation_function="swish"), **own, **special)
    write_translator(folder, hf.MarianMTModel, config, biased)
    reread(folder, hf.MarianMTModel)


@golden
def bart(folder: Path) -> None:
    write_translator(folder, hf.BartForConditionalGeneration, hf.BartConfig(**sizes()), biased)
    reread(folder, hf.BartForConditionalGeneration)


@golden
def bart_sequence(folder: Path) -> None:
    """Write the classifier, which reads the last of several end tokens; two rows are padded."""
    config = hf.BartConfig(**sizes(decoder_layers=1), scale_embedding=True, **labels(LABELS))
    model = new(folder, hf.BartForSequenceClassification, config)
    mask = mask_of((11, 6, 3))
    rows = pad(ids(np.random.default_rng(seed_of(folder)), mask.shape, config.vocab_size), mask, config.pad_token_id)
    for row, places in enumerate(((4, 10), (1, 5), (1, 2))):
        rows[row, list(places)] = config.eos_token_id
    inputs = {"input_ids": rows, "attention_mask": mask}
    write_golden(folder, case("right", inputs, results(model, inputs, ["logits"])))
    model.save_pretrained(folder)
    reread(folder, hf.BartForSequenceClassification)


@golden
def mbart(folder: Path) -> None:
    """Use the start token of a target language."""
    config = hf.MBartConfig(**sizes(), decoder_start_token_id=60)
    write_translator(folder, hf.MBartForConditionalGeneration, config, biased)
    reread(folder, hf.MBartForConditionalGeneration)


@golden
def m2m_100(folder: Path) -> None:
    """Use sinusoids of fairseq, which count the tokens that are not padding from row 2 on."""
    config = hf.M2M100Config(**sizes(), scale_embedding=False, forced_bos_token_id=60)
    write_translator(folder, hf.M2M100ForConditionalGeneration, config)
    reread(folder, hf.M2M100ForConditionalGeneration)


@golden
def pegasus(folder: Path) -> None:
    config = hf.PegasusConfig(**sizes(activation_function="relu"))
    write_translator(folder, hf.PegasusForConditionalGeneration, config, biased)
    reread(folder, hf.PegasusForConditionalGeneration)


@golden
def blenderbot(folder: Path) -> None:
    config = hf.BlenderbotConfig(**sizes())
    write_translator(folder, hf.BlenderbotForConditionalGeneration, config, biased)
    reread(folder, hf.BlenderbotForConditionalGeneration)


@golden
def blenderbot_small(folder: Path) -> None:
    """Use embeddings that the decoder normalizes before it adds positions, and the encoder afterwards."""
    config = hf.BlenderbotSmallConfig(**sizes())
    write_translator(folder, hf.BlenderbotSmallForConditionalGeneration, config, biased)
    reread(folder, hf.BlenderbotSmallForConditionalGeneration)
