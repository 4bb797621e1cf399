"""Positions, norms, feed-forward, blocks and embeddings compared with float64 NumPy; configs of all layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import reference
from attention_zoo import layers
from attention_zoo.layers.embedding import _bicubic_matrix
from attention_zoo.layers.position import positions_from_mask
from helpers import close, float64, numpy, randomise

POSITIONS = np.array([[0, 1, 2, 3, 4, 5], [7, 0, 100, 511, 1023, 8191]])


def by_path(layer: Any) -> dict[str, np.ndarray]:
    """Return the weights by their path below the layer."""
    return {weight.path.partition("/")[2] or weight.path: float64(weight) for weight in layer.weights}


@pytest.mark.parametrize(("width", "theta"), [(2, 10000.0), (16, 10000.0), (30, 50.0)])
def test_sinusoidal_positions(width: int, theta: float) -> None:
    # The argument of the sine is a float32, whose resolution near 8191 radians is 5e-4.
    near = np.clip(POSITIONS, 0, 511)
    layer = layers.SinusoidalPositions(width, theta)
    close(numpy(layer(near)), reference.sinusoids(near, width, theta), atol=5e-5)
    close(numpy(layer(POSITIONS)), reference.sinusoids(POSITIONS, width, theta), atol=1e-3)
    assert numpy(layer(np.array([[0]])))[0, 0].tolist() == [0, 1] * (width // 2)


@pytest.mark.parametrize(("width", "theta"), [(2, 10000.0), (16, 10000.0), (12, 100000.0)])
def test_rotary(width: int, theta: float, rng: Any) -> None:
    x = rng.normal(size=(2, 3, 6, width)).astype("float32")
    cos, sin = layers.RotaryEmbedding(width, theta)(POSITIONS)
    close(numpy(layers.functional.rotary(x, cos, sin)), reference.rotate(x, POSITIONS, theta), atol=2e-3)
    near = np.clip(POSITIONS, 0, 511)
    cos, sin = layers.RotaryEmbedding(width, theta)(near)
    close(numpy(layers.functional.rotary(x, cos, sin)), reference.rotate(x, near, theta), atol=1e-4)


def test_rotary_depends_on_distance_only(rng: Any) -> None:
    """q·k depends only on the distance between query and key, and rotation keeps the norm of each vector."""
    q, k = (np.broadcast_to(rng.normal(size=(1, 1, 1, 8)), (1, 1, 4, 8)).astype("float32") for _ in range(2))
    rotary = layers.RotaryEmbedding(8)

    def turned(x: np.ndarray, positions: list[int]) -> np.ndarray:
        return numpy(layers.functional.rotary(x, *rotary(np.array([positions]))))[0, 0]

    for distance in (0, 1, 5, 17):
        starts = [0, 3, 40, 200]
        products = (turned(q, [s + distance for s in starts]) * turned(k, starts)).sum(-1)
        close(products, np.full(4, products[0]), atol=2e-4)
    close(np.linalg.norm(turned(q, starts), axis=-1), np.linalg.norm(q[0, 0], axis=-1), atol=1e-5)
    apart = (turned(q, [0, 1, 2, 3]) * turned(k, [0, 0, 0, 0])).sum(-1)
    assert np.abs(np.diff(apart)).min() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_rotary_angles_stay_float32(policy: str) -> None:
    """In half precision, the angle of position 4000 would be wrong by more than a radian."""
    cos, sin = layers.RotaryEmbedding(4, dtype=policy)(np.array([[4001]]))
    assert keras.backend.standardize_dtype(cos.dtype) == "float32"
    expected = 4001 * 10000.0 ** (-np.array([0, 2]) / 4)
    close(numpy(cos)[0, 0, 0], np.cos(expected), atol=1e-3)
    close(numpy(sin)[0, 0, 0], np.sin(expected), atol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_sinusoidal_angles_stay_float32(policy: str) -> None:
    table = layers.SinusoidalPositions(4, dtype=policy)(np.array([[4001]]))
    assert keras.backend.standardize_dtype(table.dtype) == policy.removeprefix("mixed_")
    close(numpy(table), reference.sinusoids(np.array([[4001]]), 4), atol=5e-3)


def test_learned_positions(rng: Any) -> None:
    layer = layers.LearnedPositions(9, 4)
    layer.build()
    randomise(layer)
    ids = rng.integers(0, 9, (3, 5))
    close(numpy(layer(ids)), numpy(layer.embeddings)[ids], atol=0)
    close(numpy(layer.first(4)), numpy(layer.embeddings)[None, :4], atol=0)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_positions_from_mask(dtype: str) -> None:
    masks = [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    counted = numpy(positions_from_mask(np.array(masks).astype(dtype)))
    for mask, positions in zip(masks, counted, strict=True):
        kept = [p for p, keep in zip(positions, mask, strict=True) if keep]
        assert kept == list(range(sum(mask)))
    assert counted.min() == 0 and counted.max() == 4
    assert counted[1].tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu", "swiglu", "geglu", "geglu_erf", "reglu"])
def test_feed_forward(activation: str, use_bias: bool, rng: Any) -> None:
    x = rng.normal(size=(2, 3, 6)).astype("float32")
    layer = layers.FeedForward(11, activation, use_bias=use_bias, name="ff")
    layer.build(x.shape)
    randomise(layer, spread=0.7)
    weights = by_path(layer)
    assert len(weights) == (2 if "glu" in activation else 1) * (1 + use_bias) + 1 + use_bias
    close(numpy(layer(x)), reference.feed_forward(weights, x.astype("float64"), activation), atol=1e-5)


def test_gelus_are_told_apart(rng: Any) -> None:
    """The exact and the tanh GELU differ by at most 5e-4, which only a tight tolerance detects."""
    x = np.linspace(-6, 6, 1001).astype("float32")
    wide = x.astype("float64")
    close(numpy(layers.functional.gelu(x)), reference.gelu(wide), atol=1e-6)
    close(numpy(layers.functional.gelu(x, approximate=True)), reference.gelu_tanh(wide), atol=1e-6)
    assert np.abs(reference.gelu(wide) - reference.gelu_tanh(wide)).max() > 3e-4


@pytest.mark.parametrize("epsilon", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_norms(kind: str, epsilon: float, rng: Any) -> None:
    """Features with a small variance reveal the epsilon, features with a large mean how the variance is computed."""
    for spread, mean in ((1.0, 0.0), (1e-3, 0.0), (3.0, 20.0), (100.0, -1000.0)):
        x = rng.normal(mean, spread, (2, 5, 16)).astype("float32")
        close(apply_norm(kind, epsilon, x, None), expected_norm(kind, epsilon, x), atol=2e-4 if mean else 2e-5)


NORM_WEIGHTS = np.linspace(0.5, 1.5, 16), np.linspace(-1, 1, 16)


def apply_norm(kind: str, epsilon: float, x: Any, dtype: Any) -> np.ndarray:
    if kind == "layer_norm":
        layer = layers.LayerNormalization(epsilon=epsilon, dtype=dtype)
        layer.build(x.shape)
        layer.beta.assign(NORM_WEIGHTS[1])
        layer.gamma.assign(NORM_WEIGHTS[0])
    else:
        layer = layers.RMSNormalization(epsilon=epsilon, dtype=dtype)
        layer.build(x.shape)
        layer.scale.assign(NORM_WEIGHTS[0])
    output = layer(x)
    if dtype is not None:
        assert keras.backend.standardize_dtype(output.dtype) == dtype.removeprefix("mixed_")
    return numpy(output)


def expected_norm(kind: str, epsilon: float, x: Any) -> np.ndarray:
    x = np.asarray(x, "float64")
    if kind == "layer_norm":
        return reference.layer_norm(x, *NORM_WEIGHTS, epsilon)
    return reference.rms_norm(x, NORM_WEIGHTS[0], epsilon)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm"])
def test_norms_take_statistics_in_float32(kind: str, policy: str, rng: Any) -> None:
    """The square of 1000 overflows float16, and a bfloat16 mean has three significant digits."""
    half = policy.removeprefix("mixed_")
    x = keras.ops.cast(rng.normal(1000.0, 30.0, (4, 16)), half)
    expected = expected_norm(kind, 1e-6, float64(x))
    close(apply_norm(kind, 1e-6, x, policy), expected, atol=5e-3 if half == "float16" else 4e-2)
    tiny = keras.ops.cast(rng.normal(0.0, 1e-4, (4, 16)), half)
    expected = expected_norm(kind, 1e-12, float64(tiny))
    close(apply_norm(kind, 1e-12, tiny, policy), expected, atol=5e-3 if half == "float16" else 4e-2)


def test_layer_scale(rng: Any) -> None:
    x = rng.normal(size=(2, 3, 5)).astype("float32")
    layer = layers.LayerScale(0.25)
    close(numpy(layer(x)), 0.25 * x, atol=1e-7)
    factors = rng.normal(size=5)
    layer.scale.assign(factors)
    close(numpy(layer(x)), factors * x, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_dense(shape: tuple[int, ...], rng: Any) -> None:
    x = rng.normal(size=shape).astype("float32")
    layer = layers.Dense(7, activation="tanh")
    layer.build(shape)
    randomise(layer)
    close(numpy(layer(x)), np.tanh(x @ float64(layer.kernel) + float64(layer.bias)), atol=1e-6)
    transposed = layers.functional.dense(x, numpy(layer.kernel).T.copy(), transpose_kernel=True)
    close(numpy(transposed), x @ float64(layer.kernel), atol=1e-6)


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("layer_scale", [None, 0.3])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_block(norm: str, norm_first: bool, layer_scale: float | None, activation: str, rng: Any) -> None:
    x = rng.normal(size=(2, 5, 12)).astype("float32")
    mask = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1]], bool)
    block = layers.TransformerBlock(
        4,
        10,
        num_kv_heads=2,
        head_dim=5,
        activation=activation,
        norm=norm,
        norm_epsilon=1e-4,
        norm_first=norm_first,
        layer_scale=layer_scale,
        use_feedforward_bias=False,
        name="block",
    )
    block.build(x.shape)
    randomise(block, spread=0.4)
    weights = by_path(block)

    def part(name: str) -> dict[str, np.ndarray]:
        return {path.removeprefix(f"{name}/"): w for path, w in weights.items() if path.startswith(f"{name}/")}

    def normalise(name: str, x: np.ndarray) -> np.ndarray:
        own = part(name)
        if norm == "layer_norm":
            return reference.layer_norm(x, own["gamma"], own["beta"], 1e-4)
        return reference.rms_norm(x, own["scale"], 1e-4)

    def attend(x: np.ndarray) -> np.ndarray:
        options = {"mask": mask[:, None, None], "causal": True}
        output, _ = reference.multi_head_attention(part("attention"), x, x, x, heads=4, kv_heads=2, **options)
        return output * part("attention_scale").get("scale", 1.0)

    def feed(x: np.ndarray) -> np.ndarray:
        return reference.feed_forward(part("feedforward"), x, activation) * part("feedforward_scale").get("scale", 1.0)

    assert "feedforward/up/bias" not in weights and ("attention_scale/scale" in weights) == bool(layer_scale)
    wide = x.astype("float64")
    if norm_first:
        wide = wide + attend(normalise("attention_norm", wide))
        expected = wide + feed(normalise("feedforward_norm", wide))
    else:
        wide = normalise("attention_norm", wide + attend(wide))
        expected = normalise("feedforward_norm", wide + feed(wide))
    close(numpy(block(x, key_mask=mask, use_causal_mask=True)), expected, atol=2e-5)


@pytest.mark.parametrize("silent", ["attention", "feedforward"])
def test_block_drops_on_both_branches(silent: str) -> None:
    """With one branch set to zero, the block adds the other branch's output, dropped or scaled by 1 / (1 - rate)."""
    block = layers.TransformerBlock(3, 10, dropout=0.25)
    x = np.random.default_rng(1).normal(size=(8, 12, 12)).astype("float32")
    block.build(x.shape)
    randomise(block, spread=0.5)
    for weight in (block.attention.output_dense if silent == "attention" else block.feedforward.down).weights:
        weight.assign(np.zeros(weight.shape))
    plain = numpy(block(x)) - x
    ratio = (numpy(block(x, training=True)) - x) / plain
    clear = np.abs(plain) > 0.05  # smaller values lose too many digits in the subtraction
    kept = ratio[clear] > 0.5
    close(ratio[clear][kept], np.full(kept.sum(), 1 / 0.75), atol=1e-3)
    close(ratio[clear][~kept], np.zeros((~kept).sum()), atol=1e-3)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)


GRID, SIDE = 4, 3  # positions for 4 x 4 patches of 3 x 3 pixels


def patch_embedding(registers: int = 0) -> Any:
    layer = layers.PatchEmbedding(SIDE, SIDE * GRID, 7, num_registers=registers, num_channels=2)
    layer.build()
    return randomise(layer)


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 8), (7, 5), (2, 2), (3, 3), (1, 1), (4, 6), (1, 9), (13, 2)])
def test_patch_embedding(rows: int, columns: int, registers: int, rng: Any) -> None:
    """Compare with a loop over patches and bicubic positions; the class token has its own position, registers none."""
    layer = patch_embedding(registers)
    images = rng.normal(size=(2, rows * SIDE, columns * SIDE, 2)).astype("float32")
    positions = float64(layer.positions)[0]
    table = reference.bicubic(positions[1:].reshape(GRID, GRID, 7), rows, columns).reshape(rows * columns, 7)
    if rows == columns == GRID:
        close(table, positions[1:], atol=1e-12)
    front = [float64(layer.class_token)[0] + positions[:1]]
    front += [float64(layer.registers)[0]] if registers else []
    patches = reference.patches(images.astype("float64"), float64(layer.kernel), float64(layer.bias)) + table
    expected = np.concatenate([np.broadcast_to(np.concatenate(front), (2, 1 + registers, 7)), patches], axis=1)
    close(numpy(layer(images)), expected, atol=1e-5)
    assert layer.compute_output_shape(images.shape) == expected.shape


def test_patch_embedding_of_unknown_size(rng: Any) -> None:
    """Interpolation traced with unknown height and width gives the same result as with known sizes."""
    import tensorflow as tf

    layer = patch_embedding(2)
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 2))])
    for rows, columns in ((4, 4), (6, 3), (2, 9)):
        images = rng.normal(size=(2, rows * SIDE, columns * SIDE, 2)).astype("float32")
        close(numpy(traced(tf.constant(images))), numpy(layer(images)), atol=1e-5)


@pytest.mark.parametrize(("grid", "size"), [(4, 4), (4, 9), (16, 7), (37, 16), (14, 24), (1, 5), (2, 1)])
def test_bicubic_matrix(grid: int, size: int, rng: Any) -> None:
    line = rng.normal(size=(1, grid, 1))
    expected = reference.bicubic(line, 1, size)[0, :, 0]
    matrix = float64(_bicubic_matrix(size, grid, antialias=False))
    close(matrix @ line[0, :, 0], expected, atol=2e-5)
    close(matrix.sum(1), np.ones(size), atol=1e-5)
    # Pillow's bicubic filter on floating-point pixels equals PyTorch's with antialias=True.
    smooth = Image.fromarray(line[:, :, 0].astype("float32")).resize((size, 1), Image.Resampling.BICUBIC)
    close(float64(_bicubic_matrix(size, grid, antialias=True)) @ line[0, :, 0], np.asarray(smooth)[0], atol=2e-5)


@pytest.mark.parametrize(
    ("height", "width", "message"), [(10, 12, "height: got 10"), (12, 2, "width: got 2"), (12, 0, "width: got 0")]
)
def test_patch_embedding_refuses_other_sizes(height: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message} pixels; accepted: a positive multiple of patch_size=3"):
        patch_embedding()(np.zeros((1, height, width, 2), "float32"))
    with pytest.raises(ValueError, match=r"image_size: got 13; accepted: a multiple of patch_size=3"):
        layers.PatchEmbedding(3, 13, 7)


def test_token_embedding(rng: Any) -> None:
    """Cover the lookup and, as a tied head, the multiplication by the transposed table."""
    layer = layers.TokenEmbedding(9, 5)
    layer.build()
    randomise(layer)
    table, ids = float64(layer.embeddings), rng.integers(0, 9, (2, 3))
    close(numpy(layer(ids)), table[ids], atol=0)
    x, bias = rng.normal(size=(2, 3, 5)).astype("float32"), rng.normal(size=9).astype("float32")
    close(numpy(layer.project(x)), x @ table.T, atol=1e-6)
    close(numpy(layer.project(x, bias)), x @ table.T + bias, atol=1e-6)
    half = layers.TokenEmbedding(9, 5, dtype="mixed_bfloat16")
    half.build()
    half.embeddings.assign(layer.embeddings)
    assert keras.backend.standardize_dtype(half(ids).dtype) == "bfloat16"
    scores = half.project(keras.ops.cast(x, "bfloat16"), bias)
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    close(numpy(scores), x @ table.T + bias, atol=3e-2)


# Every public layer with arguments other than its defaults, and an input for it.
STATES = np.random.default_rng(5).normal(size=(2, 6, 12)).astype("float32")
IMAGES = np.random.default_rng(5).normal(size=(2, 9, 12, 2)).astype("float32")
IDS = np.array([[0, 3, 1], [2, 2, 4]])
SAVED: dict[str, tuple[dict[str, Any], Any]] = {
    "ALiBi": ({"num_heads": 3}, (IDS, IDS)),
    "AdditiveAttention": ({"units": 5, "use_bias": True}, (STATES, STATES)),
    "AttentionPooling": ({"num_heads": 3, "intermediate_dim": 7, "activation": "quick_gelu"}, STATES),
    "Dense": ({"units": 5, "activation": "tanh", "use_bias": False}, STATES),
    "Dropout": ({"rate": 0.3, "seed": 5}, STATES),
    "FeedForward": ({"intermediate_dim": 9, "activation": "geglu", "use_bias": False, "dropout": 0.2}, STATES),
    "GRU": ({"units": 5, "go_backwards": True}, STATES),
    "ImageProcessor": (
        {
            "size": {"shortest_edge": 9},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": 7, "width": 6},
            "rescale_factor": 0.5,
            "image_mean": [0.1, 0.2],
            "image_std": [0.3, 0.4],
        },
        np.linspace(0, 255, 2 * 13 * 11 * 2).reshape(2, 13, 11, 2).astype("float32"),
    ),
    "DisentangledAttention": (
        {"num_heads": 3, "position_terms": ("p2c",), "share_position_projections": True},
        {"query": STATES, "relative": layers.RelativeEmbeddings(8, 6, 12, max_distance=5)(STATES)},
    ),
    "LSTM": ({"units": 5, "recurrent_activation": "hard_sigmoid"}, STATES),
    "LayerNormalization": ({"epsilon": 0.3, "center": False, "unit_offset": True}, STATES),
    "LayerScale": ({"initial_value": 0.7}, STATES),
    "LearnedPositions": ({"max_length": 6, "hidden_dim": 4}, IDS),
    "LogMelSpectrogram": ({"bins": 5, "sampling_rate": 200, "seconds": 2, "window": 40, "hop": 10}, STATES[:, :, 0]),
    "MixtureOfExperts": (
        {"num_experts": 4, "experts_per_token": 3, "intermediate_dim": 7, "activation": "swiglu", "normalize": False},
        STATES,
    ),
    "MultiHeadAttention": (
        {
            "num_heads": 4,
            "key_dim": 5,
            "value_dim": 3,
            "num_kv_heads": 2,
            "output_dim": 7,
            "use_bias": False,
            "use_output_bias": True,
            "scale": 0.4,
            "softcap": 0.7,
            "use_sinks": True,
            "qk_norm_epsilon": 0.1,
            "qk_norm_joined": True,
            "qk_norm_unit_offset": True,
            "dropout": 0.3,
        },
        STATES,
    ),
    "MultiplicativeAttention": ({"score": "dot"}, (STATES, STATES)),
    "PatchEmbedding": (
        {
            "patch_size": 3,
            "image_size": 12,
            "hidden_dim": 8,
            "class_token": False,
            "use_bias": False,
            "num_registers": 2,
            "num_channels": 2,
            "use_mask_token": True,
            "dropout": 0.1,
        },
        IMAGES,
    ),
    "RMSNormalization": ({"epsilon": 0.3, "unit_offset": True}, STATES),
    "RelativeEmbeddings": (
        {"num_buckets": 8, "max_length": 6, "hidden_dim": 5, "max_distance": 5, "norm_epsilon": 0.1},
        STATES,
    ),
    "RelativePositionBias": ({"num_heads": 3, "num_buckets": 8, "max_distance": 9, "bidirectional": False}, (IDS, IDS)),
    "RotaryEmbedding": ({"head_dim": 6, "theta": 50.0, "scaling": {"rope_type": "linear", "factor": 3.0}}, IDS),
    "RotaryEmbedding2D": ({"head_dim": 8, "theta": 50.0}, STATES[..., :2]),
    "SinusoidalPositions": ({"hidden_dim": 6, "theta": 50.0, "interleaved": False}, IDS),
    "SinusoidalPositions2D": ({"hidden_dim": 8, "columns": 3, "theta": 50.0}, IDS),
    "TimeConvolution": ({"units": 5, "stride": 2}, STATES),
    "TokenEmbedding": ({"input_dim": 6, "output_dim": 4}, IDS),
    "TransformerBlock": (
        {
            "num_heads": 4,
            "intermediate_dim": 10,
            "num_kv_heads": 1,
            "head_dim": 5,
            "activation": "swiglu",
            "use_bias": False,
            "use_feedforward_bias": True,
            "norm": "rms_norm",
            "norm_epsilon": 0.1,
            "norm_first": False,
            "norm_branches": True,
            "residual_scale": 0.6,
            "layer_scale": 0.5,
            "dropout": 0.2,
            "attention_dropout": 0.1,
        },
        STATES,
    ),
    "WindowPositionBias": ({"num_heads": 3, "grid": 2}, {"rows": 2, "columns": 3}),
}


def test_every_public_layer_is_here() -> None:
    assert {*SAVED, "StaticCache", "DynamicCache"} == set(layers.__all__)


@pytest.mark.parametrize("name", SAVED)
def test_config_round_trip(name: str) -> None:
    """A layer restored from a config computes the same result with the same weights."""
    arguments, given = SAVED[name]
    layer = getattr(layers, name)(**arguments, name="own", dtype="float32")
    inputs = given if isinstance(given, tuple) else () if isinstance(given, dict) else (given,)
    named = given if isinstance(given, dict) else {}
    layer(*inputs, **named)
    randomise(layer)
    expected = keras.tree.flatten(layer(*inputs, **named))

    serialised = keras.saving.serialize_keras_object(layer)
    assert serialised["registered_name"] == f"attention_zoo>{name}"
    copy = keras.saving.deserialize_keras_object(serialised)
    assert type(copy) is type(layer) and copy.name == "own"
    config = copy.get_config()
    assert {argument: config[argument] for argument in arguments} == arguments
    copy(*inputs, **named)
    assert [w.path for w in copy.weights] == [w.path for w in layer.weights]
    copy.set_weights(layer.get_weights())
    for ours, theirs in zip(keras.tree.flatten(copy(*inputs, **named)), expected, strict=True):
        close(numpy(ours), numpy(theirs), atol=0)


def test_functional_model_through_a_file(tmp_path: Any, rng: Any) -> None:
    """Save and load a third-party Keras model that uses cross-attention with a mask and returns the scores."""
    query, value = keras.Input((None, 12)), keras.Input((None, 9))
    mask = keras.Input((None,), dtype="int32")
    attend = layers.MultiHeadAttention(4, 5, 3, num_kv_heads=2, output_dim=7)
    output, scores = attend(query, value, key_mask=mask, return_attention_scores=True)
    model = keras.Model([query, value, mask], [layers.RMSNormalization(epsilon=1e-6)(output), scores])
    randomise(model)
    keep = (rng.random((2, 6)) < 0.6).astype("int32")
    inputs = [STATES, rng.normal(size=(2, 6, 9)).astype("float32"), keep]
    expected = model(inputs)
    model.save(tmp_path / "model.keras")
    for ours, theirs in zip(keras.models.load_model(tmp_path / "model.keras")(inputs), expected, strict=True):
        close(numpy(ours), numpy(theirs), atol=1e-6)
    weights = numpy(expected[1])
    close(weights.sum(-1), np.broadcast_to(keep.any(1)[:, None, None], (2, 4, 6)).astype("float64"), atol=1e-5)


def test_blocks_in_a_functional_model(tmp_path: Any) -> None:
    """Keras' functional API traces rotary positions, a block that returns its scores and one that does not."""
    x, positions = keras.Input((None, 12)), keras.Input((None,), dtype="int32")
    rotary = layers.RotaryEmbedding(4)(positions)
    first, scores = layers.TransformerBlock(3, 10)(x, rotary=rotary, use_causal_mask=True, return_attention_scores=True)
    model = keras.Model([x, positions], [layers.TransformerBlock(3, 10, num_kv_heads=1)(first), scores])
    randomise(model)
    ids = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]])
    output, weights = model([STATES, ids])
    one, other = (layer for layer in model.layers if isinstance(layer, layers.TransformerBlock))
    turn = layers.RotaryEmbedding(4)(ids)
    expected, by_hand = one(STATES, rotary=turn, use_causal_mask=True, return_attention_scores=True)
    close(numpy(output), numpy(other(expected)), atol=1e-6)
    close(numpy(weights), numpy(by_hand), atol=1e-6)
    model.save(tmp_path / "model.keras")
    for ours, theirs in zip(
        keras.models.load_model(tmp_path / "model.keras")([STATES, ids]), (output, weights), strict=True
    ):
        close(numpy(ours), numpy(theirs), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.SinusoidalPositions(7), "hidden_dim: got 7"),
        (lambda: layers.RotaryEmbedding(0), "head_dim: got 0"),
        (lambda: layers.FeedForward(8, "gleu"), "activation: got 'gleu'"),
        (lambda: layers.TransformerBlock(2, 8, norm="batch_norm"), "norm: got 'batch_norm'"),
    ],
)
def test_refused_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}.*accepted"):
        make()
