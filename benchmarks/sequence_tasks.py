"""The three tasks of transformer_vs_lstm.py: their data, the models of both sides at one size, their operations.

A batch is ``(inputs by name, targets)``; a target of -1 is not asked and not counted. Training rows are drawn anew at
every step; what is measured comes from other seeds and, for the text, from topics that training never shows.

Operations are those of the matrix products of one forward pass, 2 per multiply-and-add, times 3 for training (the
gradients of the inputs and of the weights cost one forward pass each). Softmax, tanh, gates and norms are not counted,
nor are lookups. A causal attention counts the whole square, as it computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import attention_zoo as az
from attention_zoo.demo import text

Batch = tuple[dict[str, np.ndarray], np.ndarray]
Build = Callable[[], keras.Model]

START, FIRST = 1, 2  # the ids below FIRST are padding and the start token
SYMBOLS = 32
PAIRS, QUERIES, KEYS, VALUES, FILLERS = 16, 96, 32, 32, 16
TOLERANCE = 0.03


@dataclass(frozen=True)
class Side:
    """One model of a task. `operations` are those of training on one row."""

    build: Build
    operations: float
    parameters: int


@dataclass(frozen=True)
class Task:
    name: str
    length: int
    batch: int
    draw: Callable[[np.random.Generator, int], Batch]
    held_out: Callable[[int, int], Batch]  # (seed, rows)
    sides: dict[str, Side]

    @property
    def key(self) -> str:
        return f"{self.name} {self.length}"


def matched(parameters: int, make: Callable[[int], keras.Model]) -> int:
    """The width, an even number, whose model comes nearest to `parameters`.

    Raises:
        ValueError: the nearest is more than TOLERANCE away.
    """
    low, high = 8, 2048
    while high - low > 2:
        middle = (low + high) // 4 * 2
        low, high = (middle, high) if make(middle).count_params() < parameters else (low, middle)
    best = min((low, high), key=lambda width: abs(make(width).count_params() - parameters))
    found = make(best).count_params()
    if abs(found / parameters - 1) > TOLERANCE:
        raise ValueError(f"parameters: got {found}; accepted: {parameters} within {TOLERANCE:.0%}")
    return best


def _side(make: Callable[[int], keras.Model], width: int, operations: float) -> Side:
    return Side(lambda: make(width), 3 * operations, make(width).count_params())


# Reversal: an encoder reads the row, a decoder writes it backwards.


def reversal(length: int, batch: int, *, width: int = 96, position: str = "sinusoidal", lstm_layers: int = 1) -> Task:
    vocabulary = SYMBOLS + FIRST

    def draw(rng: np.random.Generator, rows: int) -> Batch:
        source = rng.integers(FIRST, vocabulary, (rows, length), dtype="int32")
        target = source[:, ::-1]
        return {"input_ids": source, "decoder_input_ids": _behind_start(target)}, np.ascontiguousarray(target)

    def transformer(hidden: int) -> keras.Model:
        sizes: dict[str, Any] = {"vocab_size": vocabulary, "num_layers": 1, "num_heads": 4, "hidden_dim": hidden}
        return az.zoo.Transformer(**sizes, max_length=length, position=position, norm_first=True, dropout=0.0)

    def recurrent(attention: str | None) -> Callable[[int], keras.Model]:
        sizes: dict[str, Any] = {"vocab_size": vocabulary, "num_layers": lstm_layers, "embedding_dim": 64}
        return lambda hidden: az.zoo.Seq2Seq(**sizes, hidden_dim=hidden, attention=attention, max_length=length)

    size = transformer(width).count_params()
    sides = {"Transformer": _side(transformer, width, _transformer_operations(width, length, vocabulary))}
    for name, attention in (("LSTM", None), ("LSTM + additive attention", "additive")):
        hidden = matched(size, recurrent(attention))
        operations = _seq2seq_operations(hidden, lstm_layers, length, vocabulary, attention is not None)
        sides[name] = _side(recurrent(attention), hidden, operations)
    return Task("reversal", length, batch, draw, _by_seed(draw), sides)


def _behind_start(target: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full_like(target[:, :1], START), target[:, :-1]], axis=1)


def _by_seed(draw: Callable[[np.random.Generator, int], Batch]) -> Callable[[int, int], Batch]:
    return lambda seed, rows: draw(np.random.default_rng(seed), rows)


# Recall: pairs of a key and a value, then keys again between fillers; at each, its value is asked.


def recall(length: int, batch: int, *, width: int = 96, layers: int = 2, position: str = "rotary") -> Task:
    """`length` steps: PAIRS pairs first, then in every other place a key whose value is asked, with fillers between."""
    vocabulary = FIRST + KEYS + VALUES + FILLERS
    gaps = length - 2 * PAIRS

    def draw(rng: np.random.Generator, rows: int) -> Batch:
        keys = rng.permuted(np.tile(np.arange(KEYS, dtype="int32"), (rows, 1)), axis=1)[:, :PAIRS]
        values = rng.integers(0, VALUES, (rows, PAIRS), dtype="int32")
        ids = rng.integers(FIRST + KEYS + VALUES, vocabulary, (rows, length), dtype="int32")
        targets = np.full((rows, length), -1, "int32")
        ids[:, 0 : 2 * PAIRS : 2], ids[:, 1 : 2 * PAIRS : 2] = FIRST + keys, FIRST + KEYS + values
        asked = rng.integers(0, PAIRS, (rows, QUERIES))
        places = 2 * PAIRS + np.sort(rng.permuted(np.tile(np.arange(gaps), (rows, 1)), axis=1)[:, :QUERIES], axis=1)
        np.put_along_axis(ids, places, FIRST + np.take_along_axis(keys, asked, 1), 1)
        np.put_along_axis(targets, places, FIRST + KEYS + np.take_along_axis(values, asked, 1), 1)
        return {"input_ids": ids}, targets

    sides = _decoders(vocabulary, length, width, layers, position, lstm_layers=1)
    return Task("recall", length, batch, draw, _by_seed(draw), sides)


# Characters: the next one, in Python's own reference.


def characters(length: int, batch: int, *, width: int = 96, layers: int = 2, position: str = "rotary") -> Task:
    train, test = text.topic_split(text.read_topics())
    known = sorted(set("".join(paragraph.text for paragraph in train)))
    ids = {letter: FIRST + i for i, letter in enumerate(known)}

    def encode(paragraphs: list[text.Paragraph]) -> np.ndarray:
        joined = "\n\n".join(text.topic_texts(paragraphs))
        return np.array([ids.get(letter, START) for letter in joined], "int32")

    shown, hidden = encode(train), encode(test)

    def shifted(rows: np.ndarray) -> Batch:
        return {"input_ids": rows[:, :-1]}, np.ascontiguousarray(rows[:, 1:])

    def draw(rng: np.random.Generator, rows: int) -> Batch:
        return shifted(text.crops(shown, rows, length + 1, rng))

    def held_out(seed: int, rows: int) -> Batch:
        tiles = text.tiles(hidden, length + 1)
        return shifted(np.random.default_rng(seed).permutation(tiles)[:rows])

    sides = _decoders(FIRST + len(known), length, width, layers, position, lstm_layers=1)
    return Task("characters", length, batch, draw, held_out, sides)


def _decoders(
    vocabulary: int, length: int, width: int, layers: int, position: str, lstm_layers: int
) -> dict[str, Side]:
    def gpt(hidden: int) -> keras.Model:
        sizes: dict[str, Any] = {"vocab_size": vocabulary, "num_layers": layers, "num_heads": 4, "hidden_dim": hidden}
        return az.zoo.GPT(**sizes, max_length=length, position=position, initializer_range=0.1)

    def lstm(hidden: int) -> keras.Model:
        stack = [keras.layers.LSTM(hidden, return_sequences=True) for _ in range(lstm_layers)]
        ids = keras.Input((None,), dtype="int32", name="input_ids")
        x = keras.layers.Embedding(vocabulary, 64)(ids)
        for layer in stack:
            x = layer(x)
        return keras.Model({"input_ids": ids}, keras.layers.Dense(vocabulary)(x))

    size = gpt(width).count_params()
    hidden = matched(size, lstm)
    forward = length * (layers * (12 * width * width + 2 * length * width) + width * vocabulary)
    steps = length * (_lstm_products(64, hidden, lstm_layers) + hidden * vocabulary)
    return {"Transformer": _side(gpt, width, 2 * forward), "LSTM": _side(lstm, hidden, 2 * steps)}


def _lstm_products(inputs: int, hidden: int, layers: int) -> int:
    """Multiply-and-adds of one step through a stack: four gates, each from the input and from the state."""
    return 4 * hidden * (inputs + hidden) + (layers - 1) * 8 * hidden * hidden


def _transformer_operations(width: int, length: int, vocabulary: int) -> float:
    """One layer each side: 4 + 8 products of the width's square in the encoder, 4 more in the decoder that attends to
    it, and per attention a square of the length, for the scores and for their sum of values."""
    return 2 * length * (28 * width * width + 3 * 2 * length * width + width * vocabulary)


def _seq2seq_operations(hidden: int, layers: int, length: int, vocabulary: int, attention: bool) -> float:
    half = hidden // 2
    encoder = 2 * _lstm_products(64, half, 1) + (layers - 1) * 2 * 4 * half * (hidden + half)
    each = encoder + _lstm_products(64, hidden, layers) + hidden * vocabulary
    if attention:  # projections of both sides, score and sum per pair of places, the join of context and state
        each += 2 * hidden * hidden + 2 * length * hidden + 2 * hidden * hidden
    return 2 * length * each
