"""Disentangled attention against loops in NumPy, and as a layer of a Keras model."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo.layers import DisentangledAttention, RelativeEmbeddings, TransformerBlock
from attention_zoo.layers.disentangled import relative_rows
from helpers import close, numpy, randomise

HEADS, WIDTH, BUCKETS = 2, 8, 8


def dense(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ numpy(layer.kernel) + (0 if layer.bias is None else numpy(layer.bias))


def row_of(distance: int, max_distance: int | None) -> int:
    """Return the row for one distance by the formula of the paper's code."""
    span, exact = BUCKETS // 2, BUCKETS // 4
    if max_distance is not None and abs(distance) > exact:
        far = math.ceil(math.log(abs(distance) / exact) / math.log((max_distance - 1) / exact) * (exact - 1)) + exact
        distance = far if distance > 0 else -far
    return min(max(distance + span, 0), BUCKETS - 1)


def expected(layer: Any, table: np.ndarray, x: np.ndarray, max_distance: int | None, terms: Any) -> np.ndarray:
    size = WIDTH // HEADS
    q, k, v = (dense(part, x) for part in (layer.query_dense, layer.key_dense, layer.value_dense))
    position_key = dense(layer.position_key, table) if "c2p" in terms else None
    position_query = dense(layer.position_query, table) if "p2c" in terms else None
    joined = np.zeros_like(v)
    for batch in range(len(x)):
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = np.zeros((x.shape[1], x.shape[1]))
            for i in range(len(scores)):
                for j in range(len(scores)):
                    row = row_of(i - j, max_distance)
                    scores[i, j] = q[batch, i, part] @ k[batch, j, part]
                    if position_key is not None:
                        scores[i, j] += q[batch, i, part] @ position_key[row, part]
                    if position_query is not None:
                        scores[i, j] += k[batch, j, part] @ position_query[row, part]
            scores = np.exp(scores / math.sqrt(size * (1 + len(terms))))
            joined[batch, :, part] = scores / scores.sum(-1, keepdims=True) @ v[batch, :, part]
    return dense(layer.output_dense, joined)


@pytest.mark.parametrize("length", [11, 3])
@pytest.mark.parametrize("max_distance", [None, 9])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("terms", [("c2p", "p2c"), ("p2c",), ("c2p",), ()])
def test_scores_are_those_of_loops(terms: Any, shared: bool, max_distance: int | None, length: int, rng: Any) -> None:
    """The longer sequence is longer than the table, so that distances share rows at both ends."""
    relative = RelativeEmbeddings(BUCKETS, 16, WIDTH, max_distance=max_distance)
    layer = DisentangledAttention(
        HEADS, position_terms=terms, share_position_projections=shared, use_key_bias=shared, dtype="float64"
    )
    relative.build()
    layer.build((None, None, WIDTH))
    for part in (relative, layer):
        randomise(part)
    x = rng.normal(size=(2, length, WIDTH))
    found = numpy(layer(x, relative=relative(x)))
    close(found, expected(layer, numpy(relative.embeddings), x, max_distance, terms), atol=1e-6)


def test_rows_of_the_table() -> None:
    assert relative_rows(6, 8).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
    rows = relative_rows(40, 16, 20)  # four small distances have a row each, on either side
    assert rows[40 - 4 : 40 + 5].tolist() == list(range(4, 13))
    assert (np.diff(rows) >= 0).all() and rows[0] == 0 and rows[-1] == 15


def test_as_layers_of_a_keras_model(tmp_path: Any, rng: Any) -> None:
    """The length is not known when the model is built, and the model is saved and loaded."""
    tokens = keras.Input((None, WIDTH))
    relative = RelativeEmbeddings(BUCKETS, 16, WIDTH, max_distance=9, norm_epsilon=1e-6)(tokens)
    block = TransformerBlock(HEADS, 12, position_terms=("c2p", "p2c"))
    model = randomise(keras.Model(tokens, block(tokens, relative=relative)))
    model.save(tmp_path / "m.keras")
    again: Any = keras.models.load_model(tmp_path / "m.keras")
    for length in (1, 11):
        x = rng.normal(size=(2, length, WIDTH)).astype("float32")
        assert numpy(model(x)).shape == x.shape
        close(numpy(again(x)), numpy(model(x)), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelativeEmbeddings(7, 16, 8), "num_buckets: got 7; accepted: a positive multiple of 2"),
        (lambda: RelativeEmbeddings(8, 16, 8, max_distance=3), "max_distance: got 3 with 8 buckets; accepted: more th"),
        (lambda: DisentangledAttention(2, position_terms=("p2p",)), r"position_terms: got \('p2p',\); accepted"),
        (lambda: DisentangledAttention(2, num_kv_heads=1), "num_kv_heads: got 1; accepted: num_heads=2"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
