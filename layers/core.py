"""Keras' Dense and normalization layers, computed with the primitives so that exporters recognize them.

Weights, initializers and LoRA are those of Keras.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from . import functional as F

Tensor = Any


class KeepsAdapters(keras.layers.Layer):
    """Mixin for Keras layers with LoRA that saves the weights and the adapters separately.

    When it saves, Keras merges the adapters into the weights, in the compute dtype. When it loads, it sets all adapters
    to zero; their gradients are then zero as well, so they can never be trained again.
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
        elif layer.lora_enabled:  # new weights under the layer's current adapters
            adapters = [(v, keras.ops.copy(v)) for v in layer.weights if "lora" in v.name]
            super().load_own_variables(store)
            for variable, value in adapters:
                variable.assign(value)
        else:
            super().load_own_variables(store)


@keras.saving.register_keras_serializable(package="attention_zoo")
class Dense(KeepsAdapters, keras.layers.Dense):
    """Dense layer: ``activation(inputs @ kernel + bias)``, from (..., in) to (..., units) in the compute dtype.

    The arguments are those of ``keras.layers.Dense``. Loading LoRA adapters raises ValueError if the layer has none.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = F.dense(inputs, self.kernel, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable(package="attention_zoo")
class LayerNormalization(keras.layers.LayerNormalization):
    """Layer normalization over the last axis, with scale and offset (Ba et al. 2016, arXiv:1607.06450).

    The output has the shape and dtype of the input.

    Args:
        epsilon: added to the variance. It has no default, as model families differ in it.
        center: whether there is an offset.
        unit_offset: whether the scale is 1 + `gamma`, as in Nemotron, so that `gamma` starts at 0.
    """

    def __init__(self, *, epsilon: float, unit_offset: bool = False, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **({"gamma_initializer": "zeros"} if unit_offset else {}), **kwargs)
        self.unit_offset = unit_offset

    def call(self, inputs: Tensor) -> Tensor:
        gamma = _one_more(self.gamma, inputs) if self.unit_offset else self.gamma
        return F.layer_norm(inputs, gamma, self.beta, epsilon=self.epsilon)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**_without(config, "gamma_initializer"), "unit_offset": True} if self.unit_offset else config


@keras.saving.register_keras_serializable(package="attention_zoo")
class RMSNormalization(keras.layers.RMSNormalization):
    """Root-mean-square normalization over the last axis, with scale only (Zhang & Sennrich 2019, arXiv:1910.07467).

    The output has the input's shape and the compute dtype.

    Args:
        epsilon: added to the mean square. It has no default, as model families differ in it.
        unit_offset: whether the factor is 1 + `scale`, as in Gemma, so that `scale` starts at 0.
    """

    def __init__(self, *, epsilon: float, unit_offset: bool = False, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)
        self.unit_offset = unit_offset

    def build(self, input_shape: Any) -> None:
        initializer = "zeros" if self.unit_offset else "ones"
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer=initializer)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return F.rms_norm(
            inputs, _one_more(self.scale, inputs) if self.unit_offset else self.scale, epsilon=self.epsilon
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "unit_offset": True} if self.unit_offset else config


def _one_more(weight: Tensor, inputs: Tensor) -> Tensor:
    """Return 1 + `weight` in float32, or in float64 for such `inputs`: half precision would round the sum."""
    dtype = "float64" if keras.backend.standardize_dtype(inputs.dtype) == "float64" else "float32"
    return 1.0 + keras.ops.cast(weight, dtype)


def _without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


NORMALIZATIONS: dict[str, Callable[..., Any]] = {
    "layer_norm": LayerNormalization,
    "layer_norm_without_bias": partial(LayerNormalization, center=False),
    "layer_norm_unit_offset": partial(LayerNormalization, unit_offset=True),
    "rms_norm": RMSNormalization,
    "rms_norm_unit_offset": partial(RMSNormalization, unit_offset=True),
}


def fields_for(function: Callable[..., Any], config: Any) -> dict[str, Any]:
    """Return those fields of `config` that have the name of an argument of `function`, as keyword arguments."""
    names = inspect.signature(function).parameters
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
