"""Positions of patches inside the attention, compared with their definitions in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from attention_zoo import layers
from attention_zoo.layers.grid import patch_coordinates
from helpers import close, numpy, randomise


@pytest.mark.parametrize(("rows", "columns", "prefix"), [(3, 3, 0), (2, 5, 1), (4, 1, 3)])
def test_rotation_by_row_and_column(rows: int, columns: int, prefix: int) -> None:
    """The angles of patch (i, j) are 2π f times the distances of its center from that of the image, in half images."""
    cos, sin = map(numpy, layers.RotaryEmbedding2D(8, 100.0)(patch_coordinates(rows, columns, prefix)))
    assert cos.shape == sin.shape == (1, 1, prefix + rows * columns, 4)
    close(cos[0, 0, :prefix], np.ones((prefix, 4)), atol=0)
    close(sin[0, 0, :prefix], np.zeros((prefix, 4)), atol=0)
    for i in range(rows):
        for j in range(columns):
            y, x = (2 * i + 1) / rows - 1, (2 * j + 1) / columns - 1
            angles = 2 * np.pi * np.array([y, y * 100**-0.5, x, x * 100**-0.5])
            place = prefix + i * columns + j
            close(cos[0, 0, place], np.cos(angles), atol=1e-6)
            close(sin[0, 0, place], np.sin(angles), atol=1e-6)


def test_biases_by_offset() -> None:
    """Pairs of patches of the same offset share a bias, and those with the class token have three of their own."""
    layer = layers.WindowPositionBias(2, 3)
    layer.build()
    randomise(layer)
    table = numpy(layer.embeddings)
    bias = numpy(layer(rows=3, columns=3))[0]  # (H, 10, 10)
    for query in range(9):
        for key in range(9):
            down, right = query // 3 - key // 3, query % 3 - key % 3
            close(bias[:, 1 + query, 1 + key], table[(down + 2) * 5 + right + 2], atol=0)
    close(bias[:, 0, 1:], np.repeat(table[25][:, None], 9, 1), atol=0)
    close(bias[:, 1:, 0], np.repeat(table[26][:, None], 9, 1), atol=0)
    close(bias[:, 0, 0], table[27], atol=0)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 4), (5, 1)])
def test_biases_of_open_sizes(rows: int, columns: int) -> None:
    """The sizes may be tensors, as in an exported file of open height and width."""
    layer = layers.WindowPositionBias(2, 3)
    layer.build()
    randomise(layer)

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def bias(image: Any) -> Any:
        height, width = tf.unstack(tf.shape(image))
        return layer(rows=height, columns=width)

    close(numpy(bias(tf.zeros((rows, columns)))), numpy(layer(rows=rows, columns=columns)), atol=1e-6)


def test_biases_of_a_larger_grid_are_interpolated() -> None:
    """Along an axis, a table of values that grow linearly grows linearly, up to the outermost values."""
    layer = layers.WindowPositionBias(1, 2)
    layer.build()
    values = np.append(np.repeat([0.0, 3.0, 6.0], 3), [7.0, 8.0, 9.0])  # by the vertical offset
    layer.embeddings.assign(values[:, None].astype("float32"))
    bias = numpy(layer(rows=3, columns=2))[0, 0]
    # Five vertical offsets at (i + 0.5) · 3/5 - 0.5 of the three, cut to the first and the last.
    expected = 3 * np.clip((np.arange(5) + 0.5) * 0.6 - 0.5, 0, 2)
    for query in range(6):
        for key in range(6):
            close(bias[1 + query, 1 + key], expected[query // 2 - key // 2 + 2], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.RotaryEmbedding2D(6), "head_dim: got 6"),
        (lambda: layers.RotaryEmbedding2D(8, 0.0), "theta: got 0.0"),
        (lambda: layers.WindowPositionBias(0, 3), "num_heads: got 0"),
        (lambda: layers.WindowPositionBias(2, 0), "grid: got 0"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
