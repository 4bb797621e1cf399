"""Reference checkpoints of models of speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import case, edit_json, golden, ids, mask_of, pad, randomise, results, seed_of, write_golden

LANGUAGES = {"<|de|>": 50, "<|en|>": 51, "<|fr|>": 52}
TASKS = {"transcribe": 53, "translate": 54}
# Tokens behind "no timestamps" would be timestamps, which divide a text into parts: it is the last one.
# Arguments of ``generate`` by name, and changes of the generation config.
SPOKEN: dict[str, dict[str, Any]] = {
    "plain": {},
    "language": {"language": "de"},
    "languages": {"language": ["fr", "<|en|>"]},
    "task": {"language": "en", "task": "translate"},
    "task alone": {"task": "transcribe"},
    "beams": {"language": "fr", "num_beams": 3},
    "forced": {"config": {"forced_decoder_ids": [[1, 52], [2, 53]]}},
    "forced task": {"config": {"forced_decoder_ids": [[1, None], [2, 54]]}},
    "own language": {"config": {"language": "en", "task": "translate"}},
    "suppressed": {"language": "en", "config": {"suppress_tokens": None, "begin_suppress_tokens": [7, 2]}},
    "old": {"config": {"lang_to_id": None, "task_to_id": None, "no_timestamps_token_id": None}},
}


@golden
def whisper(folder: Path) -> None:
    """Write features of other values in every frame, logits, and what ``generate`` makes of languages and tasks."""
    sizes = {"vocab_size": 61, "num_mel_bins": 6, "d_model": 12, "encoder_layers": 1, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 3, "encoder_ffn_dim": 16, "decoder_ffn_dim": 10}
    special = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "bos_token_id": 2}
    lengths = {"max_source_positions": 9, "max_target_positions": 20, "begin_suppress_tokens": None}
    config = hf.WhisperConfig(**sizes, **heads, **special, **lengths)
    config._attn_implementation = "eager"
    seed = seed_of(folder)
    rng = np.random.default_rng(seed)
    features = torch.tensor(rng.normal(size=(2, 6, 18)).astype("float32"))
    own = {"lang_to_id": LANGUAGES, "task_to_id": TASKS, "no_timestamps_token_id": 60, "is_multilingual": True}
    own |= {"max_length": 9, "return_timestamps": False, "begin_suppress_tokens": [9]}
    model: Any = hf.WhisperForConditionalGeneration(config)
    for attempt in range(seed, seed + 2000):
        randomise(model, attempt)
        decoder = model.model.decoder  # positions and features that count, so that texts are not one word
        decoder.embed_positions.weight.data *= 2
        decoder.layer_norm.bias.data *= 0.2
        for layer in decoder.layers:
            layer.encoder_attn.out_proj.weight.data *= 4
            layer.self_attn.out_proj.weight.data *= 8
        start = torch.ones((2, 1), dtype=torch.long)
        likely = results(model, {"input_features": features, "decoder_input_ids": start}, ["logits"])["logits"][:, 0]
        own["suppress_tokens"] = sorted(int(token) for token in likely.topk(2).indices.flatten().unique() if token > 2)
        found = spoken(model, features, own)
        rows = [row for one in found.values() for row in one["tokens"]]
        telling = sum(len(set(row)) > 2 for row in rows)
        if telling > 14 and len({str(row) for row in rows}) > 9:
            break
    else:
        raise AssertionError("no seed has telling texts")
    target = mask_of((5, 3))
    decoder = pad(ids(rng, target.shape, 60), target, 2)
    decoder[:, 0] = 1
    inputs = {"input_features": features, "decoder_input_ids": decoder, "decoder_attention_mask": target}
    write_golden(folder, case("right", inputs, results(model, inputs, ["logits"]), target))
    model.generation_config = hf.GenerationConfig()
    model.save_pretrained(folder)
    given = {**own, "decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(given, indent=1) + "\n")
    (folder / "speech.json").write_text(json.dumps(found) + "\n")
    edit_json(folder / "config.json", forced_decoder_ids=None)


def spoken(model: Any, features: torch.Tensor, own: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments, the config and the new tokens of every case; those of near ties are left out."""
    found: dict[str, Any] = {}
    for name, options in SPOKEN.items():
        changes = options.get("config", {})
        config = {key: value for key, value in {**own, **changes}.items() if value is not None}
        special = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        model.generation_config = hf.GenerationConfig(**config, **special)
        arguments = {key: value for key, value in options.items() if key != "config"}
        with torch.no_grad():
            torch.manual_seed(0)
            rows = model.generate(features, **arguments)
            moved = model.generate(features * (1 + 1e-5), **arguments)
        if rows.shape == moved.shape and (rows == moved).all():
            found[name] = {"arguments": arguments, "config": changes, "tokens": rows.tolist()}
    return found if len(found) > 8 else {}
