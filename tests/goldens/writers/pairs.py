"""Reference checkpoints of models that compare texts with images, and of their encoders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import (
    STATES,
    case,
    edit_json,
    golden,
    mask_of,
    new,
    reread,
    results,
    seed_of,
    stored,
    write_golden,
    write_tensors,
)

PAIRS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
SIZES = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = {"image_size": 12, "patch_size": 4}
TEXTS = {"vocab_size": 31, "max_position_embeddings": 9}
END = 30
LENGTHS = (9, 5, 3)


def texts(rng: np.random.Generator, ended: bool, left: bool = False) -> dict[str, torch.Tensor]:
    """Return rows of 9, 5 and 3 tokens, the last of which is the end of the text, which also pads the rows."""
    mask = mask_of(LENGTHS, left)
    rows = torch.tensor(rng.integers(3, END, mask.shape))
    for row, length in enumerate(LENGTHS):
        rows[row, length - 1 :] = END if ended else 1
    return {"input_ids": rows.flip(1) if left else rows, "attention_mask": mask}


def images(rng: np.random.Generator, batch: int, height: int = 12, width: int = 12) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.tensor(rng.normal(0, 1, (batch, 3, height, width)), dtype=torch.float32)}


def write(folder: Path, cls: Any, config: Any, outputs: Sequence[str], kinds: str = "both", ended: bool = True) -> Any:
    """Write a model and cases of it: two images and three texts, and images of other shapes."""
    model = new(folder, cls, config)
    with torch.no_grad():  # so that the logits are not all the same
        for name in ("logit_scale", "logit_bias"):
            if hasattr(model, name):
                getattr(model, name).fill_(1.3)
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed_of(folder))
    cases = []
    for name in ("square", "wide") if kinds != "text" else ("right",):
        inputs: dict[str, torch.Tensor] = {}
        if kinds != "image":
            inputs |= texts(rng, ended)
        if kinds != "text":
            inputs |= images(rng, 2, 12, 20 if name == "wide" else 12)
        options = {"interpolate_pos_encoding": True} if name == "wide" else {}
        mask = inputs["attention_mask"] if kinds == "text" else None
        cases.append(case(name, inputs, results(model, inputs, outputs, **options), mask))
    write_golden(folder, *cases)
    reread(folder, cls, **({} if kinds == "text" else {"interpolate_pos_encoding": True}))
    return model


def whole(cls: Any, text: Any, image: Any, **changes: Any) -> Any:
    return cls(text_config=text.to_dict(), vision_config=image.to_dict(), **changes)


def clip_text(**changes: Any) -> Any:
    return hf.CLIPTextConfig(**{**SIZES, **TEXTS, "projection_dim": 12, "eos_token_id": END, **changes})


def clip_vision(**changes: Any) -> Any:
    return hf.CLIPVisionConfig(**{**SIZES, **IMAGES, "projection_dim": 12, **changes})


def siglip_text(**changes: Any) -> Any:
    return hf.SiglipTextConfig(**{**SIZES, **TEXTS, "eos_token_id": 1, **changes})


def siglip_vision(**changes: Any) -> Any:
    return hf.SiglipVisionConfig(**{**SIZES, **IMAGES, **changes})


@golden
def clip(folder: Path) -> None:
    """Use encoders of different widths and activations, whose projections have another width."""
    text = clip_text(hidden_size=12, hidden_act="gelu")
    config = whole(hf.CLIPConfig, text, clip_vision(num_hidden_layers=1), projection_dim=10)
    write(folder, hf.CLIPModel, config, PAIRS)


@golden
def clip_published(folder: Path) -> None:
    """Write the config and the buffers of the first files: the end of a text is 2, and entries are given twice."""
    text = clip_text(eos_token_id=2, num_hidden_layers=1)
    config = whole(hf.CLIPConfig, text, clip_vision(num_hidden_layers=1), projection_dim=12)
    write(folder, hf.CLIPModel, config, PAIRS)
    buffers = {
        "text_model.embeddings.position_ids": torch.arange(9)[None].float(),
        "vision_model.embeddings.position_ids": torch.arange(10)[None].float(),
    }
    write_tensors(folder / "model.safetensors", {**stored(folder), **buffers})
    edit_json(folder / "config.json", text_config_dict=None, vision_config_dict=None)
    reread(folder, hf.CLIPModel, interpolate_pos_encoding=True)


@golden
def clip_text_model(folder: Path) -> None:
    write(folder, hf.CLIPTextModel, clip_text(), STATES, "text")


@golden
def clip_text_projection(folder: Path) -> None:
    """Leave the end of a text outside of the vocabulary: the first token is read."""
    config = clip_text(eos_token_id=49407)
    write(folder, hf.CLIPTextModelWithProjection, config, ("text_embeds", "last_hidden_state"), "text")


@golden
def clip_vision_model(folder: Path) -> None:
    write(folder, hf.CLIPVisionModel, clip_vision(), STATES, "image")


@golden
def clip_vision_projection(folder: Path) -> None:
    outputs = ("image_embeds", "last_hidden_state")
    write(folder, hf.CLIPVisionModelWithProjection, clip_vision(num_hidden_layers=1), outputs, "image")


@golden
def siglip(folder: Path) -> None:
    """Use an image encoder without a class token, pooled by attention, and an offset of the logits."""
    text = siglip_text(hidden_size=12, projection_size=16, num_hidden_layers=1)
    config = whole(hf.SiglipConfig, text, siglip_vision(num_hidden_layers=1))
    write(folder, hf.SiglipModel, config, PAIRS, ended=False)


@golden
def siglip_text_model(folder: Path) -> None:
    write(folder, hf.SiglipTextModel, siglip_text(projection_size=10), STATES, "text", ended=False)


@golden
def siglip_vision_model(folder: Path) -> None:
    """Use an image size that is no multiple of the patch size, as in SigLIP-SO400M."""
    model = new(folder, hf.SiglipVisionModel, siglip_vision(image_size=14))
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed_of(folder))
    inputs = images(rng, 2, 14, 14)
    write_golden(folder, case("square", inputs, results(model, inputs, STATES)))
    reread(folder, hf.SiglipVisionModel)


@golden
def siglip_vision_patches(folder: Path) -> None:
    """Use no pooling."""
    config = siglip_vision(vision_use_head=False)
    write(folder, hf.SiglipVisionModel, config, STATES[:1], "image")
