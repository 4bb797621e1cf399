"""All position encodings compared with float64 NumPy, as layers and inside attention with left padding."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import reference
from attention_zoo import layers
from attention_zoo.layers import functional as F
from attention_zoo.layers.position import (
    POSITIONS,
    check_position,
    encode_positions,
    position_layer,
    positions_from_mask,
)
from attention_zoo.layers.rotary import check_scaling, rotary_frequencies
from helpers import close, float64, numpy, randomise

PLACES = np.array([[0, 1, 2, 3, 4, 5], [7, 0, 100, 255, 300, 511]])
HEADS, WIDTH, HEAD_DIM, LENGTH = 4, 12, 6, 7


def llama3(factor: float, low: float, high: float, trained: int) -> dict[str, Any]:
    fields = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    return {**fields, "original_max_position_embeddings": trained}


def yarn(factor: float, trained: int, **fields: float) -> dict[str, Any]:
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained, **fields}


def attention(kv_heads: int = HEADS, **kwargs: Any) -> Any:
    layer = layers.MultiHeadAttention(HEADS, HEAD_DIM, num_kv_heads=kv_heads, **kwargs)
    layer.build((None, None, WIDTH))
    return randomise(layer, spread=0.5)


@pytest.mark.parametrize(("width", "theta"), [(2, 10000.0), (16, 10000.0), (30, 50.0)])
def test_sinusoids_in_halves(width: int, theta: float) -> None:
    """All sines, then all cosines: the paper's columns in a different order."""
    expected = reference.sinusoids(PLACES, width, theta)
    halves = np.concatenate([expected[..., 0::2], expected[..., 1::2]], axis=-1)
    close(numpy(layers.SinusoidalPositions(width, theta, interleaved=False)(PLACES)), halves, atol=5e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("width", "columns", "theta"), [(4, 3, 10000.0), (24, 5, 10000.0), (8, 1, 20.0), (8, 50, 7.0)])
def test_sinusoids_of_a_grid(width: int, columns: int, theta: float, compiled: bool) -> None:
    def expected(columns: int) -> np.ndarray:
        table = np.empty((2, LENGTH, width))
        for b, t, i in np.ndindex(2, LENGTH, width // 4):
            row, column = divmod(int(tokens[b, t]), columns)
            for offset, steps in ((0, column), (2, row)):
                angle = steps / theta ** (4 * i / width)
                table[b, t, i + offset * width // 4] = math.sin(angle)
                table[b, t, i + (offset + 1) * width // 4] = math.cos(angle)
        return table

    tokens = np.stack([np.arange(LENGTH), [0, 20, 3, 41, 99, 7, 8]])
    layer = layers.SinusoidalPositions2D(width, columns, theta)
    call = tf.function(layer) if compiled else layer
    close(numpy(call(tf.constant(tokens))), expected(columns), atol=5e-5)
    close(numpy(call(tf.constant(tokens), columns=tf.constant(4))), expected(4), atol=5e-5)


def expected_frequencies(head_dim: int, theta: float, scaling: dict[str, Any]) -> tuple[list[float], float]:
    """Compute one frequency at a time, in Python floats, with the names of the publications."""
    kind, factor = scaling["rope_type"], scaling["factor"]
    trained = scaling.get("original_max_position_embeddings")
    if kind == "ntk":
        theta *= factor ** (head_dim / (head_dim - 2))
    plain = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if kind == "ntk":
        return plain, 1.0
    if kind == "linear":
        return [f / factor for f in plain], 1.0
    scaled = []
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        for f in plain:
            wavelength = 2 * math.pi / f
            if wavelength < trained / high:
                scaled.append(f)
            elif wavelength > trained / low:
                scaled.append(f / factor)
            else:
                smooth = (trained / wavelength - low) / (high - low)
                scaled.append((1 - smooth) * f / factor + smooth * f)
        assert scaled[0] == plain[0] and scaled[-1] == plain[-1] / factor  # the test covers all three cases
        assert any(f / factor < s < f for f, s in zip(plain, scaled, strict=True))
        return scaled, 1.0

    def correction(rotations: float) -> float:
        return head_dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(correction(scaling.get("beta_fast", 32))), 0)
    high = min(math.ceil(correction(scaling.get("beta_slow", 1))), head_dim - 1)
    for i, f in enumerate(plain):
        ramp = min(max((i - low) / (high - low), 0.0), 1.0)
        scaled.append(f / factor * ramp + f * (1 - ramp))
    return scaled, scaling.get("attention_factor") or 0.1 * math.log(factor) + 1


ROTATIONS: list[tuple[int, float, dict[str, Any]]] = [
    (8, 10000.0, {"rope_type": "linear", "factor": 4.0}),
    (64, 500000.0, {"rope_type": "linear", "factor": 2}),
    (8, 10000.0, {"rope_type": "ntk", "factor": 4.0}),
    (128, 1000000.0, {"rope_type": "ntk", "factor": 8.0}),
    (128, 500000.0, llama3(8.0, 1.0, 4.0, 8192)),
    (64, 500000.0, llama3(32.0, 1.0, 4.0, 8192)),
    (16, 10000.0, llama3(3.0, 0.5, 8.0, 256)),
    (128, 1000000.0, yarn(4.0, 32768)),
    (64, 10000.0, yarn(16.0, 4096)),
    (16, 10000.0, yarn(2.5, 64, beta_fast=16.0, beta_slow=2.0)),
    (32, 500.0, yarn(8.0, 1024, attention_factor=0.7)),
]


@pytest.mark.parametrize(
    ("head_dim", "theta", "scaling"),
    ROTATIONS,
    ids=lambda x: x["rope_type"] if isinstance(x, dict) else None,
)
def test_scaled_rotary(head_dim: int, theta: float, scaling: dict[str, Any]) -> None:
    frequencies, factor = expected_frequencies(head_dim, theta, scaling)
    ours, our_factor = rotary_frequencies(head_dim, theta, scaling)
    close(ours / np.array(frequencies), np.ones(head_dim // 2), atol=1e-6)
    close(our_factor, factor, atol=1e-12)
    cos, sin = layers.RotaryEmbedding(head_dim, theta, scaling=scaling)(PLACES)
    angles = PLACES[:, None, :, None] * np.array(frequencies)
    close(numpy(cos), np.cos(angles) * factor, atol=1e-4)
    close(numpy(sin), np.sin(angles) * factor, atol=1e-4)


def test_scaling_by_one_changes_nothing() -> None:
    for scaling in ({"rope_type": "linear", "factor": 1}, {"rope_type": "ntk", "factor": 1.0}, yarn(1.0, 64)):
        frequencies, factor = rotary_frequencies(8, 10000.0, scaling)
        close(frequencies, 10000.0 ** (-np.arange(0, 8, 2) / 8), atol=1e-7)
        assert factor == 1.0


@pytest.mark.parametrize("width", [2, 8])
def test_interleaved_rotary(width: int, rng: Any) -> None:
    """Adjacent features form complex numbers, and attention depends only on the distance between tokens."""
    x = rng.normal(size=(2, 3, 6, width)).astype("float32")
    angles = PLACES[:, None, :, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    rotary = layers.RotaryEmbedding(width)
    result = numpy(F.rotary(x, *rotary(PLACES), interleaved=True))
    close(result[..., 0::2], turned.real, atol=1e-4)
    close(result[..., 1::2], turned.imag, atol=1e-4)

    layer = attention(rotary_interleaved=True)
    tokens = rng.normal(size=(2, 6, WIDTH)).astype("float32")
    outputs = [
        layer(tokens, rotary=layers.RotaryEmbedding(HEAD_DIM)(np.arange(6)[None] * step + start))
        for start, step in ((0, 1), (200, 1), (0, 2))
    ]
    close(numpy(outputs[1]), numpy(outputs[0]), atol=1e-4)
    assert np.abs(numpy(outputs[2]) - numpy(outputs[0])).max() > 1e-2
    weights = {"/".join(w.path.split("/")[-2:]): float64(w) for w in layer.weights}
    order = [*range(0, HEAD_DIM, 2), *range(1, HEAD_DIM, 2)]  # as two halves, which the reference expects

    def turn(x: np.ndarray) -> np.ndarray:
        return reference.rotate(x[..., order], np.arange(6)[None])[..., np.argsort(order)]

    expected, _ = reference.multi_head_attention(weights, *[tokens] * 3, heads=4, kv_heads=4, rotate=turn)
    close(numpy(outputs[0]), expected)


def authors_slopes(n: int) -> list[float]:
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]
    closest = 2 ** math.floor(math.log2(n))
    return authors_slopes(closest) + authors_slopes(2 * closest)[0::2][: n - closest]


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 16, 20])
def test_alibi(heads: int) -> None:
    slopes = authors_slopes(heads)
    if heads == 8:
        assert slopes == [1 / 2 ** (i + 1) for i in range(8)]  # section 3 of the ALiBi paper
    queries, keys = np.array([[3, 0, 9], [0, 4000, 5]]), np.array([[0, 3, 5, 10], [1, 2, 0, 4001]])
    bias = numpy(layers.ALiBi(heads)(queries, keys))
    assert bias.shape == (2, heads, 3, 4)
    for b, h, t, s in np.ndindex(bias.shape):
        expected = -slopes[h] * abs(int(queries[b, t]) - int(keys[b, s]))
        assert bias[b, h, t, s] == pytest.approx(expected, rel=1e-6)


def t5_bucket(relative: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int) -> np.ndarray:
    """Compute Hugging Face's ``T5Attention._relative_position_bucket``, also in float32."""
    buckets = np.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        buckets += (relative > 0).astype("int64") * num_buckets
        relative = np.abs(relative)
    else:
        relative = -np.minimum(relative, 0)
    max_exact = num_buckets // 2
    with np.errstate(divide="ignore"):
        logarithm = np.log(relative.astype("float32") / np.float32(max_exact))
    steps = logarithm / np.float32(math.log(max_distance / max_exact)) * np.float32(num_buckets - max_exact)
    large = np.where(relative < max_exact, 0, max_exact + np.where(np.isfinite(steps), steps, 0).astype("int64"))
    return buckets + np.where(relative < max_exact, relative, np.minimum(large, num_buckets - 1))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (32, 20), (8, 128), (64, 100), (4, 5), (16, 500)])
def test_relative_position_bias(num_buckets: int, max_distance: int, bidirectional: bool, rng: Any) -> None:
    layer = layers.RelativePositionBias(
        3, num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional
    )
    queries, keys = np.array([[200, 0, 150], [0, 400, 7]]), np.stack([np.arange(401), rng.permutation(401)])
    layer.build()
    randomise(layer, spread=1.0)
    bucket = t5_bucket(keys[:, None] - queries[:, :, None], bidirectional, num_buckets, max_distance)
    close(numpy(layer(queries, keys)), numpy(layer.embeddings)[bucket].transpose(0, 3, 1, 2), atol=0)
    assert bucket.min() == 0 and bucket.max() == num_buckets - 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_angles_and_biases_stay_float32(policy: str) -> None:
    """Near 4000, float16 represents every second or fourth integer only, and bfloat16 every sixteenth."""
    far = np.array([[0, 4001]])
    bias = layers.ALiBi(12, dtype=policy)(far, far)
    assert keras.backend.standardize_dtype(bias.dtype) == "float32"
    close(numpy(bias)[0, :, 0, 1], -4001 * np.array(authors_slopes(12)), atol=1e-3)
    scaling = yarn(4.0, 64)
    frequencies, factor = expected_frequencies(8, 10000.0, scaling)
    cos, _ = layers.RotaryEmbedding(8, scaling=scaling, dtype=policy)(far)
    assert keras.backend.standardize_dtype(cos.dtype) == "float32"
    close(numpy(cos)[0, 0, 1], factor * np.cos(4001 * np.array(frequencies)), atol=1e-3)
    for layer in (
        layers.SinusoidalPositions(8, interleaved=False, dtype=policy),
        layers.SinusoidalPositions2D(8, 9000, dtype=policy),
    ):
        table = layer(far)
        assert keras.backend.standardize_dtype(table.dtype) == policy.removeprefix("mixed_")
        close(numpy(table), numpy(type(layer).from_config({**layer.get_config(), "dtype": "float32"})(far)), atol=4e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_relative_bias_stays_float32(policy: str) -> None:
    layer = layers.RelativePositionBias(2, dtype=policy)
    layer.build()
    randomise(layer)
    places = np.arange(6)[None]
    bias = layer(places, places)
    assert keras.backend.standardize_dtype(bias.dtype) == "float32"
    bucket = t5_bucket(places[:, None] - places[:, :, None], True, 32, 128)
    close(numpy(bias), numpy(layer.embeddings)[bucket].transpose(0, 3, 1, 2), atol=0)


PADDED = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_left_padding_moves_nobody(position: str, causal: bool, rng: Any) -> None:
    """With positions counted along the mask, the results for real tokens are the same as without padding."""
    sizes = {"hidden_dim": WIDTH, "head_dim": HEAD_DIM, "num_heads": HEADS, "max_length": LENGTH}
    scaling = yarn(4.0, 64) if position == "rotary" else None
    layer = position_layer(position, **sizes, rope_scaling=scaling, bidirectional=not causal)
    tokens = rng.normal(size=(3, LENGTH, WIDTH)).astype("float32")
    tokens[PADDED == 0] = 5.0
    attend = attention(2, rotary_interleaved=position == "rotary_interleaved")

    def run(tokens: np.ndarray, positions: Any, mask: np.ndarray | None) -> np.ndarray:
        encoded = encode_positions(layer, positions, positions)
        tokens = numpy(encoded.add_to(tokens))
        return numpy(attend(tokens, **encoded.in_attention, key_mask=mask, use_causal_mask=causal))

    places = positions_from_mask(PADDED)
    if position != "none":
        layer(*[places] * (2 if layer.kind == "biased" else 1))
        randomise(layer, spread=1.0)
    output = run(tokens, places, PADDED)
    shifted = run(tokens, np.arange(LENGTH)[None], PADDED)
    for row, mask in enumerate(PADDED.astype(bool)):
        alone = run(tokens[row : row + 1, mask], np.arange(mask.sum())[None], None)[0]
        close(output[row, mask], alone, atol=2e-5)
        if position in ("learned", "sinusoidal", "sinusoidal_halves", "sinusoidal_2d"):
            assert mask.all() or np.abs(shifted[row, mask] - alone).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SinusoidalPositions", {"hidden_dim": 8, "theta": 50.0, "interleaved": False}),
        ("SinusoidalPositions2D", {"hidden_dim": 8, "columns": 3, "theta": 50.0}),
        ("ALiBi", {"num_heads": 3}),
        ("RelativePositionBias", {"num_heads": 3, "num_buckets": 8, "max_distance": 20, "bidirectional": False}),
        *(
            ("RotaryEmbedding", {"head_dim": d, "theta": t, "scaling": s})
            for d, t, s in ROTATIONS[::2] + ROTATIONS[-2:]
        ),
    ],
)
def test_config_round_trip(name: str, arguments: dict[str, Any], tmp_path: Any) -> None:
    layer = getattr(layers, name)(**arguments)
    ids = keras.Input((None,), dtype="int32")
    inputs = [ids] * (2 if layer.kind == "biased" else 1)
    model = keras.Model(ids, layer(*inputs))
    randomise(layer)
    expected = keras.tree.flatten(layer(*[PLACES] * len(inputs)))
    copy = type(layer).from_config(layer.get_config())
    copy(*[PLACES] * len(inputs))
    copy.set_weights(layer.get_weights())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[-1]
    for other in (copy, loaded):
        config = other.get_config()
        for argument, value in arguments.items():
            kept = config[argument]
            assert kept == value or {k: kept[k] for k in value} == value
        for ours, theirs in zip(keras.tree.flatten(other(*[PLACES] * len(inputs))), expected, strict=True):
            close(numpy(ours), numpy(theirs), atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: check_scaling({"factor": 2.0}), "rope_scaling: got rope_type None"),
        (lambda: check_scaling({"rope_type": "su", "factor": 2.0}), "rope_scaling: got rope_type 'su'"),
        (lambda: check_scaling({"rope_type": "linear"}), "rope_scaling: got fields"),
        (
            lambda: check_scaling({"rope_type": "ntk", "factor": 2.0, "low_freq_factor": 1.0}),
            "rope_scaling: got fields",
        ),
        (lambda: check_scaling({"rope_type": "llama3", "factor": 8.0}), "rope_scaling: got fields"),
        (lambda: check_scaling({"rope_type": "dynamic", "factor": 2.0}), "rope_scaling: got fields"),
        (lambda: check_scaling({"rope_type": "linear", "factor": 0}), "rope_scaling: got {'factor': 0}"),
        (lambda: check_scaling({"rope_type": "linear", "factor": "2"}), "rope_scaling: got {'factor': '2'}"),
        (lambda: check_scaling(llama3(8.0, 4.0, 1.0, 8192)), "rope_scaling: got "),
        (lambda: check_scaling(llama3(8.0, 4.0, 4.0, 8192)), "rope_scaling: got "),
        (lambda: layers.RotaryEmbedding(8, scaling=yarn(-1.0, 64)), "rope_scaling: got {'factor': -1.0}"),
        (lambda: layers.RotaryEmbedding(7), "head_dim: got 7"),
        (lambda: layers.SinusoidalPositions2D(6, 3), "hidden_dim: got 6"),
        (lambda: layers.SinusoidalPositions2D(8, 0), "columns: got 0"),
        (lambda: layers.ALiBi(0), "num_heads: got 0"),
        (lambda: layers.RelativePositionBias(2.0), "num_heads: got 2.0"),
        (lambda: layers.RelativePositionBias(2, num_buckets=6), "num_buckets: got 6"),
        (lambda: layers.RelativePositionBias(2, max_distance=16), "max_distance: got 16"),
        (lambda: check_position("rotery", hidden_dim=8, head_dim=4), "position: got 'rotery'"),
        (lambda: check_position("sinusoidal_2d", hidden_dim=6, head_dim=4), "hidden_dim: got 6"),
        (lambda: check_position("sinusoidal_halves", hidden_dim=7, head_dim=4), "hidden_dim: got 7"),
        (lambda: check_position("rotary_interleaved", hidden_dim=6, head_dim=3), "head_dim: got 3"),
    ],
)
def test_refused_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}.*accepted"):
        make()
