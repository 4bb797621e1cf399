"""Embeddings before the first block: of tokens, with weights that can be tied to the output, and of image patches."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from . import functional as F
from .core import KeepsAdapters
from .dropout import Dropout
from .position import SinusoidalPositions2D

Tensor = Any
PATCH_POSITIONS = ("learned", "sinusoidal_2d", "none")


@keras.saving.register_keras_serializable(package="attention_zoo")
class TokenEmbedding(KeepsAdapters, keras.layers.Embedding):
    """Keras' Embedding with a method ``project``, which computes logits with the same weights.

    Integer ids (batch, length) become (batch, length, output_dim) in the compute dtype. The arguments are those of
    ``keras.layers.Embedding``. Tied input and output embeddings are described in Press & Wolf 2017 (arXiv:1608.05859).
    Loading LoRA adapters raises ValueError if the layer has none.
    """

    def call(self, inputs: Tensor) -> Tensor:
        return F.embedding_lookup(ops.cast(self.embeddings, self.compute_dtype), inputs)

    def project(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the logits ``inputs @ embeddingsᵀ + bias`` in float32.

        Args:
            inputs: (..., output_dim).
            bias: (input_dim,) or None.

        Returns:
            (..., input_dim), one logit for each token. The matrix multiplication has the dtype of `inputs`.
        """
        table = ops.cast(self.embeddings, inputs.dtype)
        bias = None if bias is None else ops.cast(bias, inputs.dtype)
        return ops.cast(F.dense(inputs, table, bias, transpose_kernel=True), "float32")


@keras.saving.register_keras_serializable(package="attention_zoo")
class PatchEmbedding(keras.layers.Layer):
    """Embedding of image patches, with class and register tokens in front and position embeddings.

    It follows Dosovitskiy et al. 2021 (arXiv:2010.11929). Float images (batch, height, width, num_channels) become
    (batch, tokens, hidden_dim) in the compute dtype: the class token and the distillation token if there are any, the
    register tokens, then (height / patch_size) · (width / patch_size) patches in raster order. Height and width are
    multiples of `patch_size`.

    Learned positions are added to the class token, to DeiT's distillation token (Touvron et al. 2021,
    arXiv:2012.12877) and to the patches, not to the register tokens (Darcet et al. 2024, arXiv:2309.16588). For images
    of another size than `image_size`, the patch positions are interpolated with the bicubic kernel of PyTorch's
    ``interpolate(mode="bicubic", align_corners=False)``, as in ViT and DINOv2. Fixed positions (MoCo v3, MAE) are
    computed for the actual grid and added to the patches only.

    Args:
        patch_size: side of a patch in pixels.
        image_size: side, in pixels, of the square images the positions were trained for; a multiple of `patch_size`.
        hidden_dim: width of a token.
        position: "learned", "sinusoidal_2d" for fixed positions (see ``SinusoidalPositions2D``), or "none" for models
            that have their positions in the attention.
        use_bias: whether the patch projection has a bias.
        class_token: whether there is a class token.
        num_registers: number of register tokens.
        distillation_token: whether to insert a second class token directly after the first.
        antialias: interpolate the positions with the wider kernel of PyTorch's ``antialias=True``, as DINOv2 with
            registers does.
        num_channels: channels of the images.
        use_mask_token: create the token that DINOv2 substitutes for masked patches in pretraining. It is a weight of
            DINOv2's checkpoints and is not used in the forward pass.
        dropout: dropout rate on the output, in training only.
        kernel_initializer: initializer of the patch projection, the positions and the special tokens.

    Raises:
        ValueError: `image_size`, or the height or width of an image, is not a positive multiple of `patch_size`, or
            `position` is not one of these.
    """

    def __init__(
        self,
        patch_size: int,
        image_size: int,
        hidden_dim: int,
        *,
        position: str = "learned",
        use_bias: bool = True,
        class_token: bool = True,
        num_registers: int = 0,
        distillation_token: bool = False,
        antialias: bool = False,
        num_channels: int = 3,
        use_mask_token: bool = False,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if image_size % patch_size:
            raise ValueError(f"image_size: got {image_size}; accepted: a multiple of patch_size={patch_size}")
        self.patch_size = patch_size
        self.image_size = image_size
        self.hidden_dim = hidden_dim
        if position not in PATCH_POSITIONS:
            raise ValueError(f"position: got {position!r}; accepted: {', '.join(map(repr, PATCH_POSITIONS))}")
        if distillation_token and not class_token:
            raise ValueError("distillation_token: got True without class_token; accepted: with it")
        self.position = position
        self.use_bias = use_bias
        self.has_class_token = class_token
        self.num_registers = num_registers
        self.distillation_token = distillation_token
        self.antialias = antialias
        self.num_channels = num_channels
        self.use_mask_token = use_mask_token
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: Any = None) -> None:
        def weight(name: str, *shape: int) -> Any:
            return self.add_weight(name=name, shape=shape, initializer=self.kernel_initializer.clone())

        self.grid = self.image_size // self.patch_size
        self.kernel = weight("kernel", self.patch_size, self.patch_size, self.num_channels, self.hidden_dim)
        self.bias: Any = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.hidden_dim,), initializer="zeros")
        self.class_token: Any = weight("class_token", 1, 1, self.hidden_dim) if self.has_class_token else None
        self.distilled: Any = weight("distillation_token", 1, 1, self.hidden_dim) if self.distillation_token else None
        self.positions: Any = None
        if self.position == "learned":
            self.positions = weight("positions", 1, self._classes + self.grid**2, self.hidden_dim)
        elif self.position == "sinusoidal_2d":
            self.fixed_positions = SinusoidalPositions2D(
                self.hidden_dim, self.grid, dtype=self.dtype_policy, name="fixed_positions"
            )
        self.registers = weight("registers", 1, self.num_registers, self.hidden_dim) if self.num_registers else None
        self.mask_token = weight("mask_token", 1, self.hidden_dim) if self.use_mask_token else None

    @property
    def _classes(self) -> int:
        """Number of leading tokens that have learned positions."""
        return self.has_class_token + self.distillation_token

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        for axis, argument in ((1, "height"), (2, "width")):
            size = inputs.shape[axis]
            if size is not None and (size < self.patch_size or size % self.patch_size):
                raise ValueError(
                    f"{argument}: got {size} pixels; accepted: a positive multiple of patch_size={self.patch_size}"
                )
        x = ops.conv(
            inputs,
            ops.cast(self.kernel, inputs.dtype),
            strides=self.patch_size,
            padding="valid",
            data_format="channels_last",
        )  # (B, h, w, D)
        if self.bias is not None:
            x = ops.add(x, ops.cast(self.bias, x.dtype))
        batch, rows, columns, width = ops.shape(x)
        x = ops.reshape(x, (batch, rows * columns, width))  # (B, h·w, D)

        tokens = [ops.cast(token, x.dtype) for token in (self.class_token, self.distilled) if token is not None]
        front = [ops.concatenate(tokens, axis=1)] if len(tokens) > 1 else tokens  # (1, 1 or 2, D)
        if self.positions is not None:
            positions = ops.cast(self.positions, x.dtype)
            x = x + self._patch_positions(positions[:, self._classes :], rows, columns)
            front = [token + positions[:, : self._classes] for token in front]
        elif self.position == "sinusoidal_2d":
            places = ops.expand_dims(ops.arange(rows * columns, dtype="int32"), 0)  # (1, h·w)
            x = x + self.fixed_positions(places, columns=columns)
        if self.registers is not None:
            front.append(ops.cast(self.registers, x.dtype))
        front = [ops.broadcast_to(token, (batch, token.shape[1], width)) for token in front]
        x = ops.concatenate([*front, x], axis=1) if front else x
        return self.dropout_layer(x, training=training)

    def _patch_positions(self, table: Tensor, rows: Any, columns: Any) -> Tensor:
        """Interpolate the positions `table` (1, grid², D) to a grid of (1, rows·columns, D)."""
        if isinstance(rows, int) and isinstance(columns, int) and rows == columns == self.grid:
            return table
        # Interpolation along one axis is a matrix multiplication. Two of them replace a resize operator, whose
        # kernels differ between runtimes, and they support dynamic sizes at no extra cost.
        vertical = _bicubic_matrix(rows, self.grid, self.antialias)  # (rows, grid)
        horizontal = _bicubic_matrix(columns, self.grid, self.antialias)  # (columns, grid)
        x = ops.reshape(ops.cast(table, "float32"), (self.grid, self.grid * self.hidden_dim))
        x = ops.reshape(ops.matmul(vertical, x), (rows, self.grid, self.hidden_dim))
        x = ops.matmul(ops.expand_dims(horizontal, 0), x)  # (rows, columns, D)
        return ops.cast(ops.reshape(x, (1, rows * columns, self.hidden_dim)), table.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, height, width, _ = input_shape
        if height is None or width is None:
            return batch, None, self.hidden_dim
        patches = (height // self.patch_size) * (width // self.patch_size)
        return batch, self._classes + self.num_registers + patches, self.hidden_dim

    def get_config(self) -> dict[str, Any]:
        own = (
            "patch_size",
            "image_size",
            "hidden_dim",
            "position",
            "use_bias",
            "num_registers",
            "distillation_token",
            "antialias",
            "num_channels",
            "use_mask_token",
            "dropout",
        )
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in own},
            "class_token": self.has_class_token,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _bicubic_matrix(size: Any, grid: int, antialias: bool) -> Tensor:
    """Return the weights (size, grid) that resample `grid` points to `size` points with Keys' cubic kernel.

    Without `antialias`, a = -0.75 and the edge points are repeated. With it, a = -0.5, the kernel is widened when there
    are fewer points than before, and it is truncated and renormalized at the edges.
    """
    ratio = grid / ops.cast(size, "float32")
    centres = (ops.cast(ops.arange(size), "float32") + 0.5) * ratio - 0.5  # (size,), in units of the original grid
    if antialias:
        taps, width, a = np.arange(grid, dtype="float32"), ops.maximum(ratio, 1.0), -0.5
    else:
        taps, width, a = np.arange(-2, grid + 2, dtype="float32"), 1.0, -0.75  # two more points at either edge
    distance = ops.abs(ops.expand_dims(centres, 1) - ops.convert_to_tensor(taps[None])) / width  # (size, taps)
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weights = ops.where(distance <= 1, near, ops.where(distance < 2, far, ops.zeros_like(far)))
    if antialias:
        return weights / ops.sum(weights, axis=1, keepdims=True)
    fold = np.eye(grid, dtype="float32")[np.clip(taps, 0, grid - 1).astype(int)]  # repeats the edge points
    return ops.matmul(weights, ops.convert_to_tensor(fold))
