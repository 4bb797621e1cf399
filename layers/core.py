"""Keras' Dense and normalisations, computed through the primitives so that exporters recognise them.

Weights, initialisers, LoRA and saving stay Keras' own.
"""

from __future__ import annotations

from typing import Any

import keras

from . import functional as F

Tensor = Any


@keras.saving.register_keras_serializable(package="attention_zoo")
class Dense(keras.layers.Dense):
    """``activation(inputs @ kernel + bias)``; (..., in) to (..., units). Arguments as ``keras.layers.Dense``."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = F.dense(inputs, self.kernel, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable(package="attention_zoo")
class LayerNormalization(keras.layers.LayerNormalization):
    """Over the last axis, with scale and offset. `epsilon` has no default: every family has another one."""

    def __init__(self, *, epsilon: float, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        return F.layer_norm(inputs, self.gamma, self.beta, epsilon=self.epsilon)


@keras.saving.register_keras_serializable(package="attention_zoo")
class RMSNormalization(keras.layers.RMSNormalization):
    """Over the last axis, with scale only. `epsilon` has no default: every family has another one."""

    def __init__(self, *, epsilon: float, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        return F.rms_norm(inputs, self.scale, epsilon=self.epsilon)


NORMALIZATIONS = {"layer_norm": LayerNormalization, "rms_norm": RMSNormalization}
