"""Learning rates by depth, and by time.

Warm-up and cosine decay are ``keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate,
warmup_steps=…)``; warm-up and linear decay, which Keras lacks, is :class:`WarmupLinearDecay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from ..checks import integer, is_number, positive_integer, positive_number
from ..weights.rules import weight_name
from .stacks import BlockStacks

Tensor = Any


class RatesByDepth(BlockStacks):
    """Learning rates of a model's weights by their depth."""

    weights: list[Any]

    def layerwise_decay(self, optimizer: Any, decay: float = 0.9) -> LayerwiseDecay:
        """`optimizer` with a learning rate that is smaller the deeper a weight lies: ``compile`` takes it.

        Of n blocks, block i learns at ``decay ** (n - i)``, what comes before the blocks at ``decay ** (n + 1)``, and
        what comes after them at the full rate (Sun et al. 2019, arXiv:1905.05583, section 5.3.2; Clark et al. 2020,
        arXiv:2003.10555, whose code puts one more decay between the head and the last block). The stacks of an
        encoder–decoder count from their own ends. A tied token table counts as an embedding.

        Args:
            optimizer: a Keras optimizer or its name, of any kind, with any learning rate or schedule.
            decay: over 0 and up to 1, which is no decay.

        Raises:
            ValueError: a decay outside of that, a model without blocks, or an optimizer with `use_ema`.
        """
        if not is_number(decay) or not 0 < decay <= 1:
            raise ValueError(f"decay: got {decay!r}; accepted: a number over 0 and up to 1")
        decay, stacks = float(decay), self._require_stacks("layerwise_decay")
        blocks = {block.name: decay ** (len(stack) - i) for stack in stacks for i, block in enumerate(stack)}
        parts = list(dict.fromkeys(filter(None, map(_part, self.weights))))  # in the order in which they were made
        before = parts[: min(parts.index(name) for name in blocks)]
        return LayerwiseDecay(optimizer, {**dict.fromkeys(before, decay ** (1 + max(map(len, stacks)))), **blocks})


@keras.saving.register_keras_serializable(package="attention_zoo")
class LayerwiseDecay(keras.optimizers.Optimizer):
    """`inner_optimizer`, of whose every change to a weight only a part is kept: see ``RatesByDepth.layerwise_decay``.

    Its step and its decoupled weight decay are both proportional to the learning rate, so this is the same as another
    rate for each weight.

    Args:
        inner_optimizer: a Keras optimizer or its name.
        factors: first part of a weight's name, such as "block_3", to the part of the change that is kept. Default: 1.

    Raises:
        ValueError: an optimizer with `use_ema`, whose averages would be of changes that were not made.
    """

    def __init__(self, inner_optimizer: Any, factors: Mapping[str, float], name: str | None = None) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = keras.optimizers.get(inner_optimizer)
        if self.inner_optimizer.use_ema:
            raise ValueError("optimizer: got one with use_ema=True; accepted: one without")
        self.factors = dict(factors)

    def build(self, variables: list[Any]) -> None:
        self.inner_optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self) -> list[Any]:
        return [*self._variables, *self.inner_optimizer.variables]

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if not self.built:
            self.build(list(trainable_variables))
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        slowed = [(v, factor) for v in variables if (factor := self.factors.get(_part(v), 1.0)) != 1.0]
        before = [ops.copy(variable) for variable, _ in slowed]
        self.inner_optimizer.apply(grads, trainable_variables)
        for (variable, factor), old in zip(slowed, before, strict=True):
            variable.assign(old + factor * (ops.convert_to_tensor(variable) - old))

    @property
    def learning_rate(self) -> Any:
        """The full rate, of the head."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    def scale_loss(self, loss: Tensor) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "inner_optimizer": inner, "factors": dict(self.factors)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LayerwiseDecay:
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(inner, config["factors"], config.get("name"))


@keras.saving.register_keras_serializable(package="attention_zoo")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """From 0 up to `peak` over `warmup_steps`, then down to 0 at `total_steps`, both in a line (Devlin et al. 2018,
    arXiv:1810.04805, appendix A.2).

    Raises:
        ValueError: a peak that is not positive, or steps out of order.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        super().__init__()
        self.peak = positive_number("peak", peak)
        self.total_steps = positive_integer("total_steps", total_steps)
        self.warmup_steps = integer("warmup_steps", warmup_steps, below=total_steps)

    def __call__(self, step: Any) -> Tensor:
        step = ops.cast(step, "float32")
        up = step / max(1, self.warmup_steps) if self.warmup_steps else ops.ones_like(step)
        down = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        return self.peak * ops.clip(ops.minimum(up, down), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


def _part(variable: Any) -> str:
    """The first part of a weight's name, "" of the model's own weights."""
    part, below, _ = weight_name(variable).partition("/")
    return part if below else ""
