"""Dialects of Hugging Face's CLIP and SigLIP: whole models, and their text and image encoders alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import BATCHED, ROW, Transform, joined, permuted
from ..huggingface import HF_ACTIVATIONS, activation, flag, integer, one_size
from .model import CLIP, CLIPConfig

Raw = Mapping[str, Any]
TOKEN = Transform(lambda theirs, _: [theirs[None, None]], lambda ours: ours[0][0, 0], lambda shapes: shapes[0][2:])

# Config entries, with the defaults of CLIP and of SigLIP.


def _text_fields(
    vocab_size: int, hidden_dim: int, num_heads: int, max_length: int, epsilon: float
) -> tuple[Field, ...]:
    return (
        Field("vocab_size", "vocab_size", vocab_size),
        Field("hidden_size", "hidden_dim", hidden_dim),
        Field("intermediate_size", "intermediate_dim", 4 * hidden_dim),
        Field("num_hidden_layers", "num_layers", 12),
        Field("num_attention_heads", "num_heads", num_heads),
        Field("max_position_embeddings", "max_length", max_length),
        Field("layer_norm_eps", "norm_epsilon", epsilon),
        Field("attention_dropout", "attention_dropout", 0.0),
    )


def _image_fields(epsilon: float) -> tuple[Field, ...]:
    return (
        Field("hidden_size", "image_hidden_dim", 768),
        Field("intermediate_size", "image_intermediate_dim", 3072),
        Field("num_hidden_layers", "image_num_layers", 12),
        Field("num_attention_heads", "image_num_heads", 12),
        Field("num_channels", "num_channels", 3),
        Field("layer_norm_eps", "image_norm_epsilon", epsilon),
        Field("attention_dropout", "attention_dropout", 0.0),
    )


_CLIP_TEXT, _CLIP_IMAGE = _text_fields(49408, 512, 8, 77, 1e-5), _image_fields(1e-5)
_SIGLIP_TEXT, _SIGLIP_IMAGE = _text_fields(32000, 768, 12, 64, 1e-6), _image_fields(1e-6)


def _read_clip_text(raw: Raw) -> dict[str, Any]:
    end = integer(raw, "eos_token_id", 49407)
    return {
        "activation": activation(raw, "hidden_act", "quick_gelu"),
        "eos_token_id": end,
        # Configs from before 2023 have 2, which is not the end: transformers then takes the highest id.
        "text_pooling": "highest" if end == 2 else "end",
    }


def _write_clip_text(c: CLIPConfig) -> dict[str, Any]:
    if c.text_pooling == "end" and c.eos_token_id == 2:
        raise ValueError("eos_token_id: got 2, which transformers takes for the highest id; accepted: another")
    end = 2 if c.text_pooling == "highest" else c.eos_token_id
    return {"hidden_act": HF_ACTIVATIONS[c.activation], "eos_token_id": end}


def _read_clip_image(raw: Raw) -> dict[str, Any]:
    return {**_read_sizes(raw, 32), "image_activation": activation(raw, "hidden_act", "quick_gelu")}


def _read_sizes(raw: Raw, patch_size: int) -> dict[str, Any]:
    return {"image_size": one_size(raw, "image_size", 224), "patch_size": one_size(raw, "patch_size", patch_size)}


def _write_clip_image(c: CLIPConfig) -> dict[str, Any]:
    act = HF_ACTIVATIONS[c.image_activation]
    return {"image_size": c.image_size, "patch_size": c.patch_size, "hidden_act": act}


def _read_siglip_text(raw: Raw) -> dict[str, Any]:
    return {
        "activation": activation(raw, "hidden_act", "gelu_pytorch_tanh"),
        "projection_dim": integer(raw, "projection_size", integer(raw, "hidden_size", 768)),
    }


def _write_siglip_text(c: CLIPConfig) -> dict[str, Any]:
    return {"hidden_act": _siglip_activation(c.activation), "projection_size": c.projection_dim}


def _siglip_activation(name: str) -> str:
    return "gelu_pytorch_tanh" if name == "gelu_tanh" else HF_ACTIVATIONS[name]


def _read_siglip_image(raw: Raw) -> dict[str, Any]:
    return {
        **_read_sizes(raw, 16),
        "image_activation": activation(raw, "hidden_act", "gelu_pytorch_tanh"),
        "image_pooling": "attention" if flag(raw, "vision_use_head", True) else "none",
    }


def _write_siglip_image(c: CLIPConfig) -> dict[str, Any]:
    return {
        **_write_clip_image(c),
        "hidden_act": _siglip_activation(c.image_activation),
        "vision_use_head": c.image_pooling == "attention",
    }


# Configs of whole models have those of the encoders inside.


def _inner(raw: Raw, side: str) -> Raw:
    """Return the config of an encoder. In old files, its entries may be in a second config, which wins."""
    name = f"{side}_config_dict" if raw.get(f"{side}_config_dict") is not None else f"{side}_config"
    inner = raw.get(name)
    inner = {} if inner is None else inner
    if not isinstance(inner, Mapping):
        raise ValueError(f"{name}: got {inner!r}; accepted: an object")
    return inner


def _read_inner(fields: tuple[Field, ...], raw: Raw) -> dict[str, Any]:
    return {entry.ours: entry.default if raw.get(entry.theirs) is None else raw[entry.theirs] for entry in fields}


def _write_inner(fields: tuple[Field, ...], c: CLIPConfig) -> dict[str, Any]:
    return {entry.theirs: getattr(c, entry.ours) for entry in fields}


Half = tuple[tuple[Field, ...], Callable[[Raw], dict[str, Any]], Callable[[CLIPConfig], dict[str, Any]], str]
_CLIP_HALVES: tuple[Half, Half] = (
    (_CLIP_TEXT, _read_clip_text, _write_clip_text, "clip_text_model"),
    (_CLIP_IMAGE, _read_clip_image, _write_clip_image, "clip_vision_model"),
)
_SIGLIP_HALVES: tuple[Half, Half] = (
    (_SIGLIP_TEXT, _read_siglip_text, _write_siglip_text, "siglip_text_model"),
    (_SIGLIP_IMAGE, _read_siglip_image, _write_siglip_image, "siglip_vision_model"),
)


def _read_both(halves: tuple[Half, Half]) -> Callable[[Raw, Any], dict[str, Any]]:
    def read(raw: Raw, _: Collection[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for side, (fields, read_half, _write, kind) in zip(("text", "vision"), halves, strict=True):
            inner = _inner(raw, side)
            if inner.get("model_type", kind) != kind:
                raise ValueError(f"{side}_config: got model_type {inner['model_type']!r}; accepted: {kind!r}")
            own = {**_read_inner(fields, inner), **read_half(inner)}
            rate = found.get("attention_dropout", own["attention_dropout"])  # in training only
            found |= {**own, "attention_dropout": rate}
        return found

    return read


def _write_both(halves: tuple[Half, Half]) -> Callable[[CLIPConfig], dict[str, Any]]:
    def write(c: CLIPConfig) -> dict[str, Any]:
        found = {}
        for side, (fields, _, write_half, kind) in zip(("text", "vision"), halves, strict=True):
            found[f"{side}_config"] = {"model_type": kind, **_write_inner(fields, c), **write_half(c)}
        return found

    return write


# Tensors, with names as in a whole model.


def _blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    layer, block = f"{theirs}.encoder.layers.{{i}}", f"{ours}_block_{{i}}"
    return (
        *layer_norm(f"{layer}.layer_norm1", f"{block}/attention_norm"),
        *linear(f"{layer}.self_attn.q_proj", f"{block}/attention/query"),
        *linear(f"{layer}.self_attn.k_proj", f"{block}/attention/key"),
        *linear(f"{layer}.self_attn.v_proj", f"{block}/attention/value"),
        *linear(f"{layer}.self_attn.out_proj", f"{block}/attention/output"),
        *layer_norm(f"{layer}.layer_norm2", f"{block}/feedforward_norm"),
        *linear(f"{layer}.mlp.fc1", f"{block}/feedforward/up"),
        *linear(f"{layer}.mlp.fc2", f"{block}/feedforward/down"),
    )


_POOLED = ("query", "key", "value")
_TEXT_RULES = (
    Rule("text_model.embeddings.token_embedding.weight", "embedding/embeddings"),
    Rule("text_model.embeddings.position_embedding.weight", "positions/embeddings"),
    *_blocks("text_model", "text"),
    *layer_norm("text_model.final_layer_norm", "text_norm"),
)
_IMAGE_RULES = (
    Rule("vision_model.embeddings.class_embedding", "patches/class_token", TOKEN),
    Rule("vision_model.embeddings.patch_embedding.weight", "patches/kernel", permuted(2, 3, 1, 0)),
    Rule("vision_model.embeddings.patch_embedding.bias", "patches/bias"),
    Rule("vision_model.embeddings.position_embedding.weight", "patches/positions", BATCHED),
    *layer_norm("vision_model.pre_layrnorm", "patches_norm"),  # spelled like this in the files
    *_blocks("vision_model", "image"),
    *layer_norm("vision_model.post_layernorm", "image_norm"),
)
_CLIP_HEAD = (
    *linear("text_projection", "text_projection", outside=True),
    *linear("visual_projection", "image_projection", outside=True),
    Rule("logit_scale", "logit_scale", outside=True),
)
_SIGLIP_HEAD = (
    *linear("text_model.head", "text_projection"),
    Rule("vision_model.head.probe", "image_pooler/query"),
    Rule(
        "vision_model.head.attention.in_proj_weight",
        tuple(f"image_pooler/attention/{part}/kernel" for part in _POOLED),
        joined(0, transposed=True),
    ),
    Rule(
        "vision_model.head.attention.in_proj_bias",
        tuple(f"image_pooler/attention/{part}/bias" for part in _POOLED),
        joined(0),
    ),
    *linear("vision_model.head.attention.out_proj", "image_pooler/attention/output"),
    *layer_norm("vision_model.head.layernorm", "image_pooler/norm"),
    *linear("vision_model.head.mlp.fc1", "image_pooler/feedforward/up"),
    *linear("vision_model.head.mlp.fc2", "image_pooler/feedforward/down"),
    Rule("logit_scale", "logit_scale", ROW, outside=True),
    Rule("logit_bias", "logit_bias", ROW, outside=True),
)
_SIGLIP = {"causal": False, "text_pooling": "last", "image_pooling": "attention", "projection": "text"}
_SILENT = ("preprocessing", "initializer_range", "logit_scale")
_BUFFERS = (r"embeddings\.position_ids$",)  # in files from before 2023


def _alone(rules: tuple[Rule, ...], prefix: str) -> tuple[Rule, ...]:
    """Return the rules of one encoder, which has no prefix of its own where it has no head."""
    return tuple(Rule(r.theirs.removeprefix(prefix), r.ours, r.transform, r.outside) for r in rules)


def _half(
    half: Half, tower: str, rules: tuple[Rule, ...], fixed: dict[str, Any], heads: dict[str | None, str]
) -> Dialect:
    fields, read, write, _ = half
    prefix = "text_model." if tower == "text" else "vision_model."
    projected = (Field("projection_dim", "projection_dim", 512),) if "projection" in heads else ()
    return Dialect(
        fields=(*fields, *projected),
        fixed={"tower": tower, **fixed},
        read=lambda raw, _: read(raw),
        write=write,
        rules=_alone(rules, prefix),
        prefix=prefix,
        headless=(None,),
        heads=heads,
        ignored=_BUFFERS,
        silent=_SILENT,
    )


CLIP.dialects = {
    "clip": Dialect(
        fields=(Field("projection_dim", "projection_dim", 512), Field("logit_scale_init_value", "logit_scale", 2.6592)),
        read=_read_both(_CLIP_HALVES),
        write=_write_both(_CLIP_HALVES),
        rules=(*_TEXT_RULES, *_IMAGE_RULES, *_CLIP_HEAD),
        heads={"contrastive": "CLIPModel"},
        ignored=_BUFFERS,
        silent=_SILENT,
    ),
    "siglip": Dialect(
        fields=(),
        fixed={**_SIGLIP, "use_logit_bias": True},
        read=_read_both(_SIGLIP_HALVES),
        write=_write_both(_SIGLIP_HALVES),
        rules=(*_TEXT_RULES, *_IMAGE_RULES, *_SIGLIP_HEAD),
        heads={"contrastive": "SiglipModel"},
        ignored=_BUFFERS,
        silent=_SILENT,
    ),
    "clip_text_model": _half(
        _CLIP_HALVES[0],
        "text",
        (*_TEXT_RULES, *_CLIP_HEAD),
        {},
        {None: "CLIPTextModel", "projection": "CLIPTextModelWithProjection"},
    ),
    "clip_vision_model": _half(
        _CLIP_HALVES[1],
        "image",
        (*_IMAGE_RULES, *_CLIP_HEAD),
        {},
        {None: "CLIPVisionModel", "projection": "CLIPVisionModelWithProjection"},
    ),
    "siglip_text_model": _half(
        _SIGLIP_HALVES[0], "text", (*_TEXT_RULES, *_SIGLIP_HEAD), _SIGLIP, {None: "SiglipTextModel"}
    ),
    "siglip_vision_model": _half(
        _SIGLIP_HALVES[1], "image", (*_IMAGE_RULES, *_SIGLIP_HEAD), _SIGLIP, {None: "SiglipVisionModel"}
    ),
}
