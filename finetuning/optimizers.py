"""Layer-wise learning rates, and a learning rate schedule with warm-up and linear decay.

For warm-up and cosine decay, use ``keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate,
warmup_steps=…)``. Keras has no schedule with linear decay; :class:`WarmupLinearDecay` is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from ..checks import integer, is_number, positive_integer, positive_number
from ..weights.rules import weight_name
from .stacks import BlockStacks

Tensor = Any


class RatesByDepth(BlockStacks):
    """Mixin for models that adds layer-wise learning rates."""

    weights: list[Any]

    def layerwise_decay(self, optimizer: Any, decay: float = 0.9) -> LayerwiseDecay:
        """Wrap `optimizer` so that weights closer to the input have smaller learning rates.

        With n blocks, the learning rate is multiplied by ``decay ** (n - i)`` for block i (counted from 0), by
        ``decay ** (n + 1)`` for the layers before the blocks, and by 1 for all other layers (Sun et al. 2019,
        arXiv:1905.05583, section 5.3.2; the code of Clark et al. 2020, arXiv:2003.10555, has one more factor `decay`
        between the head and the last block). In an encoder-decoder, the blocks of each stack are counted separately. A
        tied embedding table belongs to the layers before the blocks.

        Args:
            optimizer: a Keras optimizer or its name, with any learning rate or schedule.
            decay: factor above 0 and at most 1, which means no decay.

        Returns:
            An optimizer for ``compile``.

        Raises:
            ValueError: a `decay` out of range, a model without blocks, or an optimizer with ``use_ema=True``.
        """
        if not is_number(decay) or not 0 < decay <= 1:
            raise ValueError(f"decay: got {decay!r}; accepted: a number over 0 and up to 1")
        decay, stacks = float(decay), self._require_stacks("layerwise_decay")
        blocks = {block.name: decay ** (len(stack) - i) for stack in stacks for i, block in enumerate(stack)}
        parts = list(dict.fromkeys(filter(None, map(_part, self.weights))))  # in the order of creation
        before = parts[: min(parts.index(name) for name in blocks)]
        inner = keras.optimizers.get(optimizer)
        excluded = [weight_name(variable) for variable in self.weights if not inner._use_weight_decay(variable)]
        factors = {**dict.fromkeys(before, decay ** (1 + max(map(len, stacks)))), **blocks}
        return LayerwiseDecay(inner, factors, excluded={"weights": excluded, "patterns": []} if excluded else None)


@keras.saving.register_keras_serializable(package="attention_zoo")
class LayerwiseDecay(keras.optimizers.Optimizer):
    """An optimizer that scales the updates of another optimizer by a factor for each layer.

    ``model.layerwise_decay`` creates it; see ``RatesByDepth.layerwise_decay``. The step of the inner optimizer and its
    decoupled weight decay are both proportional to the learning rate, so scaling the update of a weight is equivalent
    to scaling its learning rate.

    Args:
        inner_optimizer: a Keras optimizer or its name.
        factors: for the first part of a weight's name, such as "block_3", the factor of its updates. Weights of other
            layers have the factor 1.
        name: name of the optimizer.
        excluded: what has no weight decay: names of weights under "weights", regular expressions over the last part of
            a name under "patterns". ``exclude_from_weight_decay`` sets it. Default: what the inner optimizer excludes.

    Attributes:
        inner_optimizer: the optimizer whose updates are scaled.
        factors, excluded: as the arguments.

    Raises:
        ValueError: an optimizer with ``use_ema=True``, because it would average the weights before scaling.
    """

    def __init__(
        self,
        inner_optimizer: Any,
        factors: Mapping[str, float],
        name: str | None = None,
        *,
        excluded: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = keras.optimizers.get(inner_optimizer)
        if self.inner_optimizer.use_ema:
            raise ValueError("optimizer: got one with use_ema=True; accepted: one without")
        self.factors = dict(factors)
        self.excluded = None if excluded is None else {key: list(values) for key, values in excluded.items()}

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Exclude weights from the weight decay of the inner optimizer, as the method of Keras' optimizers does.

        ``.keras`` files keep what is excluded. Another call replaces the first.

        Args:
            var_list: weights.
            var_names: regular expressions over the last part of a weight's name, such as "bias".
        """
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)
        self.excluded = {"weights": [*map(weight_name, var_list or ())], "patterns": list(var_names or ())}

    def build(self, variables: list[Any]) -> None:
        if self.excluded is not None and not self.inner_optimizer.built:
            names = set(self.excluded["weights"])
            chosen = [variable for variable in variables if weight_name(variable) in names]
            self.inner_optimizer.exclude_from_weight_decay(chosen, self.excluded["patterns"])
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
        """The learning rate of the inner optimizer, which weights with the factor 1 have."""
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
        config = {"name": self.name, "inner_optimizer": inner, "factors": dict(self.factors)}
        return config if self.excluded is None else {**config, "excluded": self.excluded}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LayerwiseDecay:
        inner = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(inner, config["factors"], config.get("name"), excluded=config.get("excluded"))


@keras.saving.register_keras_serializable(package="attention_zoo")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule with linear warm-up and linear decay.

    The learning rate increases linearly from 0 to `peak` and then decreases linearly to 0 (Devlin et al. 2018,
    arXiv:1810.04805, appendix A.2). After `total_steps` it stays 0.

    Args:
        peak: the greatest learning rate.
        warmup_steps: number of steps until `peak`; 0 for no warm-up.
        total_steps: number of steps until the learning rate is 0.

    Raises:
        ValueError: a `peak` that is not positive, or `warmup_steps` that are not fewer than `total_steps`.
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


def innermost(optimizer: Any) -> Any:
    """Return the optimizer that computes the steps, inside of those that scale the loss or the updates."""
    while (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = inner
    return optimizer


def _part(variable: Any) -> str:
    """Return the first part of a weight's name, or "" for weights that belong to the model itself."""
    part, below, _ = weight_name(variable).partition("/")
    return part if below else ""
