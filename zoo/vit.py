"""ViT: the encoder on image patches, with DINOv2's additions.

Dosovitskiy et al. 2021 (arXiv:2010.11929): patches, a class token, pre-norm blocks, GELU by erf. DINOv2 (Oquab et al.
2023, arXiv:2304.07193) adds layer scale and, later, register tokens (arXiv:2309.16588). Positions are interpolated for
images of another size.

    pixel_values (batch, height, width, num_channels) float
    head None                    last_hidden_state (batch, 1 + num_registers + patches, hidden_dim), normalised,
                                 pooler_output (batch, hidden_dim), the class token
         "image_classification"  logits (batch, num_classes)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ..layers.blocks import TransformerBlock
from ..layers.core import Dense, LayerNormalization
from ..layers.embedding import PatchEmbedding
from ..layers.feedforward import ACTIVATIONS, GATED
from ..layers.position import check_position
from .base import Config, ZooModel
from .registry import register
from .signature import Signature, TensorSpec


@dataclass(frozen=True)
class ViTConfig(Config):
    """Defaults are ViT-Base/16 at 224 pixels.

    Attributes:
        image_size: side of the square images the positions are for; others are interpolated.
        position: "learned", or "sinusoidal_2d" for the fixed ones of MoCo v3 and MAE.
        num_registers: register tokens after the class token.
        layer_scale: initial value of the factor on each branch; None for none.
        use_mask_token: keep DINOv2's (unused) mask token, so that its checkpoints load whole.
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
        self.embedding = PatchEmbedding(
            c.patch_size,
            c.image_size,
            c.hidden_dim,
            position=c.position,
            num_registers=c.num_registers,
            num_channels=c.num_channels,
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
        self.classifier = None
        if c.head == "image_classification":
            self.classifier = Dense(c.num_classes, kernel_initializer=initializer.clone(), name="classifier", **shared)

    def build(self, input_shape: Any = None) -> None:
        states = (None, None, self.config.hidden_dim)
        self.embedding.build((None, None, None, self.config.num_channels))
        for layer in (*self.blocks, self.final_norm):
            layer.build(states)
        if self.classifier is not None:
            self.classifier.build((None, self.config.hidden_dim))

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        x = self.embedding(self.named_inputs(inputs)["pixel_values"], training=training)  # (B, T, D)
        x, intermediates = self.run_blocks(x, output_hidden_states, output_attentions, training=training)
        x = self.final_norm(x)

        if self.classifier is not None:
            result: Any = ops.cast(self.classifier(x[:, 0]), "float32")  # (B, classes)
        else:
            x = ops.cast(x, "float32")
            result = {"last_hidden_state": x, "pooler_output": x[:, 0]}
        return self.finish(result, intermediates)

    def export_spec(self) -> Signature:
        c = self.config
        sides = ("height", "width")
        outputs: tuple[TensorSpec, ...] = (TensorSpec("logits", "float32", ("batch", c.num_classes)),)
        if c.head is None:
            outputs = (
                TensorSpec("last_hidden_state", "float32", ("batch", "tokens", c.hidden_dim)),
                TensorSpec("pooler_output", "float32", ("batch", c.hidden_dim)),
            )
        return Signature(
            inputs=(TensorSpec("pixel_values", "float32", ("batch", *sides, c.num_channels)),),
            outputs=outputs,
            multiples=dict.fromkeys(sides, c.patch_size),
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
            "mae": {**small, "position": "sinusoidal_2d", "num_registers": 1},
        }
