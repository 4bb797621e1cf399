"""Greedy decoding, sampling and beam search, with the same code for every runtime. NumPy only.

A :class:`Decoder` computes the logits of the next token: a Keras model, an ONNX file or a LiteRT file. Everything else
is implemented here, so the same logits, options and seed give the same tokens in every runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np

from ..checks import is_integer, is_number, meant, plain
from ..signature import as_array

Array = np.ndarray
AHEAD = 16  # number of tokens that ``greedy`` generates per call; stop tokens are only checked afterwards


class Decoder(Protocol):
    """An object that computes the next-token logits of a batch of rows and keeps the tokens so far in its state.

    A decoder may have two more methods. ``greedy(tokens, count)`` feeds `tokens` (rows,), continues with the most
    likely tokens and returns these (rows, count); plain greedy decoding uses it to avoid a call for every token.
    ``ended(rows)`` gets a boolean for each row, True if the logits of this row are not used any more.

    Attributes:
        start_token: first token of the target of an encoder-decoder; None for a model that continues the prompt.
        eos_token: id of the token that ends a row, or None.
        pad_token: id that fills rows after their end; None to use the first stop token.
        max_length: greatest number of tokens in a row, prompt included; for an encoder-decoder, in the target.
    """

    start_token: int | None
    eos_token: int | None
    pad_token: int | None
    max_length: int

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        """Start a new batch and return the logits after the prompt (rows, vocab_size).

        Args:
            input_ids: (rows, prompt) integers.
            attention_mask: (rows, prompt), 1 = token, 0 = padding.
            room: the greatest number of tokens that will follow.
        """
        ...

    def step(self, tokens: Array) -> Array:
        """Feed one more token for each row, `tokens` (rows,), and return the logits after it (rows, vocab_size)."""
        ...

    def select(self, rows: Array) -> None:
        """Continue with the rows of these indices, in this order; rows may be left out or repeated."""
        ...


@dataclass(frozen=True)
class Options:
    """The options of ``generate``, which documents them.

    Raises:
        ValueError: a value that is not accepted, or options that exclude each other.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    stop_tokens: int | Sequence[int] | None = None
    stop_strings: str | Sequence[str] | None = None
    tokenizer: Any = None
    callback: Callable[[Array], Any] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        def number(name: str, low: float, high: float, *, whole: bool = False, least: bool = True) -> None:
            value = getattr(self, name)
            known = is_integer(value) if whole else is_number(value)
            inside = known and value <= high and abs(value) != np.inf
            if value is not None and not (inside and (value >= low if least else value > low)):
                what = "an integer" if whole else "a number"
                raise ValueError(
                    f"{name}: got {value!r}; accepted: {what} {'of at least' if least else 'above'} {low}"
                    + ("" if high == np.inf else f" and at most {high}")
                )
            object.__setattr__(self, name, plain(value))

        number("max_new_tokens", 0, np.inf, whole=True)
        number("temperature", 0, np.inf)
        number("top_k", 1, np.inf, whole=True)
        number("top_p", 0, 1, least=False)
        number("min_p", 0, 1)
        number("repetition_penalty", 0, np.inf, least=False)
        number("num_beams", 1, np.inf, whole=True)
        number("length_penalty", -np.inf, np.inf)
        number("seed", 0, np.inf, whole=True)
        for name in ("max_new_tokens", "temperature", "num_beams", "repetition_penalty", "length_penalty"):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: got None; accepted: a number")
        filters = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if filters and not self.temperature:
            raise ValueError(f"temperature: got 0 (greedy) with {filters}; accepted: a positive number with these")
        if self.num_beams > 1 and (self.temperature or self.callback or self.stop_strings):
            raise ValueError(
                f"num_beams: got {self.num_beams} with temperature, callback or stop_strings; accepted: 1 with these"
            )
        strings: Any = () if self.stop_strings is None else self.stop_strings
        strings = [strings] if isinstance(strings, str) else strings
        if not isinstance(strings, list | tuple) or not all(isinstance(part, str) and part for part in strings):
            raise ValueError(f"stop_strings: got {self.stop_strings!r}; accepted: a text that is not empty, or several")
        if self.stop_strings and not hasattr(self.tokenizer, "decode"):
            raise ValueError(
                f"tokenizer: got {self.tokenizer!r} with stop_strings; accepted: an object with decode(list of ids)"
            )
        if self.callback is not None and not callable(self.callback):
            raise ValueError(f"callback: got {self.callback!r}; accepted: a function of the new tokens (batch,)")


class GenerateOptions(TypedDict, total=False):
    """The fields of ``Options``, for type checkers; a test compares the two."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    num_beams: int
    length_penalty: float
    stop_tokens: int | Sequence[int] | None
    stop_strings: str | Sequence[str] | None
    tokenizer: Any
    callback: Callable[[Array], Any] | None
    seed: int | None


def generate(decoder: Decoder, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]) -> Array:
    """Generate a continuation of every row of a batch.

    The default is greedy decoding; `temperature` selects sampling and `num_beams` beam search.

    Args:
        decoder: computes the logits.
        input_ids: (batch, prompt) integers; or (prompt,), for a batch of one; or the mapping that a tokenizer returns.
        attention_mask: (batch, prompt), 1 = token, 0 = padding, for prompts of unequal lengths, padded on either side.
            Default: that of the tokenizer's mapping, or no padding.
        max_new_tokens: greatest number of new tokens. Default: 32.
        temperature: 0, the default, chooses the most likely token; above 0, tokens are sampled from the softmax of
            ``logits / temperature``.
        top_k: sample only from this many most likely tokens.
        top_p: sample only from the smallest set of most likely tokens whose probabilities sum to at least this value
            (Holtzman et al. 2019, arXiv:1904.09751).
        min_p: sample only from tokens whose probability is at least this fraction of the greatest one
            (arXiv:2407.01082).
        repetition_penalty: above 1, tokens that occur in the prompt or the continuation become less likely
            (Keskar et al. 2019, arXiv:1909.05858). Default: 1, no penalty.
        num_beams: above 1, beam search with this many beams, which returns the best continuation. It excludes
            `temperature`, `stop_strings` and `callback`.
        length_penalty: the score of a beam is its summed log-probability divided by its length to this power.
            Default: 1.
        stop_tokens: one id or several; each of them ends its row. Default: the decoder's end token, if it has one;
            [] for none.
        stop_strings: one string or several; a row ends once its decoded new tokens contain one. Requires `tokenizer`.
        tokenizer: an object with the method ``decode(list of ids)``.
        callback: called with the new tokens (batch,) after each step; generation ends if it returns True.
        seed: seed of the random generators, one for each row. With the same seed and the same logits, the same tokens
            are sampled. Default: a random seed.

    Returns:
        (batch, prompt + new) int64 ids; for an encoder-decoder (batch, 1 + new), which begin with its start token.
        Rows that have ended are filled with the decoder's pad token, or with the first stop token if it has none.

    Raises:
        ValueError: an option or input that is not accepted, a row without any token, or more tokens than the model
            has positions.
    """
    search = _Search(decoder, input_ids, attention_mask, dict(options))
    if not search.options.max_new_tokens:
        return search.prompt
    beams = search.options.num_beams > 1
    new = _beams(search) if beams else np.stack(list(_rows(search)), axis=1).astype("int64")
    return np.concatenate([search.prompt, new], axis=1)


def stream(
    decoder: Decoder, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]
) -> Iterator[Array]:
    """Return an iterator over the new tokens (batch,) of each step, with the arguments of ``generate``.

    Raises:
        ValueError: as in ``generate``, raised by this call; or `num_beams` above 1, because beam search does not know
            any token before the last step.
    """
    search = _Search(decoder, input_ids, attention_mask, dict(options))
    if search.options.num_beams > 1:
        raise ValueError(f"num_beams: got {search.options.num_beams} for a stream; accepted: 1")
    return _rows(search, ahead=False) if search.options.max_new_tokens else iter(())


class _Search:
    """The checked options and inputs of one request."""

    def __init__(self, decoder: Decoder, input_ids: Any, attention_mask: Any, options: dict[str, Any]) -> None:
        accepted = list(Options.__dataclass_fields__)
        if unknown := sorted(set(options) - set(accepted)):
            raise ValueError(f"options: got {unknown}; {meant(unknown, accepted)}accepted: {accepted}")
        self.decoder, self.options = decoder, Options(**options)
        self.ids, self.mask = _inputs(input_ids, attention_mask)
        width = 1 if decoder.start_token is not None else self.ids.shape[1]
        if width + self.options.max_new_tokens > decoder.max_length:
            raise ValueError(
                f"max_new_tokens: got {self.options.max_new_tokens} after {width} tokens; accepted: "
                f"{decoder.max_length} together"
            )
        chosen = self.options.stop_tokens
        self.stops = stop_tokens(decoder.eos_token if chosen is None else chosen)
        self.prompt, self.real = self.ids, self.mask  # the tokens before the new ones, and their mask
        if decoder.start_token is not None:
            self.prompt = np.full((len(self.ids), 1), decoder.start_token, "int64")
            self.real = np.ones_like(self.prompt)

    @property
    def fill(self) -> int:
        """The id that fills a row after its end."""
        if self.decoder.pad_token is not None:
            return self.decoder.pad_token
        return int(self.stops[0]) if len(self.stops) else 0

    def first(self) -> Array:
        """Feed the prompt and return the logits after it (batch, vocab_size)."""
        return self.decoder.prompt(self.ids, self.mask, self.options.max_new_tokens)


def stop_tokens(tokens: Any) -> Array:
    """Return one id, several ids or None as an int64 array (stop tokens,).

    Raises:
        ValueError: values that are not integers.
    """
    found = as_array("stop_tokens", [] if tokens is None else tokens).reshape(-1)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"stop_tokens: got {tokens!r}; accepted: an integer, integers, or [] for none")
    return found.astype("int64")


def _inputs(input_ids: Any, attention_mask: Any) -> tuple[Array, Array]:
    """Return the checked ids and mask, int64 arrays (batch, prompt)."""
    if isinstance(input_ids, Mapping):  # a tokenizer's output
        given = dict(input_ids)
        if "input_ids" not in given:
            raise ValueError(f"input_ids: got a mapping of {sorted(map(str, given))}; accepted: one with 'input_ids'")
        attention_mask = given.get("attention_mask") if attention_mask is None else attention_mask
        input_ids = given["input_ids"]
    some = input_ids[:1] if isinstance(input_ids, list | tuple) else [input_ids]
    if any(isinstance(part, str) for part in some):
        raise ValueError(f"input_ids: got a text, {some[0]!r:.40}; accepted: integers; texts go to generate_text")
    ids = as_array("input_ids", input_ids)
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(f"input_ids: got {ids.dtype} of shape {ids.shape}; accepted: integers (batch, prompt)")
    mask = np.ones_like(ids) if attention_mask is None else as_array("attention_mask", attention_mask)
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"attention_mask: got shape {mask.shape}; accepted: 0 and 1 of shape {ids.shape}")
    if not mask.any(axis=1).all():
        raise ValueError("attention_mask: got a row without any token; accepted: at least one 1 in each")
    return ids.astype("int64"), mask.astype("int64")


def _rows(search: _Search, ahead: bool = True) -> Iterator[Array]:
    """Yield the new tokens (batch,) of every step of greedy decoding or sampling.

    Args:
        search: the request.
        ahead: use the decoder's method ``greedy``, if possible, to generate several tokens in one call.
    """
    decoder, options, logits = search.decoder, search.options, search.first()
    batch = len(logits)
    draws = [np.random.default_rng(None if options.seed is None else [options.seed, row]) for row in range(batch)]
    strings = [options.stop_strings] if isinstance(options.stop_strings, str) else list(options.stop_strings or ())
    done = np.zeros(batch, bool)
    likeliest = not (options.temperature or options.callback or strings) and options.repetition_penalty == 1
    greedy = getattr(decoder, "greedy", None) if ahead and likeliest else None
    ended = getattr(decoder, "ended", None)
    columns: list[Array] = []
    chosen: list[Array] = []  # tokens of the decoder's ``greedy`` that were not yielded yet
    for number in range(options.max_new_tokens):
        if number and greedy and not chosen:
            chosen = list(greedy(columns[-1], min(AHEAD, options.max_new_tokens - number)).T)
        elif number and not greedy:
            logits = decoder.step(columns[-1])
        token = chosen.pop(0) if chosen else _choose(logits, search, columns, draws)
        token = np.where(done, search.fill, token)
        columns.append(token)
        done |= np.isin(token, search.stops)
        for row in np.flatnonzero(~done) if strings else ():
            text = options.tokenizer.decode([int(column[row]) for column in columns])
            done[row] = any(string in text for string in strings)
        yield token.copy()
        stop = options.callback(token.copy()) if options.callback else False
        if done.all() or (isinstance(stop, bool | np.bool_) and stop):
            break
        if ended:
            ended(done)


def _choose(logits: Array, search: _Search, columns: list[Array], draws: list[np.random.Generator]) -> Array:
    """Return the next token of every row (batch,), given its `logits` and the new tokens so far, `columns`."""
    options = search.options
    scores = penalised(logits, search.prompt, search.real, columns, options.repetition_penalty)
    if not options.temperature:
        return scores.argmax(axis=-1)
    chances = probabilities(scores, options.temperature, options.top_k, options.top_p, options.min_p)
    return np.array([_draw(draw, row) for draw, row in zip(draws, chances, strict=True)])


def penalised(logits: Array, prompt: Array, real: Array, columns: Sequence[Array], penalty: float) -> Array:
    """Return `logits` with a repetition penalty (Keskar et al. 2019, arXiv:1909.05858).

    The logits of tokens that already occur in their row are divided by `penalty` if positive, or else multiplied by it.

    Args:
        logits: (rows, vocab_size).
        prompt, real: (rows, prompt) ids, and their mask.
        columns: new tokens (rows,) of each earlier step.
        penalty: 1 for no penalty.
    """
    if penalty == 1:
        return logits
    logits = logits.copy()
    for row, scores in enumerate(logits):
        seen = np.unique([*prompt[row][real[row] == 1], *(column[row] for column in columns)])
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    return logits


def probabilities(
    logits: Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Array:
    """Return the probabilities to sample from, (rows, vocab_size) float64; see ``generate`` for the arguments.

    Each filter is applied to the result of the previous one, in the order of the arguments, as in transformers.
    """
    scores = (logits.astype("float64") - logits.max(axis=-1, keepdims=True)) / max(temperature, 1e-30)
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
    return chances / chances.sum(axis=-1, keepdims=True)


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


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _draw(generator: np.random.Generator, chances: Array) -> int:
    edges = np.cumsum(chances)
    return int(min(np.searchsorted(edges, generator.random() * edges[-1], side="right"), np.flatnonzero(chances)[-1]))


def _beams(search: _Search) -> Array:
    """Return the tokens (batch, new) that beam search with `num_beams` beams finds for every row.

    Each step considers so many candidates that at least `num_beams` of them do not end with a stop token. A row is
    finished when it has `num_beams` ended continuations and none of its beams can score higher than the worst of them.
    """
    decoder, options, stops, logits = search.decoder, search.options, search.stops, search.first()
    prompt, real = search.prompt, search.real
    batch, width = len(prompt), options.num_beams
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]
    beams = [[(0.0, list[int]())] for _ in range(batch)]  # summed log-probability and new tokens of each beam
    rows = np.arange(batch)  # for each beam, the row of `logits` that it continues
    for number in range(1, options.max_new_tokens + 1):
        if number > 1:
            decoder.select(rows)
            logits = decoder.step(np.array([tokens[-1] for row in beams for _, tokens in row]))
        first, rows = 0, []
        for row, current in enumerate(beams):
            if not current:
                continue
            own = logits[first : first + len(current)]
            seen = np.array([tokens for _, tokens in current], "int64").T
            repeated = (
                np.repeat(prompt[row : row + 1], len(current), 0),
                np.repeat(real[row : row + 1], len(current), 0),
            )
            own = penalised(own, *repeated, list(seen), options.repetition_penalty).astype("float64")
            chances = own - own.max(-1, keepdims=True)
            chances -= np.log(np.exp(chances).sum(-1, keepdims=True))  # log-softmax
            totals = (chances + np.array([[score] for score, _ in current])).reshape(-1)
            best = np.argsort(-totals, kind="stable")[: max(2, 1 + len(stops)) * width]
            alive: list[tuple[float, list[int]]] = []
            for rank, flat in enumerate(best):
                beam, token = divmod(int(flat), chances.shape[-1])
                candidate = (float(totals[flat]), [*current[beam][1], token])
                if token in stops or number == options.max_new_tokens:
                    if rank < width:
                        ended[row].append((candidate[0] / number**options.length_penalty, candidate[1]))
                elif len(alive) < width:
                    alive.append(candidate)
                    rows.append(first + beam)
            first += len(current)
            ended[row] = sorted(ended[row], key=lambda pair: -pair[0])[:width]
            if len(ended[row]) == width and alive and not _may_win(alive[0][0], number, ended[row][-1][0], options):
                rows = rows[: len(rows) - len(alive)]
                alive = []
            beams[row] = alive
        rows = np.array(rows, "int64")
        if not len(rows):
            break
    winners = [max(row, key=lambda pair: pair[0])[1] for row in ended]
    longest = max(map(len, winners))
    return np.array([tokens + [search.fill] * (longest - len(tokens)) for tokens in winners], "int64")


def _may_win(score: float, length: int, worst: float, options: Options) -> bool:
    """Return whether a beam can still score higher than `worst`, the worst ended continuation that is kept.

    Its summed log-probability `score` can only decrease. Its length can grow up to the limit, which increases the
    final score if the length penalty is positive.
    """
    reach = options.max_new_tokens if options.length_penalty > 0 else length
    return score / reach**options.length_penalty > worst
