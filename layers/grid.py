"""Positions of image patches inside the attention: rotations by row and column, and biases by their offset."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from ..checks import multiple, positive_number
from . import functional as F
from .rotary import inverse_frequencies

Tensor = Any


def patch_coordinates(rows: Any, columns: Any, prefix: int = 0) -> Tensor:
    """Return the (y, x) coordinates of the centers of a grid of patches, for ``RotaryEmbedding2D``.

    Both run from -1 at one edge of the image to 1 at the other, whatever the number of patches.

    Args:
        rows, columns: size of the grid: integers, or scalar tensors.
        prefix: number of tokens before the patches, such as the class token. They have the coordinates (0, 0), for
            which the rotation is the identity.

    Returns:
        (1, prefix + rows · columns, 2), float32, with the patches in raster order.
    """

    def centres(size: Any) -> Tensor:
        return (ops.cast(ops.arange(size), "float32") * 2 + 1) / ops.cast(size, "float32") - 1

    y = ops.broadcast_to(ops.expand_dims(centres(rows), 1), (rows, columns))
    x = ops.broadcast_to(ops.expand_dims(centres(columns), 0), (rows, columns))
    patches = ops.stack([ops.reshape(part, (1, rows * columns)) for part in (y, x)], axis=-1)  # (1, rows·columns, 2)
    return ops.concatenate([ops.zeros((1, prefix, 2), "float32"), patches], axis=1) if prefix else patches


@keras.saving.register_keras_serializable(package="attention_zoo")
class RotaryEmbedding2D(keras.layers.Layer):
    """Rotary position embedding by two coordinates, as in DINOv3 (Siméoni et al. 2025, arXiv:2508.10104).

    Half of the feature pairs are rotated by the first coordinate and half by the second, through the angles
    ``2π · coordinate · theta^(-4i/head_dim)``. Float coordinates (batch or 1, length, 2), such as those of
    ``patch_coordinates``, become a pair (cos, sin), (batch or 1, 1, length, head_dim / 2) each, always float32. Pass
    the pair as `rotary` when calling ``MultiHeadAttention``. The layer has no weights.

    Args:
        head_dim: dimension of one head, a multiple of 4.
        theta: base of the wavelengths, 100 in the paper.

    Raises:
        ValueError: `head_dim` is not a positive multiple of 4, or `theta` is not positive.
    """

    kind: ClassVar[str] = "rotated"

    def __init__(self, head_dim: int, theta: float = 100.0, **kwargs: Any) -> None:
        kwargs.setdefault("autocast", False)  # half precision is too coarse for coordinates
        super().__init__(**kwargs)
        self.head_dim = multiple("head_dim", head_dim, 4)
        self.theta = positive_number("theta", theta)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = 2 * math.pi * inverse_frequencies(self.head_dim // 2, self.theta)  # (D/4,)
        frequencies = ops.convert_to_tensor(frequencies.astype("float32"))
        parts = [coordinates[..., i : i + 1] * frequencies for i in range(2)]  # (B, T, D/4) each
        angles = ops.expand_dims(ops.concatenate(parts, axis=-1), 1)  # (B, 1, T, D/2)
        return ops.cos(angles), ops.sin(angles)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = (input_shape[0], 1, input_shape[1], self.head_dim // 2)
        return shape, shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "head_dim": self.head_dim, "theta": self.theta}


@keras.saving.register_keras_serializable(package="attention_zoo")
class WindowPositionBias(keras.layers.Layer):
    """Relative position bias of BEiT for a class token and a grid of patches (Bao et al. 2022, arXiv:2106.08254).

    Every head has one trained bias for each offset between two patches, and three more: from the class token to a
    patch, from a patch to the class token, and from the class token to itself. ``layer(rows=…, columns=…)`` returns the
    biases (1, num_heads, T, T) with T = 1 + rows · columns, in the dtype of its variables. Pass its output as `bias`
    when calling ``MultiHeadAttention``. For a grid of another size, the biases of the offsets are interpolated linearly
    along both axes (PyTorch's ``interpolate(mode="bilinear")``).

    Args:
        num_heads: number of heads of the attention.
        grid: number of patches along one side of the square images the biases were trained for.
        embeddings_initializer: initializer of the biases.

    Raises:
        ValueError: `num_heads` or `grid` is not a positive integer.
    """

    def __init__(self, num_heads: int, grid: int, *, embeddings_initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = multiple("num_heads", num_heads, 1)
        self.grid = multiple("grid", grid, 1)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, input_shape: Any = None) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=((2 * self.grid - 1) ** 2 + 3, self.num_heads),
            initializer=self.embeddings_initializer,
            autocast=False,  # scores are computed in float32
        )

    def call(self, *, rows: Any, columns: Any) -> Tensor:
        table = self._table(rows, columns)  # (offsets + 3, H)
        height, width = 2 * rows - 1, 2 * columns - 1
        offsets = height * width
        known = isinstance(rows, int) and isinstance(columns, int)
        xp: Any = np if known else ops  # known sizes give a constant
        places = xp.arange(rows * columns, dtype="int32")
        y, x = places // columns, places % columns
        down = xp.expand_dims(y, 1) - xp.expand_dims(y, 0) + (rows - 1)  # (P, P)
        right = xp.expand_dims(x, 1) - xp.expand_dims(x, 0) + (columns - 1)
        among = down * width + right
        to_class = xp.full((rows * columns, 1), offsets + 1, dtype="int32")
        of_class = xp.concatenate([xp.full((1, 1), offsets + 2, dtype="int32"), xp.reshape(to_class - 1, (1, -1))], 1)
        index = xp.concatenate([of_class, xp.concatenate([to_class, among], 1)], 0)  # (T, T)
        index = ops.convert_to_tensor(index.astype("int32")) if known else ops.cast(index, "int32")
        return ops.expand_dims(ops.transpose(F.embedding_lookup(table, index), (2, 0, 1)), 0)  # (1, H, T, T)

    def _table(self, rows: Any, columns: Any) -> Tensor:
        """Return the biases of all offsets in a grid of `rows` and `columns`, and the three of the class token."""
        table = ops.convert_to_tensor(self.embeddings)
        if isinstance(rows, int) and isinstance(columns, int) and rows == columns == self.grid:
            return table
        old, (height, width) = 2 * self.grid - 1, (2 * rows - 1, 2 * columns - 1)
        vertical, horizontal = (_bilinear_matrix(size, old) for size in (height, width))  # (height, old), (width, old)
        x = ops.reshape(ops.cast(table[:-3], "float32"), (old, old * self.num_heads))
        x = ops.reshape(ops.matmul(vertical, x), (height, old, self.num_heads))
        x = ops.reshape(ops.matmul(ops.expand_dims(horizontal, 0), x), (height * width, self.num_heads))
        return ops.concatenate([ops.cast(x, table.dtype), table[-3:]], axis=0)

    def compute_output_spec(self, *, rows: Any, columns: Any) -> Any:
        tokens = None if rows is None or columns is None else 1 + rows * columns
        return keras.KerasTensor((1, self.num_heads, tokens, tokens), dtype=self.variable_dtype)

    def get_config(self) -> dict[str, Any]:
        own = {"num_heads": self.num_heads, "grid": self.grid}
        return {
            **super().get_config(),
            **own,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


def _bilinear_matrix(size: Any, points: int) -> Tensor:
    """Return the weights (size, points) that resample `points` values to `size` values by linear interpolation."""
    ratio = points / ops.cast(size, "float32")
    places = ops.clip((ops.cast(ops.arange(size), "float32") + 0.5) * ratio - 0.5, 0, points - 1)  # (size,)
    distance = ops.abs(ops.expand_dims(places, 1) - ops.convert_to_tensor(np.arange(points, dtype="float32")[None]))
    return ops.maximum(1 - distance, 0)
