"""ViT: the Transformer encoder on image patches, with the additions of DeiT, BEiT, DINOv2 and others.

The model is that of Dosovitskiy et al. 2021 (arXiv:2010.11929): a linear projection of the patches, a class token,
learned positions, pre-norm blocks and GELU with erf. The options are additions to the paper: DINOv2 (Oquab et al. 2023,
arXiv:2304.07193) has layer scale and later register tokens (arXiv:2309.16588). DeiT (Touvron et al. 2021,
arXiv:2012.12877) has a distillation token after the class token. Learned positions are interpolated for images of
another size. Other models differ in config fields:

    MSN (arXiv:2204.07141), MAE (arXiv:2111.06377)  none; for MAE, the encoder alone, which reads all patches in order
    I-JEPA (arXiv:2301.08243)  class_token=False, pooling="mean"
    BEiT (arXiv:2106.08254)    position="none", position_bias="per_layer", use_key_bias=False, layer_scale=0.1,
                               pooling="normalized_mean"
    DINOv3 (arXiv:2508.10104)  position="rotary_2d", num_registers=4, use_key_bias=False, layer_scale=1.0

    pixel_values (batch, height, width, num_channels) float, or with `preprocessing`
    images (batch, any height, any width, num_channels) float, 0 to 255
    head None                    last_hidden_state (batch, 1 + num_registers + patches, hidden_dim), normalized,
                                 pooler_output (batch, pooler_dim or hidden_dim), of the class token or the patches
         "image_classification"  logits (batch, num_classes)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ...checks import multiple, positive_number
from ...layers.blocks import TransformerBlock
from ...layers.core import Dense, LayerNormalization
from ...layers.embedding import PatchEmbedding
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.grid import RotaryEmbedding2D, WindowPositionBias, patch_coordinates
from ...layers.images import ImageProcessor
from ...signature import Signature, TensorSpec
from ..base import Intermediates, ZooModel, build_each
from ..config import Config, choice, field, flag, number, rate, size
from ..registry import register

CLASSIFIERS = ("class_token", "class_and_mean", "distilled")
POSITIONS = ("learned", "sinusoidal_2d", "rotary_2d", "none")
POOLINGS = ("class_token", "mean", "normalized_mean")


@dataclass(frozen=True)
class ViTConfig(Config):
    """Config of ``ViT``. The defaults are those of ViT-Base/16 at 224 pixels. ``GPTConfig`` documents the other fields.

    Attributes:
        image_size: side of the square images, in pixels, that the positions are for. For other sizes, learned positions
            are interpolated.
        patch_size: side of a patch in pixels, a divisor of `image_size`.
        num_channels: number of color channels.
        position: "learned"; "sinusoidal_2d" for fixed positions, as in MoCo v3; "rotary_2d" for rotations by row and
            column, as in DINOv3 (see ``RotaryEmbedding2D``); or "none".
        rope_theta: base of the wavelengths of "rotary_2d".
        position_bias: the biases of BEiT on the attention scores (see ``WindowPositionBias``): "per_layer", "shared" by
            all blocks, or None.
        class_token: whether there is a class token.
        num_registers: number of register tokens, which follow the class token.
        layer_scale: initial value of the learned factors on the output of each branch (attention and feed-forward);
            None for no such factors.
        use_mask_token: whether to keep the unused mask token of pretraining, so that checkpoints are complete.
        distillation_token: whether there is the distillation token of DeiT.
        interpolate_antialias: how learned positions are interpolated; see ``PatchEmbedding``.
        use_qkv_bias: whether query, key and value projections have biases.
        use_key_bias: whether the key projections have biases. Default: `use_qkv_bias`.
        use_output_bias, use_feedforward_bias: whether the output projections of the attention and the projections of
            the feed-forward networks have biases.
        pooling: what `pooler_output` and the classification head are computed from: "class_token"; "mean" of the
            normalized patches (I-JEPA); or "normalized_mean", where the final normalization is that of the patches'
            mean and `last_hidden_state` is not normalized (BEiT).
        pooler: whether `pooler_output` is computed by a dense layer, as in Hugging Face's ``ViTModel``.
        pooler_activation: activation of that layer: one of ``ACTIVATIONS``.
        pooler_dim: width of that layer. Default: `hidden_dim`.
        classifier: the input of the classification head: "class_token" for the result of `pooling`, by default the
            class token; "class_and_mean" for the class token and the mean of the patches, concatenated (DINOv2); or
            "distilled" for the mean of the logits of two heads, on the class token and on the distillation token.
        preprocessing: the content of a preprocessor_config.json. The model, and also an exported file, then resizes,
            crops and normalizes images itself; see ``layers.ImageProcessor``. Resized values are not rounded to
            integers, because runtimes round differently.
        head: "image_classification", or None for hidden states.
        num_classes: number of classes of the classification head; 0 for a head without weights, whose `logits` are its
            input, as in Hugging Face's classes.
    """

    image_size: int = size(224)
    patch_size: int = size(16)
    num_channels: int = size(3)
    num_layers: int = size(12)
    num_heads: int = size(12)
    hidden_dim: int = size(768)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    position: str = choice("learned", POSITIONS)
    rope_theta: float = number(100.0, used=lambda c: c.position == "rotary_2d")
    position_bias: str | None = choice(None, ("per_layer", "shared", None))
    class_token: bool = True
    num_registers: int = size(0, least=0)
    layer_scale: float | None = None
    use_mask_token: bool = False
    distillation_token: bool = False
    interpolate_antialias: bool = False
    use_qkv_bias: bool = True
    use_key_bias: bool | None = field(None, None, derived=lambda c: c.use_qkv_bias)
    use_output_bias: bool = True
    use_feedforward_bias: bool = True
    pooling: str = choice("class_token", POOLINGS)
    pooler: bool = flag(False, heads=(None,))
    pooler_activation: str = choice("tanh", ACTIVATIONS, used=lambda c: c.pooled)
    pooler_dim: int | None = size(None, derived=lambda c: c.hidden_dim, used=lambda c: c.pooled)
    classifier: str = choice("class_token", CLASSIFIERS, heads=("image_classification",))
    preprocessing: dict[str, Any] | None = None
    norm_epsilon: float = 1e-6
    activation: str = choice("gelu", (*ACTIVATIONS, *GATED))
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    initializer_range: float = number(0.02, training=True)
    head: str | None = choice(None, ("image_classification", None))
    num_classes: int = size(1000, least=0, heads=("image_classification",))

    def check(self) -> None:
        self.quotient("hidden_dim", "num_heads")
        self.quotient("image_size", "patch_size")
        if self.preprocessing is not None:
            if not isinstance(self.preprocessing, dict):
                raise ValueError(f"preprocessing: got {self.preprocessing!r}; accepted: a dict, or None")
            ImageProcessor.from_huggingface(self.preprocessing)  # raises ValueError for unsupported options
        if self.classifier == "distilled" and not self.distillation_token:
            raise ValueError("classifier: got 'distilled' without distillation_token; accepted: with it")
        if self.distillation_token and not self.class_token:
            raise ValueError("distillation_token: got True without class_token; accepted: with it")
        wants_class = {"pooling": "class_token", "classifier": "class_and_mean"}
        if not self.class_token:
            for name, value in wants_class.items():
                if getattr(self, name) == value:
                    raise ValueError(f"{name}: got {value!r} without class_token; accepted: another")
        if self.position_bias and self.num_prefix_tokens != 1:
            raise ValueError(f"position_bias: got {self.position_bias!r}; accepted: None, or a class token alone")
        if self.position == "sinusoidal_2d":
            multiple("hidden_dim", self.hidden_dim, 4)
        if self.position == "rotary_2d":
            multiple("head_dim", self.hidden_dim // self.num_heads, 4)
            positive_number("rope_theta", self.rope_theta)

    @property
    def pooled(self) -> bool:
        """Whether the model has a pooler, which a model without a head can have."""
        return self.pooler and self.head is None

    @property
    def num_prefix_tokens(self) -> int:
        """The number of class, distillation and register tokens, which precede the patches."""
        return self.class_token + self.distillation_token + self.num_registers

    @property
    def classified_dim(self) -> int:
        """The width of the input of the classification head."""
        return self.hidden_dim * (2 if self.classifier == "class_and_mean" else 1)

    def least_parameters(self) -> int:
        rows = self.num_channels * self.patch_size**2 + self.num_registers
        rows += (self.image_size // self.patch_size) ** 2 if self.position == "learned" else 0
        rows += self.num_classes if self.head is not None else 0
        return self.hidden_dim * (rows + self.num_layers * (self.hidden_dim + (self.intermediate_dim or 0)))


@register
class ViT(ZooModel):
    """A vision Transformer: ``ViT(num_layers=4)``, ``ViT(config)`` or ``az.create("vit-base-16")``.

    The module docstring lists the inputs and the outputs of each head.
    """

    family: ClassVar[str] = "vit"
    tasks: ClassVar[Mapping[str | None, str]] = {
        None: "image-feature-extraction",
        "image_classification": "image-classification",
    }
    config_class: ClassVar[type[Config]] = ViTConfig
    head_parts: ClassVar[tuple[str, ...]] = ("classifier", "distillation_classifier", "pooler")
    task_layers: ClassVar[tuple[str, ...]] = ("classifier", "distillation_classifier")
    shared_task_layers: ClassVar[tuple[str, ...]] = ("pooler",)

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        initializer = keras.initializers.TruncatedNormal(stddev=c.initializer_range)
        self.processor = None
        if c.preprocessing is not None:
            self.processor = ImageProcessor.from_huggingface(c.preprocessing, name="processor")
            self.processor.round_pixels = False
        self.embedding = PatchEmbedding(
            c.patch_size,
            c.image_size,
            c.hidden_dim,
            position="none" if c.position == "rotary_2d" else c.position,
            class_token=c.class_token,
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
        self.rotary = None
        if c.position == "rotary_2d":
            self.rotary = RotaryEmbedding2D(c.hidden_dim // c.num_heads, c.rope_theta, name="rotary", **shared)
        names = {"per_layer": [f"position_bias_{i}" for i in range(c.num_layers)], "shared": ["position_bias"]}
        self.position_biases = [
            WindowPositionBias(
                c.num_heads,
                c.image_size // c.patch_size,
                embeddings_initializer=initializer.clone(),
                name=name,
                **shared,
            )
            for name in names.get(c.position_bias, [])
        ]
        self.blocks = [
            TransformerBlock.from_fields(c, kernel_initializer=initializer, name=f"block_{i}", **shared)
            for i in range(c.num_layers)
        ]
        self.final_norm = LayerNormalization(epsilon=c.norm_epsilon, name="final_norm", **shared)

        def dense(name: str, units: int) -> Dense:
            return Dense(units, kernel_initializer=initializer.clone(), name=name, **shared)

        self.pooler = dense("pooler", c.pooler_dim) if c.pooled else None
        self.classifier = self.distillation_classifier = None
        if c.head == "image_classification" and c.num_classes:
            self.classifier = dense("classifier", c.num_classes)
            if c.classifier == "distilled":
                self.distillation_classifier = dense("distillation_classifier", c.num_classes)

    def build(self, input_shape: Any = None) -> None:
        c = self.config
        build_each((None, None, None, c.num_channels), self.embedding)
        build_each((None, None, 2), self.rotary, *self.position_biases)
        build_each((None, None, c.hidden_dim), *self.blocks, self.final_norm)
        build_each((None, c.classified_dim), self.classifier, self.distillation_classifier)
        build_each((None, c.hidden_dim), self.pooler)

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        (pixels,) = self.named_inputs(inputs).values()
        pixels = pixels if self.processor is None else self.processor(pixels)
        intermediates = Intermediates(output_hidden_states, output_attentions)
        rows, columns = (size // self.config.patch_size for size in ops.shape(pixels)[1:3])
        x = self.embedding(pixels, training=training)  # (B, T, D), with positions
        positions = self.attention_positions(rows, columns)
        x = self.run_blocks(self.blocks, x, intermediates, training=training, **positions)
        return self.finish(self._head(x), intermediates.named())

    def attention_positions(self, rows: Any, columns: Any) -> dict[str, Any]:
        """Return the arguments of ``run_blocks`` for positions inside the attention."""
        found: dict[str, Any] = {}
        if self.rotary is not None:
            found["rotary"] = self.rotary(patch_coordinates(rows, columns, self.config.num_prefix_tokens))
        if self.position_biases:
            biases = (layer(rows=rows, columns=columns) for layer in self.position_biases)  # (1, H, T, T) each
            of_blocks = [{"bias": bias} for bias in biases]
            found["of_blocks"] = of_blocks if len(of_blocks) > 1 else of_blocks * len(self.blocks)
        return found

    def _head(self, x: Any) -> Any:
        c = self.config
        if c.pooling == "normalized_mean":
            pooled = self.final_norm(ops.mean(x[:, c.num_prefix_tokens :], axis=1))  # (B, D)
        else:
            x = self.final_norm(x)  # (B, T, D)
            pooled = x[:, 0] if c.pooling == "class_token" else ops.mean(x[:, c.num_prefix_tokens :], axis=1)  # (B, D)
        if c.head == "image_classification":
            return ops.cast(self._classify(x, pooled), "float32")
        if self.pooler is not None:
            pooled = ACTIVATIONS[c.pooler_activation](self.pooler(pooled))  # (B, pooler_dim)
        return {"last_hidden_state": ops.cast(x, "float32"), "pooler_output": ops.cast(pooled, "float32")}

    def _classify(self, x: Any, pooled: Any) -> Any:
        """Return the logits, (batch, num_classes), for hidden states (batch, tokens, hidden_dim)."""
        c = self.config
        if c.classifier == "class_and_mean":
            mean = ops.mean(x[:, c.num_prefix_tokens :], axis=1)  # (B, D)
            pooled = ops.concatenate([x[:, 0], mean], axis=-1)  # (B, 2·D)
        logits = pooled if self.classifier is None else self.classifier(pooled)
        if c.classifier == "distilled":
            distilled = x[:, 1]
            second = distilled if self.distillation_classifier is None else self.distillation_classifier(distilled)
            return (logits + second) / 2
        return logits

    @property
    def signature(self) -> Signature:
        c = self.config
        sides = ("height", "width")
        outputs: tuple[TensorSpec, ...] = (
            TensorSpec("logits", "float32", ("batch", c.num_classes or c.classified_dim)),
        )
        if c.head is None:
            outputs = (
                TensorSpec("last_hidden_state", "float32", ("batch", "tokens", c.hidden_dim)),
                TensorSpec("pooler_output", "float32", ("batch", c.pooler_dim if c.pooled else c.hidden_dim)),
            )
        raw = c.preprocessing is not None
        name, spread = ("images", 255.0) if raw else ("pixel_values", None)
        return Signature(
            inputs=(TensorSpec(name, "float32", ("batch", *sides, c.num_channels), spread=spread),),
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
        beit = {"position": "none", "use_key_bias": False, "layer_scale": 0.5, "pooling": "normalized_mean"}
        return {
            "classifier": {**small, "head": "image_classification"},
            "features": small,
            "dino": {**small, **dino},
            "deit": {**small, "distillation_token": True, "classifier": "distilled", "head": "image_classification"},
            "dino_classifier": {**small, **dino, "classifier": "class_and_mean", "head": "image_classification"},
            "pooled": {**small, "pooler": True, "use_qkv_bias": False, "interpolate_antialias": True},
            "pooled_relu": {**small, "pooler": True, "pooler_activation": "relu", "pooler_dim": 24},
            "images": {**small, "preprocessing": {"size": {"height": 25, "width": 20}, "resample": 3}},
            "mae": {**small, "position": "sinusoidal_2d", "num_registers": 1},
            "ijepa": {**small, "class_token": False, "pooling": "mean"},
            "beit": {**small, **beit, "position_bias": "per_layer", "head": "image_classification"},
            "beit_shared": {**small, **beit, "position_bias": "shared", "use_mask_token": True},
            "dinov3": {**small, **dino, "position": "rotary_2d", "use_key_bias": False},
            "without_classes": {**small, "head": "image_classification", "num_classes": 0},
        }
