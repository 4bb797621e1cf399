"""CLIP: a text encoder and an image encoder with a common embedding space, also as in SigLIP; or one of them alone.

The model is that of Radford et al. 2021 (arXiv:2103.00020): both encoders are pre-norm Transformers. The text encoder
is causal, and its output is taken at the end-of-text token; the image encoder has a class token and a normalization
before the first block. Linear projections of both are normalized to unit length, and the logits are their products,
times a trained factor. SigLIP (Zhai et al. 2023, arXiv:2303.15343) differs in config fields:

    causal=False, text_pooling="last"   the text encoder sees all tokens and is read at the last column
    image_pooling="attention"           the image encoder has no class token and is pooled by attention
    projection="text"                   only the text encoder ends with a dense layer, which has a bias
    use_logit_bias=True                 the logits have a trained offset

Inputs and outputs, of which a model with one `tower` has those of that tower, with "batch" for either batch:

    input_ids, attention_mask (1 = keep): (text_batch, sequence)
    pixel_values (image_batch, height, width, num_channels) float, or with `preprocessing`
    images (image_batch, any height, any width, num_channels) float, 0 to 255
    head "contrastive"  logits_per_image (image_batch, text_batch), logits_per_text (text_batch, image_batch),
                        text_embeds (text_batch, projection_dim), image_embeds (image_batch, projection_dim)
         "projection"   text_embeds or image_embeds (batch, projection_dim), not normalized, and last_hidden_state
         None           last_hidden_state (batch, tokens, width), and, unless `image_pooling` is "none",
                        pooler_output (batch, width), or (batch, projection_dim) with ``projection="text"``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ... import checks
from ...layers.blocks import TransformerBlock
from ...layers.core import Dense, LayerNormalization
from ...layers.embedding import PatchEmbedding, TokenEmbedding
from ...layers.feedforward import ACTIVATIONS
from ...layers.images import ImageProcessor
from ...layers.pooling import AttentionPooling, state_at
from ...layers.position import LearnedPositions
from ...signature import Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config, choice, field, flag, number, rate, size
from ..registry import register

HEADS = ("contrastive", "projection", None)
TOWERS = ("both", "text", "image")
TEXT_POOLINGS = ("end", "highest", "last")
IMAGE_POOLINGS = ("class_token", "attention", "none")


def _has_text(config: Any) -> bool:
    return config.tower != "image"


def _has_image(config: Any) -> bool:
    return config.tower != "text"


@dataclass(frozen=True)
class CLIPConfig(Config):
    """Config of ``CLIP``. The defaults are those of CLIP ViT-B/32. ``GPTConfig`` documents the other fields.

    Attributes:
        tower: "both" for the whole model; "text" or "image" for one encoder alone.
        num_layers, num_heads, hidden_dim, intermediate_dim, activation, norm_epsilon: of the text encoder;
            `image_hidden_dim` and the other fields that begin with "image" are the same of the image encoder.
        causal: whether a token attends only to itself and to tokens before it.
        text_pooling: the token at which the text encoder is read: "end" for the first `eos_token_id` of a row (or the
            first token, if there is none), "highest" for the token with the highest id, as in the first versions of
            CLIP, or "last" for the last column, even if it is padding.
        eos_token_id: the token that ends a text.
        image_size, patch_size, num_channels, preprocessing: see ``ViTConfig``. If `image_size` is no multiple of
            `patch_size`, pixels after the last whole patch are ignored, as in SigLIP-SO400M.
        image_pooling: "class_token" for a class token, a normalization before the first block and one of the class
            token after the last (CLIP); "attention" for patches alone, a normalization of all patches after the last
            block and ``AttentionPooling`` (SigLIP); or "none", which is the same without the pooling.
        projection: "both" for projections of both encoders without biases, "text" for a dense layer with a bias after
            the text encoder only, whose width is that of the image encoder in a model with both towers.
        projection_dim: width of the common space.
        logit_scale: initial value of the logarithm of the factor on the logits.
        use_logit_bias: whether the logits have an offset.
        head: one of ``HEADS``; see the module docstring. "contrastive" needs both towers, and the others one.
    """

    tower: str = choice("both", TOWERS)
    vocab_size: int = size(49408, used=_has_text)
    num_layers: int = size(12, used=_has_text)
    num_heads: int = size(8, used=_has_text)
    hidden_dim: int = size(512, used=_has_text)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim, used=_has_text)
    max_length: int = size(77, used=_has_text)
    activation: str = choice("quick_gelu", ACTIVATIONS, used=_has_text)
    norm_epsilon: float = number(1e-5, used=_has_text)
    causal: bool = flag(True, used=_has_text)
    text_pooling: str = choice("end", TEXT_POOLINGS, used=_has_text)
    eos_token_id: int = field(
        49407,
        lambda _, name, value: checks.integer(name, value, least=0, below=checks.INT32),
        used=lambda c: _has_text(c) and c.text_pooling == "end",
    )
    image_size: int = size(224, used=_has_image)
    patch_size: int = size(32, used=_has_image)
    num_channels: int = size(3, used=_has_image)
    image_num_layers: int = size(12, used=_has_image)
    image_num_heads: int = size(12, used=_has_image)
    image_hidden_dim: int = size(768, used=_has_image)
    image_intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.image_hidden_dim, used=_has_image)
    image_activation: str = choice("quick_gelu", ACTIVATIONS, used=_has_image)
    image_norm_epsilon: float = number(1e-5, used=_has_image)
    image_pooling: str = choice("class_token", IMAGE_POOLINGS, used=_has_image)
    preprocessing: dict[str, Any] | None = None
    projection: str = choice("both", ("both", "text"), used=lambda c: c.head is not None or c.tower == "text")
    projection_dim: int = size(512, used=lambda c: c.projects)
    logit_scale: float = number(2.6592, training=True)
    use_logit_bias: bool = flag(False, heads=("contrastive",))
    attention_dropout: float = rate(0.0)
    initializer_range: float = number(0.02, training=True)
    head: str | None = choice("contrastive", HEADS)

    def check(self) -> None:
        if (self.tower == "both") != (self.head == "contrastive"):
            accepted = "'contrastive'" if self.tower == "both" else "'projection' or None"
            raise ValueError(f"head: got {self.head!r} with tower={self.tower!r}; accepted: {accepted}")
        if self.head == "projection" and self.projection == "text":
            raise ValueError("head: got 'projection' with projection='text', where it is a part of the text encoder")
        if _has_text(self):
            self.quotient("hidden_dim", "num_heads")
        if _has_image(self):
            self.quotient("image_hidden_dim", "image_num_heads")
            if self.image_size < self.patch_size:
                raise ValueError(f"image_size: got {self.image_size}; accepted: at least patch_size={self.patch_size}")
            if self.image_pooling == "none" and self.head is not None:
                raise ValueError(f"image_pooling: got 'none' with head={self.head!r}; accepted: another, or no head")
            if self.preprocessing is not None:
                if not isinstance(self.preprocessing, dict):
                    raise ValueError(f"preprocessing: got {self.preprocessing!r}; accepted: a dict, or None")
                ImageProcessor.from_huggingface(self.preprocessing)  # raises ValueError for unsupported options
        if self.tower == "both" and self.projection == "text" and self.projection_dim != self.image_hidden_dim:
            raise ValueError(
                f"projection_dim: got {self.projection_dim} with projection='text'; accepted: image_hidden_dim="
                f"{self.image_hidden_dim}"
            )

    @property
    def projects(self) -> bool:
        """Whether there is a projection."""
        return self.head is not None or (self.tower == "text" and self.projection == "text")

    @property
    def depth(self) -> int:
        return self.num_layers * _has_text(self) + self.image_num_layers * _has_image(self)

    def least_parameters(self) -> int:
        text = self.vocab_size + self.max_length + self.num_layers * (self.hidden_dim + (self.intermediate_dim or 0))
        image = self.num_channels * self.patch_size**2 + (self.image_size // self.patch_size) ** 2
        image += self.image_num_layers * (self.image_hidden_dim + (self.image_intermediate_dim or 0))
        return self.hidden_dim * text * _has_text(self) + self.image_hidden_dim * image * _has_image(self)


@register
class CLIP(ZooModel):
    """A text and an image encoder: ``CLIP(num_layers=2)``, ``CLIP(config)`` or ``az.create("clip-vit-base-32")``.

    The module docstring lists the inputs and outputs. The intermediates of a model with both towers are
    ``text_hidden_states``, ``text_attentions``, ``image_hidden_states`` and ``image_attentions``.
    """

    family: ClassVar[str] = "clip"
    tasks: ClassVar[Mapping[str | None, str]] = {
        "contrastive": "zero-shot-image-classification",
        "projection": "feature-extraction",
        None: "feature-extraction",
    }
    config_class: ClassVar[type[Config]] = CLIPConfig
    head_parts: ClassVar[tuple[str, ...]] = ("text_projection", "image_projection", "logit_scale", "logit_bias")
    shared_task_layers: ClassVar[tuple[str, ...]] = ("text_projection", "image_projection")

    def build_layers(self) -> None:
        c = self.config
        self.shared: dict[str, Any] = {"dtype": self.dtype_policy}
        self.initializer = keras.initializers.TruncatedNormal(stddev=c.initializer_range)
        self.embedding = self.positions = self.text_norm = self.text_projection = None
        self.processor = self.patches = self.patches_norm = self.image_norm = self.image_pooler = None
        self.image_projection = None
        self.text_blocks: list[TransformerBlock] = []
        self.image_blocks: list[TransformerBlock] = []
        if _has_text(c):
            self._build_text()
        if _has_image(c):
            self._build_image()

    def _build_text(self) -> None:
        c = self.config
        trained = {"embeddings_initializer": self.initializer.clone(), **self.shared}
        self.embedding = TokenEmbedding(c.vocab_size, c.hidden_dim, name="embedding", **trained)
        self.positions = LearnedPositions(c.max_length, c.hidden_dim, name="positions", **trained)
        self.text_blocks = [
            TransformerBlock.from_fields(c, kernel_initializer=self.initializer, name=f"text_block_{i}", **self.shared)
            for i in range(c.num_layers)
        ]
        self.text_norm = LayerNormalization(epsilon=c.norm_epsilon, name="text_norm", **self.shared)
        if c.projects:
            self.text_projection = self._project("text_projection", use_bias=c.projection == "text")

    def _build_image(self) -> None:
        c = self.config
        if c.preprocessing is not None:
            self.processor = ImageProcessor.from_huggingface(c.preprocessing, name="processor")
            self.processor.round_pixels = False
        kernels = {"kernel_initializer": self.initializer, **self.shared}
        norm = {"epsilon": c.image_norm_epsilon, **self.shared}
        classes = c.image_pooling == "class_token"
        self.patches = PatchEmbedding(
            c.patch_size,
            c.image_size // c.patch_size * c.patch_size,
            c.image_hidden_dim,
            use_bias=not classes,
            class_token=classes,
            num_channels=c.num_channels,
            name="patches",
            **kernels,
        )
        self.patches_norm = LayerNormalization(name="patches_norm", **norm) if classes else None
        inner = {"intermediate_dim": c.image_intermediate_dim, "activation": c.image_activation}
        inner |= {"num_heads": c.image_num_heads, "norm_epsilon": c.image_norm_epsilon}
        self.image_blocks = [
            TransformerBlock(**inner, attention_dropout=c.attention_dropout, name=f"image_block_{i}", **kernels)
            for i in range(c.image_num_layers)
        ]
        self.image_norm = LayerNormalization(name="image_norm", **norm)
        if c.image_pooling == "attention":
            self.image_pooler = AttentionPooling(**inner, name="image_pooler", **kernels)
        if c.head is not None and c.projection == "both":
            self.image_projection = self._project("image_projection", use_bias=False)

    def _project(self, name: str, use_bias: bool) -> Dense:
        initializer = self.initializer.clone()
        return Dense(
            self.config.projection_dim, use_bias=use_bias, kernel_initializer=initializer, name=name, **self.shared
        )

    def build(self, input_shape: Any = None) -> None:
        c = self.config
        build_each((None, None), self.embedding, self.positions)
        build_each((None, None, c.hidden_dim), *self.text_blocks, self.text_norm)
        build_each((None, c.hidden_dim), self.text_projection)
        build_each((None, None, None, c.num_channels), self.patches)
        tokens = (None, None, c.image_hidden_dim)
        build_each(tokens, self.patches_norm, *self.image_blocks, self.image_norm, self.image_pooler)
        build_each((None, c.image_hidden_dim), self.image_projection)
        self.logit_scale = self.logit_bias = None
        if c.head == "contrastive":
            constant = keras.initializers.Constant
            self.logit_scale = self.add_weight(name="logit_scale", shape=(), initializer=constant(c.logit_scale))
            if c.use_logit_bias:
                self.logit_bias = self.add_weight(name="logit_bias", shape=(), initializer=constant(-10.0))

    @property
    def static_ranges(self) -> bool:
        # LiteRT does not project the query of the attention pooling, a constant, in integers, and normalized embeddings
        # are too inaccurate in eight bits.
        return self.config.head != "contrastive" and self.image_pooler is None

    def block_stacks(self) -> list[Sequence[Any]]:
        return [stack for stack in (self.text_blocks, self.image_blocks) if stack]

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        c, named = self.config, self.named_inputs(inputs)
        text_seen, image_seen = (Intermediates(output_hidden_states, output_attentions) for _ in range(2))
        text: dict[str, Tensor] = {}
        image: dict[str, Tensor] = {}
        if _has_text(c):
            text = self.encode_text(named["input_ids"], named.get("attention_mask"), text_seen, training)
        if _has_image(c):
            image = self.encode_image(named["images" if self.processor else "pixel_values"], image_seen, training)
        if c.tower == "both":
            compared = self.compare(text["text_embeds"], image["image_embeds"])
            return self.finish(compared, text_seen.named("text_"), image_seen.named("image_"))
        result = {spec.name: ops.cast((text or image)[spec.name], "float32") for spec in self.signature.outputs}
        return self.finish(result, (text_seen if c.tower == "text" else image_seen).named())

    def encode_text(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> dict[str, Tensor]:
        """Return the outputs of the text encoder by name for `ids` (text_batch, sequence).

        They are last_hidden_state, pooler_output and, with a projection, text_embeds, which is not normalized.
        """
        c = self.config
        assert self.embedding is not None and self.positions is not None and self.text_norm is not None
        x = self.embedding(ids)  # (B, T, D)
        x = x + ops.cast(self.positions.first(ops.shape(ids)[1]), x.dtype)
        seen = intermediates or Intermediates()
        x = self.run_blocks(self.text_blocks, x, seen, key_mask=mask, use_causal_mask=c.causal, training=training)
        x = self.text_norm(x)
        if c.text_pooling == "last":
            pooled = x[:, -1]  # (B, D)
        else:
            wanted = ids if c.text_pooling == "highest" else ops.equal(ids, c.eos_token_id)
            pooled = state_at(x, ops.argmax(ops.cast(wanted, "int32"), axis=-1))  # (B, D)
        found = {"last_hidden_state": x, "pooler_output": pooled}
        if self.text_projection is not None:
            found["text_embeds"] = self.text_projection(pooled)  # (B, projection_dim)
            if c.projection == "text":
                found["pooler_output"] = found["text_embeds"]
        return found

    def encode_image(
        self, pixels: Tensor, intermediates: Intermediates | None = None, training: bool | None = None
    ) -> dict[str, Tensor]:
        """Return the outputs of the image encoder by name for `pixels` (image_batch, height, width, num_channels).

        They are last_hidden_state, pooler_output and, in a model with a head, image_embeds, which is not normalized.
        """
        assert self.patches is not None and self.image_norm is not None
        pixels = pixels if self.processor is None else self.processor(pixels)
        if self.config.image_size % (side := self.config.patch_size):
            height, width = (size // side * side for size in ops.shape(pixels)[1:3])
            pixels = pixels[:, :height, :width]
        x = self.patches(pixels, training=training)  # (B, T, D)
        x = x if self.patches_norm is None else self.patches_norm(x)
        x = self.run_blocks(self.image_blocks, x, intermediates or Intermediates(), training=training)
        if self.config.image_pooling == "class_token":
            found = {"last_hidden_state": x, "pooler_output": self.image_norm(x[:, 0])}
        else:
            x = self.image_norm(x)
            found = {"last_hidden_state": x}
            if self.image_pooler is not None:
                found["pooler_output"] = self.image_pooler(x)  # (B, D)
        if self.config.head is not None:
            pooled = found["pooler_output"]
            found["image_embeds"] = pooled if self.image_projection is None else self.image_projection(pooled)
        return found

    def compare(self, text_embeds: Tensor, image_embeds: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the contrastive head: the embeddings, normalized to length 1, and their logits.

        Args:
            text_embeds: (text_batch, projection_dim).
            image_embeds: (image_batch, projection_dim).
        """
        text, image = (ops.cast(x, "float32") for x in (text_embeds, image_embeds))
        text, image = (x / ops.sqrt(ops.sum(x * x, axis=-1, keepdims=True)) for x in (text, image))
        logits = ops.matmul(text, ops.transpose(image)) * ops.exp(ops.cast(self.logit_scale, "float32"))
        if self.logit_bias is not None:
            logits = logits + ops.cast(self.logit_bias, "float32")  # (text_batch, image_batch)
        return {
            "logits_per_image": ops.transpose(logits),
            "logits_per_text": logits,
            "text_embeds": text,
            "image_embeds": image,
        }

    @property
    def signature(self) -> Signature:
        c, both = self.config, self.config.tower == "both"
        texts, images = ("text_batch", "image_batch") if both else ("batch", "batch")
        sides, raw = ("height", "width"), c.preprocessing is not None
        free = raw or not _has_image(c) or c.image_size % c.patch_size  # images of any size, or none
        inputs: tuple[TensorSpec, ...] = ()
        if _has_text(c):
            inputs += (
                TensorSpec("input_ids", "int32", (texts, "sequence"), below=c.vocab_size),
                TensorSpec("attention_mask", "int32", (texts, "sequence"), below=2, optional=True, fill=1),
            )
        if _has_image(c):
            name, spread = ("images", 255.0) if raw else ("pixel_values", None)
            inputs += (TensorSpec(name, "float32", (images, *sides, c.num_channels), spread=spread),)
        return Signature(
            inputs=inputs,
            outputs=self._contrastive_outputs() if both else self._outputs(),
            limits={"sequence": c.max_length} if _has_text(c) else {},
            multiples={} if free else dict.fromkeys(sides, int(c.patch_size)),
            defaults={
                **({"sequence": c.max_length} if _has_text(c) else {}),
                **(dict.fromkeys(sides, int(c.image_size)) if _has_image(c) else {}),
            },
            padded=() if c.text_pooling == "last" else ("sequence",),
        )

    def _contrastive_outputs(self) -> tuple[TensorSpec, ...]:
        width = self.config.projection_dim
        return (
            TensorSpec("logits_per_image", "float32", ("image_batch", "text_batch")),
            TensorSpec("logits_per_text", "float32", ("text_batch", "image_batch")),
            TensorSpec("text_embeds", "float32", ("text_batch", width)),
            TensorSpec("image_embeds", "float32", ("image_batch", width)),
        )

    def _outputs(self) -> tuple[TensorSpec, ...]:
        """Return the outputs of a model with one tower."""
        c = self.config
        width, length = (c.hidden_dim, "sequence") if c.tower == "text" else (c.image_hidden_dim, "tokens")
        states = TensorSpec("last_hidden_state", "float32", ("batch", length, width))
        if c.head == "projection":
            return TensorSpec(f"{c.tower}_embeds", "float32", ("batch", c.projection_dim)), states
        if c.tower == "image" and c.image_pooling == "none":
            return (states,)
        return states, TensorSpec("pooler_output", "float32", ("batch", c.projection_dim if c.projects else width))

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        text = {"vocab_size": 61, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 20}
        image = {"image_size": 20, "patch_size": 5, "image_num_layers": 2, "image_num_heads": 2}
        image |= {"image_hidden_dim": 24, "image_intermediate_dim": 40}
        small = {**text, **image, "intermediate_dim": 52, "eos_token_id": 60, "projection_dim": 16}
        gelu = {"activation": "gelu_tanh", "image_activation": "gelu_tanh"}
        sig = {"causal": False, "text_pooling": "last", "image_pooling": "attention", "projection": "text", **gelu}
        return {
            "clip": small,
            "siglip": {**small, **sig, "use_logit_bias": True, "projection_dim": 24},
            "text": {**small, "tower": "text", "head": None},
            "image": {**small, "tower": "image", "head": "projection"},
            "text_highest": {**small, "tower": "text", "head": "projection", "text_pooling": "highest"},
            "siglip_text": {**small, **sig, "tower": "text", "head": None},
            "siglip_image": {**small, **sig, "tower": "image", "head": None},
            "siglip_patches": {**small, **sig, "tower": "image", "head": None, "image_pooling": "none"},
        }
