"""Reference checkpoints of image models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import LABELS, SEQUENCE, STATES, TAGS, case, golden, labels, new, reread, results, seed_of, write_golden

SHAPES = {"square": (12, 12), "wide": (12, 20), "tall": (20, 8)}


def write_vision(
    folder: Path, cls: Any, config: Any, outputs: Sequence[str], shapes: Sequence[str] = ("square",), **options: Any
) -> None:
    """Write cases with pixels as (batch, channels, height, width); `options` apply to images that are not square."""
    model = new(folder, cls, config)
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed_of(folder))
    cases = []
    for name in shapes:
        batch = 2 if name == "square" else 1
        pixels = torch.tensor(rng.normal(0, 1, (batch, config.num_channels, *SHAPES[name])), dtype=torch.float32)
        extra = options if name != "square" else {}
        cases.append(case(name, {"pixel_values": pixels}, results(model, {"pixel_values": pixels}, outputs, **extra)))
    write_golden(folder, *cases)
    reread(folder, cls, **options)


def vit_config(cls: Any = hf.ViTConfig, **changes: Any) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    inner = {"intermediate_size": 36} if cls in (hf.ViTConfig, hf.DeiTConfig) else {}
    return cls(**{**sizes, **inner, "image_size": 12, "patch_size": 4, **changes})


@golden
def vit(folder: Path) -> None:
    write_vision(folder, hf.ViTForImageClassification, vit_config(**labels(TAGS)), SEQUENCE)


@golden
def vit_no_bias(folder: Path) -> None:
    """Use no bias on query, key and value, one channel, ReLU, and another epsilon."""
    changes = {"qkv_bias": False, "num_channels": 1, "hidden_act": "relu", "layer_norm_eps": 1e-3}
    write_vision(folder, hf.ViTForImageClassification, vit_config(**changes, **labels(LABELS)), SEQUENCE)


@golden
def vit_backbone(folder: Path) -> None:
    """Write ViTModel with its tanh pooler, and other image shapes with interpolate_pos_encoding."""
    write_vision(folder, hf.ViTModel, vit_config(), STATES, tuple(SHAPES), interpolate_pos_encoding=True)


@golden
def deit(folder: Path) -> None:
    """Use a single head on the class token; the distillation token is still present."""
    write_vision(folder, hf.DeiTForImageClassification, vit_config(hf.DeiTConfig, **labels(LABELS)), SEQUENCE)


@golden
def deit_teacher(folder: Path) -> None:
    """Use two heads, whose mean is ``logits``."""
    outputs = ("logits", "cls_logits", "distillation_logits")
    config = vit_config(hf.DeiTConfig, **labels(LABELS))
    write_vision(folder, hf.DeiTForImageClassificationWithTeacher, config, outputs)


@golden
def deit_backbone(folder: Path) -> None:
    options = {"interpolate_pos_encoding": True}
    write_vision(folder, hf.DeiTModel, vit_config(hf.DeiTConfig), STATES, tuple(SHAPES), **options)


@golden
def dinov2(folder: Path) -> None:
    """Use layer scale; positions are always resized; ``pooler_output`` is the normalized class token."""
    write_vision(folder, hf.Dinov2Model, vit_config(hf.Dinov2Config, mlp_ratio=2), STATES, tuple(SHAPES))


@golden
def dinov2_classifier(folder: Path) -> None:
    """The head uses the concatenated class token and mean of the patches; the body has the prefix ``dinov2.``."""
    config = vit_config(hf.Dinov2Config, mlp_ratio=2, **labels(LABELS))
    write_vision(folder, hf.Dinov2ForImageClassification, config, SEQUENCE)


@golden
def dinov2_swiglu(folder: Path) -> None:
    """Use DINOv2-giant's feed-forward of size 24: 2/3 of mlp_ratio × hidden_size, rounded up to a multiple of 8."""
    config = vit_config(hf.Dinov2Config, mlp_ratio=2, use_swiglu_ffn=True, layer_norm_eps=1e-3)
    write_vision(folder, hf.Dinov2Model, config, STATES)


@golden
def dinov2_registers(folder: Path) -> None:
    """Use three register tokens after the class token, without positions."""
    config = vit_config(hf.Dinov2WithRegistersConfig, mlp_ratio=2, num_register_tokens=3)
    write_vision(folder, hf.Dinov2WithRegistersModel, config, STATES, tuple(SHAPES))
