"""The learning rate finder: a short run in which the rate rises, after which everything is as before."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from ...checks import positive_integer, positive_number
from ...finetuning.optimizers import innermost
from .state import restore, snapshot

SMOOTHING = 0.9  # of the losses, an exponential moving average without bias
MARGIN = 5  # steps before which the greatest fall does not count: the average has few losses then


class LearningRateFinder(keras.callbacks.Callback):
    """Raise the learning rate from step to step, record the losses, and then undo the training.

    The rate rises by a constant factor from `least` to `most` (Smith 2015, arXiv:1506.01186, section 3.3). Training
    stops after `steps`, or once the smoothed loss is `diverged` times the lowest. Then the weights, the optimizer, the
    seed generators and the metrics get the values that they had before, and the optimizer its learning rate, so that
    the ``fit`` that follows trains as if there had been no search::

        finder = LearningRateFinder()
        model.fit(x, y, epochs=10, callbacks=[finder], verbose=0)  # stops by itself
        model.optimizer.learning_rate = finder.suggestion

    Args:
        least, most: the first and the last learning rate.
        steps: the number of steps.
        diverged: factor of the lowest smoothed loss above which the search stops.

    Attributes:
        rates, losses: the learning rate and the loss of every step. A loss is that of its batch alone.
        suggestion: the learning rate at which the smoothed loss fell fastest, by the logarithm of the rate. Nan before
            the search, or if the loss never fell.

    Raises:
        ValueError: an argument out of range; in ``fit``, an optimizer with a learning rate schedule.
    """

    def __init__(self, least: float = 1e-7, most: float = 1.0, steps: int = 100, *, diverged: float = 4.0) -> None:
        super().__init__()
        self.least, self.most = positive_number("least", least), positive_number("most", most)
        if self.most <= self.least:
            raise ValueError(f"most: got {most}; accepted: more than least, {least}")
        self.steps = positive_integer("steps", steps)
        if self.steps < 2 * MARGIN:
            raise ValueError(f"steps: got {steps}; accepted: at least {2 * MARGIN}")
        self.diverged = positive_number("diverged", diverged)
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._before: dict[str, np.ndarray] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        given = getattr(innermost(model.optimizer), "_learning_rate", None)
        if isinstance(given, keras.optimizers.schedules.LearningRateSchedule):
            raise ValueError("optimizer: got one with a learning rate schedule; accepted: one with a number")
        self.rates, self.losses = [], []
        # Keras creates the variables of some metrics in the first step; they are reset when an epoch begins anyway.
        self._before = snapshot(model, metrics=False)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        model = self.model
        share = len(self.losses) / (self.steps - 1)
        self.rates.append(self.least * (self.most / self.least) ** share)
        model.optimizer.learning_rate = self.rates[-1]
        for metric in model.metrics:  # so that the loss in the logs is that of this batch
            metric.reset_state()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float((logs or {})["loss"]))
        smoothed = self.smoothed
        if len(self.losses) == self.steps or not smoothed[-1] <= self.diverged * smoothed.min():
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        restore(self.model, self._before, metrics=False)
        self._before = {}

    @property
    def smoothed(self) -> np.ndarray:
        """The exponential moving average of the losses, (steps,)."""
        average, found = 0.0, []
        for number, loss in enumerate(self.losses, 1):
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            found.append(average / (1 - SMOOTHING**number))
        return np.array(found)

    @property
    def suggestion(self) -> float:
        if len(self.losses) < 2 * MARGIN:
            return math.nan
        slope = np.gradient(self.smoothed, np.log(self.rates[: len(self.losses)]))[MARGIN:]
        slope = np.where(np.isfinite(slope), slope, np.inf)
        return self.rates[MARGIN + int(slope.argmin())] if slope.min() < 0 else math.nan
