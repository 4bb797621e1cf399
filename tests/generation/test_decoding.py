"""Decoding step by step compared with full passes: caches, ``generate`` of every family, and exported files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import attention_zoo as az
from attention_zoo import export
from attention_zoo.generation.keras_decoder import KerasDecoder
from attention_zoo.generation.search import generate
from attention_zoo.layers import DynamicCache, StaticCache
from attention_zoo.layers.cache import causal_context
from attention_zoo.layers.position import POSITIONS
from helpers import ALL_BUT_ONE, FURTHER, VARIANTS, every_variant, numpy, randomise, shared, tiny

TOLERANCE = 1e-4  # relative to max(1, |logit|)
FAMILIES = {"gpt": az.GPT, "transformer": az.zoo.Transformer, "seq2seq": az.zoo.Seq2Seq}
OTHER_HEADS = [("gpt", name) for name in ("backbone", "classifier", "sentence")]
OTHER_HEADS += [("transformer", name) for name in ("encoder", "classifier")]
# Positions by token ids, where a generated padding token counts with a cache only, as in the original.
OTHER_HEADS += [("transformer", "m2m")]
GENERATING = [pair for pair in VARIANTS if pair[0] in FAMILIES and pair not in OTHER_HEADS]
# Without those whose positions number columns, and those with another vocabulary of the target.
CROSS = [pair for pair in GENERATING if pair[0] == "transformer" and pair[1] not in ("bart", "umt5")]
CROSS += [pair for pair in GENERATING if pair[0] == "seq2seq" and pair[1] != "plain"]


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, float]]:
    found = {"cells": 0, "greatest": 0.0}
    yield found
    print(f"\ndecode against forward: cells {found['cells']}, greatest difference {found['greatest']:.1e}")


def compare(actual: np.ndarray, expected: np.ndarray, valid: np.ndarray, figures: Any, cells: int) -> None:
    assert np.isfinite(expected[valid]).all() and np.isfinite(actual[valid]).all()
    difference = float((np.abs(actual - expected) / np.maximum(1, np.abs(expected)))[valid].max())
    figures["greatest"] = max(figures["greatest"], difference)
    figures["cells"] += cells
    assert difference <= TOLERANCE


def padding(side: str, columns: int, pads: range, rng: np.random.Generator) -> np.ndarray:
    """Return a mask with one row per number of padding columns; 1 means keep."""
    mask = np.ones((len(pads), columns), "int32")
    for row, pad in zip(mask, pads, strict=True):
        where = {"left": np.arange(pad), "right": np.arange(columns - pad, columns)}
        row[where[side] if side in where else 1 + rng.permutation(columns - 2)[:pad]] = 0
    return mask


def compacted(mask: np.ndarray) -> np.ndarray:
    """Return the column indices of every row, with the columns to keep first."""
    return np.argsort(mask == 0, axis=1, kind="stable")


# ---- all position encodings, paddings and caches -------------------------------------------------------------------

SLOTS, PROMPT, PADS = 24, 18, range(17)
SIDES = ("left", "right", "interior")
TRAINED = {"factor": 3.0, "original_max_position_embeddings": 10}
SCALINGS: dict[str, dict[str, float]] = {
    "linear": {"factor": 3.0},
    "ntk": {"factor": 3.0},
    "llama3": {**TRAINED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": TRAINED,
}
CASES: dict[str, dict[str, Any]] = {
    **{word: {"position": word} for word in POSITIONS},
    **{kind: {"position": "rotary", "rope_scaling": {"rope_type": kind, **f}} for kind, f in SCALINGS.items()},
    **{f"window-{word}": {"position": word, "sliding_window": 5} for word in ("rotary", "alibi")},
    "grouped-rotary": {"position": "rotary", "num_kv_heads": 2},
    "one-learned": {"position": "learned", "num_kv_heads": 1},
}


@functools.cache
def small_gpt(case: str) -> Any:
    sizes = {"vocab_size": 50, "hidden_dim": 24, "max_length": SLOTS}
    return tiny("gpt", "gpt2", **sizes, **CASES[case])


@functools.cache
def prompts(case: str) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Return tokens, their mask, and the logits of two full passes.

    There is one row per padding side and number of padding columns. The first pass uses the mask; the second has the
    padding moved to the end and uses no mask.
    """
    rng = np.random.default_rng(0)
    mask = np.concatenate([padding(side, PROMPT, PADS, rng) for side in SIDES])
    mask = np.pad(mask, ((0, 0), (0, SLOTS - PROMPT)), constant_values=1)
    ids = rng.integers(0, 50, mask.shape).astype("int32")
    order = compacted(mask)
    moved = numpy(small_gpt(case)(np.take_along_axis(ids, order, 1)))
    alone = np.empty_like(moved)
    np.put_along_axis(alone, order[..., None], moved, 1)
    return ids, mask, (numpy(small_gpt(case)({"input_ids": ids, "attention_mask": mask})), alone)


def empty_state(kind: str, layers: int, rows: int, heads: int, head_dim: int, slots: int) -> list[Any]:
    """Return a state without slots, or with all slots full of garbage."""
    shape = (rows, heads, slots if kind == "static" else 0, head_dim)
    return [(tf.fill(shape, 1e4), tf.fill(shape, -1e4)) for _ in range(layers)]


def traced(function: Callable[..., Any], kind: str, state: Any, *more: Any) -> Any:
    """Compile `function(ids, mask, cache, *more)` once for all lengths, as (ids, mask, state, index, *more)."""

    def spec(tensor: Any) -> Any:
        return tf.TensorSpec((*tensor.shape[:2], tensor.shape[2] or None, *tensor.shape[3:]), tensor.dtype)

    ids = tf.TensorSpec((len(state[0][0]), None), tf.int32)
    rest = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), list(more))
    signature = [ids, ids, tf.nest.map_structure(spec, state), tf.TensorSpec((), tf.int32), *rest]

    def run(ids: Any, mask: Any, state: Any, index: Any, *more: Any) -> Any:
        cache = StaticCache(state, index) if kind == "static" else DynamicCache(state)
        return function(ids, mask, cache, *more), cache.state

    return tf.function(run, input_signature=signature, autograph=False)


def walk(
    step: Any, kind: str, ids: np.ndarray, mask: np.ndarray, state: Any, prompt: int, chunk: int, *more: Any
) -> Any:
    """Return the logits of the prompt in chunks, followed by single tokens up to the last slot."""
    rng, length, outputs, start = np.random.default_rng(1), ids.shape[1], [], 0
    while start < length:
        end = min(start + chunk, prompt) if start < prompt else start + 1
        seen = mask[:, :end]
        if kind == "static":  # mask values of future slots have no influence
            seen = np.concatenate([seen, rng.integers(0, 2, (len(mask), length - end))], axis=1)
        new = tf.constant(ids[:, start:end], tf.int32)
        logits, state = step(new, tf.constant(seen, tf.int32), state, tf.constant(start), *more)
        outputs.append(numpy(logits))
        start = end
    return np.concatenate(outputs, axis=1)


# The fast tests run these, which cover most code paths, with both kinds of cache, and other cases with one kind each.
BOTH = ("grouped-rotary",)


def one_kind(names: Iterable[str], kinds: tuple[str, str] = ("static", "dynamic")) -> list[Any]:
    """Return every name with both kinds; the fast tests have both of ``BOTH``, and one of every second name in turn."""
    return [
        pytest.param(name, kind, id=f"{name}-{kind}", marks=[pytest.mark.slow] * (name not in BOTH and i % 4 != 2 * j))
        for i, name in enumerate(names)
        for j, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(("case", "kind"), one_kind(CASES))
def test_gpt_decode_equals_forward(case: str, kind: str, figures: Any) -> None:
    model = small_gpt(case)
    c, (ids, mask, expected) = model.config, prompts(case)

    def forward(ids: Any, mask: Any, cache: Any) -> Any:
        context = causal_context(tf.shape(ids)[1], mask, None, cache, c.sliding_window)
        return model.head(model.hidden_states(ids, context, cache, training=False))

    state = empty_state(kind, c.num_layers, len(ids), c.num_kv_heads, c.head_dim, SLOTS)
    step = traced(forward, kind, state)
    for chunk in (1, 3, PROMPT):
        actual = walk(step, kind, ids, mask, state, PROMPT, chunk)
        for full, cells in zip(expected, (len(ids), 0), strict=True):
            compare(actual, full, mask == 1, figures, cells)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("masked", [False, True])
def test_gpt_called_with_a_cache(kind: str, masked: bool) -> None:
    """Call the model eagerly up to the last slot; one token more raises an error."""
    model = small_gpt("grouped-rotary")
    ids, mask, (expected, _) = prompts("grouped-rotary")
    keep = np.arange(len(ids)) if masked else np.flatnonzero(mask.all(1))
    ids, mask, expected = ids[keep], mask[keep], expected[keep]
    state, outputs = empty_state(kind, 2, len(ids), 2, 6, SLOTS), []
    for start, end in [(0, PROMPT), *((t, t + 1) for t in range(PROMPT, SLOTS))]:
        cache = StaticCache(state, start) if kind == "static" else DynamicCache(state)
        inputs = {"input_ids": ids[:, start:end]}
        if masked:
            inputs["attention_mask"] = mask if kind == "static" else mask[:, :end]
        outputs.append(numpy(model(inputs, cache=cache)))
        state = cache.state
    compare(np.concatenate(outputs, axis=1), expected, mask == 1, {"greatest": 0, "cells": 0}, 0)
    if kind == "static":
        for index, tokens in ((SLOTS, 1), (SLOTS - 2, 3)):
            with pytest.raises(ValueError, match=f"got {tokens} tokens after {index}; accepted: {SLOTS} together"):
                model({"input_ids": ids[:, :tokens]}, cache=StaticCache(state, index))


# ---- encoder and decoder -------------------------------------------------------------------------------------------

SOURCE, TARGET = 11, 8


def sources(*sides: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return one row per padding side and number of pads, and the column order that moves padding to the end."""
    rng = np.random.default_rng(2)
    mask = np.concatenate([padding(side, SOURCE, range(SOURCE - 1), rng) for side in sides])
    source, target = (rng.integers(0, 61, (len(mask), n)).astype("int32") for n in (SOURCE, TARGET))
    return {"input_ids": source, "attention_mask": mask, "decoder_input_ids": target}, compacted(mask)


def reordered(inputs: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    moved = {name: np.take_along_axis(inputs[name], order, 1) for name in ("input_ids", "attention_mask")}
    return {**inputs, **moved}


def both(model: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the inputs, their logits, and the logits with the padding moved to the end."""
    inputs, order = sources(*SIDES)
    moved = reordered(inputs, order)
    logits = numpy(model({name: np.concatenate([inputs[name], moved[name]]) for name in inputs}))
    return inputs, *np.split(logits, 2)


@functools.cache
def small_transformer(position: str) -> Any:
    sizes = {"num_layers": 1, "num_decoder_layers": 2, "num_kv_heads": 2, "norm_first": True}
    model = tiny("transformer", "original", position=position, **sizes)
    return model, *both(model)


@pytest.mark.parametrize(("position", "kind"), one_kind(POSITIONS))
def test_transformer_decode_equals_forward(position: str, kind: str, figures: Any) -> None:
    model, inputs, full, moved = small_transformer(position)
    ids, mask = inputs["decoder_input_ids"], tf.constant(inputs["attention_mask"])

    def forward(ids: Any, mask: Any, cache: Any, projected: Any, encoder_mask: Any) -> Any:
        context = causal_context(tf.shape(ids)[1], mask, None, cache)
        return model.head(model.decode(ids, context, projected, encoder_mask, cache, training=False))

    more = (model.project_encoded(model.encode(inputs["input_ids"], mask, training=False)), mask)
    state, ones = empty_state(kind, 2, len(ids), 2, 8, TARGET), np.ones(ids.shape, "int32")
    step = traced(forward, kind, state, *more)
    for chunk in (1, 3, TARGET):
        actual = walk(step, kind, ids, ones, state, TARGET, chunk, *more)
        for expected, cells in ((full, len(ids)), (moved, 0)):
            compare(actual, expected, ones == 1, figures, cells)


@every_variant([pair for pair in GENERATING if pair[0] == "seq2seq"])
def test_seq2seq_decode_equals_forward(family: str, variant: str, figures: Any) -> None:
    model = shared(family, variant)
    inputs, full, moved = both(model)
    mask, outputs = inputs["attention_mask"], []
    encoded, state = model.encode(inputs["input_ids"], mask)
    keys = None if model.attention is None else model.attention.prepare(encoded)
    for start, end in ((0, 1), (1, 2), (2, 5), (5, TARGET)):
        tokens = inputs["decoder_input_ids"][:, start:end]
        x, state = model.decode(tokens, state, encoded, mask, keys if start else None)
        outputs.append(numpy(model.head(x)))
    for expected in (full, moved):
        compare(
            np.concatenate(outputs, axis=1),
            expected,
            np.ones(expected.shape[:2], bool),
            figures,
            len(mask) if expected is full else 0,
        )


@every_variant([*CROSS, ("transformer", "none")], slow=FURTHER)
def test_what_the_decoder_sees_of_the_source(family: str, variant: str) -> None:
    """The decoder sees all kept tokens in their order and no masked ones; without positions, it sees a set."""
    unordered = variant == "none"
    model = tiny(family, "original", position="none") if unordered else shared(family, variant)
    inputs, order = sources(*SIDES)
    mask = inputs["attention_mask"]
    expected = numpy(model(inputs))
    scale = np.maximum(1, np.abs(expected))

    def change(**changed: np.ndarray) -> np.ndarray:
        """Return the greatest difference of every row."""
        return (np.abs(numpy(model({**inputs, **changed})) - expected) / scale).max(axis=(1, 2))

    other = (inputs["input_ids"] + 7) % 61
    assert change(input_ids=np.where(mask == 0, other, inputs["input_ids"])).max() < TOLERANCE
    assert change(**reordered(inputs, order)).max() < TOLERANCE
    assert (change(attention_mask=np.ones_like(mask))[(mask == 0).any(1)] > 1e-3).all()
    one = inputs["input_ids"].copy()
    for row, keep in enumerate(mask):  # the first kept token, which every recurrent state has to remember
        one[row, np.argmax(keep)] = other[row, np.argmax(keep)]
    assert (change(input_ids=one) > 10 * TOLERANCE).all()
    shuffled = inputs["input_ids"].copy()
    for row, keep in zip(shuffled, mask == 1, strict=True):
        row[keep] = np.roll(row[keep], 1)
    moved = change(input_ids=shuffled)
    assert moved.max() < TOLERANCE if unordered else (moved > 10 * TOLERANCE).all()


# ---- generate ------------------------------------------------------------------------------------------------------


class Recomputing:
    """A ``Decoder`` that runs the whole model on all tokens of every row in each step, without padding before them."""

    def __init__(self, model: Any) -> None:
        c = self.config = model.config
        self.start_token = getattr(c, "decoder_start_token_id", None)
        self.eos_token, self.pad_token, self.max_length = c.eos_token_id, c.pad_token_id, c.max_length
        self.model = tf.function(model.__call__, reduce_retracing=True, autograph=False)

    def prompt(self, input_ids: np.ndarray, attention_mask: np.ndarray, room: int) -> np.ndarray:
        self.rows = [list(row[keep == 1]) for row, keep in zip(input_ids, attention_mask, strict=True)]
        self.fixed: dict[str, np.ndarray] = {}
        if self.start_token is not None:
            self.rows = [[self.start_token] for _ in input_ids]
            self.fixed = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self._answer()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        self.rows = [[*row, token] for row, token in zip(self.rows, tokens, strict=True)]
        return self._answer()

    def select(self, rows: np.ndarray) -> None:
        self.rows = [self.rows[row] for row in rows]
        self.fixed = {name: value[rows] for name, value in self.fixed.items()}

    def _answer(self) -> np.ndarray:
        ids = np.zeros((len(self.rows), self.max_length), "int32")
        for row, tokens in zip(ids, self.rows, strict=True):
            row[: len(tokens)] = tokens
        name = "input_ids" if self.start_token is None else "decoder_input_ids"
        inputs = {key: tf.constant(value, tf.int32) for key, value in {**self.fixed, name: ids}.items()}
        return numpy(self.model(inputs))[np.arange(len(ids)), [len(tokens) - 1 for tokens in self.rows]]


def greedy(decoder: Recomputing, ids: np.ndarray, mask: np.ndarray, new: int) -> np.ndarray:
    """Return the greedy continuations, (rows, new)."""
    columns = [decoder.prompt(ids, mask, new).argmax(-1)]
    while len(columns) < new:
        columns.append(decoder.step(columns[-1]).argmax(-1))
    return np.stack(columns, axis=1)


def unequal(model: Any, width: int, side: str = "left", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return three rows of `width` tokens, about half as many, and one token, with their mask."""
    ids = np.random.default_rng([width, seed]).integers(3, model.config.vocab_size, (3, width))
    mask = np.arange(width) < np.array([[width], [(width + 1) // 2], [1]])
    if side == "left":
        ids, mask = np.stack([np.roll(row, -keep.sum()) for row, keep in zip(ids, mask, strict=True)]), mask[:, ::-1]
    return ids, mask.astype(int)


@pytest.mark.slow
@every_variant(GENERATING, slow={*ALL_BUT_ONE, ("transformer", "marian")})  # marian: goldens and files cover it
def test_generate_equals_recomputing(family: str, variant: str) -> None:
    """Prompts at the edges of a bucket, padded on either side, are continued up to the last position.

    Greedy decoding and sampling are both covered, since greedy decoding with random weights tends to repeat itself.
    """
    model, kinds = shared(family, variant), set()
    decoder, gpt = Recomputing(model), family == "gpt"
    columns = model.config.to_dict().get("numbering") == "columns"  # padding on the left moves the tokens
    sides = ("right",) if columns else ("left", "right")
    for width in (1, 15, 16, 17) if gpt else (1, 16, 17, 40)[: 4 if variant == "original" else 3]:
        own = width if gpt else 1
        new = model.config.max_length - own
        options: Any = {"max_new_tokens": new, "stop_tokens": []}
        if width in (15, 17, 40):
            options |= {"temperature": 2.0, "seed": width}
            expected = generate(decoder, *unequal(model, width, sides[0]), **options)[:, own:]
            kinds |= set(expected.reshape(-1))
        else:
            expected = greedy(decoder, *unequal(model, width, sides[0]), new)
        for side in sides:
            ids, mask = unequal(model, width, side)
            begin = ids if gpt else np.full((3, 1), model.config.decoder_start_token_id)
            whole = np.concatenate([begin, expected], axis=1)
            assert model.generate(ids, mask, **options).tolist() == whole.tolist()
        with pytest.raises(ValueError, match=rf"max_new_tokens: got {new + 1} after {own} tokens; accepted: 40 "):
            model.generate(ids, mask, max_new_tokens=new + 1)
    assert len(kinds) > 20


THREE = [("gpt", "llama"), ("transformer", "t5"), ("seq2seq", "bahdanau")]


@every_variant(THREE, slow=THREE[1:])
@pytest.mark.slow
def test_beams_seeds_weights_and_files_after_generate(family: str, variant: str, tmp_path: Path) -> None:
    model, other = (tiny(family, variant, num_layers=1, seed=seed) for seed in (0, 1))
    randomise(model, spread=1.0)
    ids, mask = unequal(model, 9)
    call = functools.partial(model.generate, ids, mask, max_new_tokens=10, stop_tokens=[])
    first, draw, decoder = call(), functools.partial(call, temperature=1.5, top_k=20), Recomputing(model)

    for stops in ([], list(range(3, 30))):
        options: Any = {"max_new_tokens": 10, "num_beams": 4, "length_penalty": 0.6, "stop_tokens": stops}
        expected = generate(decoder, ids, mask, **options)
        assert model.generate(ids, mask, **options).tolist() == expected.tolist() != first.tolist()

    options = {"max_new_tokens": 10, "temperature": 1.5, "top_k": 20, "stop_tokens": [], "seed": 1}
    assert draw(seed=1).tolist() == draw(seed=1).tolist() == generate(decoder, ids, mask, **options).tolist()
    assert draw(seed=1).tolist() != draw(seed=2).tolist()

    weights = model.get_weights()
    model.set_weights(other.get_weights())
    changed = call()[:, -10:]
    assert changed.tolist() == greedy(decoder, ids, mask, 10).tolist() != first[:, -10:].tolist()
    model.set_weights(weights)
    assert call().tolist() == first.tolist()

    model.save(tmp_path / "model.keras")
    az.save(model, tmp_path / "folder")
    for again in (keras.saving.load_model(tmp_path / "model.keras"), az.load(tmp_path / "folder")):
        found = again.generate(ids, mask, max_new_tokens=1, stop_tokens=[])
        assert found.tolist() == first[:, : found.shape[1]].tolist()


@pytest.mark.slow
@every_variant(THREE, slow=THREE[1:])
def test_compiled_once_per_bucket(family: str, variant: str, monkeypatch: Any) -> None:
    """The model's Python code is called for prefill and token selection, and not again in the same bucket."""
    calls, name = [], "hidden_states" if family == "gpt" else "decode"
    plain = getattr(FAMILIES[family], name)
    monkeypatch.setattr(FAMILIES[family], name, lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs))
    model = tiny(family, variant, num_layers=1)

    def traces(width: int, new: int, **options: Any) -> int:
        before = len(calls)
        model.generate(*unequal(model, width), max_new_tokens=new, stop_tokens=[], **options)
        return len(calls) - before

    assert 1 <= traces(9, 3) <= 3
    assert [traces(*sizes) for sizes in ((12, 3), (9, 20), (16, 24), (1, 1), (9, 3))] == [0] * 5
    assert traces(9, 3, temperature=1.0) <= 1
    assert [traces(*sizes, temperature=0.5, top_k=3) for sizes in ((12, 20), (9, 5))] == [0] * 2
    assert 1 <= traces(17, 5) <= 3, "another bucket: of prompts, or of sources"
    assert [traces(*sizes) for sizes in ((20, 20), (24, 3), (10, 10))] == [0] * 3


HALF = [
    ("gpt", "relative", "mixed_float16"),
    ("gpt", "llama", "bfloat16"),
    ("transformer", "rotary", "mixed_bfloat16"),
    ("seq2seq", "bahdanau", "mixed_float16"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant", "dtype"), HALF)
def test_generate_in_half_precision(family: str, variant: str, dtype: str) -> None:
    """Logits are close to those of the same model in float32."""
    model, exact = (tiny(family, variant, dtype=policy, num_layers=1) for policy in (dtype, None))
    ids, mask = unequal(model, 9)
    ours, theirs = KerasDecoder(model), Recomputing(exact)
    tokens = theirs.prompt(ids, mask, 4).argmax(-1)
    for actual, expected in (
        (ours.prompt(ids, mask, 4), theirs.prompt(ids, mask, 4)),
        (ours.step(tokens), theirs.step(tokens)),
        (ours.step(tokens[::-1]), theirs.step(tokens[::-1])),
    ):
        assert actual.dtype == np.float32
        assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()
    found = model.generate(ids, mask, max_new_tokens=8, stop_tokens=[])
    assert (found >= 0).all() and (found < model.config.vocab_size).all()
    assert model.generate(ids, mask, max_new_tokens=8, stop_tokens=[]).tolist() == found.tolist()


# ---- files ---------------------------------------------------------------------------------------------------------

LONG = {"max_length": 96}
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "learned": ("gpt", "gpt2", {}),
    "rotary": ("gpt", "llama", {}),
    "alibi": ("gpt", "alibi", {}),
    "transformer": ("transformer", "original", {}),
    "additive": ("seq2seq", "bahdanau", {"num_layers": 1}),
    "dot": ("seq2seq", "dot", {"bidirectional": False}),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "rotary" else [pytest.mark.slow]) for name in FILES],
)
def test_keras_onnx_and_tflite_choose_the_same_tokens(name: str, tmp_path: Path) -> None:
    family, variant, overrides = FILES[name]
    model = randomise(tiny(family, variant, **overrides, **LONG), spread=1.0 if family == "seq2seq" else 0.5)
    sizes = {"prefill": (4, 16)} if family == "gpt" else {"sequence_length": 16}
    export.to_onnx(model, tmp_path / "model.onnx")
    export.to_tflite(model, tmp_path / "model.tflite", max_length=96, **sizes)
    runners = [export.load(tmp_path / f"model.{suffix}", threads=1) for suffix in ("onnx", "tflite")]
    ids, mask = unequal(model, 13)
    for options in ({}, {"temperature": 1.0, "top_k": 10, "seed": 3}, {"num_beams": 3}):
        new = 64 if not options else 12
        expected = model.generate(ids, mask, max_new_tokens=new, stop_tokens=[], **options)
        assert len(np.unique(expected[:, -new:])) > 6 or "seed" not in options
        for runner in runners:
            actual = runner.generate(ids, mask, max_new_tokens=new, stop_tokens=[], **options)
            assert actual.tolist() == expected.tolist(), (runner.format, options)
