"""ViT: the encoder on image patches, with DINOv2's additions.

Dosovitskiy et al. 2021 (arXiv:2010.11929): patches, a class token, pre-norm blocks, GELU by erf. DINOv2 (Oquab et al.
2023, arXiv:2304.07193) adds layer scale and, later, register tokens (arXiv:2309.16588). Positions are interpolated for
images of another size.

    pixel_values (batch, height, width, num_channels) float, or with `preprocessing`
    images (batch, any height, any width, num_channels) float, 0 to 255
    head None                    last_hidden_state (batch, 1 + num_registers + patches, hidden_dim), normalised,
                                 pooler_output (batch, hidden_dim), of the class token
         "image_classification"  logits (batch, num_classes)

DeiT (Touvron et al. 2021, arXiv:2012.12877) has a second class token, the distillation token, after the first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
from keras import ops

from ..layers.blocks import TransformerBlock
from ..layers.core import Dense, LayerNormalization
from ..layers.embedding import PatchEmbedding
from ..layers.feedforward import ACTIVATIONS, GATED
from ..layers.images import ImageProcessor
from ..layers.position import check_position
from .base import Config, ZooModel
from .huggingface import HF_ACTIVATIONS, activation, integer, labels, number, number_of_labels, one_size
from .registry import register
from .signature import Signature, TensorSpec
from .weights import Dialect, Field, Rule, joined, layer_norm, linear, permuted

CLASSIFIERS = ("class_token", "class_and_mean", "distilled")


@dataclass(frozen=True)
class ViTConfig(Config):
    """Defaults are ViT-Base/16 at 224 pixels.

    Attributes:
        image_size: side of the square images the positions are for; others are interpolated.
        position: "learned", or "sinusoidal_2d" for the fixed ones of MoCo v3 and MAE.
        num_registers: register tokens after the class token.
        layer_scale: initial value of the factor on each branch; None for none.
        distillation_token: DeiT's second class token.
        interpolate_antialias: how learned positions are interpolated; see ``PatchEmbedding``.
        use_qkv_bias: biases on queries, keys and values; all other projections have them.
        pooler: a dense layer and tanh on the class token for `pooler_output`, as Hugging Face's ``ViTModel``.
        classifier: what the classification head reads: "class_token", "class_and_mean" for the class token beside the
            mean of the patches (DINOv2), or "distilled" for the mean of two heads, on class and distillation token.
        use_mask_token: keep DINOv2's (unused) mask token, so that its checkpoints load whole.
        preprocessing: what a preprocessor_config.json says, for a model that takes images as they are and resizes,
            crops and normalises them itself, in an exported file too; see ``layers.ImageProcessor``. Values between
            pixels are not rounded, as no runtime does it alike.
        head: "image_classification", or None for the features.
    """

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    intermediate_dim: int | None = None
    position: str = "learned"
    num_registers: int = 0
    layer_scale: float | None = None
    use_mask_token: bool = False
    distillation_token: bool = False
    interpolate_antialias: bool = False
    use_qkv_bias: bool = True
    pooler: bool = False
    classifier: str = "class_token"
    preprocessing: dict[str, Any] | None = None
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    head: str | None = None
    num_classes: int = 1000

    def __post_init__(self) -> None:
        self._positive("hidden_dim")
        self._default("intermediate_dim", 4 * self.hidden_dim)
        sizes = ("image_size", "patch_size", "num_channels", "num_layers", "num_heads", "hidden_dim")
        self._positive(*sizes, "intermediate_dim", "num_classes")
        self._divides("num_heads", "hidden_dim")
        self._divides("patch_size", "image_size")
        self._choice("activation", (*ACTIVATIONS, *GATED))
        self._choice("head", ("image_classification", None))
        self._choice("position", ("learned", "sinusoidal_2d"))
        self._choice("classifier", CLASSIFIERS)
        if self.preprocessing is not None:
            ImageProcessor.from_huggingface(self.preprocessing)  # refuses what it cannot do
        if self.classifier == "distilled" and not self.distillation_token:
            raise ValueError("classifier: got 'distilled' without distillation_token; accepted: with it")
        check_position(self.position, hidden_dim=self.hidden_dim, head_dim=0)
        self._rates("dropout", "attention_dropout")
        if not isinstance(self.num_registers, int) or self.num_registers < 0:
            raise ValueError(f"num_registers: got {self.num_registers!r}; accepted: an integer of at least 0")


@register
class ViT(ZooModel):
    """``ViT(num_layers=4)``, ``ViT(config)`` or ``az.create("vit-base-16")``. See the module."""

    family: ClassVar[str] = "vit"
    config_class: ClassVar[type[Config]] = ViTConfig

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        initializer = keras.initializers.TruncatedNormal(stddev=c.initializer_range)
        self.processor = None
        if c.preprocessing is not None:
            self.processor = ImageProcessor.from_huggingface(c.preprocessing)
            self.processor.round_pixels = False
        self.embedding = PatchEmbedding(
            c.patch_size,
            c.image_size,
            c.hidden_dim,
            position=c.position,
            num_registers=c.num_registers,
            num_channels=c.num_channels,
            distillation_token=c.distillation_token,
            antialias=c.interpolate_antialias,
            use_mask_token=c.use_mask_token,
            dropout=c.dropout,
            kernel_initializer=initializer,
            name="embedding",
            **shared,
        )
        self.blocks = [
            TransformerBlock(
                c.num_heads,
                c.intermediate_dim,
                activation=c.activation,
                use_bias=c.use_qkv_bias,
                use_output_bias=True,
                use_feedforward_bias=True,
                norm_epsilon=c.norm_epsilon,
                layer_scale=c.layer_scale,
                dropout=c.dropout,
                attention_dropout=c.attention_dropout,
                kernel_initializer=initializer,
                name=f"block_{i}",
                **shared,
            )
            for i in range(c.num_layers)
        ]
        self.final_norm = LayerNormalization(epsilon=c.norm_epsilon, name="final_norm", **shared)

        def dense(name: str, units: int) -> Dense:
            return Dense(units, kernel_initializer=initializer.clone(), name=name, **shared)

        self.pooler = dense("pooler", c.hidden_dim) if c.pooler and c.head is None else None
        self.classifier = self.distillation_classifier = None
        if c.head == "image_classification":
            self.classifier = dense("classifier", c.num_classes)
            if c.classifier == "distilled":
                self.distillation_classifier = dense("distillation_classifier", c.num_classes)

    def build(self, input_shape: Any = None) -> None:
        states = (None, None, self.config.hidden_dim)
        self.embedding.build((None, None, None, self.config.num_channels))
        for layer in (*self.blocks, self.final_norm):
            layer.build(states)
        read = self.config.hidden_dim * (2 if self.config.classifier == "class_and_mean" else 1)
        for layer in (self.classifier, self.distillation_classifier):
            if layer is not None:
                layer.build((None, read))
        if self.pooler is not None:
            self.pooler.build((None, self.config.hidden_dim))

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        (pixels,) = self.named_inputs(inputs).values()
        pixels = pixels if self.processor is None else self.processor(pixels)
        x = self.embedding(pixels, training=training)  # (B, T, D)
        x, intermediates = self.run_blocks(x, output_hidden_states, output_attentions, training=training)
        x = self.final_norm(x)

        if self.classifier is None:
            pooled = x[:, 0] if self.pooler is None else ops.tanh(self.pooler(x[:, 0]))
            result: Any = {"last_hidden_state": ops.cast(x, "float32"), "pooler_output": ops.cast(pooled, "float32")}
        else:
            result = ops.cast(self._classify(x), "float32")
        return self.finish(result, intermediates)

    def _classify(self, x: Any) -> Any:
        """(batch, tokens, hidden_dim) to (batch, num_classes)."""
        assert self.classifier is not None
        if self.distillation_classifier is not None:
            return (self.classifier(x[:, 0]) + self.distillation_classifier(x[:, 1])) / 2
        if self.config.classifier == "class_token":
            return self.classifier(x[:, 0])
        patches = x[:, 1 + self.config.distillation_token + self.config.num_registers :]
        return self.classifier(ops.concatenate([x[:, 0], ops.mean(patches, axis=1)], axis=-1))

    def export_spec(self) -> Signature:
        c = self.config
        sides = ("height", "width")
        outputs: tuple[TensorSpec, ...] = (TensorSpec("logits", "float32", ("batch", c.num_classes)),)
        if c.head is None:
            outputs = (
                TensorSpec("last_hidden_state", "float32", ("batch", "tokens", c.hidden_dim)),
                TensorSpec("pooler_output", "float32", ("batch", c.hidden_dim)),
            )
        raw = c.preprocessing is not None
        return Signature(
            inputs=(TensorSpec("images" if raw else "pixel_values", "float32", ("batch", *sides, c.num_channels)),),
            outputs=outputs,
            multiples={} if raw else dict.fromkeys(sides, c.patch_size),
            defaults=dict.fromkeys(sides, c.image_size),
        )

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {
            "image_size": 20,
            "patch_size": 5,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 32,
            "intermediate_dim": 52,
            "num_classes": 7,
        }
        dino = {"num_registers": 3, "layer_scale": 0.5, "use_mask_token": True, "activation": "swiglu"}
        return {
            "classifier": {**small, "head": "image_classification"},
            "features": small,
            "dino": {**small, **dino},
            "deit": {**small, "distillation_token": True, "classifier": "distilled", "head": "image_classification"},
            "dino_classifier": {**small, **dino, "classifier": "class_and_mean", "head": "image_classification"},
            "pooled": {**small, "pooler": True, "use_qkv_bias": False, "interpolate_antialias": True},
            "images": {**small, "preprocessing": {"size": {"height": 25, "width": 20}, "resample": 3}},
            "mae": {**small, "position": "sinusoidal_2d", "num_registers": 1},
        }


# Checkpoints.

_VIT_BODY = (
    Rule("embeddings.patch_embeddings.projection.weight", "embedding/kernel", permuted(2, 3, 1, 0)),
    Rule("embeddings.patch_embeddings.projection.bias", "embedding/bias"),
    Rule("embeddings.cls_token", "embedding/class_token"),
    Rule("embeddings.distillation_token", "embedding/distillation_token"),
    Rule("embeddings.register_tokens", "embedding/registers"),
    Rule("embeddings.mask_token", "embedding/mask_token"),
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
    demanded={"pooler_act": "tanh"},
    read=lambda raw, names: {
        **_read_images(raw),
        "activation": activation(raw, "hidden_act", "gelu"),
        "pooler": any(name.endswith("pooler.dense.weight") for name in names),
    },
    write=lambda c: {
        **_write_images(c),
        "hidden_act": HF_ACTIVATIONS[c.activation],
        "pooler_output_size": c.hidden_dim,
    },
    rules=(*_VIT_BODY, *_VIT_BLOCK, *linear("classifier", "classifier", head=True)),
    prefix="vit.",
    headless=(None,),
    heads={None: "ViTModel", "image_classification": "ViTForImageClassification"},
    ignored=(r"^pooler\.dense\.", r"^embeddings\.mask_token$"),
)


def _read_images(raw: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {"image_size": one_size(raw, "image_size", 224), "patch_size": one_size(raw, "patch_size", 16)}
    return {**sizes, "num_classes": number_of_labels(raw)}


def _write_images(c: ViTConfig) -> dict[str, Any]:
    named = labels(c) if c.head == "image_classification" else {}
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
        *linear("cls_classifier" if c.classifier == "distilled" else "classifier", "classifier", head=True),
        *linear("distillation_classifier", "distillation_classifier", head=True),
    ),
    prefix="deit.",
    heads={None: "DeiTModel", "image_classification": "DeiTForImageClassification"},
    other_classes={"DeiTForImageClassificationWithTeacher": "image_classification"},
)


def _gated_width(width: int, ratio: float) -> int:
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def _read_dinov2(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    width, ratio = integer(raw, "hidden_size", 768), number(raw, "mlp_ratio", 4)
    if not 0 < width * ratio < 2**31:
        raise ValueError(f"mlp_ratio: got {ratio} of hidden_size {width}; accepted: a positive width below 2^31")
    gated = bool(raw.get("use_swiglu_ffn"))
    return {
        **_read_images(raw),
        "activation": "swiglu" if gated else activation(raw, "hidden_act", "gelu"),
        "intermediate_dim": _gated_width(width, ratio) if gated else int(width * ratio),
        "use_mask_token": any(name.endswith("embeddings.mask_token") for name in names),
        "classifier": "class_and_mean",
    }


def _write_dinov2(c: ViTConfig) -> dict[str, Any]:
    inner = c.intermediate_dim or 0
    ratio = inner / c.hidden_dim
    if c.activation in GATED:  # two thirds of a multiple of the width, rounded up to eights: the roundest that fits
        exact = inner * 3 / 2 / c.hidden_dim
        candidates = (int(exact), round(exact, 1))
        ratio = next((r for r in candidates if _gated_width(c.hidden_dim, r) == inner), exact)
    ratio = int(ratio) if ratio == int(ratio) else ratio
    act = "gelu" if c.activation in GATED else HF_ACTIVATIONS[c.activation]
    feed = {"use_swiglu_ffn": c.activation in GATED, "mlp_ratio": ratio, "hidden_act": act}
    return {**_write_images(c), **feed, "use_mask_token": c.use_mask_token}


_DINOV2_BODY = (
    *_VIT_BODY,
    *layer_norm("encoder.layer.{i}.norm1", "block_{i}/attention_norm"),
    Rule("encoder.layer.{i}.layer_scale1.lambda1", "block_{i}/attention_scale/scale"),
    *layer_norm("encoder.layer.{i}.norm2", "block_{i}/feedforward_norm"),
    Rule("encoder.layer.{i}.layer_scale2.lambda1", "block_{i}/feedforward_scale/scale"),
    *linear("classifier", "classifier", head=True),
)


def _dinov2_rules(c: ViTConfig) -> tuple[Rule, ...]:
    """The gated feed-forward keeps gate and up in one."""
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
    prefix="dinov2_with_registers.",
    heads={
        None: "Dinov2WithRegistersModel",
        "image_classification": "Dinov2WithRegistersForImageClassification",
    },
)

ViT.dialects = {"vit": _VIT, "deit": _DEIT, "dinov2": _DINOV2, "dinov2_with_registers": _DINOV2_REGISTERS}
