"""Attention compared with float64 NumPy, for all combinations of heads, widths and masks."""

from __future__ import annotations

import threading
from itertools import product
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import reference
from attention_zoo.layers import MultiHeadAttention, RotaryEmbedding
from attention_zoo.layers import functional as F
from helpers import close, float64, numpy, randomise

HEADS, TARGETS, SOURCES, WIDTH = 4, 5, 7, 12
KV_HEADS = {"multi_head": 4, "grouped": 2, "multi_query": 1}
MASKS = (
    "none",
    "causal",
    "right",
    "left",
    "interior",
    "empty_row",
    "per_query",
    "per_head",
    "causal_and_left",
    "all_three",
)


def masks_of(kind: str, rng: np.random.Generator, batch: int, targets: int, sources: int) -> dict[str, Any]:
    """Return the layer's mask arguments for one kind of mask."""
    keep = np.ones((batch, sources), bool)
    if kind == "right":
        keep[0, -2:] = keep[1, -4:] = False
    elif kind in ("left", "causal_and_left"):  # with the causal mask, the first queries have no visible key
        keep[0, :2] = keep[1, :3] = False
    elif kind in ("interior", "all_three"):
        keep[0, 1:3] = keep[1, 2] = False
    elif kind == "empty_row":
        keep[1] = False
    arguments: dict[str, Any] = {}
    if not keep.all():
        arguments["key_mask"] = keep
    if kind == "per_query":
        arguments["attention_mask"] = rng.random((batch, targets, sources)) < 0.6
    elif kind in ("per_head", "all_three"):
        arguments["attention_mask"] = rng.random((batch, HEADS, targets, sources)) < 0.6
    if "causal" in kind or kind == "all_three":
        arguments["use_causal_mask"] = True
    return arguments


def as_reference(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the same masks for the reference implementation: one mask of rank 4, and a causal flag."""
    mask: Any = True
    if "key_mask" in arguments:
        mask = mask & arguments["key_mask"][:, None, None]
    if "attention_mask" in arguments:
        given = arguments["attention_mask"]
        mask = mask & (given[:, None] if given.ndim == 3 else given)
    return {"mask": None if mask is True else mask, "causal": arguments.get("use_causal_mask", False)}


def by_name(layer: Any) -> dict[str, np.ndarray]:
    return {"/".join(w.path.split("/")[-2:]): float64(w) for w in layer.weights}


def random_heads(rng: np.random.Generator, kv_heads: int, targets: int, sources: int, value: int) -> list[np.ndarray]:
    shapes = ((2, HEADS, targets, 3), (2, kv_heads, sources, 3), (2, kv_heads, sources, value))
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("value_dim", [None, 5], ids=["same_value", "other_value"])
@pytest.mark.parametrize("kind", KV_HEADS)
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_against_float64(cross: bool, kind: str, value_dim: int | None, mask: str, rng: Any) -> None:
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    # In cross-attention key, value and query have different widths, so that no kernel fits by accident.
    value = rng.normal(size=(2, SOURCES, 9)).astype("float32") if cross else query
    key = rng.normal(size=(2, SOURCES, 10)).astype("float32") if cross else query
    layer = MultiHeadAttention(HEADS, value_dim=value_dim, num_kv_heads=KV_HEADS[kind], output_dim=8)
    others = (value, key) if cross else ()
    layer.build(query.shape, *(x.shape for x in others))
    randomise(layer, spread=0.5)
    arguments = masks_of(mask, rng, 2, TARGETS, value.shape[1])

    alone = layer(query, *others, **arguments)
    output, scores = layer(query, *others, **arguments, return_attention_scores=True)

    expected, weights = reference.multi_head_attention(
        by_name(layer), query, key, value, heads=HEADS, kv_heads=KV_HEADS[kind], **as_reference(arguments)
    )
    close(numpy(alone), expected)
    close(numpy(output), expected)
    close(numpy(scores), weights, atol=1e-6)


@pytest.mark.parametrize("compiled", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KV_HEADS)
@pytest.mark.parametrize("mask", ["none", "causal", "causal_and_left", "empty_row", "per_head"])
def test_unknown_sizes(mask: str, kind: str, compiled: str, rng: Any) -> None:
    """Batch size and lengths are unknown during tracing, and shortcuts for known sizes must not be taken."""
    arguments = as_reference(masks_of(mask, rng, 2, TARGETS, SOURCES))
    arrays = random_heads(rng, KV_HEADS[kind], TARGETS, SOURCES, 4)
    free = [tf.TensorSpec((None, a.shape[1], None, a.shape[3])) for a in arrays]

    def attend(q: Any, k: Any, v: Any) -> Any:
        return F.dot_product_attention(q, k, v, **arguments, return_scores=True)

    function: Any = attend
    if compiled != "eager":
        function = tf.function(attend, input_signature=free, jit_compile=compiled == "xla")
    output, weights = function(*map(tf.constant, arrays))
    expected, expected_weights = reference.attention(*arrays, **arguments)
    close(numpy(output), expected)
    close(numpy(weights), expected_weights, atol=1e-6)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("targets", "sources"), [(3, 7), (1, 6), (7, 3), (4, 4)])
def test_causal_is_aligned_at_the_bottom_right(targets: int, sources: int, traced: bool, rng: Any) -> None:
    """With more keys than queries, the last query sees the last key; with fewer keys, the first queries see none."""
    arrays = random_heads(rng, 2, targets, sources, 3)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return F.dot_product_attention(q, k, v, causal=True, return_scores=True)

    free = [tf.TensorSpec((None, a.shape[1], None, a.shape[3])) for a in arrays]
    output, weights = (tf.function(attend, input_signature=free) if traced else attend)(*map(tf.constant, arrays))
    expected, expected_weights = reference.attention(*arrays, causal=True)
    close(numpy(output), expected)
    close(numpy(weights), expected_weights, atol=1e-6)
    for t, s in product(range(targets), range(sources)):
        assert (numpy(weights)[:, :, t, s] > 0).all() == (s <= t + sources - targets)
    output_only = F.dot_product_attention(*arrays, causal=True)
    close(numpy(output_only), expected)


def test_grouped_heads_are_interleaved_not_tiled(rng: Any) -> None:
    """Query heads 0 and 1 use key/value head 0, heads 2 and 3 use head 1."""
    query, key, _ = random_heads(rng, 2, TARGETS, SOURCES, 1)
    value = np.zeros((2, 2, SOURCES, 1), "float32")
    value[:, 1] = 1.0  # a head's output shows which value head it used
    output = numpy(F.dot_product_attention(query, key, value))[..., 0]
    close(output[:, :2], np.zeros((2, 2, TARGETS)), atol=1e-6)
    close(output[:, 2:], np.ones((2, 2, TARGETS)), atol=1e-6)


@pytest.mark.parametrize("kind", KV_HEADS)
@pytest.mark.parametrize("bias_shape", [(1, 1, TARGETS, SOURCES), (2, 4, TARGETS, SOURCES), (1, 4, 1, SOURCES)])
def test_bias_and_scale(kind: str, bias_shape: tuple[int, ...], rng: Any) -> None:
    arrays = random_heads(rng, KV_HEADS[kind], TARGETS, SOURCES, 4)
    bias = rng.normal(size=bias_shape).astype("float32")
    mask = rng.random((2, 1, TARGETS, SOURCES)) < 0.5
    result = F.dot_product_attention(*arrays, bias=bias, mask=mask, scale=0.3, causal=True, return_scores=True)
    expected = reference.attention(*arrays, bias=bias, mask=mask, scale=0.3, causal=True)
    close(numpy(result[0]), expected[0])
    close(numpy(result[1]), expected[1], atol=1e-6)
    unmasked = F.dot_product_attention(*arrays, bias=bias)
    close(numpy(unmasked), reference.attention(*arrays, bias=bias)[0])


def test_layer_scale_argument(rng: Any) -> None:
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    layer = MultiHeadAttention(HEADS, scale=0.7, use_bias=False, use_output_bias=True)
    layer.build(query.shape)
    randomise(layer, spread=0.5)
    weights = by_name(layer)
    assert set(weights) == {"query/kernel", "key/kernel", "value/kernel", "output/kernel", "output/bias"}
    expected, _ = reference.multi_head_attention(weights, query, query, query, heads=4, kv_heads=4, scale=0.7)
    close(numpy(layer(query)), expected)


@pytest.mark.parametrize("kind", KV_HEADS)
def test_empty_rows_give_zeros_and_finite_gradients(kind: str, rng: Any) -> None:
    """A query without any key gives zeros before the output projection, so that the layer returns its bias alone."""
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    layer = MultiHeadAttention(HEADS, num_kv_heads=KV_HEADS[kind])
    layer.build(query.shape)
    randomise(layer)
    keep = np.ones((2, TARGETS), "int32")
    keep[1] = 0
    inputs = tf.Variable(query)
    with tf.GradientTape() as tape:
        output, scores = layer(inputs, key_mask=keep, return_attention_scores=True)
        loss = tf.reduce_sum(tf.square(output))
    close(numpy(output)[1], np.broadcast_to(numpy(layer.output_dense.bias), (TARGETS, WIDTH)), atol=0)
    close(numpy(scores)[1], np.zeros((HEADS, TARGETS, TARGETS)), atol=0)
    gradients = tape.gradient(loss, [inputs, *layer.trainable_weights])
    assert all(np.isfinite(numpy(gradient)).all() for gradient in gradients)
    assert np.abs(numpy(gradients[0])[0]).max() > 0
    close(numpy(gradients[0])[1], np.zeros((TARGETS, WIDTH)), atol=0)


@pytest.mark.parametrize("mask", ["none", "causal", "per_head", "causal_and_left"])
def test_gradients_against_finite_differences(mask: str, rng: Any) -> None:
    arguments = as_reference(masks_of(mask, rng, 2, 3, 4))
    arrays = random_heads(rng, 2, 3, 4, 2)
    direction = rng.normal(size=(2, HEADS, 3, 2))
    variables = [tf.Variable(a) for a in arrays]
    with tf.GradientTape() as tape:
        output = F.dot_product_attention(*map(tf.convert_to_tensor, variables), **arguments)
        loss = tf.reduce_sum(output * tf.constant(direction, "float32"))
    gradients = tape.gradient(loss, variables)
    wide = [a.astype("float64") for a in arrays]
    for i, gradient in enumerate(gradients):
        for _ in range(12):
            at = tuple(rng.integers(0, size) for size in wide[i].shape)
            around = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in wide]
                moved[i][at] += step
                around.append((reference.attention(*moved, **arguments)[0] * direction).sum())
            close(numpy(gradient)[at], (around[0] - around[1]) / 2e-6, atol=1e-4)


@pytest.mark.parametrize("kind", KV_HEADS)
def test_dropout(kind: str, rng: Any) -> None:
    """In training, weights are dropped at the configured rate or scaled by 1 / (1 - rate); otherwise nothing changes.

    One-hot values and identity projections make the output equal to the weights.
    """
    rate, length = 0.25, 16
    kv_heads = KV_HEADS[kind]
    layer = MultiHeadAttention(
        HEADS, 3, length, num_kv_heads=kv_heads, output_dim=HEADS * length, use_bias=False, dropout=rate
    )
    query = rng.normal(size=(8, length, length)).astype("float32")
    value = np.broadcast_to(np.eye(length, dtype="float32"), query.shape)
    layer.build(query.shape, value.shape)
    randomise(layer)
    layer.value_dense.kernel.assign(np.tile(np.eye(length), (1, kv_heads)))
    layer.output_dense.kernel.assign(np.eye(HEADS * length))

    def shown(training: bool | None) -> tuple[np.ndarray, np.ndarray]:
        output, scores = layer(query, value, return_attention_scores=True, training=training)
        return numpy(output).reshape(8, length, HEADS, length).transpose(0, 2, 1, 3), numpy(scores)

    weights, scores = shown(False)
    close(weights, scores, atol=1e-6)
    close(shown(None)[0], weights, atol=0)
    dropped, scores_in_training = shown(True)
    close(scores_in_training, scores, atol=0)
    ratio = dropped / weights
    kept = ratio > 0.5
    close(ratio[kept], np.full(kept.sum(), 1 / (1 - rate)), atol=1e-4)
    close(ratio[~kept], np.zeros((~kept).sum()), atol=0)
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation
    assert not np.array_equal(kept, shown(True)[0] / weights > 0.5)
    many = np.mean([shown(True)[0] for _ in range(100)], axis=0)
    assert abs((many / weights).mean() - 1) < 5 * deviation / (1 - rate) / 10


@pytest.mark.parametrize("mask", ["none", "causal_and_left", "per_head"])
@pytest.mark.parametrize("kind", KV_HEADS)
@pytest.mark.parametrize(("dtype", "atol"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision(dtype: str, atol: float, kind: str, mask: str, rng: Any) -> None:
    arguments = as_reference(masks_of(mask, rng, 2, TARGETS, SOURCES))
    arrays = [ops.cast(a, dtype) for a in random_heads(rng, KV_HEADS[kind], TARGETS, SOURCES, 4)]
    output, weights = F.dot_product_attention(*arrays, **arguments, return_scores=True)
    expected, expected_weights = reference.attention(*map(float64, arrays), **arguments)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    close(numpy(output), expected, atol=atol)
    close(numpy(weights), expected_weights, atol=atol)


def test_half_precision_neither_overflows_nor_loses_the_sum(rng: Any) -> None:
    """Scores stay within the float16 range, and the softmax sum is exact enough.

    For 128 features of 30, q·k is 115,200, more than the float16 maximum, unless the query is scaled first. A softmax
    over 4,000 keys that is summed in float16 would stop growing at 2,048.
    """
    large = ops.cast(np.full((1, 1, 2, 128), 30.0), "float16")
    output = F.dot_product_attention(large, large, large)
    close(numpy(output), np.full((1, 1, 2, 128), 30.0), atol=0)
    query = ops.cast(np.zeros((1, 1, 1, 4)), "float16")
    keys = ops.cast(rng.normal(size=(1, 1, 4000, 4)), "float16")
    _, weights = F.dot_product_attention(query, keys, keys, return_scores=True)
    close(float64(weights).sum(), 1.0, atol=2e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_layer_under_policies(policy: str, rng: Any) -> None:
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    layer = MultiHeadAttention(HEADS, num_kv_heads=2, dtype=policy)
    layer.build(query.shape)
    randomise(layer)
    arguments = masks_of("empty_row", rng, 2, TARGETS, TARGETS)
    output = layer(query, **arguments)
    assert keras.backend.standardize_dtype(output.dtype) == policy.removeprefix("mixed_")
    expected, _ = reference.multi_head_attention(
        by_name(layer), query, query, query, heads=4, kv_heads=2, **as_reference(arguments)
    )
    close(numpy(output), expected, atol=4e-3 if "bfloat16" not in policy else 3e-2)


# A common introductory example of self-attention: three tokens and three matrices, without scaling.
TOKENS = np.array([[1, 0, 1, 0], [0, 2, 0, 2], [1, 1, 1, 1]], "float32")
W_KEY = np.array([[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 1, 0]], "float32")
W_QUERY = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1]], "float32")
W_VALUE = np.array([[0, 2, 0], [0, 3, 0], [1, 0, 3], [1, 1, 0]], "float32")
FIRST_OUTPUT = [1.9366, 6.6831, 1.5951]
FIRST_WEIGHTS = np.exp([2.0, 4.0, 4.0]) / np.exp([2.0, 4.0, 4.0]).sum()


def test_worked_example() -> None:
    query, key, value = (TOKENS @ w for w in (W_QUERY, W_KEY, W_VALUE))
    assert (query @ key.T)[0].tolist() == [2, 4, 4]
    output, weights = F.dot_product_attention(
        *(x[None, None] for x in (query, key, value)), scale=1.0, return_scores=True
    )
    close(numpy(output)[0, 0, 0], FIRST_OUTPUT, atol=5e-5)
    close(numpy(weights)[0, 0, 0], FIRST_WEIGHTS, atol=1e-6)


def test_worked_example_as_a_layer() -> None:
    layer = MultiHeadAttention(1, 3, output_dim=3, use_bias=False, scale=1.0)
    layer.build((1, 3, 4))
    named = {"query": W_QUERY, "key": W_KEY, "value": W_VALUE, "output": np.eye(3)}
    for name, kernel in named.items():
        getattr(layer, f"{name}_dense").kernel.assign(kernel)
    output, scores = layer(TOKENS[None], return_attention_scores=True)
    close(numpy(output)[0, 0], FIRST_OUTPUT, atol=5e-5)
    close(numpy(scores)[0, 0, 0], FIRST_WEIGHTS, atol=1e-6)


@pytest.mark.parametrize("kind", KV_HEADS)
def test_rotary_attention(kind: str, rng: Any) -> None:
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    positions = np.array([[0, 0, 0, 1, 2], [3, 5, 8, 21, 30]])
    layer = MultiHeadAttention(HEADS, 6, num_kv_heads=KV_HEADS[kind])
    layer.build(query.shape)
    randomise(layer, spread=0.5)
    output = layer(query, rotary=RotaryEmbedding(6)(positions), use_causal_mask=True)
    expected, _ = reference.multi_head_attention(
        by_name(layer),
        query,
        query,
        query,
        heads=HEADS,
        kv_heads=KV_HEADS[kind],
        rotate=lambda x: reference.rotate(x, positions),
        causal=True,
    )
    close(numpy(output), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_float_masks_are_refused(dtype: str, rng: Any) -> None:
    """0.0 means "keep" in an additive mask and "drop" in a boolean one, so that a float mask is ambiguous."""
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    layer = MultiHeadAttention(HEADS)
    with pytest.raises(ValueError, match=r"key_mask.*accepted"):
        layer(query, key_mask=np.ones((2, TARGETS), dtype))
    with pytest.raises(ValueError, match=r"attention_mask.*accepted"):
        layer(query, attention_mask=np.ones((2, TARGETS, TARGETS), dtype))


def test_masks_of_another_rank_are_refused(rng: Any) -> None:
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    layer = MultiHeadAttention(HEADS)
    for shape in ((2, TARGETS, 1), (TARGETS,)):
        with pytest.raises(ValueError, match=r"key_mask.*accepted"):
            layer(query, key_mask=np.ones(shape, bool))
    for shape in ((2, TARGETS), (2, 1, 1, TARGETS, TARGETS)):
        with pytest.raises(ValueError, match=r"attention_mask.*accepted"):
            layer(query, attention_mask=np.ones(shape, bool))


def test_integer_masks_are_booleans(rng: Any) -> None:
    query = rng.normal(size=(2, TARGETS, WIDTH)).astype("float32")
    layer = MultiHeadAttention(HEADS)
    keep = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]])
    square = (np.arange(TARGETS)[:, None] != np.arange(TARGETS)) * np.ones((2, 1, 1), "int64")
    integers = numpy(layer(query, key_mask=keep, attention_mask=square))
    booleans = numpy(layer(query, key_mask=keep.astype(bool), attention_mask=square.astype(bool)))
    close(integers, booleans, atol=0)
    assert np.abs(integers - numpy(layer(query))).max() > 1e-2


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("num_heads", {"num_heads": 0}),
        ("num_heads", {"num_heads": 2.0}),
        ("key_dim", {"num_heads": 2, "key_dim": -1}),
        ("value_dim", {"num_heads": 2, "value_dim": 0}),
        ("output_dim", {"num_heads": 2, "output_dim": 0}),
        ("num_kv_heads", {"num_heads": 4, "num_kv_heads": 3}),
        ("num_kv_heads", {"num_heads": 4, "num_kv_heads": 0}),
    ],
)
def test_sizes_that_cannot_be(argument: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: got .*accepted"):
        MultiHeadAttention(**values)


def test_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"num_heads: got 5.*accepted"):
        MultiHeadAttention(5).build((None, None, 12))


def test_lowering_replaces_within_the_block_only(rng: Any) -> None:
    x = rng.normal(size=(2, 3)).astype("float32")
    plain = numpy(F.gelu(x))
    with F.lowering({"gelu": lambda inputs, **_: inputs * 0 + 5}):
        close(numpy(F.gelu(x)), np.full((2, 3), 5.0), atol=0)
        with F.lowering({}):
            close(numpy(F.gelu(x)), plain, atol=0)
        close(numpy(F.gelu(x)), np.full((2, 3), 5.0), atol=0)
    close(numpy(F.gelu(x)), plain, atol=0)


def test_lowering_reaches_the_layers(rng: Any) -> None:
    """A layer that bypasses the primitives would be exported with operators that the runtime does not support."""
    query = rng.normal(size=(1, 3, WIDTH)).astype("float32")
    layer = MultiHeadAttention(HEADS)
    expected = numpy(layer(query))
    called: list[str] = []

    def spy(name: str) -> Any:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return F.PRIMITIVES[name](*args, **kwargs)

        return replacement

    with F.lowering({name: spy(name) for name in F.PRIMITIVES}):
        close(numpy(layer(query)), expected, atol=0)
    assert called.count("dense") == 4
    assert called.count("dot_product_attention") == 1


def test_lowering_is_restored_on_error(rng: Any) -> None:
    x = rng.normal(size=(2, 3)).astype("float32")
    with pytest.raises(RuntimeError, match="inside"), F.lowering({"gelu": lambda inputs, **_: inputs}):
        raise RuntimeError("inside")
    close(numpy(F.gelu(x)), reference.gelu(x.astype("float64")), atol=1e-6)


def test_lowering_is_local_to_its_thread(rng: Any) -> None:
    x = rng.normal(size=(2, 3)).astype("float32")
    seen: list[np.ndarray] = []
    with F.lowering({"gelu": lambda inputs, **_: inputs}):
        thread = threading.Thread(target=lambda: seen.append(numpy(F.gelu(x))))
        thread.start()
        thread.join()
        close(numpy(F.gelu(x)), x, atol=0)
    close(seen[0], reference.gelu(x.astype("float64")), atol=1e-6)


def test_lowering_refuses_unknown_names() -> None:
    with (
        pytest.raises(ValueError, match=r"table: no such primitives \['gleu'\]; accepted: .*gelu"),
        F.lowering({"gleu": lambda x: x}),
    ):
        pass
