"""Examples or tokens per second while training, and the share of the machine's peak that they are (MFU)."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
from keras import ops

from ...checks import positive_integer, positive_number
from ..shapes import attention_width, numbers_of_a_token

SIDE, REPEATS = 1024, 8  # of the measured products of square matrices


class Throughput(keras.callbacks.Callback):
    """Add the speed of training to the logs, and thus to the progress bar and to ``History``.

    The logs get "tokens_per_second", or "examples_per_second" without `length`, and "mfu" if the work of an example is
    known: floating-point operations done per second, divided by those that the machine can do (model FLOPs utilization;
    Chowdhery et al. 2022, arXiv:2204.02311, appendix B). The first step, which compiles, is not counted. Examples are
    counted by the tracker of the loss, so neither the batch size nor the number of steps has to be given.

    Args:
        length: tokens of an example. Default: examples are counted instead of tokens.
        flops_per_example: floating-point operations of a training step for one example. Default: for a `length`, 6 for
            each token and each parameter that it is multiplied by (4 if it is frozen), and 12 · blocks · length · width
            for the attention of each token, where width is that of all heads together (Kaplan et al. 2020,
            arXiv:2001.08361, section 2.1; PaLM's appendix B). For images, there is no default.
        peak: floating-point operations per second that the machine can do, as its data sheet says for the dtype that is
            used, times the number of devices. Default: the highest rate of products of square matrices, measured in the
            dtype in which the model computes when ``fit`` begins; takes a moment.
        every: steps between two updates of the logs.

    Attributes:
        peak: as the argument, or measured.
        flops_per_example: as the argument, or computed.
    """

    def __init__(
        self,
        length: int | None = None,
        *,
        flops_per_example: float | None = None,
        peak: float | None = None,
        every: int = 10,
    ) -> None:
        super().__init__()
        self.length = None if length is None else positive_integer("length", length)
        self.flops_per_example = (
            None if flops_per_example is None else positive_number("flops_per_example", flops_per_example)
        )
        self.peak = None if peak is None else positive_number("peak", peak)
        self.every = positive_integer("every", every)
        self._figures: dict[str, float] = {}
        self._total_seconds = self._total_examples = 0.0
        self._since: tuple[float, float] | None = None  # time, and examples of this epoch, at the last update

    def on_train_begin(self, logs: Any = None) -> None:
        if self.flops_per_example is None and self.length is not None:
            self.flops_per_example = self.length * flops_per_token(self.model, self.length)
        if self.peak is None and self.flops_per_example is not None:
            self.peak = measured_peak(self.model.compute_dtype)
        self._figures = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._since, self._total_seconds, self._total_examples = None, 0.0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._since is None or batch % self.every == 0:
            self._update()
        if logs is not None:
            logs.update(self._figures)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._total_seconds and logs is not None:
            logs.update(self._named(self._total_examples / self._total_seconds))

    def _update(self) -> None:
        seen, now = self._examples(), time.perf_counter()
        if self._since is not None and seen > self._since[1]:
            seconds, examples = now - self._since[0], seen - self._since[1]
            self._total_seconds, self._total_examples = self._total_seconds + seconds, self._total_examples + examples
            self._figures = self._named(examples / seconds)
        self._since = time.perf_counter(), seen

    def _named(self, rate: float) -> dict[str, float]:
        """Return the entries of the logs for `rate` examples per second."""
        named = {"examples_per_second": rate} if self.length is None else {"tokens_per_second": rate * self.length}
        if self.flops_per_example is not None and self.peak is not None:
            named["mfu"] = rate * self.flops_per_example / self.peak
        return named

    def _examples(self) -> float:
        """Return the number of examples of this epoch. Reading it waits for the steps that are under way."""
        tracker = next(metric for metric in self.model.metrics if metric.name == "loss")
        return float(ops.convert_to_numpy(tracker.count))


def flops_per_token(model: Any, length: int) -> float:
    """Return the floating-point operations of a training step for each token of rows of `length` tokens.

    Frozen weights take 4 for each parameter, since they need no gradients of their own. Of a mixture of experts, only
    those count that a token is sent to. What gradient checkpointing computes again does not count.
    """
    config: Any = getattr(model, "config", None)
    tables = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)]
    looked_up = {id(weight) for table in tables for weight in table.weights}
    tied = getattr(config, "tie_embeddings", False) and getattr(config, "head", None) in ("causal_lm", "masked_lm")
    total = 0.0
    for variable in model.weights:
        if id(variable) not in looked_up or (tied and variable.shape[0] == getattr(config, "vocab_size", None)):
            total += (6 if variable.trainable else 4) * numbers_of_a_token(variable, config)
    attention = config.num_layers * attention_width(config) if hasattr(config, "num_heads") else 0
    return total + 12.0 * attention * length


def measured_peak(dtype: str = "float32") -> float:
    """Return the floating-point operations per second of products of square matrices: the best of some runs."""
    square = ops.cast(np.random.default_rng(0).normal(size=(SIDE, SIDE)) / SIDE**0.5, dtype)
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = square
        for _ in range(4):
            result = ops.matmul(result, square)
        ops.convert_to_numpy(ops.cast(ops.sum(result), "float32"))  # waits; NumPy has no bfloat16
        best = min(best, (time.perf_counter() - start) / 4)
    return 2.0 * SIDE**3 / best
