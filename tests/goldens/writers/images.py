"""Reference checkpoints of image models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import (
    LABELS,
    SEQUENCE,
    STATES,
    TAGS,
    case,
    edit_json,
    golden,
    labels,
    new,
    reread,
    results,
    seed_of,
    stored,
    write_golden,
    write_tensors,
)

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
    inner = {} if cls in (hf.Dinov2Config, hf.Dinov2WithRegistersConfig) else {"intermediate_size": 36}
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


@golden
def vit_no_classes(folder: Path) -> None:
    """Use a head without classes, which returns its input."""
    write_vision(folder, hf.ViTForImageClassification, vit_config(num_labels=0), SEQUENCE)


@golden
def vit_msn(folder: Path) -> None:
    """Write the names of the hub: transformers 5 saves the encoder of this class without its prefix, which is odd."""
    write_vision(folder, hf.ViTMSNForImageClassification, vit_config(hf.ViTMSNConfig, **labels(LABELS)), SEQUENCE)
    tensors = {("vit." if name.startswith("encoder.") else "") + name: each for name, each in stored(folder).items()}
    write_tensors(folder / "model.safetensors", tensors)
    reread(folder, hf.ViTMSNForImageClassification)


@golden
def vit_msn_backbone(folder: Path) -> None:
    options = {"interpolate_pos_encoding": True}
    write_vision(folder, hf.ViTMSNModel, vit_config(hf.ViTMSNConfig), STATES[:1], tuple(SHAPES), **options)


@golden
def vit_mae(folder: Path) -> None:
    """Compute the encoder on all patches in their order: nothing is masked, and the noise that sorts them ascends."""
    sizes = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = vit_config(hf.ViTMAEConfig, mask_ratio=0.0, decoder_intermediate_size=12, **sizes)
    model = new(folder, hf.ViTMAEModel, config)
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed_of(folder))
    cases = []
    for name, (height, width) in SHAPES.items():
        pixels = torch.tensor(rng.normal(0, 1, (1, 3, height, width)), dtype=torch.float32)
        noise = torch.arange(height * width // config.patch_size**2, dtype=torch.float32)[None]
        options = {"noise": noise, "interpolate_pos_encoding": name != "square"}
        given = {"pixel_values": pixels}
        cases.append(case(name, given, results(model, given, STATES[:1], **options)))
    write_golden(folder, *cases)
    edit_json(folder / "config.json", mask_ratio=0.75)  # that of the pretraining, as in every file


@golden
def ijepa(folder: Path) -> None:
    """Use no class token; the head reads the mean of all patches."""
    write_vision(folder, hf.IJepaForImageClassification, vit_config(hf.IJepaConfig, **labels(LABELS)), SEQUENCE)


@golden
def ijepa_backbone(folder: Path) -> None:
    options = {"interpolate_pos_encoding": True}
    write_vision(folder, hf.IJepaModel, vit_config(hf.IJepaConfig), STATES[:1], tuple(SHAPES), **options)


@golden
def beit(folder: Path) -> None:
    """Use biases of each layer, absolute positions and the mean of the patches."""
    changes = {"use_relative_position_bias": True, "use_absolute_position_embeddings": True, **labels(LABELS)}
    write_vision(folder, hf.BeitForImageClassification, vit_config(hf.BeitConfig, **changes), SEQUENCE, tuple(SHAPES))


@golden
def beit_backbone(folder: Path) -> None:
    """Use biases of each layer, whose table is interpolated for other shapes, and a mask token."""
    changes = {"use_relative_position_bias": True, "use_mask_token": True}
    write_vision(folder, hf.BeitModel, vit_config(hf.BeitConfig, **changes), STATES, tuple(SHAPES))


@golden
def beit_shared(folder: Path) -> None:
    """Use biases shared by all layers, no layer scale, and the class token instead of the mean."""
    changes = {"use_shared_relative_position_bias": True, "use_mean_pooling": False, "layer_scale_init_value": 0.0}
    write_vision(folder, hf.BeitModel, vit_config(hf.BeitConfig, **changes), STATES, tuple(SHAPES))


@golden
def dinov3(folder: Path) -> None:
    """Rotate the patches by row and column, but not the class token and the three register tokens."""
    write_vision(
        folder, hf.DINOv3ViTModel, vit_config(hf.DINOv3ViTConfig, num_register_tokens=3), STATES, tuple(SHAPES)
    )


@golden
def dinov3_gated(folder: Path) -> None:
    """Use SwiGLU, biases on the keys but not on the outputs, another base, and no register tokens."""
    changes = {"use_gated_mlp": True, "hidden_act": "silu", "key_bias": True, "proj_bias": False, "rope_theta": 20.0}
    write_vision(folder, hf.DINOv3ViTModel, vit_config(hf.DINOv3ViTConfig, **changes), STATES, ("square", "wide"))
