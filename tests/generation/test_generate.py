"""Token selection, with simple decoders: search compared with all sequences, samples with their probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from fake_decoder import Fake, Logits
from scipy.stats import chisquare

from attention_zoo.generation.search import generate


def markov(size: int, seed: int = 0, spread: float = 2.0) -> Logits:
    """Return logits that depend on the last two tokens."""
    table = np.random.default_rng(seed).normal(0, spread, (size + 1, size, size))
    return lambda row: table[row[-2] if len(row) > 1 else size, row[-1]]


def remembering(size: int, spread: float = 2.0) -> Logits:
    """Return logits that depend on all tokens."""
    return lambda row: np.random.default_rng([token + 1 for token in row]).normal(0, spread, size)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def by_hand(logits: Logits, row: list[int], new: int, stops: Sequence[int] = (), fill: int = 0) -> list[int]:
    """Decode one row greedily."""
    tokens = list(row)
    for _ in range(new):
        tokens.append(int(np.argmax(logits(tokens))))
        if tokens[-1] in stops:
            break
    return tokens + [fill] * (len(row) + new - len(tokens))


PROMPTS = np.array([[3, 1, 4], [0, 5, 2], [5, 5, 5], [1, 0, 3], [2, 4, 0]])


# ---- greedy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [markov(6), remembering(6)])
def test_greedy(logits: Logits) -> None:
    expected = [by_hand(logits, list(row), 20) for row in PROMPTS]
    actual = generate(Fake(logits), PROMPTS, max_new_tokens=20)
    assert actual.dtype == np.int64 and actual.tolist() == expected
    assert generate(Fake(logits), PROMPTS[0], max_new_tokens=20).tolist() == expected[:1]
    one = generate(Fake(logits), PROMPTS.tolist(), max_new_tokens=20, num_beams=1, length_penalty=7.0)
    assert one.tolist() == expected


def test_greedy_does_not_see_padding() -> None:
    ids = np.array([[9, 9, 3, 1], [3, 1, 9, 9], [3, 9, 9, 1], [5, 3, 0, 1]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]])
    new = generate(Fake(remembering(6)), ids, mask, max_new_tokens=8)
    assert (new[:, :4] == ids).all(), "the prompt comes back as it was given"
    expected = by_hand(remembering(6), [3, 1], 8)[2:]
    assert new[:3, 4:].tolist() == [expected] * 3 and new[3, 4:].tolist() != expected


@pytest.mark.parametrize(
    ("given", "eos", "pad", "stops", "fill"),
    [
        (2, None, 5, [2], 5),
        ([2], 0, 5, [2], 5),
        ([2, 4], None, 5, [2, 4], 5),
        (np.array([4, 2]), None, None, [2, 4], 4),  # no pad token: filled with the first stop token
        (None, 2, 5, [2], 5),  # the decoder's own stop token
        (None, 2, None, [2], 2),
        ([], 2, 5, [], 5),  # an empty list disables it
        (None, None, 5, [], 5),
        (2, None, 0, [2], 0),
    ],
)
def test_stop_tokens(given: Any, eos: Any, pad: Any, stops: list[int], fill: int) -> None:
    decoder = Fake(markov(6, seed=3), eos=eos, pad=pad)
    actual = generate(decoder, PROMPTS, max_new_tokens=30, stop_tokens=given)
    full = [by_hand(decoder.logits, list(row), 30, stops, fill) for row in PROMPTS]
    lengths = [next((i for i in range(3, 33) if row[i] in stops), 32) + 1 for row in full]
    assert (len(set(lengths)) > 1) == bool(stops), "rows should end at different times, or not at all"
    assert actual.tolist() == [row[: max(lengths)] for row in full]
    assert decoder.steps == max(lengths) - 4 and decoder.room == 30


def test_no_new_tokens() -> None:
    assert generate(Fake(markov(6)), PROMPTS, max_new_tokens=0).tolist() == PROMPTS.tolist()
    assert generate(Fake(markov(6), start=4), PROMPTS, max_new_tokens=0).tolist() == [[4]] * 5


@pytest.mark.parametrize("stops", [[], [2], [1, 4]], ids=str)
def test_decoders_that_choose_by_themselves(stops: list[int]) -> None:
    """If no option needs the logits, a decoder's own greedy loop is asked for several tokens at once."""

    class Ahead(Fake):
        def greedy(self, tokens: np.ndarray, count: int) -> np.ndarray:
            asked.append(count)
            columns = [tokens]
            for _ in range(count):
                columns.append(self.step(columns[-1]).argmax(-1))
            return np.stack(columns[1:], axis=1)

    asked: list[int] = []
    logits = markov(6, seed=3)
    for new in (1, 2, 17, 18, 40):
        options: Any = {"max_new_tokens": new, "stop_tokens": stops}
        expected = generate(Fake(logits, pad=0), PROMPTS, **options).tolist()
        asked.clear()
        assert generate(Ahead(logits, pad=0), PROMPTS, **options).tolist() == expected
        assert sum(asked) <= new - 1 and (stops or sum(asked) == new - 1)
    asked.clear()
    options = {"max_new_tokens": 20, "stop_tokens": stops}
    drawn: Any = {"temperature": 1.0, "seed": 1}
    for more in (drawn, {"repetition_penalty": 1.2}, {"callback": lambda _: None}, {"num_beams": 2}):
        expected = generate(Fake(logits, pad=0), PROMPTS, **options, **more).tolist()
        assert generate(Ahead(logits, pad=0), PROMPTS, **options, **more).tolist() == expected and not asked


def test_start_token() -> None:
    """An encoder-decoder's target begins with the start token, and `max_length` applies to the target alone."""
    decoder = Fake(remembering(6), start=4, eos=2, pad=0, max_length=9)
    rows = [by_hand(remembering(6), [*row, -1, 4], 8, [2])[4:] for row in PROMPTS]
    longest = max(len(row) if 2 not in row else row.index(2) + 1 for row in rows)
    assert generate(decoder, PROMPTS, max_new_tokens=8).tolist() == [row[:longest] for row in rows]
    with pytest.raises(ValueError, match="max_new_tokens: got 9 after 1 tokens; accepted: 9 together"):
        generate(decoder, PROMPTS, max_new_tokens=9)


# ---- beam search ---------------------------------------------------------------------------------------------------

PENALTIES = [1.0, 0.0, 0.5, 2.0, -1.0]


def score(logits: Logits, prompt: list[int], new: Sequence[int], penalty: float) -> float:
    total = sum(log_softmax(logits([*prompt, *new[:i]]))[token] for i, token in enumerate(new))
    return total / len(new) ** penalty


def exhaustive(logits: Logits, prompt: list[int], size: int, new: int, stops: Sequence[int], penalty: float) -> Any:
    """Return the best of all sequences that end with their first stop token or have `new` tokens, and its score."""
    every = itertools.chain.from_iterable(itertools.product(range(size), repeat=n) for n in range(1, new + 1))
    ended = [s for s in every if not set(s[:-1]) & set(stops) and (s[-1] in stops or len(s) == new)]
    best = max(ended, key=lambda s: score(logits, prompt, s, penalty))
    return list(best), score(logits, prompt, best, penalty)


def cut(row: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Remove the tokens after the first stop token."""
    return list(row[: next((i + 1 for i, token in enumerate(row) if token in stops), len(row))])


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("stops", [[], [1], [3, 0]], ids=str)
def test_wide_beams_find_the_best_of_all_sequences(stops: list[int], penalty: float) -> None:
    lengths = set()
    for seed in range(8):
        logits, prompt = markov(4, seed), [seed % 4, 2]
        best, top = exhaustive(logits, prompt, 4, 4, stops, penalty)
        options: Any = {"max_new_tokens": 4, "stop_tokens": stops, "length_penalty": penalty, "early_stopping": "never"}
        found = generate(Fake(logits), [prompt], num_beams=64, **options)[0, 2:].tolist()
        assert found == best
        lengths.add(len(found))
        for width in (2, 3):
            decoder = Fake(logits)
            found = cut(generate(decoder, [prompt], num_beams=width, **options)[0, 2:].tolist(), stops)
            assert score(logits, prompt, found, penalty) <= top + 1e-12
            assert (*prompt, *found[:-1]) in decoder.asked, "its rows were never these tokens"
    assert len(lengths) > 1 or not stops


def beams(logits: Logits, prompt: list[int], width: int, new: int, stops: Sequence[int], penalty: float) -> list[int]:
    """Run beam search by its definition.

    In each step, all continuations are sorted. Those of the first `width` that end are finished, and the first `width`
    that do not end are continued, up to the last step.
    """
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for number in range(1, new + 1):
        every = [
            (total + chance, [*tokens, token])
            for total, tokens in alive
            for token, chance in enumerate(log_softmax(logits([*prompt, *tokens])))
        ]
        every.sort(key=lambda pair: -pair[0])
        ends = [pair[1][-1] in stops or number == new for pair in every]
        ended += [(s / number**penalty, t) for (s, t), end in zip(every[:width], ends, strict=False) if end]
        alive = [pair for pair, end in zip(every, ends, strict=True) if not end][:width]
    return max(ended, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("stops", [[], [1], [3, 0], [0, 1, 2, 4]], ids=str)
@pytest.mark.parametrize("width", [2, 3, 5])
def test_narrow_beams_against_their_definition(width: int, stops: list[int]) -> None:
    """Every logit depends on all previous tokens, so that a wrong row order would be detected."""
    logits, different = remembering(6, spread=1.0), 0
    for penalty in PENALTIES:
        options: Any = {"max_new_tokens": 7, "stop_tokens": stops, "length_penalty": penalty, "early_stopping": "never"}
        expected = [beams(logits, list(row), width, 7, stops, penalty) for row in PROMPTS]
        found = generate(Fake(logits, pad=5), PROMPTS, num_beams=width, **options)[:, 3:]
        assert [cut(list(row), stops) for row in found] == expected
        longest = max(map(len, expected))
        assert found.tolist() == [row + [5] * (longest - len(row)) for row in expected]
        for row, alone in zip(PROMPTS, expected, strict=True):
            assert generate(Fake(logits), [row], num_beams=width, **options)[0, 3:].tolist() == alone
        different += sum(
            a != cut(by_hand(logits, list(r), 7, stops)[3:], stops) for a, r in zip(expected, PROMPTS, strict=True)
        )
    assert different, "no better than greedy"


def test_beams_stop_when_nothing_can_win() -> None:
    """Two finished beams have nearly all the probability, so that search ends before the limit of 50 steps."""
    decoder = Fake(lambda row: np.array([0.0, 9.0, 8.0, -9.0]), pad=0)
    options: Any = {"max_new_tokens": 50, "num_beams": 2, "stop_tokens": [1, 2], "length_penalty": 0.0}
    assert generate(decoder, [[0]], **options).tolist() == [[0, 1]]
    assert decoder.steps <= 1


def test_beams_with_repetition_penalty() -> None:
    """The penalty multiplies log-probabilities; it applies to the prompt's tokens but not to its padding."""
    ids, mask, different = np.array([[4, 3, 1]]), np.array([[0, 1, 1]]), 0
    options: Any = {"max_new_tokens": 4, "num_beams": 125}
    for seed in range(4):
        base = markov(5, seed)

        def total(new: Sequence[int], base: Logits = base) -> float:
            rows = [[3, 1, *new[:i]] for i in range(4)]
            scores = [hugging_face(log_softmax(base(row)), row, 1.7) for row in rows]
            return sum(own[token] for own, token in zip(scores, new, strict=True))

        found = generate(Fake(base), ids, mask, repetition_penalty=1.7, **options)[0, 3:].tolist()
        assert found == list(max(itertools.product(range(5), repeat=4), key=total))
        different += (
            found != exhaustive(lambda row, base=base: hugging_face(base(row), row, 1.7), [3, 1], 5, 4, [], 1)[0]
        )
    assert different, "the same as with penalized logits"


# ---- sampling ------------------------------------------------------------------------------------------------------


def hugging_face(logits: np.ndarray, tokens: Sequence[int], penalty: float) -> np.ndarray:
    """Apply the penalty as transformers' ``RepetitionPenaltyLogitsProcessor`` does."""
    logits = logits.copy()
    for token in set(tokens):
        logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    return logits


def chances(logits: np.ndarray, temperature: float, top_k: Any = None, top_p: Any = None, min_p: Any = None) -> Any:
    """Compute the probabilities from the definitions, one filter after the other."""
    p = np.exp(logits / temperature)
    p = p / p.sum()
    if top_k:
        p = np.where(p >= sorted(p)[-min(top_k, len(p))], p, 0.0)
        p = p / p.sum()
    if top_p:
        order = sorted(range(len(p)), key=lambda token: -p[token])
        count = next((n for n in range(1, len(p) + 1) if p[order[:n]].sum() >= top_p), len(p))
        p = np.array([chance if token in order[:count] else 0.0 for token, chance in enumerate(p)])
        p = p / p.sum()
    if min_p:
        p = np.where(p >= min_p * p.max(), p, 0.0)
    return p / p.sum()


def agree(tokens: np.ndarray, expected: np.ndarray) -> None:
    counts = np.bincount(tokens.reshape(-1), minlength=len(expected))
    assert counts[expected == 0].sum() == 0, "drawn from outside what is allowed"
    often = expected * counts.sum() >= 5
    both = [np.append(x[often], x[~often].sum()) for x in (counts, expected * counts.sum())]
    enough = both[1] > 0
    if enough.sum() > 1:
        assert chisquare(both[0][enough], both[1][enough]).pvalue > 1e-3


FILTERS: list[dict[str, Any]] = [
    dict(zip(("temperature", "top_k", "top_p", "min_p"), values, strict=False))
    for values in [
        (1.0,), (0.4,), (2.5,), (1, 1), (1.0, 4), (1.0, 99), (1.0, None, 0.5), (1.0, None, 0.9), (1.0, None, 1e-9),
        (1.0, None, 1.0), (1.0, None, None, 0.2), (1.0, None, None, 0), (1.0, None, None, 1.0), (3.0, 7, 0.8),
        (2.0, None, 0.9, 0.4), (2.0, 8, 0.95, 0.3),
    ]
]  # fmt: skip


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_draws_follow_their_chances(options: dict[str, Any]) -> None:
    logits = np.random.default_rng(5).normal(0, 1.5, 12)
    expected = chances(logits, **options)
    tokens = generate(Fake(lambda _: logits), np.zeros((4000, 1), int), max_new_tokens=2, seed=1, **options)
    for column in (1, 2):
        agree(tokens[:, column], expected)
    assert len(np.unique(tokens[:, 1:])) == (expected > 1e-3).sum() or (expected[expected > 0] < 1e-3).any()


def test_draws_along_a_row() -> None:
    """The probabilities in every step depend on the previous token, within a row and across rows."""
    table = np.random.default_rng(2).normal(0, 1.5, (5, 5))
    tokens = generate(
        Fake(lambda row: table[row[-1]]), np.zeros((40, 1), int), max_new_tokens=300, temperature=1.3, top_k=4, seed=2
    )
    for token in range(5):
        agree(tokens[:, 1:][tokens[:, :-1] == token], chances(table[token], 1.3, 4))


def test_ties() -> None:
    """Of equally likely tokens at the limit, top_k keeps all, as Hugging Face does, and top_p as few as possible."""
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.2, 0.2]))
    ids: Any = np.zeros((2000, 1), int)
    draws = {
        name: generate(Fake(lambda _: logits), ids, max_new_tokens=1, temperature=1.0, seed=3, **{name: value})
        for name, value in {"top_k": 2, "top_p": 0.4, "min_p": 0.6}.items()
    }
    agree(draws["top_k"][:, 1], np.array([0, 2, 3, 2, 2]) / 9)
    agree(draws["top_p"][:, 1], np.array([0, 0.4, 0.6, 0, 0]))
    agree(draws["min_p"][:, 1], np.array([0, 2, 3, 2, 2]) / 9)


@pytest.mark.parametrize("penalty", [1.0, 1.3, 5.0, 0.5])
@pytest.mark.parametrize("start", [None, 4])
def test_repetition_penalty(penalty: float, start: int | None) -> None:
    """The result equals that of Hugging Face; neither padding nor the source of an encoder counts."""
    base = markov(8, seed=6)
    ids, mask = (
        np.array([[7, 6, 3, 1], [2, 0, 7, 7], [5, 7, 1, 0]]),
        np.array([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]]),
    )
    new = generate(Fake(base, start=start), ids, mask, max_new_tokens=12, repetition_penalty=penalty)
    for row, keep, found in zip(ids, mask, new, strict=True):
        seen = [start] if start is not None else list(row[keep == 1])
        first = len(seen)
        last = list(row[keep == 1]) if start is None else [*row[keep == 1], -1, start]
        for _ in range(12):
            token = int(np.argmax(hugging_face(base(last), seen, penalty)))
            seen, last = [*seen, token], [*last, token]
        assert found[-12:].tolist() == seen[first:]
    options: Any = {"max_new_tokens": 1, "temperature": 2.0, "top_k": 6, "seed": 0, "repetition_penalty": penalty}
    tokens = generate(Fake(base), [[7, 6, 3, 1]] * 3000, [[0, 0, 1, 1]] * 3000, **options)
    agree(tokens[:, 4], chances(hugging_face(base([3, 1]), [3, 1], penalty), 2.0, 6))


def test_seeds() -> None:
    def draw(ids: Any, seed: int | None, **options: Any) -> list[list[int]]:
        return generate(Fake(markov(9)), ids, max_new_tokens=16, temperature=1.5, seed=seed, **options).tolist()

    same = [[1, 2]] * 4
    first = draw(same, 7)
    assert draw(same, 7) == first and draw(same, 8) != first
    assert len({tuple(row) for row in first}) == 4, "equal rows draw for themselves"
    assert draw(same[:2], 7) == first[:2], "the rows behind do not matter"
    others = draw([[1, 2], [5, 0], [1, 2], [8, 8]], 7)
    assert [others[0], others[2]] == [first[0], first[2]], "nor what the others are"
    stopped = draw(same, 7, stop_tokens=[first[0][4]])
    for row, full in zip(stopped, first, strict=True):
        assert cut(row, [first[0][4]]) == cut(full, [first[0][4]])[: len(row)], "nor when the others end"
    assert draw(same, None) != draw(same, None)


# ---- stop strings and callbacks ------------------------------------------------------------------------------------


class Letters:
    """A tokenizer whose tokens are two letters each."""

    def decode(self, ids: list[int]) -> str:
        assert all(type(token) is int for token in ids)
        return "".join(["ab", "cd", "ef", "ga", "bc", "de"][token] for token in ids)


FOLLOW: Logits = lambda row: np.eye(6)[(row[-1] + 1) % 6]  # repeats "abcdefgabcde"  # noqa: E731


def test_stop_strings() -> None:
    """A stop string is found across two tokens and only in new text; one row stops while the other continues."""
    options: Any = {"max_new_tokens": 9, "tokenizer": Letters(), "stop_tokens": []}
    prompts = [[0, 1], [2, 3]]  # abcd, efga
    expected = [[0, 1, 2, 3, 5, 5, 5, 5], [2, 3, 4, 5, 0, 1, 2, 3]]
    for strings in ("fg", ["fg"], ("never", "fg"), ["efga", "fg"]):
        assert generate(Fake(FOLLOW, pad=5), prompts, stop_strings=strings, **options).tolist() == expected
    either = generate(Fake(FOLLOW, pad=5), prompts, stop_strings=["fg", "dea"], **options)
    assert either.tolist() == [[0, 1, 2, 3, 5], [2, 3, 4, 5, 0]]
    bare = generate(Fake(FOLLOW), prompts, stop_strings="fg", **options)
    assert bare[0, 4:].tolist() == [0] * 4, "0, where there is neither pad nor stop token"
    never = generate(Fake(FOLLOW), prompts, stop_strings="xyz", **options)
    assert never.tolist() == [by_hand(FOLLOW, row, 9) for row in prompts]
    with_token = generate(Fake(FOLLOW, pad=4), prompts, stop_strings="fg", **{**options, "stop_tokens": 5})
    assert with_token.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
    drawn = generate(Fake(FOLLOW, pad=5), prompts, stop_strings="fg", temperature=0.01, **options)
    assert drawn.tolist() == expected


def test_callback_gets_every_column() -> None:
    columns: list[np.ndarray] = []
    found = generate(Fake(FOLLOW, pad=5), [[0], [3]], max_new_tokens=7, stop_tokens=2, callback=columns.append)
    assert np.stack(columns, axis=1).tolist() == found[:, 1:].tolist() == [[1, 2, 5, 5, 5], [4, 5, 0, 1, 2]]

    def spoil(tokens: np.ndarray) -> None:
        tokens[:] = 0

    assert generate(Fake(FOLLOW), [[0]], max_new_tokens=3, callback=spoil).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("end", [lambda tokens: tokens[0] == 3, lambda tokens: bool(tokens[0] == 3)])
def test_callback_ends_everything(end: Callable[[np.ndarray], Any]) -> None:
    """NumPy's True, as returned by a comparison of tokens, also ends generation."""
    decoder = Fake(FOLLOW)
    assert generate(decoder, [[0], [1]], max_new_tokens=9, callback=end).tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert decoder.steps == 2


# ---- invalid arguments ---------------------------------------------------------------------------------------------

WRONG = {
    "max_new_tokens": [-1, "5", True, None, 2.0],
    "temperature": [-0.1, "1", True, None, math.nan],
    "top_k": [0, -1, "3", True, 2.0],
    "top_p": [0, 0.0, -0.1, 1.1, "0.5", True, math.nan],
    "min_p": [-0.1, 1.1, "0.5", True, math.nan],
    "repetition_penalty": [0, -1.0, "1", True, None, math.nan],
    "num_beams": [0, -2, "2", True, None, 2.0],
    "length_penalty": ["1", True, None, math.nan],
    "seed": [-1, "1", True, 1.5],
    "stop_tokens": ["a", "2", True, 1.5, [0.5], [None], [[1], [2, 3]]],
    "stop_strings": [5, [5], True, "", [""], ["a", ""], [None]],
    "callback": ["print", 3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_values(name: str, value: Any) -> None:
    needed = {"temperature": 1.0} if name in ("top_k", "top_p", "min_p") else {}
    decoder = Fake(markov(6))
    with pytest.raises(ValueError, match=rf"^{name}: got "):
        generate(decoder, PROMPTS, tokenizer=Letters(), **{**needed, name: value})
    assert not decoder.asked, "refused before anything is computed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"top_q": 1},
            r"options: got \['top_q'\]; did you mean \['top_p', 'top_k', 'top_h'\]\? accepted: \['max_new_tokens'",
        ),
        ({"top_k": 5}, r"temperature: got 0 .*top_k"),
        ({"top_p": 0.5, "min_p": 0.1}, r"temperature: got 0 .*top_p.*min_p"),
        ({"num_beams": 2, "callback": print}, "num_beams: got 2 with .*callback"),
        ({"num_beams": 2, "temperature": 0.5}, "num_beams: got 2 with temperature"),
        ({"num_beams": 2, "stop_strings": "a", "tokenizer": Letters()}, "num_beams: got 2 with .*stop_strings"),
        ({"stop_strings": "a"}, "tokenizer: got None with stop_strings"),
        ({"stop_strings": ["a"], "tokenizer": "bpe"}, "tokenizer: got 'bpe' with stop_strings"),
        ({"max_new_tokens": 18}, "max_new_tokens: got 18 after 3 tokens; accepted: 20 together"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    decoder = Fake(markov(6), max_length=20)
    with pytest.raises(ValueError, match=message):
        generate(decoder, PROMPTS, **options)
    assert not decoder.asked
    assert generate(decoder, PROMPTS, max_new_tokens=17).shape == (5, 20)


WRONG_IDS = [[[1.0, 2.0]], [[True, False]], [["a"]], [[]], [], 3, [[[1]]], [[1, 2], [3]]]
ONE = [1, 1]
WRONG_MASKS = [
    [[1], [1]],
    [ONE],
    ONE,
    [[1, 2], ONE],
    [[-1, 1], ONE],
    [["a", "b"], ["c", "d"]],
    [ONE, [0, 0]],
    [ONE, [0]],
]


@pytest.mark.parametrize("ids", WRONG_IDS, ids=str)
def test_wrong_ids(ids: Any) -> None:
    with pytest.raises(ValueError, match=r"^input_ids: got "):
        generate(Fake(markov(6)), ids)


@pytest.mark.parametrize("mask", WRONG_MASKS, ids=str)
def test_wrong_masks(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"^attention_mask: got "):
        generate(Fake(markov(6)), [[1, 2], [3, 4]], mask)
