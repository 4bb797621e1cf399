"""The three tasks of transformer_vs_lstm.py: data, models of equal size, and the operations of their training.

A batch is ``(inputs by name, targets)``. Targets of -1 are ignored by the loss and the accuracy. Every training step
draws new rows. Evaluation rows come from other seeds and, for the text, from held-out topics.

Operations are those of the matrix multiplications of one forward pass, 2 per multiply-add, times 3 for training: the
gradients of the inputs and of the weights cost one forward pass each. Softmax, tanh, gates, normalization and embedding
lookups are not counted. Causal attention counts the whole score matrix, because it computes all of it.
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
Draw = Callable[[np.random.Generator, int], Batch]

START, FIRST = 1, 2  # the ids below FIRST are padding and the start token
SYMBOLS = 32
KEYS, VALUES, FILLERS = 32, 32, 16
TOLERANCE = 0.03
LEARNED = 0.3  # loss of a lesson of recall; the logarithm of the number of pairs is that of a guess among them


@dataclass(frozen=True)
class Side:
    """One of the models of a task. `operations` is the number for training on one row."""

    build: Build
    operations: float
    parameters: int


@dataclass(frozen=True)
class Task:
    """A task: functions that return training batches and held-out rows, and the models to compare.

    Attributes:
        lessons: functions like `draw` for easier rows, which are trained first, and the loss at which each is learned.
    """

    name: str
    length: int
    batch: int
    draw: Draw
    held_out: Callable[[int, int], Batch]  # (seed, rows)
    sides: dict[str, Side]
    lessons: tuple[tuple[Draw, float], ...] = ()

    @property
    def key(self) -> str:
        """The name with the length, by which records are found."""
        return f"{self.name} {self.length}"


def matched(parameters: int, make: Callable[[int], keras.Model]) -> int:
    """Return the even width whose model has the number of parameters closest to `parameters`.

    Raises:
        ValueError: the number differs from `parameters` by more than TOLERANCE, relative to it.
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


def reversal(length: int, batch: int, *, width: int = 96, position: str = "sinusoidal", lstm_layers: int = 1) -> Task:
    """Return the task of reversing a row of `length` random symbols with an encoder-decoder."""
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
    """Return the decoder inputs: the start token, and the target without its last token."""
    return np.concatenate([np.full_like(target[:, :1], START), target[:, :-1]], axis=1)


def _by_seed(draw: Draw) -> Callable[[int, int], Batch]:
    return lambda seed, rows: draw(np.random.default_rng(seed), rows)


def recall(pairs: int, batch: int, *, width: int = 128, layers: int = 2, position: str = "learned") -> Task:
    """Return the task of recalling values by their keys in a row of 16 tokens for each of `pairs` keys and values.

    A row begins with the pairs. Then six queries per pair follow at random positions between fillers, each one of the
    keys, and the target at each is its value (multi-query associative recall, Arora et al. 2023, arXiv:2312.04927). The
    lessons before it have 2, 4, … pairs in shorter rows, and as many tokens in a batch, up to four times the rows.
    """
    vocabulary, most = FIRST + KEYS + VALUES + FILLERS, pairs

    def drawing(pairs: int, times: int = 1) -> Draw:
        length, queries, gaps = 16 * pairs, 6 * pairs, 14 * pairs

        def draw(rng: np.random.Generator, rows: int) -> Batch:
            rows *= times
            keys = rng.permuted(np.tile(np.arange(KEYS, dtype="int32"), (rows, 1)), axis=1)[:, :pairs]
            values = rng.integers(0, VALUES, (rows, pairs), dtype="int32")
            ids = rng.integers(FIRST + KEYS + VALUES, vocabulary, (rows, length), dtype="int32")
            targets = np.full((rows, length), -1, "int32")
            ids[:, 0 : 2 * pairs : 2], ids[:, 1 : 2 * pairs : 2] = FIRST + keys, FIRST + KEYS + values
            asked = rng.integers(0, pairs, (rows, queries))
            places = rng.permuted(np.tile(np.arange(gaps), (rows, 1)), axis=1)[:, :queries]
            places = 2 * pairs + np.sort(places, axis=1)
            np.put_along_axis(ids, places, FIRST + np.take_along_axis(keys, asked, 1), 1)
            np.put_along_axis(targets, places, FIRST + KEYS + np.take_along_axis(values, asked, 1), 1)
            return {"input_ids": ids}, targets

        return draw

    draw = drawing(most)
    lessons = tuple((drawing(fewer, min(4, most // fewer)), LEARNED) for fewer in (2, 4, 8, 16) if fewer < most)
    sides = _decoders(vocabulary, 16 * most, width, layers, position, lstm_layers=1)
    return Task("recall", 16 * most, batch, draw, _by_seed(draw), sides, lessons)


def characters(length: int, batch: int, *, width: int = 96, layers: int = 2, position: str = "rotary") -> Task:
    """Return the task of predicting the next character of Python's own reference."""
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
    """Return a GPT, and an LSTM with about as many parameters."""

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
    """Return the multiply-adds of one step of a stack of LSTMs, which have four gates with two multiplications each."""
    return 4 * hidden * (inputs + hidden) + (layers - 1) * 8 * hidden * hidden


def _transformer_operations(width: int, length: int, vocabulary: int) -> float:
    """Return the operations of a forward pass through one encoder layer and one decoder layer.

    Per token, they are 28 width² multiply-adds: projections of three attentions (4 each) and two feed-forward layers (8
    each). Each attention adds 2 length · width for scores and values, and the output head width · vocabulary.
    """
    return 2 * length * (28 * width * width + 3 * 2 * length * width + width * vocabulary)


def _seq2seq_operations(hidden: int, layers: int, length: int, vocabulary: int, attention: bool) -> float:
    half = hidden // 2
    encoder = 2 * _lstm_products(64, half, 1) + (layers - 1) * 2 * 4 * half * (hidden + half)
    each = encoder + _lstm_products(64, hidden, layers) + hidden * vocabulary
    if attention:  # projections of query and keys; scores and weighted sum per position; merge of context and state
        each += 2 * hidden * hidden + 2 * length * hidden + 2 * hidden * hidden
    return 2 * length * each
