"""Mixtures of experts compared with float64 NumPy, in every way in which they are computed, and trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import layers
from attention_zoo.layers.experts import group_by_expert, grouped_dense, load_balancing_loss
from helpers import close, float64, numpy

WIDTH = 8
KINDS: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "qwen2": {"normalize": False, "shared_dim": 10},
    "gpt-oss": {"activation": "clamped_swiglu", "use_bias": True, "router_bias": True},
    "geglu": {"activation": "geglu_erf", "use_bias": True},
}


def built(rng: Any, experts: int, chosen: int, **options: Any) -> layers.MixtureOfExperts:
    layer = layers.MixtureOfExperts(experts, chosen, 12, **options)
    layer.build((None, None, WIDTH))
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def expected(layer: layers.MixtureOfExperts, x: np.ndarray) -> np.ndarray:
    """Return the output, token by token and expert by expert."""
    from scipy.special import erf

    w = {weight.path.partition("/")[2]: float64(weight) for weight in layer.weights}
    inner = {
        "swiglu": lambda g: g * sigmoid(g),
        "geglu_erf": lambda g: g * (1 + erf(g / np.sqrt(2))) / 2,
    }

    def one(t: np.ndarray, j: int) -> np.ndarray:
        g, u = (t @ w[f"{name}_kernel"][j] + w.get(f"{name}_bias", [0] * 99)[j] for name in ("gate", "up"))
        if layer.activation == "clamped_swiglu":
            g, u = np.minimum(g, 7), np.clip(u, -7, 7)
            h = g * sigmoid(1.702 * g) * (u + 1)
        else:
            h = inner[layer.activation](g) * u
        return h @ w["down_kernel"][j] + w.get("down_bias", [0] * 99)[j]

    results = []
    for t in float64(x).reshape(-1, WIDTH):
        logits = t @ w["router/kernel"] + w.get("router/bias", 0)
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        chosen = np.argsort(-logits)[: layer.experts_per_token]
        total = probabilities[chosen].sum() if layer.normalize else 1.0
        result = sum(probabilities[j] / total * one(t, int(j)) for j in chosen)
        if layer.shared is not None:
            g = t @ w["shared/gate/kernel"]
            shared = (g * sigmoid(g) * (t @ w["shared/up/kernel"])) @ w["shared/down/kernel"]
            result = result + sigmoid(t @ w["shared_gate/kernel"]) * shared
        results.append(result)
    return np.reshape(results, x.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("experts", "chosen"), [(4, 2), (16, 3), (3, 3), (1, 1)])
def test_outputs(kind: str, experts: int, chosen: int, rng: Any) -> None:
    """Cover one token, blocks of one row, and blocks of several rows."""
    layer = built(rng, experts, chosen, **KINDS[kind])
    for shape in [(1, 1), (2, 1), (1, 5), (2, 40)]:
        x = rng.normal(size=(*shape, WIDTH)).astype("float32")
        wanted = expected(layer, x)
        close(numpy(layer(x)), wanted, atol=1e-5 * np.abs(wanted).max())


def test_all_tokens_choose_one_expert(rng: Any) -> None:
    """The number of blocks is greatest, or smallest, when the choice is as uneven as it can be."""
    layer = built(rng, 6, 2)
    layer.router.kernel.assign(np.eye(WIDTH)[:, :6])
    for first in (0, 3, 5):
        x = rng.normal(size=(1, 30, WIDTH)).astype("float32")
        x[..., [first, (first + 1) % 6]] += 20
        wanted = expected(layer, x)
        close(numpy(layer(x)), wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_token_does_not_depend_on_others(rng: Any) -> None:
    layer = built(rng, 5, 2)
    x = rng.normal(size=(2, 9, WIDTH)).astype("float32")
    other = np.concatenate([x[:, :4], 9 * rng.normal(size=(2, 5, WIDTH))], axis=1).astype("float32")
    close(numpy(layer(x))[:, :4], numpy(layer(other))[:, :4], atol=2e-5)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 50])
def test_groups(tokens: int, rng: Any) -> None:
    """Every pair has a row of its own, in a block of its expert."""
    experts, k = 6, 2
    chosen = np.stack([rng.permutation(experts)[:k] for _ in range(tokens)]).astype("int32")
    groups = [numpy(part) for part in group_by_expert(keras.ops.convert_to_tensor(chosen), experts)]
    rows = groups[0].shape[1]
    assert groups[0].shape[0] <= min(experts * 3 // 2, tokens * k)
    assert len(set(groups[2].ravel().tolist())) == tokens * k
    for n, p in np.ndindex(chosen.shape):
        place = int(groups[2][n, p])
        assert groups[0].ravel()[place] == n
        assert groups[1][place // rows] == chosen[n, p]


def test_kernels_of_other_experts_are_not_read(rng: Any) -> None:
    """NaN in the kernels of experts that are not selected has no effect."""
    kernel = rng.normal(size=(12, 4, 3)).astype("float32")
    kernel[[0, 3, 11]] = np.nan
    for experts in ([5, 1], list(range(1, 3)) + list(range(4, 11))):
        x = rng.normal(size=(len(experts), 2, 4)).astype("float32")
        result = numpy(grouped_dense(x, np.array(experts, "int32"), kernel))
        close(result, np.einsum("gri,gio->gro", x, kernel[experts]), atol=1e-5)


def test_load_balancing_loss(rng: Any) -> None:
    """It is k for an even choice, equals the sum in the paper, and leaves padding out."""
    even = np.full((8, 4), 0.25, "float32")
    chosen = np.array([[i % 4, (i + 1) % 4] for i in range(8)], "int32")
    close(numpy(load_balancing_loss(even, chosen)), 2.0, atol=1e-6)
    probabilities = rng.dirichlet(np.ones(4), size=8).astype("float32")
    mask = np.array([1, 1, 0, 1, 0, 1, 1, 0])
    counts = np.array([(chosen[mask == 1] == j).sum() / mask.sum() for j in range(4)])
    wanted = 4 * (counts * probabilities[mask == 1].mean(0)).sum()
    close(numpy(load_balancing_loss(probabilities, chosen, mask)), wanted, atol=1e-6)


def test_the_loss_is_added_in_training_only(rng: Any) -> None:
    layer = built(rng, 4, 2, router_loss=0.5)
    x = rng.normal(size=(2, 3, WIDTH)).astype("float32")
    layer(x)
    assert layer.losses == []
    layer(x, training=True)
    assert len(layer.losses) == 1
    assert 0.5 * 0.4 < float(numpy(layer.losses[0])) < 0.5 * 8
    without = built(rng, 4, 2)
    without(x, training=True)
    assert without.losses == []


def test_training_reaches_every_weight(rng: Any) -> None:
    layer = layers.MixtureOfExperts(3, 2, 6, shared_dim=4, router_loss=0.01)
    inputs = keras.Input((None, WIDTH))
    model = keras.Model(inputs, layer(inputs))
    before = [numpy(weight) for weight in model.weights]
    x = rng.normal(size=(16, 5, WIDTH)).astype("float32")
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    history = model.fit(x, np.tanh(x), epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for weight, old in zip(model.weights, before, strict=True):
        changed = np.abs(numpy(weight) - old)
        assert changed.max() > 1e-4, weight.path
        assert weight.shape[0] != 3 or changed.reshape(3, -1).max(1).min() > 1e-4, weight.path


def test_experts_start_different_and_as_wide_as_dense_layers() -> None:
    layer = layers.MixtureOfExperts(8, 2, 64)
    layer.build((None, None, 64))
    kernel = float64(layer.gate_kernel)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.05
    close(kernel.std(), np.sqrt(2 / 128), atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation: got 'gelu'"),
        ({"experts_per_token": 5}, "experts_per_token: got 5; accepted: from 1 to num_experts=4"),
        ({"experts_per_token": 0}, "experts_per_token: got 0"),
        ({"activation": "clamped_swiglu", "shared_dim": 4}, "activation: got 'clamped_swiglu'"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers.MixtureOfExperts(**{"num_experts": 4, "experts_per_token": 2, "intermediate_dim": 8, **options})


def test_config(rng: Any) -> None:
    layer = built(rng, 4, 2, **KINDS["qwen2"], router_loss=0.1, dropout=0.2)
    again = layers.MixtureOfExperts.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
