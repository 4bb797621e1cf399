"""Recurrent layers and attention between them, compared with float64 NumPy and with Keras' own layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from attention_zoo import layers
from attention_zoo.layers import functional as F
from attention_zoo.layers.recurrent_attention import recurrent_attention
from helpers import close, float64, numpy, randomise

TARGETS, SOURCES, UNITS = 4, 6, 5
MASKS: dict[str, Any] = {
    "none": None,
    "right": [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]],
    "interior": [[1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0]],
    "empty": [[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]],
}
SCORES = ("additive", "additive_bias", "dot", "general")
HALF = pytest.mark.parametrize(
    ("policy", "atol"), [("mixed_float16", 3e-3), ("mixed_bfloat16", 3e-2), ("float16", 3e-3), ("bfloat16", 5e-2)]
)


def mask_of(kind: str) -> np.ndarray | None:
    return None if MASKS[kind] is None else np.array(MASKS[kind], bool)


def by_name(layer: Any) -> dict[str, np.ndarray]:
    """Return the weights by name, with the sublayer if there is one: "kernel", "query/kernel"."""
    return {weight.path.partition("/")[2]: float64(weight) for weight in layer.weights}


def states(rng: np.random.Generator, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Return decoder and encoder states, with different widths if the score allows them."""
    widths = (3, 3) if score == "dot" else (3, 7)
    return tuple(rng.normal(size=(2, t, w)).astype("float32") for t, w in zip((TARGETS, SOURCES), widths, strict=True))


def attention(score: str, **kwargs: Any) -> Any:
    if score.startswith("additive"):
        layer = layers.AdditiveAttention(UNITS, use_bias=score == "additive_bias", name="attend", **kwargs)
    else:
        layer = layers.MultiplicativeAttention(score, name="attend", **kwargs)
    layer.build((None, None, 3), (None, None, 3 if score == "dot" else 7))
    return randomise(layer, spread=0.7)


def attended(layer: Any, query: Any, value: Any, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Compute context and weights query by query, over the visible positions only."""
    weights, query, value = by_name(layer), query.astype("float64"), value.astype("float64")
    scores = np.zeros((*query.shape[:2], value.shape[1]))
    context = np.zeros((*query.shape[:2], value.shape[2]))
    for b, t in np.ndindex(query.shape[:2]):
        kept = [s for s in range(value.shape[1]) if mask is None or mask[b, s]]
        for s in kept:
            q, k = query[b, t], value[b, s]
            if "kernel" in weights:
                hidden = q @ weights["query/kernel"] + k @ weights["key/kernel"] + weights.get("query/bias", 0.0)
                scores[b, t, s] = weights["kernel"][:, 0] @ np.tanh(hidden)
            else:
                scores[b, t, s] = q @ (k @ weights["key/kernel"] if weights else k)
        exponentials = np.exp(scores[b, t, kept])
        scores[b, t, kept] = exponentials / exponentials.sum()
        context[b, t] = scores[b, t] @ value[b]
    return context, scores


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("score", SCORES)
def test_scores_against_float64(score: str, mask: str, compiled: bool, rng: Any) -> None:
    layer, keep = attention(score), mask_of(mask)
    assert (
        set(by_name(layer))
        == {
            "additive": {"kernel", "query/kernel", "key/kernel"},
            "additive_bias": {"kernel", "query/kernel", "query/bias", "key/kernel"},
            "dot": set(),
            "general": {"key/kernel"},
        }[score]
    )
    query, value = states(rng, score)
    call: Any = layer
    if compiled:
        free = [tf.TensorSpec((None, None, x.shape[-1])) for x in (query, value)]
        call = tf.function(lambda q, v: layer(q, v, key_mask=keep, return_attention_scores=True), input_signature=free)
        context, weights = call(tf.constant(query), tf.constant(value))
    else:
        context, weights = layer(query, value, key_mask=keep, return_attention_scores=True)
        close(numpy(layer(query, value, key_mask=keep)), numpy(context), atol=0)
    expected, expected_weights = attended(layer, query, value, keep)
    close(numpy(context), expected)
    close(numpy(weights), expected_weights, atol=2e-6)
    valid = np.ones((2, SOURCES), bool) if keep is None else keep
    close(numpy(weights).sum(-1), valid.any(1)[:, None] * np.ones(TARGETS), atol=1e-6)
    close(numpy(weights).transpose(0, 2, 1)[~valid], 0 * expected_weights.transpose(0, 2, 1)[~valid], atol=0)


@pytest.mark.parametrize("mask", ["none", "right", "left", "interior"])
@pytest.mark.parametrize("score", SCORES)
def test_against_keras(score: str, mask: str, rng: Any) -> None:
    """Keras leaves the projections to the caller."""
    layer, keep = attention(score), mask_of(mask)
    query, value = states(rng, score)
    projected, theirs = query, keras.layers.Attention()
    if score.startswith("additive"):
        projected, theirs = numpy(layer.query_dense(query)), keras.layers.AdditiveAttention()
        theirs.build([projected.shape, value.shape])
        theirs.scale.assign(numpy(layer.kernel)[:, 0])
    inputs = [keras.ops.convert_to_tensor(x) for x in (projected, value, numpy(layer.prepare(value)))]
    given = None if keep is None else [None, tf.constant(keep)]
    expected = theirs(inputs, mask=given, return_attention_scores=True)
    for ours, other in zip(layer(query, value, key_mask=keep, return_attention_scores=True), expected, strict=True):
        close(numpy(ours), numpy(other))


@pytest.mark.parametrize("score", SCORES)
def test_empty_sources_have_finite_gradients(score: str, rng: Any) -> None:
    layer, keep = attention(score), mask_of("empty")
    query, value = (tf.constant(x) for x in states(rng, score))
    with tf.GradientTape() as tape:
        tape.watch([query, value])
        context = layer(query, value, key_mask=keep)
        loss = tf.reduce_sum(tf.square(context))
    close(numpy(context)[1], np.zeros(context.shape[1:]), atol=0)
    gradients = [numpy(g) for g in tape.gradient(loss, [query, value, *layer.trainable_weights])]
    for gradient in gradients:
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    for gradient in gradients[:2]:
        close(gradient[1], np.zeros(gradient.shape[1:]), atol=0)
    close(gradients[1][~keep], np.zeros((7, gradients[1].shape[-1])), atol=0)


@pytest.mark.parametrize("score", SCORES)
def test_prepared_keys(score: str, rng: Any) -> None:
    """Prepared keys serve every step, and scores are computed from them instead of from the values."""
    layer, keep = attention(score), mask_of("interior")
    query, value = states(rng, score)
    keys = layer.prepare(value)
    expected = numpy(layer(query, value, key_mask=keep))
    close(numpy(layer(query, value, key_mask=keep, keys=keys)), expected, atol=1e-6)
    steps = [numpy(layer(query[:, t : t + 1], value, key_mask=keep, keys=keys)) for t in range(TARGETS)]
    close(np.concatenate(steps, axis=1), expected, atol=1e-6)
    other = rng.normal(size=value.shape).astype("float32")
    context, weights = layer(query, other, key_mask=keep, keys=keys, return_attention_scores=True)
    close(numpy(weights), attended(layer, query, value, keep)[1], atol=2e-6)
    close(numpy(context), numpy(weights) @ other)


@pytest.mark.parametrize("score", SCORES)
def test_source_of_one(score: str, rng: Any) -> None:
    query, value = states(rng, score)
    context, weights = attention(score)(query, value[:, :1], key_mask=[[1], [0]], return_attention_scores=True)
    close(numpy(context), value[:, :1] * [[[1]], [[0]]] * np.ones((1, TARGETS, 1)), atol=0)
    close(numpy(weights)[..., 0], [[1] * TARGETS, [0] * TARGETS], atol=0)


@HALF
@pytest.mark.parametrize("score", SCORES)
def test_attention_in_half_precision(score: str, policy: str, atol: float, rng: Any) -> None:
    layer, keep = attention(score, dtype=policy), mask_of("empty")
    query, value = (np.tanh(x) for x in states(rng, score))
    context, weights = layer(query, value, key_mask=keep, return_attention_scores=True)
    for result, expected in zip((context, weights), attended(layer, query, value, keep), strict=True):
        assert keras.backend.standardize_dtype(result.dtype) == policy.removeprefix("mixed_")
        close(numpy(result), expected, atol=atol)


def test_refused_by_attention(rng: Any) -> None:
    query, value = states(rng, "general")
    with pytest.raises(ValueError, match=r"value: got width 7 for queries of width 3; accepted: .*'dot'.*'general'"):
        layers.MultiplicativeAttention("dot")(query, value)
    for dtype in ("float32", "float16"):
        with pytest.raises(ValueError, match=r"key_mask: got dtype float.*accepted"):
            layers.MultiplicativeAttention()(query, value, key_mask=np.ones((2, SOURCES), dtype))
    for score in ("concat", "cosine"):
        with pytest.raises(ValueError, match=rf"^score: got '{score}'; accepted: .*AdditiveAttention"):
            layers.MultiplicativeAttention(score)
    for units in (0, 2.0):
        with pytest.raises(ValueError, match=rf"^units: got {units}; accepted"):
            layers.AdditiveAttention(units)


@pytest.mark.parametrize("shape", [(SOURCES,), (2, SOURCES, 1), (2, 1, SOURCES)])
def test_masks_of_another_rank_are_refused(shape: tuple[int, ...], rng: Any) -> None:
    with pytest.raises(ValueError, match=rf"key_mask: got rank {len(shape)}; accepted"):
        layers.MultiplicativeAttention()(*states(rng, "general"), key_mask=np.ones(shape, bool))


def test_scores_by_word() -> None:
    assert recurrent_attention(None, UNITS) is None
    for word in ("additive", "concat"):
        assert recurrent_attention(word, UNITS, name="own").get_config()["units"] == UNITS
    for word in ("dot", "general"):
        assert recurrent_attention(word, UNITS).get_config()["score"] == word
    with pytest.raises(ValueError, match=r"^score: got 'cosine'"):
        recurrent_attention("cosine", UNITS)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_step(weights: dict[str, np.ndarray], x: np.ndarray, state: list[np.ndarray]) -> list[np.ndarray]:
    h, c = state
    gates = x @ weights["kernel"] + h @ weights["recurrent_kernel"] + weights["bias"]
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru_step(weights: dict[str, np.ndarray], x: np.ndarray, state: list[np.ndarray]) -> list[np.ndarray]:
    """The reset gate is applied after the matrix multiplication with the state, including its bias."""
    (h,) = state
    z_x, r_x, n_x = np.split(x @ weights["kernel"] + weights["bias"][0], 3, axis=-1)
    z_h, r_h, n_h = np.split(h @ weights["recurrent_kernel"] + weights["bias"][1], 3, axis=-1)
    z = sigmoid(z_x + z_h)
    return [z * h + (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h)]


CELLS = {"LSTM": (lstm_step, 2), "GRU": (gru_step, 1)}
KINDS = pytest.mark.parametrize("kind", CELLS)


def unrolled(
    kind: str, layer: Any, x: np.ndarray, mask: np.ndarray | None, initial: list[np.ndarray] | None, backwards: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the outputs by token and the final state; a masked token leaves the state unchanged."""
    step, count = CELLS[kind]
    weights = {path.rpartition("/")[2]: w for path, w in by_name(layer).items()}
    outputs = np.zeros((*x.shape[:2], UNITS))
    last = [np.zeros((len(x), UNITS)) for _ in range(count)]
    for b in range(len(x)):
        state = [part[b].astype("float64") for part in (initial or last)]
        for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
            if mask is None or mask[b, t]:
                state = step(weights, x[b, t].astype("float64"), state)
                outputs[b, t] = state[0]
        for part, value in zip(last, state, strict=True):
            part[b] = value
    return outputs, last


def recurrent(kind: str, **kwargs: Any) -> Any:
    layer = getattr(layers, kind)(UNITS, **kwargs)
    layer.build((None, None, 3))
    return randomise(layer, spread=0.7)


@pytest.mark.parametrize(("initial", "compiled"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@KINDS
def test_cells_against_float64(kind: str, mask: str, backwards: bool, initial: bool, compiled: bool, rng: Any) -> None:
    layer, keep = recurrent(kind, go_backwards=backwards), mask_of(mask)
    assert len(layer.weights) == 3 and (kind == "LSTM" or layer.weights[2].shape == (2, 3 * UNITS))
    x = rng.normal(size=(2, SOURCES, 3)).astype("float32")
    given = [rng.normal(size=(2, UNITS)).astype("float32") for _ in range(CELLS[kind][1])] if initial else None
    call: Any = lambda x: layer(x, initial_state=given, mask=keep)  # noqa: E731
    if compiled:
        call = tf.function(call, input_signature=[tf.TensorSpec((None, None, 3))])
    outputs, *last = call(tf.constant(x))
    expected, expected_last = unrolled(kind, layer, x, keep, given, backwards)
    ordered = numpy(outputs)[:, ::-1] if backwards else numpy(outputs)
    valid = np.ones((2, SOURCES), bool) if keep is None else keep
    close(ordered[valid], expected[valid], atol=2e-6)
    for ours, theirs in zip(last, expected_last, strict=True):
        close(numpy(ours), theirs, atol=2e-6)


@KINDS
def test_one_token_at_a_time(kind: str, rng: Any) -> None:
    """The state returned by one call is the initial state of the next."""
    layer = recurrent(kind)
    x = rng.normal(size=(2, SOURCES, 3)).astype("float32")
    whole, *last = layer(x)
    state, outputs = None, []
    for t in range(SOURCES):
        output, *state = layer(x[:, t : t + 1], initial_state=state)
        outputs.append(numpy(output))
    close(np.concatenate(outputs, axis=1), numpy(whole), atol=1e-6)
    for ours, theirs in zip(state, last, strict=True):
        close(numpy(ours), numpy(theirs), atol=1e-6)


def test_gru_takes_its_one_state_bare(rng: Any) -> None:
    layer = recurrent("GRU")
    x, state = (rng.normal(size=shape).astype("float32") for shape in ((2, SOURCES, 3), (2, UNITS)))
    expected, _ = unrolled("GRU", layer, x, None, [state], False)
    close(numpy(layer(x, initial_state=keras.ops.convert_to_tensor(state))[0]), expected, atol=2e-6)


@KINDS
def test_masked_tokens_get_no_gradient(kind: str, rng: Any) -> None:
    layer, keep = recurrent(kind), mask_of("interior")
    x = tf.Variable(rng.normal(size=(2, SOURCES, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(x, mask=keep)[1]))
    gradients = [numpy(g) for g in tape.gradient(loss, [x, *layer.trainable_weights])]
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)
    close(gradients[0][~keep], np.zeros((6, 3)), atol=0)
    assert np.abs(gradients[0][keep]).min() > 0


@pytest.mark.parametrize(("policy", "atol"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 5e-2), ("float16", 5e-3)])
@KINDS
def test_cells_in_half_precision(kind: str, policy: str, atol: float, rng: Any) -> None:
    layer, keep = recurrent(kind, dtype=policy), mask_of("interior")
    x = rng.normal(size=(2, SOURCES, 3)).astype("float32")
    outputs, *last = layer(x, mask=keep)
    expected, expected_last = unrolled(kind, layer, x, keep, None, False)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    close(numpy(outputs)[keep], expected[keep], atol=atol)
    for ours, theirs in zip(last, expected_last, strict=True):
        close(numpy(ours), theirs, atol=atol)


@pytest.mark.parametrize("score", SCORES)
@KINDS
def test_through_a_file(kind: str, score: str, tmp_path: Any, rng: Any) -> None:
    """Save and load a decoder with attention over an encoder, with masks, and restore the layers from their configs."""
    width = UNITS if score == "dot" else 7
    source, target, mask = keras.Input((None, 3)), keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    encoder = getattr(layers, kind)(width, recurrent_dropout=0.1, name="encoder")
    encoded, *_ = encoder(source, mask=mask)
    starts = [keras.Input((UNITS,)) for _ in range(CELLS[kind][1])]
    decoded, *last = getattr(layers, kind)(UNITS, name="decoder")(target, initial_state=starts)
    attend = recurrent_attention(score.partition("_")[0], 4, **({"use_bias": True} if "_" in score else {}))
    context, weights = attend(decoded, encoded, key_mask=mask, return_attention_scores=True)
    model = keras.Model([source, target, mask, *starts], [context, weights, *last])
    randomise(model, spread=0.5)
    shapes = ((2, SOURCES, 3), (2, TARGETS, 3), *((2, UNITS) for _ in starts))
    values = [rng.normal(size=shape).astype("float32") for shape in shapes]
    inputs = [*values[:2], mask_of("interior"), *values[2:]]
    expected = [numpy(result) for result in model(inputs)]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded(inputs), expected, strict=True):
        close(numpy(ours), theirs, atol=1e-6)
    found = attended(attend, *(numpy(x) for x in keras.Model(model.inputs, [decoded, encoded])(inputs)), inputs[2])
    close(expected[0], found[0])
    for layer in (encoder, attend):
        serialised = keras.saving.serialize_keras_object(layer)
        assert serialised["registered_name"] == f"attention_zoo>{type(layer).__name__}"
        assert keras.saving.deserialize_keras_object(serialised).get_config() == layer.get_config()


@KINDS
def test_lowering_reaches_the_layers(kind: str, rng: Any) -> None:
    x = rng.normal(size=(2, SOURCES, 3)).astype("float32")
    layer, called = recurrent(kind), []
    expected = numpy(layer(x)[0])

    def spy(*args: Any) -> Any:
        called.append(args[0].cell_kind)
        return F.PRIMITIVES["recurrent"](*args)

    with F.lowering({"recurrent": spy}):
        close(numpy(layer(x)[0]), expected, atol=0)
    assert called == [kind.lower()]
