"""Logits over a vocabulary, and what losses and metrics need of them, without ever having all logits at once.

A cross-entropy, its label smoothing and z-loss, and the accuracy depend on a token's logits only through the four
numbers that ``logit_statistics`` returns. ``chunked_logit_statistics`` computes them from hidden states and the output
projection for a part of the columns at a time, and computes the logits of that part once more in the backward pass.
Its memory does not grow with (batch · sequence · vocabulary).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from keras import ops

from . import functional as F

Tensor = Any
IGNORED = -100  # the label of a position without a label, as in PyTorch and Hugging Face's models
MOST_LOGITS = 2**24  # logits of one chunk whose size the caller does not choose: 64 MB in float32

_active = threading.local()


class Projection(NamedTuple):
    """An output projection: ``logits = softcapped(scale · (hidden @ kernel + bias), softcap)``.

    Attributes:
        kernel: (hidden_dim, vocabulary), or (vocabulary, hidden_dim) if it is `tied` to an embedding table.
        tied: whether `kernel` is such a table.
        bias: (vocabulary,) or None.
        scale: factor on the logits.
        softcap: limit of their magnitude; None for no limit.
    """

    kernel: Tensor
    tied: bool = False
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocabulary(self) -> int:
        """The number of logits of a token."""
        return self.kernel.shape[0 if self.tied else 1]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (…, vocabulary) in float32. The matrix multiplication has the dtype of `hidden`."""
        kernel = ops.cast(self.kernel, hidden.dtype)
        bias = None if self.bias is None else ops.cast(self.bias, hidden.dtype)
        logits = F.at_least_float32(F.dense(hidden, kernel, bias, transpose_kernel=self.tied))
        logits = logits if self.scale == 1.0 else logits * self.scale
        return F.softcapped(logits, self.softcap)


def logit_statistics(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each token what losses and metrics need of its logits, (batch, sequence, 4) in float32 or float64.

    The four numbers are ``log(sum(exp(logits)))``, the logit of the label, the mean of the logits, and 1 if the label
    has the greatest logit or else 0.

    Args:
        logits: (batch, sequence, vocabulary).
        labels: (batch, sequence), integers. The numbers of a token with a negative label are those of label 0.
    """
    logits = F.at_least_float32(logits)
    labels = ops.maximum(ops.cast(labels, "int32"), 0)
    of_label = ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)[..., 0]
    hit = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels)
    parts = [ops.logsumexp(logits, axis=-1), of_label, ops.mean(logits, axis=-1), ops.cast(hit, logits.dtype)]
    return ops.stack(parts, axis=-1)


def chunked_logit_statistics(
    hidden: Tensor, projection: Projection, labels: Tensor, tokens: int | None = None
) -> Tensor:
    """Return ``logit_statistics(projection.logits(hidden), labels)`` with the logits of a chunk of columns at a time.

    The backward pass computes the logits of each chunk again. Gradients go to `hidden`, the kernel and the bias.

    Args:
        hidden: (batch, sequence, hidden_dim).
        projection: the output projection.
        labels: (batch, sequence), integers.
        tokens: number of tokens in a chunk, rounded to whole columns of the batch; at least one column. Default: as
            many as have 2^24 logits together.
    """
    batch, length, width = ops.shape(hidden)
    tokens = max(1, MOST_LOGITS // projection.vocabulary) if tokens is None else tokens
    columns, steps = _chunks(batch, length, tokens)
    labels = ops.cast(labels, "int32")
    dtype = hidden.dtype
    kernel = ops.cast(projection.kernel, dtype)
    weights = (kernel,) if projection.bias is None else (kernel, ops.cast(projection.bias, dtype))

    def start_of(step: Any) -> Any:  # the last chunk may begin within the one before it
        return ops.minimum(step * columns, length - columns)

    def part(x: Tensor, start: Any, features: int | None = None) -> Tensor:
        if features is None:
            return ops.slice(x, (0, start), (batch, columns))
        return ops.slice(x, (0, start, 0), (batch, columns, features))

    def project(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        return projection._replace(kernel=kernel, bias=bias).logits(x)

    @ops.custom_gradient
    def statistics(hidden: Tensor, *weights: Tensor) -> Any:
        def forward(step: Any, found: Tensor) -> tuple[Any, Tensor]:
            start = start_of(step)
            of_part = logit_statistics(project(part(hidden, start, width), *weights), part(labels, start))
            return step + 1, ops.slice_update(found, (0, start, 0), of_part)

        found = ops.zeros((batch, length, 4), "float64" if dtype == "float64" else "float32")
        _, found = ops.while_loop(lambda step, _: step < steps, forward, (0, found))

        def gradient(*arguments: Any, upstream: Any = None) -> tuple[Tensor, ...]:
            upstream = arguments[-1] if upstream is None else upstream

            def backward(step: Any, of_hidden: Tensor, *of_weights: Tensor) -> tuple[Any, ...]:
                start = start_of(step)
                x, targets = part(hidden, start, width), part(labels, start)
                new = ops.cast(start + ops.arange(columns, dtype="int32") >= step * columns, upstream.dtype)
                given = part(upstream, start, 4) * ops.reshape(new, (1, -1, 1))
                logits = project(x, *weights)
                change = _gradient_of_products(projection, logits, part(found, start, 4)[..., :1], targets, given)
                rows = ops.reshape(ops.cast(change, dtype), (-1, projection.vocabulary))
                flat = ops.reshape(x, (-1, width))
                back = ops.matmul(rows, weights[0] if projection.tied else ops.transpose(weights[0]))
                pair = (ops.transpose(rows), flat) if projection.tied else (ops.transpose(flat), rows)
                of_kernel = ops.matmul(*pair)
                more = [of_weights[0] + ops.cast(of_kernel, of_weights[0].dtype)]
                if len(of_weights) > 1:
                    more.append(of_weights[1] + ops.sum(change, axis=(0, 1)))
                # Columns that the chunk before this one has had keep their gradient: `given` is 0 for them.
                back = part(of_hidden, start, width) + ops.reshape(back, (batch, columns, width))
                return step + 1, ops.slice_update(of_hidden, (0, start, 0), back), *more

            sums = [ops.zeros(weight.shape, found.dtype) for weight in weights]
            state = (0, ops.zeros_like(hidden), *sums)
            _, of_hidden, *of_weights = ops.while_loop(lambda step, *_: step < steps, backward, state)
            return of_hidden, *(ops.cast(x, weight.dtype) for x, weight in zip(of_weights, weights, strict=True))

        return found, gradient

    return statistics(hidden, *weights)


def _chunks(batch: Any, length: Any, tokens: int) -> tuple[Any, Any]:
    """Return the number of columns in a chunk of about `tokens` tokens, and the number of chunks."""
    if isinstance(batch, int) and isinstance(length, int):
        columns = min(max(1, tokens // batch), length)
        return columns, -(-length // columns)
    columns = ops.minimum(ops.maximum(1, tokens // ops.cast(batch, "int32")), length)
    return columns, (length + columns - 1) // columns


def _gradient_of_products(
    projection: Projection, logits: Tensor, log_sums: Tensor, labels: Tensor, upstream: Tensor
) -> Tensor:
    """Return the gradient of ``hidden @ kernel + bias``, (batch, columns, vocabulary), given that of the statistics.

    Args:
        projection: the output projection.
        logits: its logits, (batch, columns, vocabulary).
        log_sums: their log-sum-exp, (batch, columns, 1).
        labels: (batch, columns).
        upstream: the gradient of the statistics, (batch, columns, 4); the last of them, a comparison, has none.
    """
    softmax = ops.exp(logits - log_sums)
    words = ops.arange(projection.vocabulary, dtype="int32")
    of_label = ops.equal(words, ops.expand_dims(ops.maximum(labels, 0), -1))
    change = softmax * upstream[..., :1] + upstream[..., 2:3] / projection.vocabulary
    change = change + ops.where(of_label, upstream[..., 1:2], 0.0)
    if projection.softcap is not None:
        change = change * (1 - ops.square(logits * (1 / projection.softcap)))
    return change if projection.scale == 1.0 else change * projection.scale


@contextmanager
def statistics_wanted(labels: Tensor | None, tokens: int | None) -> Iterator[None]:
    """Let models return statistics in place of logits within the block, in this thread only.

    Args:
        labels: (batch, sequence), the label of each position or ``IGNORED``. None for logits.
        tokens: as for ``chunked_logit_statistics``.
    """
    before = wanted_statistics()
    _active.wanted = None if labels is None else (labels, tokens)
    try:
        yield
    finally:
        _active.wanted = before


def wanted_statistics() -> tuple[Tensor, int | None] | None:
    """Return the arguments of the innermost ``statistics_wanted`` of this thread, or None outside of such a block."""
    return getattr(_active, "wanted", None)


def logit_statistics_of(hidden: Tensor, projection: Projection) -> Tensor:
    """Return the statistics that the ``statistics_wanted`` around this call wants of `hidden`'s logits."""
    wanted = wanted_statistics()
    if wanted is None:
        raise RuntimeError("logit_statistics_of is for calls within statistics_wanted")
    return chunked_logit_statistics(hidden, projection, *wanted)
