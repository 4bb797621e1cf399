"""Dialects of third-party checkpoints for ViT.

These are Hugging Face's ViT, DeiT, ViT-MSN, ViT-MAE, I-JEPA, BEiT, DINOv2 and DINOv3; those of KerasHub are in
``keras_hub.py``. Each dialect maps the entries of a config and the names of the tensors to those of this package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...layers.feedforward import GATED
from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import ROW, joined, permuted
from ..huggingface import (
    HF_ACTIVATIONS,
    activation,
    flag,
    gated_activation,
    integer,
    labels,
    number,
    number_of_labels,
    one_size,
)
from .keras_hub import KERAS_HUB
from .model import ViT, ViTConfig

_VIT_BODY = (
    Rule("embeddings.patch_embeddings.projection.weight", "embedding/kernel", permuted(2, 3, 1, 0)),
    Rule("embeddings.patch_embeddings.projection.bias", "embedding/bias"),
    Rule("embeddings.cls_token", "embedding/class_token"),
    Rule("embeddings.distillation_token", "embedding/distillation_token"),
    Rule("embeddings.register_tokens", "embedding/registers"),
    Rule("embeddings.position_embeddings", "embedding/positions"),
    *linear("encoder.layer.{i}.attention.attention.query", "block_{i}/attention/query"),
    *linear("encoder.layer.{i}.attention.attention.key", "block_{i}/attention/key"),
    *linear("encoder.layer.{i}.attention.attention.value", "block_{i}/attention/value"),
    *linear("encoder.layer.{i}.attention.output.dense", "block_{i}/attention/output"),
    *layer_norm("layernorm", "final_norm"),
    *linear("pooler.dense", "pooler"),
)
_VIT_BLOCK = (
    *layer_norm("encoder.layer.{i}.layernorm_before", "block_{i}/attention_norm"),
    *linear("encoder.layer.{i}.intermediate.dense", "block_{i}/feedforward/up"),
    *linear("encoder.layer.{i}.output.dense", "block_{i}/feedforward/down"),
    *layer_norm("encoder.layer.{i}.layernorm_after", "block_{i}/feedforward_norm"),
)

_VIT = Dialect(
    fields=(
        Field("num_channels", "num_channels", 3),
        Field("num_hidden_layers", "num_layers", 12),
        Field("num_attention_heads", "num_heads", 12),
        Field("hidden_size", "hidden_dim", 768),
        Field("intermediate_size", "intermediate_dim", 3072),
        Field("layer_norm_eps", "norm_epsilon", 1e-12),
        Field("qkv_bias", "use_qkv_bias", True),
        Field("hidden_dropout_prob", "dropout", 0.0),
        Field("attention_probs_dropout_prob", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
    ),
    silent=("preprocessing",),  # stored in preprocessor_config.json
    read=lambda raw, names: {
        **_read_images(raw),
        "activation": activation(raw, "hidden_act", "gelu"),
        "pooler": any(name.endswith("pooler.dense.weight") for name in names),
        "pooler_activation": activation(raw, "pooler_act", "tanh"),
        "pooler_dim": integer(raw, "pooler_output_size", 0) or None,
    },
    write=lambda c: {
        **_write_images(c),
        "hidden_act": HF_ACTIVATIONS[c.activation],
        "pooler_act": HF_ACTIVATIONS[c.pooler_activation],
        "pooler_output_size": c.pooler_dim,
    },
    rules=(*_VIT_BODY, *_VIT_BLOCK, *linear("classifier", "classifier", outside=True)),
    prefix="vit.",
    headless=(None,),
    heads={None: "ViTModel", "image_classification": "ViTForImageClassification"},
    unused={r"^pooler\.dense\.": False, r"^embeddings\.mask_token$": False},
)


def _read_images(raw: Mapping[str, Any], patch_size: int = 16) -> dict[str, Any]:
    sizes = {"image_size": one_size(raw, "image_size", 224), "patch_size": one_size(raw, "patch_size", patch_size)}
    return {**sizes, "num_classes": number_of_labels(raw, least=0)}


def _write_images(c: ViTConfig) -> dict[str, Any]:
    named = labels(c)
    return {"image_size": c.image_size, "patch_size": c.patch_size, **named}


def _distilled(raw: Mapping[str, Any]) -> bool:
    return "DeiTForImageClassificationWithTeacher" in (raw.get("architectures") or [])


_DEIT = replace(
    _VIT,
    fixed={"distillation_token": True},
    read=lambda raw, names: {
        **_VIT.read(raw, names),
        "classifier": "distilled" if _distilled(raw) else "class_token",
    },
    write=lambda c: {
        **_VIT.write(c),
        **({"architectures": ["DeiTForImageClassificationWithTeacher"]} if c.classifier == "distilled" else {}),
    },
    rules=lambda c: (
        *_VIT_BODY,
        *_VIT_BLOCK,
        *linear("cls_classifier" if c.classifier == "distilled" else "classifier", "classifier", outside=True),
        *linear("distillation_classifier", "distillation_classifier", outside=True),
    ),
    prefix="deit.",
    heads={None: "DeiTModel", "image_classification": "DeiTForImageClassification"},
    other_classes={"DeiTForImageClassificationWithTeacher": "image_classification"},
)


# MSN and I-JEPA have ViT's tensors without a pooler; the encoder of MAE has them too. transformers adds a pooler to
# I-JEPA on request only.


def _without_pooler(fields: tuple[Field, ...], model_class: str, prefix: str, **changes: Any) -> Dialect:
    base = replace(_VIT, fields=fields, prefix=prefix, **changes)
    return replace(
        base,
        read=lambda raw, names: {**_read_images(raw), "activation": activation(raw, "hidden_act", "gelu")},
        write=lambda c: {**_write_images(c), "hidden_act": HF_ACTIVATIONS[c.activation]},
        heads={None: f"{model_class}Model", **base.heads},
    )


_MSN = _without_pooler(
    (*(entry for entry in _VIT.fields if entry.ours != "norm_epsilon"), Field("layer_norm_eps", "norm_epsilon", 1e-6)),
    "ViTMSN",
    "vit.",
    heads={"image_classification": "ViTMSNForImageClassification"},
)
_MAE = _without_pooler(
    _VIT.fields,
    "ViTMAE",
    "vit.",
    heads={},
    other_classes={"ViTMAEForPreTraining": None},
    ignored=(r"^decoder\.",),
)
_IJEPA = _without_pooler(
    _VIT.fields,
    "IJepa",
    "ijepa.",
    heads={"image_classification": "IJepaForImageClassification"},
    fixed={"class_token": False, "pooling": "mean"},
)


# BEiT.


def _read_beit(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    per_layer, shared = (flag(raw, f"use_{kind}relative_position_bias", False) for kind in ("", "shared_"))
    if per_layer and shared:
        raise ValueError("use_shared_relative_position_bias: got true with use_relative_position_bias; accepted: one")
    return {
        **_read_images(raw),
        "activation": activation(raw, "hidden_act", "gelu"),
        "position": "learned" if flag(raw, "use_absolute_position_embeddings", False) else "none",
        "position_bias": "per_layer" if per_layer else "shared" if shared else None,
        "layer_scale": number(raw, "layer_scale_init_value", 0.1) or None,
        "pooling": "normalized_mean" if flag(raw, "use_mean_pooling", True) else "class_token",
        "use_mask_token": any(name.endswith("embeddings.mask_token") for name in names),
    }


def _write_beit(c: ViTConfig) -> dict[str, Any]:
    return {
        **_write_images(c),
        "hidden_act": HF_ACTIVATIONS[c.activation],
        "use_absolute_position_embeddings": c.position == "learned",
        "use_relative_position_bias": c.position_bias == "per_layer",
        "use_shared_relative_position_bias": c.position_bias == "shared",
        "layer_scale_init_value": c.layer_scale or 0.0,
        "use_mean_pooling": c.pooling == "normalized_mean",
        "use_mask_token": c.use_mask_token,
    }


def _beit_rules(c: ViTConfig) -> tuple[Rule, ...]:
    table = "relative_position_bias.relative_position_bias_table"
    return (
        *(rule for rule in _VIT_BODY if rule.theirs.split(".")[0] not in ("layernorm", "pooler")),
        *_VIT_BLOCK,
        Rule("embeddings.mask_token", "embedding/mask_token", ROW),
        Rule("encoder.layer.{i}.lambda_1", "block_{i}/attention_scale/scale"),
        Rule("encoder.layer.{i}.lambda_2", "block_{i}/feedforward_scale/scale"),
        Rule(f"encoder.layer.{{i}}.attention.attention.{table}", "position_bias_{i}/embeddings"),
        Rule(f"encoder.{table}", "position_bias/embeddings"),
        *layer_norm("pooler.layernorm" if c.pooling == "normalized_mean" else "layernorm", "final_norm"),
        *linear("classifier", "classifier", outside=True),
    )


_BEIT = Dialect(
    fields=tuple(entry for entry in _VIT.fields if entry.ours != "use_qkv_bias"),
    fixed={"use_key_bias": False},
    silent=_VIT.silent,
    read=_read_beit,
    write=_write_beit,
    rules=_beit_rules,
    prefix="beit.",
    headless=(None,),
    heads={None: "BeitModel", "image_classification": "BeitForImageClassification"},
    ignored=(r"relative_position_index$",),  # constants, in files from before transformers 5
)


# As DINOv2's SwiGLU: two thirds of the width without a gate, rounded up to a multiple of 8.
def _gated_width(width: int, ratio: float) -> int:
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def _read_dinov2(raw: Mapping[str, Any], names: Collection[str], patch_size: int = 14) -> dict[str, Any]:
    width, ratio = integer(raw, "hidden_size", 768), number(raw, "mlp_ratio", 4)
    if not 0 < width * ratio < 2**31:
        raise ValueError(f"mlp_ratio: got {ratio} of hidden_size {width}; accepted: a positive width below 2^31")
    gated = bool(raw.get("use_swiglu_ffn"))
    return {
        **_read_images(raw, patch_size),
        "activation": "swiglu" if gated else activation(raw, "hidden_act", "gelu"),
        "intermediate_dim": _gated_width(width, ratio) if gated else int(width * ratio),
        "use_mask_token": any(name.endswith("embeddings.mask_token") for name in names),
        "classifier": "class_and_mean",
    }


def _write_dinov2(c: ViTConfig) -> dict[str, Any]:
    inner = c.intermediate_dim or 0
    ratio = inner / c.hidden_dim
    if c.activation in GATED:  # several ratios result in the same width, due to rounding: take the shortest number
        exact = inner * 3 / 2 / c.hidden_dim
        candidates = (int(exact), round(exact, 1))
        ratio = next((r for r in candidates if _gated_width(c.hidden_dim, r) == inner), exact)
    ratio = int(ratio) if ratio == int(ratio) else ratio
    act = "gelu" if c.activation in GATED else HF_ACTIVATIONS[c.activation]
    feed = {"use_swiglu_ffn": c.activation in GATED, "mlp_ratio": ratio, "hidden_act": act}
    return {**_write_images(c), **feed, "use_mask_token": c.use_mask_token}


_DINOV2_BODY = (
    *_VIT_BODY,
    Rule("embeddings.mask_token", "embedding/mask_token"),
    *layer_norm("encoder.layer.{i}.norm1", "block_{i}/attention_norm"),
    Rule("encoder.layer.{i}.layer_scale1.lambda1", "block_{i}/attention_scale/scale"),
    *layer_norm("encoder.layer.{i}.norm2", "block_{i}/feedforward_norm"),
    Rule("encoder.layer.{i}.layer_scale2.lambda1", "block_{i}/feedforward_scale/scale"),
    *linear("classifier", "classifier", outside=True),
)


def _dinov2_rules(c: ViTConfig) -> tuple[Rule, ...]:
    """Return the rules of DINOv2, whose gated feed-forward network stores the gate and up projections in one tensor."""
    mlp, ours = "encoder.layer.{i}.mlp.", "block_{i}/feedforward/"
    if c.activation not in GATED:
        return (*_DINOV2_BODY, *linear(mlp + "fc1", ours + "up"), *linear(mlp + "fc2", ours + "down"))
    gate_and_up = (ours + "gate/", ours + "up/")
    return (
        *_DINOV2_BODY,
        Rule(mlp + "weights_in.weight", tuple(part + "kernel" for part in gate_and_up), joined(0, transposed=True)),
        Rule(mlp + "weights_in.bias", tuple(part + "bias" for part in gate_and_up), joined(0)),
        *linear(mlp + "weights_out", ours + "down"),
    )


_DINOV2 = Dialect(
    fields=(
        *(entry for entry in _VIT.fields if entry.ours not in ("intermediate_dim", "norm_epsilon")),
        Field("layer_norm_eps", "norm_epsilon", 1e-6),
        Field("layerscale_value", "layer_scale", 1.0),
    ),
    silent=_VIT.silent,
    read=_read_dinov2,
    write=_write_dinov2,
    rules=_dinov2_rules,
    prefix="dinov2.",
    headless=(None,),
    heads={None: "Dinov2Model", "image_classification": "Dinov2ForImageClassification"},
)


_DINOV2_REGISTERS = replace(
    _DINOV2,
    fields=(*_DINOV2.fields, Field("num_register_tokens", "num_registers", 4)),
    fixed={"interpolate_antialias": True},
    read=lambda raw, names: _read_dinov2(raw, names, patch_size=16),
    prefix="dinov2_with_registers.",
    heads={
        None: "Dinov2WithRegistersModel",
        "image_classification": "Dinov2WithRegistersForImageClassification",
    },
)


# DINOv3.


def _read_dinov3(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    biases = {f"{part}_bias": flag(raw, f"{part}_bias", part != "key") for part in ("query", "key", "value")}
    if biases["query_bias"] != biases["value_bias"]:
        given = f"{biases['value_bias']} with query_bias {biases['query_bias']}"
        raise ValueError(f"value_bias: got {given}; accepted: the same for both")
    registers = integer(raw, "num_register_tokens", 0)
    shapes: Mapping[str, Any] = names if isinstance(names, Mapping) else {}
    for name, shape in shapes.items():
        if name.endswith("embeddings.register_tokens") and not registers and shape[1]:  # a tensor even for none
            raise ValueError(f"num_register_tokens: got 0; accepted: {shape[1]}, as {name} has")
    gated = flag(raw, "use_gated_mlp", False)
    return {
        **_read_images(raw),
        "activation": (gated_activation if gated else activation)(raw, "hidden_act", "gelu"),
        "use_qkv_bias": biases["query_bias"],
        "use_key_bias": biases["key_bias"],
        "use_mask_token": any(name.endswith("embeddings.mask_token") for name in names),
    }


def _write_dinov3(c: ViTConfig) -> dict[str, Any]:
    gated = c.activation in GATED
    return {
        **_write_images(c),
        "hidden_act": HF_ACTIVATIONS[GATED.get(c.activation, c.activation)],
        "use_gated_mlp": gated,
        "query_bias": c.use_qkv_bias,
        "key_bias": c.use_key_bias,
        "value_bias": c.use_qkv_bias,
    }


_DINOV3 = Dialect(
    fields=(
        Field("num_channels", "num_channels", 3),
        Field("num_hidden_layers", "num_layers", 12),
        Field("num_attention_heads", "num_heads", 6),
        Field("hidden_size", "hidden_dim", 384),
        Field("intermediate_size", "intermediate_dim", 1536),
        Field("layer_norm_eps", "norm_epsilon", 1e-5),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("rope_theta", "rope_theta", 100.0),
        Field("proj_bias", "use_output_bias", True),
        Field("mlp_bias", "use_feedforward_bias", True),
        Field("layerscale_value", "layer_scale", 1.0),
        Field("num_register_tokens", "num_registers", 0),
    ),
    fixed={"position": "rotary_2d"},
    silent=_VIT.silent,
    read=_read_dinov3,
    write=_write_dinov3,
    rules=(
        Rule("embeddings.patch_embeddings.weight", "embedding/kernel", permuted(2, 3, 1, 0)),
        Rule("embeddings.patch_embeddings.bias", "embedding/bias"),
        Rule("embeddings.cls_token", "embedding/class_token"),
        Rule("embeddings.register_tokens", "embedding/registers"),
        Rule("embeddings.mask_token", "embedding/mask_token", ROW),
        *layer_norm("layer.{i}.norm1", "block_{i}/attention_norm"),
        *linear("layer.{i}.attention.q_proj", "block_{i}/attention/query"),
        *linear("layer.{i}.attention.k_proj", "block_{i}/attention/key"),
        *linear("layer.{i}.attention.v_proj", "block_{i}/attention/value"),
        *linear("layer.{i}.attention.o_proj", "block_{i}/attention/output"),
        Rule("layer.{i}.layer_scale1.lambda1", "block_{i}/attention_scale/scale"),
        *layer_norm("layer.{i}.norm2", "block_{i}/feedforward_norm"),
        *linear("layer.{i}.mlp.gate_proj", "block_{i}/feedforward/gate"),
        *linear("layer.{i}.mlp.up_proj", "block_{i}/feedforward/up"),
        *linear("layer.{i}.mlp.down_proj", "block_{i}/feedforward/down"),
        Rule("layer.{i}.layer_scale2.lambda1", "block_{i}/feedforward_scale/scale"),
        *layer_norm("norm", "final_norm"),
    ),
    prefix="model.",
    headless=(None,),
    heads={None: "DINOv3ViTModel"},
    unused={r"^embeddings\.register_tokens$": False},  # written even if there are none
)

ViT.dialects = {
    "vit": _VIT,
    "deit": _DEIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2_REGISTERS,
    "vit_msn": _MSN,
    "vit_mae": _MAE,
    "ijepa": _IJEPA,
    "beit": _BEIT,
    "dinov3_vit": _DINOV3,
}

ViT.keras_hub_dialects = KERAS_HUB
