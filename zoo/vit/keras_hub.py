"""The dialects of KerasHub's ViT, DeiT and DINOv2, which follow keras-hub 0.32 (``keras_hub/src/models``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...layers.feedforward import GATED
from ...weights.rules import Dialect, Field, Rule
from ...weights.transforms import BATCHED, joined
from .. import keras_hub_rules as hub


def _read_keras_vit(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    hub.accept(raw, activation=None, dropout=0.0, pooling="token")
    if (width := raw.get(f"{hub.TASK}intermediate_dim")) is not None:
        raise ValueError(f"intermediate_dim: got {width} for the head; accepted: None")
    height, width, channels = raw["image_shape"]
    patches = raw["patch_size"]
    patches = (patches, patches) if isinstance(patches, int) else tuple(patches)
    for name, given, sides in (("image_shape", raw["image_shape"], {height, width}), ("patch_size", patches, patches)):
        if len(set(sides)) != 1:
            raise ValueError(f"{name}: got {tuple(given)}; accepted: a square")
    sizes = {"image_size": height, "patch_size": patches[0], "num_channels": channels}
    return {**sizes, "num_classes": raw.get(f"{hub.TASK}num_classes", 1000)}


def _write_keras_vit(c: Any) -> dict[str, Any]:
    sizes = {
        "image_shape": (c.image_size, c.image_size, c.num_channels),
        "patch_size": (c.patch_size, c.patch_size),
    }
    return {**sizes, f"{hub.TASK}num_classes": c.num_classes}


def _keras_vit_rules(c: Any) -> tuple[Rule, ...]:
    front, layer = "vit_patching_and_embedding.", "vit_encoder.encoder_layers.{i}."
    return (
        Rule(f"{front}patch_embedding.kernel", "embedding/kernel"),
        Rule(f"{front}patch_embedding.bias", "embedding/bias"),
        Rule(f"{front}class_token", "embedding/class_token"),
        Rule(f"{front}position_embedding.embeddings", "embedding/positions", BATCHED),
        *hub.layer_norm(f"{layer}layer_norm_1", "block_{i}/attention_norm"),
        *hub.attention(f"{layer}mha", c.num_heads, c.num_heads),
        *hub.layer_norm(f"{layer}layer_norm_2", "block_{i}/feedforward_norm"),
        *hub.dense(f"{layer}mlp.dense_1", "block_{i}/feedforward/up"),
        *hub.dense(f"{layer}mlp.dense_2", "block_{i}/feedforward/down"),
        *hub.layer_norm("vit_encoder.layer_norm", "final_norm"),
        *hub.dense("output_dense", "classifier", outside=True),
    )


_KERAS_VIT = Dialect(
    fields=(
        Field("num_layers", "num_layers"),
        Field("num_heads", "num_heads"),
        Field("hidden_dim", "hidden_dim"),
        Field("mlp_dim", "intermediate_dim"),
        Field("dropout_rate", "dropout"),
        Field("attention_dropout", "attention_dropout"),
        Field("layer_norm_epsilon", "norm_epsilon"),
    ),
    fixed={"activation": "gelu"},
    demanded={
        "use_mha_bias": True,
        "use_mlp_bias": True,
        "use_class_token": True,
        "use_patch_bias": True,
        "data_format": "channels_last",
    },
    read=_read_keras_vit,
    silent=("initializer_range", "interpolate_antialias"),
    write=_write_keras_vit,
    rules=_keras_vit_rules,
    heads={None: "ViTBackbone", "image_classification": "ViTImageClassifier"},
    prefix="backbone.",
)


# DeiT: a distillation token, which the classifier does not read.


def _keras_deit_rules(c: Any) -> tuple[Rule, ...]:
    front, layer = "deit_patching_and_embedding.", "deit_encoder.encoder_layers.{i}."
    return (
        *hub.dense(f"{front}patch_embedding", "embedding"),
        Rule(f"{front}class_token", "embedding/class_token"),
        Rule(f"{front}distillation_token", "embedding/distillation_token"),
        Rule(f"{front}position_embedding", "embedding/positions"),
        *hub.layer_norm(f"{layer}layer_norm_1", "block_{i}/attention_norm"),
        *hub.attention(f"{layer}mha", c.num_heads, c.num_heads),
        *hub.layer_norm(f"{layer}layer_norm_2", "block_{i}/feedforward_norm"),
        *hub.dense(f"{layer}mlp.dense", "block_{i}/feedforward/up"),
        *hub.dense(f"{layer}output_layer.dense", "block_{i}/feedforward/down"),
        *hub.layer_norm("deit_encoder.layer_norm", "final_norm"),
        *hub.dense("output_dense", "classifier", outside=True),
    )


_KERAS_DEIT = replace(
    _KERAS_VIT,
    fields=(
        *(entry for entry in _KERAS_VIT.fields if entry.ours != "intermediate_dim"),
        Field("intermediate_dim", "intermediate_dim"),
    ),
    fixed={"activation": "gelu", "distillation_token": True, "classifier": "class_token"},
    demanded={"use_mha_bias": True, "data_format": "channels_last"},
    rules=_keras_deit_rules,
    heads={None: "DeiTBackbone", "image_classification": "DeiTImageClassifier"},
)


# DINOv2. KerasHub has two position tables: one for the image size of training, and one for its own size, which it uses.


def _read_keras_dinov2(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    gated, width = raw["use_swiglu_ffn"], raw["intermediate_dim"]
    sizes = {name: size for name, size in _read_keras_vit(raw, _).items() if name != "num_classes"}
    return {
        **sizes,
        "attention_dropout": raw["dropout_rate"],
        "activation": "swiglu" if gated else "gelu",
        "intermediate_dim": (int(width * 2 / 3) + 7) // 8 * 8 if gated else width,
    }


def _write_keras_dinov2(c: Any) -> dict[str, Any]:
    gated, shape = c.activation in GATED, (c.image_size, c.image_size, c.num_channels)
    return {
        **{"image_shape": shape, "position_embedding_shape": shape, "patch_size": c.patch_size},
        "layer_scale_init_value": 1.0 if c.layer_scale is None else c.layer_scale,
        "use_swiglu_ffn": gated,
        "intermediate_dim": c.intermediate_dim * 3 // 2 if gated else c.intermediate_dim,
    }


def _dinov2_read_rules(c: Any) -> tuple[Rule, ...]:
    layer, ours = "encoder.layers.{i}.", "block_{i}/feedforward/"
    pair = (f"{ours}gate/", f"{ours}up/")
    mlp = (
        Rule(f"{layer}mlp.weights_in.kernel", tuple(part + "kernel" for part in pair), joined(1)),
        Rule(f"{layer}mlp.weights_in.bias", tuple(part + "bias" for part in pair), joined(0)),
        *hub.dense(f"{layer}mlp.weights_out", f"{ours}down"),
    )
    plain = (*hub.dense(f"{layer}mlp.fc1", f"{ours}up"), *hub.dense(f"{layer}mlp.fc2", f"{ours}down"))
    return (
        *hub.dense("embeddings.patch_embeddings.projection", "embedding"),
        Rule("embeddings.cls_token", "embedding/class_token"),
        Rule("embeddings.mask_token", "embedding/mask_token"),
        Rule("embeddings.register_tokens", "embedding/registers"),
        Rule("embeddings.interpolated_position_embeddings", "embedding/positions"),
        *hub.layer_norm(f"{layer}norm1", "block_{i}/attention_norm"),
        *hub.attention(f"{layer}attention.attention", c.num_heads, c.num_heads),
        Rule(f"{layer}layer_scale1.lambda1", "block_{i}/attention_scale/scale"),
        *hub.layer_norm(f"{layer}norm2", "block_{i}/feedforward_norm"),
        *(mlp if c.activation in GATED else plain),
        Rule(f"{layer}layer_scale2.lambda1", "block_{i}/feedforward_scale/scale"),
        *hub.layer_norm("layernorm", "final_norm"),
    )


_KERAS_DINOV2 = Dialect(
    fields=(
        Field("num_layers", "num_layers"),
        Field("num_heads", "num_heads"),
        Field("hidden_dim", "hidden_dim"),
        Field("dropout_rate", "dropout"),
        Field("layer_scale_init_value", "layer_scale"),
        Field("num_register_tokens", "num_registers"),
        Field("use_mask_token", "use_mask_token"),
        Field("antialias_in_interpolation", "interpolate_antialias"),
    ),
    fixed={"norm_epsilon": 1e-6},
    demanded={"drop_path_rate": 0.0, "data_format": "channels_last"},
    read=_read_keras_dinov2,
    write=_write_keras_dinov2,
    silent=("initializer_range",),
    rules=lambda c: (*_dinov2_read_rules(c), Rule("embeddings.position_embeddings", "embedding/positions")),
    layouts={r"interpolated_position_embeddings$": _dinov2_read_rules},
    ignored=(r"^embeddings\.position_embeddings$",),
    heads={None: "DINOV2Backbone"},
    prefix="backbone.",
)

KERAS_HUB = {"ViT": _KERAS_VIT, "DeiT": _KERAS_DEIT, "DINOV2": _KERAS_DINOV2}
