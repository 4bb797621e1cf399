"""A mixture of experts: a router selects a few of many feed-forward networks for every token.

Only the selected experts are computed. The (token, expert) pairs are grouped by expert into blocks of equal length,
each block is multiplied by the kernel of its expert, and the results go back to their tokens. A single token, as in a
step of generation, is one block for each of its experts. All sizes are known before the selection, apart from the
number of blocks, which has a known limit; so the same computation runs on every backend and in every file format.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from . import functional as F
from .core import Dense
from .dropout import Dropout
from .feedforward import ACTIVATIONS, GATED, FeedForward

Tensor = Any

CLAMPED = "clamped_swiglu"
ALPHA, LIMIT = 1.702, 7.0  # of the clamped activation


class Groups(NamedTuple):
    """Blocks of (token, expert) pairs, see ``group_by_expert``.

    Attributes:
        tokens: (blocks, rows) int32, the token in every row. Rows without a pair repeat token 0.
        experts: (blocks,) int32, the expert of every block.
        places: (tokens, chosen) int32, the row of every pair, counted over all blocks.
    """

    tokens: Tensor
    experts: Tensor
    places: Tensor


@F.primitive
def group_by_expert(chosen: Tensor, num_experts: int) -> Groups:
    """Group pairs by expert into blocks of ``ceil(2 · pairs / num_experts)`` rows.

    A block has room for twice the mean number of pairs per expert. There are at most as many blocks as pairs, and at
    most 3/2 `num_experts`: `num_experts` / 2 full blocks, and one partly filled block for each expert. If the tokens
    are distributed about evenly, one block per expert is enough.

    Args:
        chosen: (tokens, k) int32, the experts of every token, all different in a row.
        num_experts: number of experts.
    """
    if chosen.shape[0] is not None and chosen.shape[0] * chosen.shape[1] <= num_experts:  # blocks of one row
        return _pairs(chosen)
    count = ops.shape(chosen)[0] * chosen.shape[1]  # P
    most = num_experts + num_experts // 2
    blocks = ops.minimum(count, most) if chosen.shape[0] is None else min(count, most)
    return grouped(chosen, num_experts, lambda _: blocks)


def _pairs(chosen: Tensor) -> Groups:
    """Return one block for every pair."""
    tokens, k = chosen.shape
    rows = ops.reshape(ops.repeat(ops.arange(tokens, dtype="int32"), k), (-1, 1))  # (P, 1)
    places = ops.reshape(ops.arange(tokens * k, dtype="int32"), (tokens, k))
    return Groups(rows, ops.reshape(chosen, (-1,)), places)


def grouped(chosen: Tensor, num_experts: int, blocks: Callable[[Tensor], Any]) -> Groups:
    """Group pairs as ``group_by_expert`` does; `blocks` computes the number of blocks from the number in use."""
    k = chosen.shape[1]
    rows = (2 * ops.shape(chosen)[0] * k + num_experts - 1) // num_experts
    experts = ops.expand_dims(ops.arange(num_experts, dtype="int32"), 0)  # (1, E)
    pairs = ops.reshape(chosen, (-1, 1))  # (P, 1)
    hot = ops.cast(ops.equal(pairs, experts), "int32")  # (P, E)
    counts = ops.sum(hot, axis=0)  # (E,), pairs of each expert
    ends = ops.cumsum((counts + (rows - 1)) // rows)  # (E,), the block behind the last one of each expert
    starts = (ends - (counts + (rows - 1)) // rows) * rows  # (E,), the first row of each expert
    # Each pair comes behind those of the same expert that precede it.
    place = ops.sum(hot * (ops.cumsum(hot, axis=0) - 1 + ops.expand_dims(starts, 0)), axis=-1)  # (P,)
    number = blocks(ends[-1])
    numbers = ops.expand_dims(ops.arange(number, dtype="int32"), 1)  # (G, 1)
    owner = ops.sum(ops.cast(ops.greater_equal(numbers, ops.expand_dims(ends, 0)), "int32"), axis=-1)  # (G,)
    token = ops.arange(ops.shape(pairs)[0], dtype="int32") // k  # (P,)
    tokens = ops.scatter(ops.expand_dims(place, 1), token, (number * rows,))  # (G·rows,)
    return Groups(ops.reshape(tokens, (number, rows)), ops.minimum(owner, num_experts - 1), ops.reshape(place, (-1, k)))


@F.primitive
def grouped_dense(inputs: Tensor, experts: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``inputs[g] @ kernel[experts[g]] + bias[experts[g]]`` for every block g, (blocks, rows, out).

    Kernels of experts that no block has are not read.

    Args:
        inputs: (blocks, rows, in).
        experts: (blocks,) int32.
        kernel: (experts, in, out).
        bias: (experts, out) or None.
    """
    kernel = ops.convert_to_tensor(kernel)
    # A slice of each kernel would not be copied, but XLA rearranges the whole weight before it slices.
    x = ops.matmul(inputs, F.take_rows(kernel, experts))  # (G, rows, out)
    return x if bias is None else x + ops.expand_dims(F.take_rows(bias, experts), 1)


def gated(activation: str, gate: Tensor, up: Tensor) -> Tensor:
    """Return ``act(gate) · up`` for a gated activation of ``FeedForward``, or the clamped one of gpt-oss."""
    if activation != CLAMPED:
        return ACTIVATIONS[GATED[activation]](gate) * up
    gate = ops.minimum(gate, LIMIT)
    return gate * ops.sigmoid(ALPHA * gate) * (ops.clip(up, -LIMIT, LIMIT) + 1.0)


def load_balancing_loss(probabilities: Tensor, chosen: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Return the load-balancing loss of one router, which is k if all experts get the same share of the tokens.

    It is the one of the Switch Transformer (Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6), with the k choices
    of a token counted as in Mixtral.

    Args:
        probabilities: (tokens, experts), softmax over all experts.
        chosen: (tokens, k) int32.
        key_mask: (tokens,), False or 0 = padding, which does not count.
    """
    experts = probabilities.shape[-1]
    hot = ops.sum(ops.one_hot(chosen, experts, dtype=probabilities.dtype), axis=1)  # (N, E)
    weights = ops.ones_like(probabilities[:, :1])  # (N, 1)
    if key_mask is not None:
        weights = ops.expand_dims(ops.cast(key_mask, probabilities.dtype), 1)
    total = ops.maximum(ops.sum(weights), 1.0)
    return experts * ops.sum(ops.sum(hot * weights, 0) / total * (ops.sum(probabilities * weights, 0) / total))


@keras.saving.register_keras_serializable(package="attention_zoo")
class MixtureOfExperts(keras.layers.Layer):
    """Mixture of experts: for every token, the weighted sum of the outputs of the experts that a router selects.

    It takes the place of a ``FeedForward``: input and output are (batch, length, width), and the output has the compute
    dtype. Each expert computes ``down(act(gate(x)) · up(x))``. The router is a linear layer whose `experts_per_token`
    largest outputs select the experts (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088). A
    token's result does not depend on the other tokens: no expert has a limited capacity.

    The weights of all experts are stacked: ``gate_kernel`` and ``up_kernel`` (experts, width, intermediate_dim) and
    ``down_kernel`` (experts, intermediate_dim, width).

    Args:
        num_experts: number of experts.
        experts_per_token: number of experts selected for each token.
        intermediate_dim: width of an expert between its projections.
        activation: a gated activation of ``FeedForward``, or "clamped_swiglu" of gpt-oss:
            ``g · sigmoid(1.702 g) · (u + 1)`` with g = gate(x) of at most 7, and u = up(x) from -7 to 7.
        use_bias: whether the projections of the experts have biases.
        router_bias: whether the router has a bias.
        normalize: whether the weights of the selected experts sum to 1, which is a softmax over the selected ones.
            Otherwise they are the router's probabilities over all experts.
        shared_dim: width of a further expert that every token uses, multiplied by the sigmoid of a linear layer, as in
            Qwen2-MoE; None for no such expert. It is a ``FeedForward`` without biases.
        router_loss: coefficient of ``load_balancing_loss``, which is added in training (``add_loss``); 0 for none.
        dropout: dropout rate on the output, in training only.
        kernel_initializer: initializer of all kernels.

    Raises:
        ValueError: `activation` is not one of these, or `experts_per_token` is not from 1 to `num_experts`.
    """

    def __init__(
        self,
        num_experts: int,
        experts_per_token: int,
        intermediate_dim: int,
        activation: str = "swiglu",
        *,
        use_bias: bool = False,
        router_bias: bool = False,
        normalize: bool = True,
        shared_dim: int | None = None,
        router_loss: float = 0.0,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        accepted = [*GATED, CLAMPED] if shared_dim is None else list(GATED)
        if activation not in accepted:
            raise ValueError(f"activation: got {activation!r}; accepted: {sorted(accepted)}")
        if not 1 <= experts_per_token <= num_experts:
            raise ValueError(
                f"experts_per_token: got {experts_per_token}; accepted: from 1 to num_experts={num_experts}"
            )
        self.num_experts, self.experts_per_token = num_experts, experts_per_token
        self.intermediate_dim, self.activation = intermediate_dim, activation
        self.use_bias, self.router_bias, self.normalize = use_bias, router_bias, normalize
        self.shared_dim, self.router_loss, self.dropout = shared_dim, router_loss, dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        shared: dict[str, Any] = {"dtype": self.dtype_policy}

        def linear(units: int, use_bias: bool, name: str) -> Dense:
            initializer = self.kernel_initializer.clone()
            return Dense(units, use_bias=use_bias, kernel_initializer=initializer, name=name, **shared)

        self.router = linear(num_experts, router_bias, "router")
        self.shared: Any = None
        self.shared_gate: Any = None
        if shared_dim is not None:
            initializer = self.kernel_initializer.clone()
            self.shared = FeedForward(
                shared_dim, activation, use_bias=False, kernel_initializer=initializer, name="shared", **shared
            )
            self.shared_gate = linear(1, False, "shared_gate")
        self.dropout_layer = Dropout(dropout, name="dropout", **shared)

    def build(self, input_shape: Any) -> None:
        width, inner = input_shape[-1], self.intermediate_dim
        for layer in (self.router, self.shared, self.shared_gate):
            if layer is not None:
                layer.build(input_shape)
        self.gate_kernel, self.gate_bias = self._projection("gate", width, inner)
        self.up_kernel, self.up_bias = self._projection("up", width, inner)
        self.down_kernel, self.down_bias = self._projection("down", inner, width)

    def _projection(self, name: str, inputs: int, outputs: int) -> tuple[Any, Any]:
        """Return the kernels (experts, inputs, outputs) and the biases (experts, outputs) or None."""
        shape = (self.num_experts, inputs, outputs)
        kernel = self.add_weight(name=f"{name}_kernel", shape=shape, initializer=_each(self.kernel_initializer))
        if not self.use_bias:
            return kernel, None
        return kernel, self.add_weight(name=f"{name}_bias", shape=(shape[0], outputs), initializer="zeros")

    def call(self, inputs: Tensor, key_mask: Tensor | None = None, training: bool | None = None) -> Tensor:
        """Apply the experts to `inputs` (batch, length, width).

        Args:
            key_mask: (batch, length), True or 1 = a token, False or 0 = padding, which `router_loss` leaves out. The
                output does not depend on it.
        """
        shape = ops.shape(inputs)
        tokens = ops.reshape(inputs, (-1, inputs.shape[-1]))  # (N, D)
        logits = F.at_least_float32(self.router(tokens))  # (N, E)
        best, chosen = ops.top_k(logits, self.experts_per_token)  # (N, k)
        chosen = ops.cast(chosen, "int32")
        if self.normalize:
            weights = F.softmax(best, None)
        else:
            top = best[:, :1]  # the first is the largest
            weights = ops.exp(best - top) / ops.sum(ops.exp(logits - top), axis=-1, keepdims=True)
        if training and self.router_loss > 0:
            mask = None if key_mask is None else ops.reshape(key_mask, (-1,))
            self.add_loss(self.router_loss * load_balancing_loss(ops.softmax(logits), chosen, mask))
        outputs = self._experts(tokens, chosen)  # (N, k, D)
        x = ops.sum(outputs * ops.expand_dims(ops.cast(weights, outputs.dtype), -1), axis=1)  # (N, D)
        if self.shared is not None:
            x = x + ops.sigmoid(self.shared_gate(tokens)) * self.shared(tokens)
        return self.dropout_layer(ops.reshape(x, shape), training=training)

    def _experts(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Return the outputs (N, k, D) of the experts `chosen` (N, k) for `tokens` (N, D)."""
        groups = group_by_expert(chosen, self.num_experts)
        blocks = ops.take(tokens, groups.tokens, axis=0)  # (G, rows, D)
        gate = grouped_dense(blocks, groups.experts, self.gate_kernel, self.gate_bias)  # (G, rows, inner)
        up = grouped_dense(blocks, groups.experts, self.up_kernel, self.up_bias)
        x = gated(self.activation, gate, up)
        x = grouped_dense(x, groups.experts, self.down_kernel, self.down_bias)  # (G, rows, D)
        return ops.take(ops.reshape(x, (-1, x.shape[-1])), groups.places, axis=0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "experts_per_token": self.experts_per_token,
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "router_bias": self.router_bias,
            "normalize": self.normalize,
            "shared_dim": self.shared_dim,
            "router_loss": self.router_loss,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _each(initializer: Any) -> Callable[..., Tensor]:
    """Return an initializer of stacked kernels (experts, in, out), each with the variance of a single kernel.

    Keras takes the first axis for the receptive field of a convolution, and divides the variance by its size; this
    initializer undoes that.
    """

    def stacked(shape: Any, dtype: Any = None, **_: Any) -> Tensor:
        values = initializer.clone()(shape, dtype)
        factor = math.sqrt(shape[0]) if isinstance(initializer, keras.initializers.VarianceScaling) else 1.0
        return values * ops.cast(factor, values.dtype)

    return stacked
