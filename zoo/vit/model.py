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

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ...layers.blocks import TransformerBlock
from ...layers.core import Dense, LayerNormalization
from ...layers.embedding import PatchEmbedding
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.images import ImageProcessor
from ...layers.position import check_position
from ...signature import Signature, TensorSpec
from ..base import Config, ZooModel
from ..registry import register

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

    @property
    def signature(self) -> Signature:
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
