"""Changes of the scores of the next token before it is chosen: penalties, forbidden and forced tokens. NumPy only.

The changes and their order are those of transformers (``_get_logits_processor``, version 5.24), so a generation config
has the same effect. Greedy decoding and sampling apply them to the logits, beam search to the log-probabilities. As
everywhere in this package, padding is left out: a padded row gets the tokens that it gets alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .options import Options

Array = np.ndarray
Ngrams = Mapping[tuple[int, ...], list[int]]  # the tokens that followed each sequence of tokens


class Processors:
    """The changes that the options of one request ask for.

    Attributes:
        active: False if the options ask for no change.

    Args:
        options: the options of the request.
        stops: ids of the stop tokens.
        ids, mask: (batch, prompt) the tokens given to ``generate``, which are those of the encoder if there is one.
        prompt, real: (batch, width) the tokens before the first new one, and their mask.
    """

    def __init__(self, options: Options, stops: Array, ids: Array, mask: Array, prompt: Array, real: Array) -> None:
        self.options, self.stops = options, stops
        self.width = prompt.shape[1]
        self.sources = [row[keep == 1] for row, keep in zip(ids, mask, strict=True)]
        self.prompts = [row[keep == 1] for row, keep in zip(prompt, real, strict=True)]
        alone = {(int(stop),) for stop in stops}
        self.biases = _by_prefix(options.sequence_bias or ())
        self.bad_words = _by_prefix((word, -np.inf) for word in options.bad_words_ids or () if word not in alone)
        size = options.encoder_no_repeat_ngram_size
        self.ngrams = [_ngrams(row, size) for row in self.sources] if size else []
        self.per_row = bool(self.biases or self.bad_words or self.ngrams or options.no_repeat_ngram_size) or not (
            options.repetition_penalty == options.encoder_repetition_penalty == 1
        )
        self.active = self.per_row or bool(
            (options.min_new_tokens and len(stops))
            or options.forced_bos_token_id is not None
            or options.forced_eos_token_id is not None
            or options.remove_invalid_values
            or options.exponential_decay_length_penalty
            or options.suppress_tokens
            or options.begin_suppress_tokens
        )

    def check(self, vocab_size: int) -> None:
        """Check that the ids in the options are within the vocabulary.

        Raises:
            ValueError: an id is not below `vocab_size`.
        """
        given = self.options
        forced = () if given.forced_bos_token_id is None else (given.forced_bos_token_id,)
        ids: dict[str, Iterable[int]] = {
            "bad_words_ids": (number for word in given.bad_words_ids or () for number in word),
            "sequence_bias": (number for word, _ in given.sequence_bias or () for number in word),
            "forced_bos_token_id": forced,
            **{
                name: getattr(given, name) or ()
                for name in ("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
            },
        }
        for name, numbers in ids.items():
            if outside := sorted({number for number in numbers if number >= vocab_size}):
                raise ValueError(f"{name}: got {outside}; accepted: ids below {vocab_size}, the vocab_size")

    def __call__(self, scores: Array, rows: Sequence[int] | Array, new: Array) -> Array:
        """Return the changed scores.

        Args:
            scores: (n, vocab_size), which stay unchanged.
            rows: (n,) for each of them, the row of the batch that it belongs to.
            new: (n, number) the new tokens so far.
        """
        scores, number, options = np.array(scores), new.shape[1], self.options
        if not number:
            self.check(scores.shape[-1])
        if self.per_row:
            for own, row, tokens in zip(scores, rows, new, strict=True):
                self._change(own, row, np.concatenate([self.prompts[row], tokens]))
        if number < options.min_new_tokens:
            scores[:, self.stops[self.stops < scores.shape[-1]]] = -np.inf
        if options.forced_bos_token_id is not None and self.width == 1 and not number:
            scores = _only(scores, options.forced_bos_token_id)
        if options.forced_eos_token_id is not None and number == options.max_new_tokens - 1:
            scores = _only(scores, options.forced_eos_token_id)
        if options.remove_invalid_values:
            most = float(np.finfo("float32").max)
            scores = np.nan_to_num(scores, posinf=most, neginf=-most)
        if options.exponential_decay_length_penalty:
            first, factor = options.exponential_decay_length_penalty
            if number > first:
                ends = self.stops[self.stops < scores.shape[-1]]
                sizes = np.abs(scores[:, ends])
                scores[:, ends] += np.where(np.isfinite(sizes), sizes, 0) * (factor ** (number - first) - 1)
        if options.suppress_tokens:
            scores[:, list(options.suppress_tokens)] = -np.inf
        begin = 1 if self.width == 1 and options.forced_bos_token_id is not None else 0
        if options.begin_suppress_tokens and number == begin:
            scores[:, list(options.begin_suppress_tokens)] = -np.inf
        return scores

    def _change(self, scores: Array, row: int, tokens: Array) -> None:
        """Change the scores (vocab_size,) of the token after `tokens`, those of a row of the batch, in place."""
        options = self.options
        _bias(scores, tokens, self.biases)
        _penalize(scores, self.sources[row], 1 / options.encoder_repetition_penalty)
        _penalize(scores, tokens, options.repetition_penalty)
        size = options.no_repeat_ngram_size or 0
        if 0 < size <= len(tokens):
            windows = np.lib.stride_tricks.sliding_window_view(tokens, size)
            again = (windows[:, :-1] == tokens[len(tokens) + 1 - size :]).all(axis=1)
            scores[windows[again, -1]] = -np.inf
        if self.ngrams:
            length = (options.encoder_no_repeat_ngram_size or 1) - 1
            if len(tokens) >= length:
                scores[self.ngrams[row].get(tuple(tokens[len(tokens) - length :].tolist()), [])] = -np.inf
        _bias(scores, tokens, self.bad_words)


def _only(scores: Array, tokens: int | Sequence[int]) -> Array:
    """Return scores with which only `tokens` are possible."""
    scores = np.full_like(scores, -np.inf)
    scores[:, tokens if isinstance(tokens, int) else list(tokens)] = 0
    return scores


def _penalize(scores: Array, tokens: Array, penalty: float) -> None:
    """Apply a repetition penalty (Keskar et al. 2019, arXiv:1909.05858) to `scores` (vocab_size,), in place.

    The scores of `tokens` are divided by `penalty` if positive, or else multiplied by it.
    """
    if penalty != 1:
        seen = np.unique(tokens)
        seen = seen[seen < len(scores)]
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)


def _by_prefix(biases: Iterable[tuple[Sequence[int], float]]) -> dict[tuple[int, ...], dict[int, float]]:
    """Return the biases of last tokens, by the tokens before them."""
    found: dict[tuple[int, ...], dict[int, float]] = {}
    for word, bias in biases:
        found.setdefault(tuple(word[:-1]), {})[word[-1]] = bias
    return found


def _bias(scores: Array, tokens: Array, biases: Mapping[tuple[int, ...], Mapping[int, float]]) -> None:
    """Add the biases of the tokens that complete a sequence after `tokens`, in place."""
    for length in sorted({len(prefix) for prefix in biases}):
        if length <= len(tokens) and (found := biases.get(tuple(tokens[len(tokens) - length :].tolist()))):
            scores[list(found)] += np.array(list(found.values()), scores.dtype)


def _ngrams(tokens: Array, size: int) -> Ngrams:
    found: dict[tuple[int, ...], list[int]] = {}
    for start in range(len(tokens) - size + 1):
        *prefix, last = tokens[start : start + size].tolist()
        found.setdefault(tuple(prefix), []).append(last)
    return found
