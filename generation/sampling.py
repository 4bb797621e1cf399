"""The probabilities that sampling draws tokens from, and the filters that restrict them. NumPy only."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
MOST = 100  # number of most likely tokens that ``top_h`` considers, as in transformers


def probabilities(
    logits: Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    *,
    typical_p: float | None = None,
    epsilon_cutoff: float | None = None,
    eta_cutoff: float | None = None,
    top_h: float | None = None,
) -> Array:
    """Return the probabilities to sample from, (rows, vocab_size) float64; see ``generate`` for the arguments.

    Each filter is applied to the result of the previous one, as in transformers: `top_h`, `top_k`, `top_p`, `min_p`,
    `typical_p`, `epsilon_cutoff`, `eta_cutoff`.

    Raises:
        ValueError: a row without any token that is possible.
    """
    most = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(most).all():
        raise ValueError("logits: got a row without a greatest one; accepted: options that leave at least one token")
    scores = (logits.astype("float64") - most) / max(temperature, 1e-30)
    if top_h is not None:
        scores = np.where(_entropy_head(scores, top_h), scores, -np.inf)
    if top_k is not None and top_k < scores.shape[-1]:
        least = np.partition(scores, -top_k, axis=-1)[:, -top_k, None]
        scores = np.where(scores < least, -np.inf, scores)
    chances = _softmax(scores)
    if top_p is not None and top_p < 1:
        nucleus = np.zeros_like(chances)
        for row, kept in enumerate(_nucleus(own, top_p) for own in chances):
            nucleus[row, kept] = chances[row, kept]
        chances = nucleus
    if min_p is not None:
        chances = np.where(chances < min_p * chances.max(axis=-1, keepdims=True), 0, chances)
    if typical_p is not None and typical_p < 1:
        chances = np.where(_typical(_normalized(chances), typical_p), chances, 0)
    if epsilon_cutoff:
        chances = _cut(_normalized(chances), epsilon_cutoff)
    if eta_cutoff:
        chances = _normalized(chances)
        entropy = (chances * _surprise(chances)).sum(axis=-1, keepdims=True)
        chances = _cut(chances, np.minimum(eta_cutoff, np.sqrt(eta_cutoff) * np.exp(-entropy)))
    return _normalized(chances)


def draw(generator: np.random.Generator, chances: Array) -> int:
    """Return a token drawn with the probabilities `chances` (vocab_size,)."""
    edges = np.cumsum(chances)
    return int(min(np.searchsorted(edges, generator.random() * edges[-1], side="right"), np.flatnonzero(chances)[-1]))


def _normalized(chances: Array) -> Array:
    return chances / chances.sum(axis=-1, keepdims=True)


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _surprise(chances: Array) -> Array:
    """Return -log of the probabilities, and 0 for a probability of 0, which does not contribute to an entropy."""
    return -np.log(np.where(chances > 0, chances, 1.0))


def _cut(chances: Array, least: float | Array) -> Array:
    """Set the probabilities below `least` to 0, except the greatest one of each row."""
    return np.where((chances < least) & (chances < chances.max(axis=-1, keepdims=True)), 0, chances)


def _nucleus(chances: Array, top_p: float) -> Array:
    """Return the smallest set of most likely tokens whose probabilities sum to at least `top_p`.

    Among equally likely tokens, lower ids are preferred. The set nearly always lies within the few hundred or thousand
    most likely tokens, so at first only these are sorted.
    """
    for count in (256, 4096, len(chances)):
        least = np.partition(chances, -count)[-count] if count < len(chances) else 0.0
        among = np.flatnonzero(chances >= max(least, 5e-324))  # includes all ties; excludes probabilities of 0
        order = among[np.argsort(-chances[among], kind="stable")]
        sums = np.cumsum(chances[order])
        if count >= len(chances) or (sums[-1:] >= top_p).all():
            break
    return order[: 1 + int(np.searchsorted(sums, top_p))]


def _typical(chances: Array, mass: float) -> Array:
    """Return which tokens are typical (Meister et al. 2022, arXiv:2202.00666), (rows, vocab_size) booleans.

    These are the tokens whose information content is nearest to the entropy and whose probabilities sum to at least
    `mass`.
    """
    content = _surprise(chances)
    entropy = (chances * content).sum(axis=-1, keepdims=True)
    distance = np.where(chances > 0, np.abs(content - entropy), np.inf)
    order = np.argsort(distance, axis=-1, kind="stable")
    sums = np.cumsum(np.take_along_axis(chances, order, -1), axis=-1)
    last = np.minimum((sums < mass).sum(axis=-1, keepdims=True), chances.shape[-1] - 1)
    return distance <= np.take_along_axis(distance, np.take_along_axis(order, last, -1), -1)


def _entropy_head(scores: Array, share: float) -> Array:
    """Return which tokens ``top_h`` keeps (arXiv:2509.02510), (rows, vocab_size) booleans.

    Of the `MOST` most likely tokens, these are the first ones whose contributions to the entropy sum to at most `share`
    of it, and at least the most likely token.
    """
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :MOST]
    chances = _softmax(np.take_along_axis(scores, order, -1))
    parts = np.cumsum(chances * _surprise(chances), axis=-1)
    chosen = parts <= share * parts[:, -1:]
    chosen[:, 0] = True
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, order, chosen, -1)
    return kept
