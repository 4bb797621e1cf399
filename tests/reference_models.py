"""Whole encoder-decoders in float64 NumPy, written from the papers with the primitives of ``reference.py``.

Apart from the weight names, no code of this package is used. Every weight name that is read is recorded, so that a test
can detect weights that are never used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import reference
from attention_zoo.zoo.base import weight_name
from helpers import float64

Array = np.ndarray


class Weights(Mapping[str, Array]):
    """Arrays by name; ``weights.under("block_0")`` contains those whose names start with "block_0/"."""

    def __init__(self, values: Mapping[str, Array], read: set[str] | None = None, prefix: str = "") -> None:
        self.values_by_name, self.read, self.prefix = values, set() if read is None else read, prefix

    @classmethod
    def of(cls, model: Any) -> Weights:
        return cls({weight_name(w): float64(w) for w in model.weights if "seed_generator" not in w.path})

    def under(self, prefix: str) -> Weights:
        return Weights(self.values_by_name, self.read, f"{self.prefix}{prefix}/")

    def __getitem__(self, name: str) -> Array:
        value = self.values_by_name[self.prefix + name]
        self.read.add(self.prefix + name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name[len(self.prefix) :] for name in self.values_by_name if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def unread(self) -> set[str]:
        return set(self.values_by_name) - self.read


def places(mask: Array) -> Array:
    """Return the number of kept tokens before each token, (batch, length)."""
    counted = np.zeros(mask.shape, int)
    for row, column in np.ndindex(mask.shape):
        counted[row, column] = mask[row, :column].sum()
    return counted


def t5_bucket(ahead: int, bidirectional: bool, buckets: int = 32, farthest: int = 128) -> int:
    """Return the relative position bucket, as in Mesh TensorFlow, of a key `ahead` positions after its query."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if ahead > 0 else 0
        distance = abs(ahead)
    else:
        distance = max(-ahead, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    logarithmic = math.log(distance / exact) / math.log(farthest / exact) * (buckets - exact)
    return first + min(exact + int(logarithmic + 1e-9), buckets - 1)


def t5_bias(table: Array, positions: Array, bidirectional: bool) -> Array:
    """Return the relative position bias (batch, heads, T, T) for positions (batch, T)."""
    batch, length = positions.shape
    bias = np.zeros((batch, table.shape[1], length, length))
    for b, q, k in np.ndindex(batch, length, length):
        bias[b, :, q, k] = table[t5_bucket(int(positions[b, k] - positions[b, q]), bidirectional, len(table))]
    return bias


def norm(weights: Weights, x: Array, epsilon: float) -> Array:
    if "scale" in list(weights):
        return reference.rms_norm(x, weights["scale"], epsilon)
    return reference.layer_norm(x, weights["gamma"], weights["beta"], epsilon)


def transformer(
    weights: Weights, config: Any, ids: Array, mask: Array, decoder_ids: Array, decoder_mask: Array
) -> dict[str, Any]:
    """Return the logits and all intermediate results for ids and masks (batch, length)."""
    c = config
    results: dict[str, Any] = {}
    heads = {
        "encoder": {"heads": c.num_heads, "kv_heads": c.num_kv_heads, "scale": c.attention_scale},
        "decoder": {"heads": c.num_decoder_heads, "kv_heads": c.num_decoder_kv_heads, "scale": c.attention_scale},
    }

    def sublayer(name: str, x: Array, branch: Any) -> Array:
        """Apply section 3.1, "LayerNorm(x + Sublayer(x))", or its pre-norm form "x + Sublayer(LayerNorm(x))"."""
        normalise = functools.partial(norm, epsilon=c.norm_epsilon)
        if c.norm_first:
            return x + branch(normalise(weights.under(name), x))
        return normalise(weights.under(name), x + branch(x))

    def stack(side: str, table: str, ids: Array, mask: Array, encoded: Array | None) -> Array:
        positions, shared = places(mask), heads[side]
        x = weights[f"{table}/embeddings"][ids]
        if c.scale_embeddings:
            x = x * math.sqrt(c.hidden_dim)
        own: dict[str, Any] = {}
        if c.position.startswith("sinusoidal"):
            waves = reference.sinusoids(positions, c.hidden_dim)
            if c.position == "sinusoidal_halves":
                waves = np.concatenate([waves[..., ::2], waves[..., 1::2]], axis=-1)
            x = x + waves
        elif c.position == "rotary":
            own["rotate"] = functools.partial(reference.rotate, positions=positions)
        elif c.position == "relative":
            own["bias"] = t5_bias(weights[f"{side}_positions/embeddings"], positions, side == "encoder")
        own["mask"] = mask[:, None, None]
        own["causal"] = side == "decoder"
        states, attentions, crossed = [x], [], []
        for i in range(c.num_layers if side == "encoder" else c.num_decoder_layers):
            block = f"{side}_block_{i}"

            def attend(x: Array, block: str = block) -> Array:
                x, scores = reference.multi_head_attention(
                    weights.under(f"{block}/attention"), x, x, x, **shared, **own
                )
                attentions.append(scores)
                return x

            def cross(x: Array, block: str = block) -> Array:
                x, scores = reference.multi_head_attention(
                    weights.under(f"{block}/cross_attention"), x, encoded, encoded, mask=source, **shared
                )
                crossed.append(scores)
                return x

            def feed(x: Array, block: str = block) -> Array:
                return reference.feed_forward(weights.under(f"{block}/feedforward"), x, c.activation)

            x = sublayer(f"{block}/attention_norm", x, attend)
            if encoded is not None:
                x = sublayer(f"{block}/cross_attention_norm", x, cross)
            x = sublayer(f"{block}/feedforward_norm", x, feed)
            states.append(x)
        results[f"{side}_hidden_states"], results[f"{side}_attentions"] = states, attentions
        if crossed:
            results["cross_attentions"] = crossed
        return norm(weights.under(f"{side}_norm"), x, c.norm_epsilon) if c.norm_first else x

    source = mask[:, None, None]
    results["encoded"] = stack("encoder", "embedding", ids, mask, None)
    target_table = "embedding" if c.share_embeddings else "decoder_embedding"
    results["decoded"] = stack("decoder", target_table, decoder_ids, decoder_mask, results["encoded"])
    head = weights[f"{target_table}/embeddings"].T if c.tie_embeddings else weights["lm_head/kernel"]
    scale = c.hidden_dim**-0.5 if c.scale_outputs else 1.0
    results["logits"] = results["decoded"] * scale @ head + (weights["logits_bias"] if c.use_logits_bias else 0.0)
    return results


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(weights: Weights, x: Array, state: list[Array]) -> list[Array]:
    """Return h and c, (units,) each, after one more input x to an LSTM cell with a forget gate."""
    h, c = state
    gates = x @ weights["lstm_cell/kernel"] + h @ weights["lstm_cell/recurrent_kernel"] + weights["lstm_cell/bias"]
    keep_in, keep_old, new, out = np.split(gates, 4)
    c = sigmoid(keep_old) * c + sigmoid(keep_in) * np.tanh(new)
    return [sigmoid(out) * np.tanh(c), c]


def gru(weights: Weights, x: Array, state: list[Array]) -> list[Array]:
    """Return the state after one more input x to a GRU cell (Cho et al.).

    As in cuDNN, the reset gate is applied after the matrix multiplication with the state.
    """
    (h,) = state
    bias = weights["gru_cell/bias"]
    update_x, reset_x, new_x = np.split(x @ weights["gru_cell/kernel"] + bias[0], 3)
    update_h, reset_h, new_h = np.split(h @ weights["gru_cell/recurrent_kernel"] + bias[1], 3)
    update = sigmoid(update_x + update_h)
    return [update * h + (1 - update) * np.tanh(new_x + sigmoid(reset_x + reset_h) * new_h)]


CELLS = {"lstm": (lstm, 2), "gru": (gru, 1)}


def read(cell: Any, weights: Weights, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    """Return the outputs (T, units) for tokens (T, width), and the final state."""
    outputs = []
    for token in x:
        state = cell(weights, token, state)
        outputs.append(state[0])
    return np.array(outputs), state


def seq2seq(weights: Weights, config: Any, ids: Array, mask: Array, decoder_ids: Array) -> dict[str, Any]:
    """Compute one row at a time from its kept tokens only; results at padding positions stay zero."""
    c = config
    cell, parts = CELLS[c.cell]
    batch, sources, targets = *ids.shape, decoder_ids.shape[1]
    widths = [c.embedding_dim] + [c.hidden_dim] * c.num_layers
    results: dict[str, Any] = {
        "logits": np.zeros((batch, targets, c.vocab_size)),
        "encoder_hidden_states": [np.zeros((batch, sources, width)) for width in widths],
        "decoder_hidden_states": [np.zeros((batch, targets, width)) for width in widths],
    }
    if c.attention is not None:
        results["cross_attentions"] = [np.zeros((batch, targets, sources))]
    for row in range(batch):
        kept = np.flatnonzero(mask[row])
        x = weights["embedding/embeddings"][ids[row, kept]]
        results["encoder_hidden_states"][0][row, kept] = x
        states = []
        for i in range(c.num_layers):
            blank = [np.zeros(c.hidden_dim // (1 + c.bidirectional))] * parts
            outputs, last = read(cell, weights.under(f"encoder_{i}"), x, blank)
            if c.bidirectional:
                back, first = read(cell, weights.under(f"encoder_backwards_{i}"), x[::-1], blank)
                outputs = np.concatenate([outputs, back[::-1]], axis=-1)
                last = [np.concatenate(pair) for pair in zip(last, first, strict=True)]
            states.append(last)
            x = outputs
            results["encoder_hidden_states"][i + 1][row, kept] = x
        encoded = x

        x = weights["decoder_embedding/embeddings"][decoder_ids[row]]
        results["decoder_hidden_states"][0][row] = x
        for i, state in enumerate(states):
            x, _ = read(cell, weights.under(f"decoder_{i}"), x, state)
            results["decoder_hidden_states"][i + 1][row] = x
        if c.attention is not None:
            for t, query in enumerate(x):
                scores = [score(weights.under("attention"), c.attention, query, key) for key in encoded]
                exponentials = np.exp(np.array(scores) - max(scores))
                results["cross_attentions"][0][row, t, kept] = exponentials / exponentials.sum()
            context = results["cross_attentions"][0][row][:, kept] @ encoded
            x = np.tanh(np.concatenate([context, x], axis=-1) @ weights["combine/kernel"])
        results["logits"][row] = x @ weights["lm_head/kernel"] + weights["lm_head/bias"]
    return results


def score(weights: Weights, kind: str, query: Array, key: Array) -> float:
    """Return the score of Bahdanau, ``vᵀ tanh(W q + U k)``, or of Luong, ``q · W k`` or ``q · k``."""
    if kind in ("additive", "concat"):
        hidden = np.tanh(query @ weights["query/kernel"] + key @ weights["key/kernel"])
        return (hidden @ weights["kernel"]).item()
    return float(query @ (key @ weights["key/kernel"] if kind == "general" else key))
