"""Caches step by step compared with one full pass, and blocks with cross-attention compared with float64 NumPy."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import reference
from attention_zoo import layers
from attention_zoo.layers.position import encode_positions, position_layer
from helpers import close, float64, numpy, randomise

HEADS, WIDTH, HEAD_DIM, LENGTH = 4, 12, 6, 7


def attention(kv_heads: int = HEADS, **kwargs: Any) -> Any:
    layer = layers.MultiHeadAttention(HEADS, HEAD_DIM, num_kv_heads=kv_heads, **kwargs)
    layer.build((None, None, WIDTH))
    return randomise(layer, spread=0.5)


def walk(kind: str, layer: Any, x: np.ndarray, chunk: int, extra: Any, kv_heads: int) -> np.ndarray:
    """Return the outputs of `x` passed in chunks; cache slots not yet written contain garbage."""
    shape = (2, kv_heads, LENGTH if kind == "static" else 0, HEAD_DIM)
    state: Any = [(np.full(shape, 1e4, "float32"), np.full(shape, -1e4, "float32"))]
    outputs = []
    for start in range(0, LENGTH, chunk):
        cache = layers.StaticCache(state, index=start) if kind == "static" else layers.DynamicCache(state)
        own = np.arange(start, min(start + chunk, LENGTH))
        slots = np.arange(cache.length_after(len(own)))
        mask = (slots <= own[:, None])[None]
        update = functools.partial(cache.update, 0)
        outputs.append(numpy(layer(x[:, own], attention_mask=mask, cache=update, **extra(own[None], slots[None]))))
        state = cache.state
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize("chunk", [1, 3, LENGTH])
@pytest.mark.parametrize("position", ["none", "rotary", "rotary_interleaved", "alibi", "relative"])
@pytest.mark.parametrize("kv_heads", [4, 2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_cached_steps_equal_the_whole(kind: str, kv_heads: int, position: str, chunk: int, rng: Any) -> None:
    x = rng.normal(size=(2, LENGTH, WIDTH)).astype("float32")
    layer = attention(kv_heads, rotary_interleaved=position == "rotary_interleaved")
    places = position_layer(position, hidden_dim=WIDTH, head_dim=HEAD_DIM, num_heads=HEADS, max_length=LENGTH)
    all_places = np.arange(LENGTH)[None]
    if position == "relative":
        places(all_places, all_places)
        randomise(places, spread=1.0)

    def extra(queries: np.ndarray, keys: np.ndarray) -> dict[str, Any]:
        return encode_positions(places, queries, keys).in_attention

    expected = numpy(layer(x, use_causal_mask=True, **extra(all_places, all_places)))
    close(walk(kind, layer, x, chunk, extra, kv_heads), expected)


def test_fixed_cache_in_a_traced_function(rng: Any) -> None:
    """One traced function serves every step, with the index as a tensor."""
    x = rng.normal(size=(2, LENGTH, WIDTH)).astype("float32")
    layer = attention(2)
    cache = layers.StaticCache.empty(1, 2, 2, LENGTH, HEAD_DIM)
    assert cache.length_after(3) == LENGTH

    @tf.function
    def step(token: Any, state: Any, index: Any) -> Any:
        cache = layers.StaticCache(state, index)
        mask = (tf.range(LENGTH) <= index)[None, None]
        return layer(token, attention_mask=mask, cache=functools.partial(cache.update, 0)), cache.state

    outputs, state = [], cache.state
    for t in range(LENGTH):
        output, state = step(tf.constant(x[:, t : t + 1]), state, tf.constant(t))
        outputs.append(numpy(output))
    assert step.experimental_get_tracing_count() == 1
    close(np.concatenate(outputs, axis=1), numpy(layer(x, use_causal_mask=True)))


def test_caches_keep_their_layers_apart(rng: Any) -> None:
    keys, values = (rng.normal(size=(1, 2, 3, HEAD_DIM)).astype("float32") for _ in range(2))
    past = rng.normal(size=(1, 2, 4, HEAD_DIM)).astype("float32")
    fixed = layers.StaticCache([(past, past * 2), (past, past * 2)], index=1)
    growing = layers.DynamicCache([(past[:, :, :1], past[:, :, :1] * 2)] * 2)
    for cache in (fixed, growing):
        assert cache.length_after(3) == 4
        found = cache.update(1, keys, values)
        for got, kept, untouched, given, factor in zip(found, *cache.state[::-1], (keys, values), (1, 2), strict=True):
            close(numpy(got), np.concatenate([past[:, :, :1] * factor, given], axis=2), atol=0)
            close(numpy(kept), numpy(got), atol=0)
            close(numpy(untouched), past[:, :, : untouched.shape[2]] * factor, atol=0)


@pytest.mark.parametrize(("index", "tokens"), [(7, 1), (5, 3), (0, 8), (np.int64(6), 2)])
def test_fixed_cache_overflow(index: int, tokens: int, rng: Any) -> None:
    state = layers.StaticCache.empty(1, 2, HEADS, LENGTH, HEAD_DIM).state
    cache = layers.StaticCache(state, index)
    x = rng.normal(size=(2, tokens, WIDTH)).astype("float32")
    with pytest.raises(ValueError, match=rf"cache: got {tokens} tokens after {index}; accepted: 7 together"):
        attention()(x, cache=functools.partial(cache.update, 0))


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_projected_source(kv_heads: int, rotary: bool, rng: Any) -> None:
    """Keys and values projected once give the same result, with masks, positions and a source of another width."""
    query, source = rng.normal(size=(2, 5, WIDTH)).astype("float32"), rng.normal(size=(2, 5, 9)).astype("float32")
    layer = layers.MultiHeadAttention(HEADS, HEAD_DIM, 3, num_kv_heads=kv_heads)
    layer.build(query.shape, source.shape)
    randomise(layer, spread=0.5)
    keep = np.array([[0, 1, 1, 0, 1], [1, 1, 1, 1, 0]])
    options = {"key_mask": keep, "return_attention_scores": True}
    if rotary:
        options["rotary"] = layers.RotaryEmbedding(HEAD_DIM)(np.arange(5)[None])
    expected = layer(query, source, **options)
    for ours, theirs in zip(layer(query, key_value=layer.keys_and_values(source), **options), expected, strict=True):
        close(numpy(ours), numpy(theirs), atol=1e-6)
    assert np.abs(numpy(expected[0]) - numpy(layer(query, source[::-1], **options)[0])).max() > 1e-2


ENCODER_MASK = np.array([[1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]])
TARGET_MASK = np.array([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]])


def cross_block(**kwargs: Any) -> Any:
    block = layers.TransformerBlock(4, 10, cross_attention=True, num_kv_heads=2, norm_epsilon=1e-4, **kwargs)
    block.build((None, None, WIDTH))
    return randomise(block, spread=0.4)


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_cross_attending_block(norm: str, norm_first: bool, rng: Any) -> None:
    x, source = (rng.normal(size=(2, length, WIDTH)).astype("float32") for length in (5, 7))
    block = cross_block(norm=norm, norm_first=norm_first, name="block")
    weights = {weight.path.partition("/")[2]: float64(weight) for weight in block.weights}

    def normalise(name: str, x: np.ndarray) -> np.ndarray:
        return getattr(reference, norm)(x, **part(f"{name}_norm"), epsilon=1e-4)

    def part(name: str) -> dict[str, np.ndarray]:
        return {path.removeprefix(f"{name}/"): w for path, w in weights.items() if path.startswith(f"{name}/")}

    def attend(name: str, x: np.ndarray, source: np.ndarray | None, mask: np.ndarray, causal: bool) -> np.ndarray:
        source = x if source is None else source
        options = {"mask": mask[:, None, None], "causal": causal, "heads": 4, "kv_heads": 2}
        output, weight = reference.multi_head_attention(part(name), x, source, source, **options)
        scores.append(weight)
        return output

    scores: list[np.ndarray] = []
    wide, far = x.astype("float64"), source.astype("float64")
    branches = {
        "attention": lambda x: attend("attention", x, None, TARGET_MASK, True),
        "cross_attention": lambda x: attend("cross_attention", x, far, ENCODER_MASK, False),
        "feedforward": lambda x: reference.feed_forward(part("feedforward"), x, "gelu"),
    }
    for name, branch in branches.items():
        wide = wide + branch(normalise(name, wide)) if norm_first else normalise(name, wide + branch(wide))

    options = {"key_mask": TARGET_MASK, "use_causal_mask": True, "encoder_mask": ENCODER_MASK}
    output, *weights_of = block(x, encoder_states=source, return_attention_scores=True, **options)
    close(numpy(output), wide, atol=2e-5)
    for ours, theirs in zip(weights_of, scores, strict=True):
        close(numpy(ours), theirs, atol=2e-6)
    close(numpy(block(x, encoder_states=source, **options)), wide, atol=2e-5)
    projected = block.cross_attention.keys_and_values(source)
    close(numpy(block(x, encoder_key_value=projected, **options)), wide, atol=2e-5)


def test_encoder_mask(rng: Any) -> None:
    """Masked positions have no influence, all others have; reordering positions and mask together changes nothing."""
    x, source = (rng.normal(size=(2, length, WIDTH)).astype("float32") for length in (5, 7))
    block = cross_block()
    output = numpy(block(x, encoder_states=source, encoder_mask=ENCODER_MASK))
    garbage = np.where(ENCODER_MASK[..., None] == 1, source, 100.0).astype("float32")
    close(numpy(block(x, encoder_states=garbage, encoder_mask=ENCODER_MASK)), output, atol=1e-6)
    together = block(x, encoder_states=source[:, ::-1], encoder_mask=ENCODER_MASK[:, ::-1])
    close(numpy(together), output, atol=1e-5)
    for other in (source[:, ::-1], source[::-1], np.roll(source, 1, axis=1)):
        assert np.abs(numpy(block(x, encoder_states=other, encoder_mask=ENCODER_MASK)) - output).max() > 1e-2
    for row, mask in enumerate(ENCODER_MASK.astype(bool)):
        cut = block(x[row : row + 1], encoder_states=source[row : row + 1, mask])
        close(numpy(cut)[0], output[row], atol=1e-5)


def test_blocks_with_and_without_an_encoder(rng: Any) -> None:
    x = rng.normal(size=(2, 5, WIDTH)).astype("float32")
    block, plain = cross_block(rotary_interleaved=True), layers.TransformerBlock(4, 10)
    with pytest.raises(ValueError, match=r"encoder_states: got none; accepted: .*encoder_key_value"):
        block(x)
    for surplus in ({"encoder_states": x}, {"encoder_key_value": block.cross_attention.keys_and_values(x)}):
        with pytest.raises(ValueError, match=r"encoder_states: got one; accepted: none"):
            plain(x, **surplus)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(block))
    copy(x, encoder_states=x)
    copy.set_weights(block.get_weights())
    close(numpy(copy(x, encoder_states=x)), numpy(block(x, encoder_states=x)), atol=0)
