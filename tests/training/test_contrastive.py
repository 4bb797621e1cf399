"""Contrastive losses against float64 NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo.training.contrastive import MultipleNegativesRanking, PairedEncoder
from helpers import float64, inputs_for, numpy, tiny


def reference(x: np.ndarray, groups: list[int], scale: float, symmetric: bool) -> np.ndarray:
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and not (groups[j] == groups[i] >= 0)]
        own = scale * x[i, 0] @ x[i, 1]
        partners = [scale * x[i, 0] @ x[j, 1] for j in others]
        hard = [scale * x[i, 0] @ x[j, k] for j in range(len(x)) for k in range(2, x.shape[1])]
        loss = np.log(np.exp([own, *partners, *hard]).sum()) - own
        if symmetric:
            back = [scale * x[j, 0] @ x[i, 1] for j in others]
            loss = (loss + np.log(np.exp([own, *back]).sum()) - own) / 2
        found.append(loss)
    return np.array(found)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("groups", [[-1] * 5, [0, 1, 0, 2, 1], [-1, -1, 3, 3, 3]])
def test_ranking(parts: int, symmetric: bool, groups: list[int], rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, parts, 6))
    loss = MultipleNegativesRanking(7.0, symmetric, reduction="none")
    expected = reference(x, groups, 7.0, symmetric)
    np.testing.assert_allclose(float64(loss(np.array(groups), x.astype("float32"))), expected, rtol=2e-5)
    again: Any = keras.losses.deserialize(keras.losses.serialize(loss))
    np.testing.assert_array_equal(float64(again(np.array(groups), x)), float64(loss(np.array(groups), x)))


def test_half_precision(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 2, 8)).astype("float16")
    expected = reference(x.astype("float64"), [-1] * 4, 20.0, False)
    loss = MultipleNegativesRanking(reduction="none")
    np.testing.assert_allclose(float64(loss(np.full(4, -1), x)), expected, rtol=1e-4, atol=1e-5)


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"^scale: got 0"):
        MultipleNegativesRanking(0)
    with pytest.raises(ValueError, match=r"^y_pred: got shape \(3, 4\)"):
        MultipleNegativesRanking().call(np.zeros(3), np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"^parts: got"):
        PairedEncoder(tiny("bert", "sentence_max"), ["one"])
    with pytest.raises(ValueError, match=r"^texts: got lists of \[1, 2\] texts; accepted: lists of one length"):
        PairedEncoder(tiny("bert", "sentence_max")).tokenize(["a"], ["b", "c"])


@pytest.mark.slow
def test_a_pair_is_learned(rng: np.random.Generator) -> None:
    """The paired encoder gives what the encoder gives for each part, and ``fit`` trains the encoder itself."""
    encoder = tiny("bert", "sentence_max", dropout=0.0, attention_dropout=0.0)
    pairs = PairedEncoder(encoder)
    parts = {part: inputs_for(encoder, rng, 6) for part in ("anchor", "positive")}
    x = {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
    found = numpy(pairs(x))
    for i, part in enumerate(parts):
        np.testing.assert_allclose(found[:, i], numpy(encoder(parts[part])["sentence_embedding"]), atol=1e-5)
    pairs.compile(keras.optimizers.Adam(1e-2), MultipleNegativesRanking(), run_eagerly=False, jit_compile=False)
    losses = pairs.fit(x, np.full(6, -1), epochs=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    assert np.abs(numpy(pairs(x)) - found).max() > 1e-2
