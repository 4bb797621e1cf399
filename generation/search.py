"""Text, one token at a time: greedy, sampled or by beam search. NumPy only, and the same for every runtime.

What computes the next token's logits is a :class:`Decoder`: a Keras model, an ONNX file, a LiteRT file. Everything else
is here, once, so that the same options and the same seed choose the same tokens wherever the logits come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..checks import is_integer, is_number, meant, plain
from ..signature import as_array

Array = np.ndarray
AHEAD = 16  # tokens that a compiled loop chooses before anybody looks whether they ended


class Decoder(Protocol):
    """Next-token logits of a batch of rows, with a memory of what was fed.

    It may also have ``greedy(tokens, count)``: feed `tokens` (rows,) and go on by itself with the likeliest, giving
    (rows, count) tokens. Where nothing else was asked for, that saves the way from the runtime to here and back.
    And it may have ``ended(rows)``: of these rows, a boolean for each, no logits are read any more.

    Attributes:
        start_token: what a target begins with (an encoder reads the prompt), or None where it continues the prompt.
        eos_token: ends a row, or None.
        pad_token: fills rows that ended; None for the stop token.
        max_length: greatest number of tokens in a row, prompt included, or of a target.
    """

    start_token: int | None
    eos_token: int | None
    pad_token: int | None
    max_length: int

    def prompt(self, input_ids: Array, attention_mask: Array, room: int) -> Array:
        """(rows, vocab_size) logits after the prompt; `room` tokens will follow at the most."""
        ...

    def step(self, tokens: Array) -> Array:
        """(rows, vocab_size) logits after one more token (rows,) in each row."""
        ...

    def select(self, rows: Array) -> None:
        """Go on with these rows, in this order; a row may be left out or come more than once."""
        ...


@dataclass(frozen=True)
class Options:
    """How tokens are chosen. See ``generate``."""

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


def generate(decoder: Decoder, input_ids: Any, attention_mask: Any = None, **options: Any) -> Array:
    """Continue every row of a batch.

    Args:
        input_ids: (batch, prompt) integers; or (prompt,), for a batch of one; or what a tokenizer gives, a mapping.
        attention_mask: (batch, prompt), 1 = keep: prompts of unequal lengths, padded on either side.
        max_new_tokens: how many at the most.
        temperature: 0 takes the likeliest token; above 0 draws from the softmax of logits / temperature.
        top_k: draw from so many likeliest tokens only.
        top_p: draw from the fewest likeliest tokens that have this probability together (arXiv:1904.09751).
        min_p: draw from tokens at least this many times as likely as the likeliest (arXiv:2407.01082).
        repetition_penalty: above 1 makes tokens of the prompt and the continuation less likely (arXiv:1909.05858).
        num_beams: above 1 keeps so many continuations and returns the best one.
        length_penalty: a beam scores its summed log-probability over its length to this power.
        stop_tokens: each ends its row. Default: the model's end token, if it has one; [] for none.
        stop_strings: each ends its row once it stands in the decoded new text; needs `tokenizer`.
        tokenizer: anything with ``decode(list of ids)``.
        callback: called with every step's new tokens (batch,) as they come; ends everything by returning True.
        seed: of the draws; the same seed draws the same tokens, in any runtime. Every row has draws of its own.

    Returns:
        (batch, prompt + new) int64 ids; of an encoder-decoder (batch, 1 + new), behind the start token. A row that
        ended is filled with the model's pad token (or its stop token, where it has none).

    Raises:
        ValueError: an option or input that is not accepted, a row without any token, or more tokens than the model
            has positions for.
    """
    search = _Search(decoder, input_ids, attention_mask, options)
    if not search.options.max_new_tokens:
        return search.prompt
    beams = search.options.num_beams > 1
    new = _beams(search) if beams else np.stack(list(_rows(search)), axis=1).astype("int64")
    return np.concatenate([search.prompt, new], axis=1)


def stream(decoder: Decoder, input_ids: Any, attention_mask: Any = None, **options: Any) -> Iterator[Array]:
    """As ``generate``, one step after the other: the new tokens (batch,) of each, as soon as they are chosen.

    Raises:
        ValueError: as ``generate``, at once; and `num_beams`, which know no token before the last.
    """
    search = _Search(decoder, input_ids, attention_mask, options)
    if search.options.num_beams > 1:
        raise ValueError(f"num_beams: got {search.options.num_beams} for a stream; accepted: 1")
    return _rows(search, ahead=False) if search.options.max_new_tokens else iter(())


class _Search:
    """One request: its checked options and inputs."""

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
        self.prompt, self.real = self.ids, self.mask  # what new tokens stand behind
        if decoder.start_token is not None:
            self.prompt = np.full((len(self.ids), 1), decoder.start_token, "int64")
            self.real = np.ones_like(self.prompt)

    @property
    def fill(self) -> int:
        """What stands in a row behind its end."""
        if self.decoder.pad_token is not None:
            return self.decoder.pad_token
        return int(self.stops[0]) if len(self.stops) else 0

    def first(self) -> Array:
        """(batch, vocab_size) logits behind the prompt."""
        return self.decoder.prompt(self.ids, self.mask, self.options.max_new_tokens)


def stop_tokens(tokens: Any) -> Array:
    """(stop tokens,) integers."""
    found = as_array("stop_tokens", [] if tokens is None else tokens).reshape(-1)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"stop_tokens: got {tokens!r}; accepted: an integer, integers, or [] for none")
    return found.astype("int64")


def _inputs(input_ids: Any, attention_mask: Any) -> tuple[Array, Array]:
    if isinstance(input_ids, Mapping):  # what a tokenizer gives
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
    """Greedy or sampled: the new tokens (batch,), step by step.

    Args:
        ahead: a decoder that can choose by itself may do so for some steps at once.
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
    chosen: list[Array] = []  # by a decoder that chooses by itself
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
    """(batch,) tokens."""
    options = search.options
    scores = penalised(logits, search.prompt, search.real, columns, options.repetition_penalty)
    if not options.temperature:
        return scores.argmax(axis=-1)
    chances = probabilities(scores, options.temperature, options.top_k, options.top_p, options.min_p)
    return np.array([_draw(draw, row) for draw, row in zip(draws, chances, strict=True)])


def penalised(logits: Array, prompt: Array, real: Array, columns: Sequence[Array], penalty: float) -> Array:
    """`logits` with those of tokens that stand in their row already moved away from the top."""
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
    """(rows, vocab_size) float64 chances; each filter works on what the one before left, as in Hugging Face."""
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
    """The fewest likeliest tokens that have `top_p` together, of equal ones the first.

    What has `top_p` is nearly always among a few hundred or thousand; the rest of the vocabulary is not sorted.
    """
    for count in (256, 4096, len(chances)):
        least = np.partition(chances, -count)[-count] if count < len(chances) else 0.0
        among = np.flatnonzero(chances >= max(least, 5e-324))  # with all that equal the last; none without a chance
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
    """The best of `num_beams` continuations of every row: (batch, new) tokens.

    So many candidates are looked at that those that end leave enough to go on with. A row is done when no beam can
    still beat its best ended ones.
    """
    decoder, options, stops, logits = search.decoder, search.options, search.stops, search.first()
    prompt, real = search.prompt, search.real
    batch, width = len(prompt), options.num_beams
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]
    beams = [[(0.0, list[int]())] for _ in range(batch)]  # summed log-probability, tokens
    rows = np.arange(batch)  # of `logits`, beam after beam
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
    """Could a beam of this summed log-probability still enter the ended ones? Its sum can only fall; its length may
    rise to the limit, which helps where the penalty is positive."""
    reach = options.max_new_tokens if options.length_penalty > 0 else length
    return score / reach**options.length_penalty > worst
