"""``top_p`` sorts only as many tokens as necessary and keeps the same tokens as sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest

from attention_zoo.generation import sampling


def by_sorting(chances: np.ndarray, top_p: float) -> np.ndarray:
    """Sort the whole vocabulary, most likely first and ties by index, and cut it where `top_p` is reached."""
    order = np.argsort(-chances, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(chances[order])[:-1]])
    kept = order[before < top_p]
    return kept[chances[kept] > 0]


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 4.0, 40.0])  # from uniform to concentrated on one token
@pytest.mark.parametrize("rounded", [False, True])  # many equally likely tokens
@pytest.mark.parametrize("top_k", [None, 50])
def test_the_same_tokens_as_by_sorting(spread: float, rounded: bool, top_k: int | None) -> None:
    logits = np.random.default_rng(0).normal(0, spread, (2, 20_000)).astype("float32")
    logits = logits.round(1) if rounded else logits
    chances = sampling.probabilities(logits, 1.0, top_k)
    for top_p in (1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 1 - 1e-12):
        found = sampling.probabilities(logits, 1.0, top_k, top_p)
        for row in range(2):
            kept = by_sorting(chances[row], top_p)
            np.testing.assert_array_equal(sampling._nucleus(chances[row], top_p), kept)
            expected = np.zeros(20_000)
            expected[kept] = chances[row, kept] / chances[row, kept].sum()
            np.testing.assert_allclose(found[row], expected, rtol=1e-12)


def test_what_has_most_is_not_searched_for_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, sort = [], np.argsort
    monkeypatch.setattr(np, "argsort", lambda array, **options: sizes.append(len(array)) or sort(array, **options))
    sampling.probabilities(np.random.default_rng(0).normal(0, 6, (3, 150_000)), top_p=0.9)
    assert len(sizes) >= 3 and max(sizes) < 10_000
