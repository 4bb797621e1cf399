"""Keras' Dense and normalisations, computed through the primitives so that exporters recognise them.

Weights, initialisers, LoRA and saving stay Keras' own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from . import functional as F

Tensor = Any


class KeepsAdapters(keras.layers.Layer):
    """Of a Keras layer with LoRA: weights and adapters are saved apart.

    Keras' own saving merges them, in the compute dtype, and reloads adapters of zeros, which never learn again.
    """

    def save_own_variables(self, store: Any) -> None:
        layer: Any = self
        if not layer.lora_enabled:
            super().save_own_variables(store)
        else:
            for variable in layer.weights:
                store[variable.name] = variable

    def load_own_variables(self, store: Any) -> None:
        layer: Any = self
        saved = [name for name in store.keys() if "lora" in name]  # noqa: SIM118 (an HDF5 group)
        if saved and not layer.lora_enabled:
            raise ValueError(f"{layer.path}: got weights with adapters {saved}; accepted: a model with enable_lora")
        if saved:
            for variable in layer.weights:
                variable.assign(store[variable.name])
        elif layer.lora_enabled:  # other weights below the adapters that are there
            adapters = [(v, keras.ops.copy(v)) for v in layer.weights if "lora" in v.name]
            super().load_own_variables(store)
            for variable, value in adapters:
                variable.assign(value)
        else:
            super().load_own_variables(store)


@keras.saving.register_keras_serializable(package="attention_zoo")
class Dense(KeepsAdapters, keras.layers.Dense):
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


def fields_for(function: Callable[..., Any], config: Any) -> dict[str, Any]:
    """The arguments of `function` that `config` has fields of the same name for."""
    names = inspect.signature(function).parameters
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
