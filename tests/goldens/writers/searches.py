"""What ``generate`` of transformers makes of the other checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import EAGER, HERE, LENGTHS, Arrays, Tensors, golden, ids, mask_of, pad, seed_of

SEARCHED = {
    "gpt2": hf.GPT2LMHeadModel,
    "llama": hf.LlamaForCausalLM,
    "marian": hf.MarianMTModel,
    "t5": hf.T5ForConditionalGeneration,
}
SEARCH_TOKENS = 12


def search_options(likely: Sequence[int], vocab_size: int) -> dict[str, dict[str, Any]]:
    """Return generation configs by name. They change what is generated because they contain `likely` tokens."""
    a, b, c, d = likely
    every = [token for token in range(vocab_size) if token % 3]
    biases = [[[a], -2.5], [[b, c], 6.0], [[d], 1.5]]
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "penalty": {"repetition_penalty": 1.6},
        "reward": {"repetition_penalty": 0.7},
        "source_penalty": {"encoder_repetition_penalty": 1.8},
        "ngram_1": {"no_repeat_ngram_size": 1},
        "ngram_2": {"no_repeat_ngram_size": 2},
        "ngram_3": {"no_repeat_ngram_size": 3},
        "source_ngram_1": {"encoder_no_repeat_ngram_size": 1},
        "source_ngram_2": {"encoder_no_repeat_ngram_size": 2},
        "bad_words": {"bad_words_ids": [[a], [b, c], [c, d, a]]},
        "biases": {"sequence_bias": biases},
        "min_length": {"min_length": 15},
        "min_new_tokens": {"min_new_tokens": 9},
        "max_length": {"max_length": 17, "max_new_tokens": None},
        "forced_bos": {"forced_bos_token_id": d},
        "forced_eos": {"forced_eos_token_id": a},
        "forced_eos_several": {"forced_eos_token_id": [a, d]},
        "suppress": {"suppress_tokens": [a, c]},
        "begin_suppress": {"begin_suppress_tokens": every},
        "begin_after_bos": {"begin_suppress_tokens": every, "forced_bos_token_id": d},
        "decay": {"exponential_decay_length_penalty": [2, 1.5]},
        "all": {
            **{"repetition_penalty": 1.3, "encoder_repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
            **{"encoder_no_repeat_ngram_size": 3, "bad_words_ids": [[a], [b, c]], "sequence_bias": biases},
            **{"min_new_tokens": 4, "forced_eos_token_id": b, "suppress_tokens": [c]},
            **{"begin_suppress_tokens": every, "exponential_decay_length_penalty": [5, 1.2]},
        },
    }
    found = dict(changes)
    for name in ("plain", "penalty", "ngram_2", "source_ngram_1", "bad_words", "biases", "min_new_tokens", "max_length",
                 "forced_bos", "forced_eos", "suppress", "decay", "all"):  # fmt: skip
        found[f"{name}-beams"] = {**changes[name], "num_beams": 3}
    for power in (0.0, 2.0, -1.0):
        for early in (True, False, "never"):
            ending = {"length_penalty": power, "early_stopping": early}
            found[f"beams-{power}-{early}"] = {"num_beams": 3, "num_return_sequences": 3, **ending}
            found[f"penalty-beams-{power}-{early}"] = {"num_beams": 2, "repetition_penalty": 1.4, **ending}
    found["normalized-beams"] = {**changes["all"], "num_beams": 3, "renormalize_logits": True}
    return found


@torch.no_grad()
def searched(model: Any, prompt: Tensors, options: Arrays) -> torch.Tensor:
    """Return what ``generate`` returns, for each row alone if an option counts tokens of the prompt.

    transformers counts padding among them, so that the pad token becomes more likely.
    """
    given = {name: value for name, value in options.items() if value is not None}
    model.generation_config = hf.GenerationConfig(**given)
    if not any(name.startswith("encoder_") for name in given):
        return model.generate(**prompt)
    rows = []
    for row, mask in zip(prompt["input_ids"], prompt["attention_mask"].bool(), strict=True):
        alone = {"input_ids": row[mask][None], "attention_mask": mask[mask].long()[None]}
        (made,) = model.generate(**alone)
        start = made[:1] if model.config.is_encoder_decoder else row
        rows.append(torch.cat([start, made[len(start) if model.config.is_encoder_decoder else mask.sum() :]]))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=given["pad_token_id"])


def search_cases(name: str, cls: Any) -> dict[str, Any]:
    """Return prompts of unequal lengths, and their continuations by ``generate`` under each generation config.

    A config is only used if weights that differ by 1e-5 give the same tokens, so that rounding does not decide.
    """
    model = cls.from_pretrained(HERE / name, dtype=torch.float32, **EAGER).eval()
    shaken = cls.from_pretrained(HERE / name, dtype=torch.float32, **EAGER).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in shaken.parameters():
        parameter.data *= 1 + 1e-5 * torch.randn(parameter.shape, generator=generator)
    config, encodes = model.config, model.config.is_encoder_decoder
    special = {"pad_token_id": 96 if name == "marian" else 0}
    if encodes:
        special["decoder_start_token_id"] = config.decoder_start_token_id
    for seed in range(1000):
        rng = np.random.default_rng([seed_of(HERE / name), seed])
        mask = mask_of(LENGTHS, left=not encodes)
        prompt = {"input_ids": pad(ids(rng, mask.shape, 96), mask, special["pad_token_id"]), "attention_mask": mask}
        tokens = searched(model, prompt, {**special, "max_new_tokens": SEARCH_TOKENS})[:, -SEARCH_TOKENS:]
        often = [int(token) for token in tokens[:, 1:].flatten().unique() if token > 2]
        if len(often) < 4:
            continue
        others = [int(token) for token in prompt["input_ids"].flatten().unique() if token > 2 and token not in often]
        chosen = [int(token) for token in (*rng.permutation(often), *rng.permutation(others))]
        chosen = [*chosen[2:4], *chosen[:2], *chosen[4:]]  # the most telling ones are those of the configs
        own = {**special, "max_new_tokens": SEARCH_TOKENS, "eos_token_id": sorted(chosen[:2])}
        cases = {}
        for key, changes in search_options(chosen[2:6], config.vocab_size).items():
            options = {**own, **changes}
            rows, again = searched(model, prompt, options), searched(shaken, prompt, options)
            if rows.shape == again.shape and (rows == again).all():
                given = {name: value for name, value in options.items() if value is not None}
                cases[key] = {"config": given, "tokens": rows.tolist()}
        alike = sum(case["tokens"] == cases["plain"]["tokens"] for case in cases.values())
        if len(cases) > 48 and alike < 9:
            return {"prompt": {key: value.tolist() for key, value in prompt.items()}, "cases": cases}
    raise AssertionError("no prompts have enough different tokens")


FILTERS: list[dict[str, Any]] = [
    *[{"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"typical_p": 0.4}, {"typical_p": 0.95}],
    *[{"epsilon_cutoff": 0.02}, {"epsilon_cutoff": 0.9}, {"eta_cutoff": 0.3}, {"eta_cutoff": 0.003}, {"top_h": 0.3}],
    {"top_h": 0.8, "temperature": 1.7},
    {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 2.0, "top_k": 40, "typical_p": 0.8, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02},
]


def filtered(logits: torch.Tensor) -> list[dict[str, Any]]:
    """Return the probabilities that sampling draws from, under each of `FILTERS`."""
    model = hf.GPT2LMHeadModel.from_pretrained(HERE / "gpt2")
    found = []
    for options in FILTERS:
        config = hf.GenerationConfig(do_sample=True, **options)
        processors = model._get_logits_processor(config, input_ids_seq_length=1)
        chances = processors(torch.zeros(len(logits), 1, dtype=torch.long), logits).softmax(-1)
        found.append({"options": options, "chances": [[float(f"{p:.7g}") for p in row] for row in chances]})
    return found


@golden
def generation(folder: Path) -> None:
    """Write what transformers generates with the checkpoints of four other folders, under many generation configs."""
    for name, cls in SEARCHED.items():
        text = json.dumps(search_cases(name, cls))
        (folder / f"{name}.json").write_text(text.replace('}, "', '},\n"') + "\n")
    logits = np.random.default_rng(0).normal(0, 2, (2, 80)).round(3)
    text = json.dumps({"logits": logits.tolist(), "filters": filtered(torch.tensor(logits))})
    (folder / "filters.json").write_text(text.replace("}, {", "},\n{") + "\n")
