"""The Keras side of a comparison: what the user's own model computes in float32 and in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np

from ...signature import Signature
from ..frontend.any_keras.model import Foreign
from ..frontend.inference import FileWeights, computing_in, reading
from ..frontend.spec import Exportable, input_specs

SHAKE = 2.0**-22  # relative: two units in the last place of float32, the error of a sum of some dozen rounded terms

Function = Callable[[Mapping[str, Any]], dict[str, Any]]


class Reference:
    """A function of a model, such as its call, from arrays to arrays.

    In float32 it is traced once for all sizes if `signature` is given, since eager Keras takes most of the time of a
    verification; every export has already compared its file with eager Keras. With `few` calls, a trace is only worth
    its time for a model that loops over tokens in Python.
    """

    def __init__(
        self, model: Exportable, function: Function, signature: Signature | None = None, *, few: bool = False
    ) -> None:
        self.model, self.function = model, function
        self.signature = signature if not few or _steps_in_python(model) else None
        self.traced: dict[frozenset[str], Function] = {}
        self.integers = None if isinstance(model, Foreign) else "int32"  # attention_zoo models accept any integer dtype

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs in float32, by name."""
        with computing_in(self.model, "float32"):
            function = self.function if self.signature is None else self._traced(frozenset(inputs))
            return _arrays(function(self._tensors(inputs)))

    def exact(self, inputs: Mapping[str, np.ndarray], shaken: bool = False) -> dict[str, np.ndarray]:
        """Return the outputs in float64, by name. The model's own outputs are rounded to float32 at the end, which is
        accurate enough.

        Args:
            shaken: change every weight by `SHAKE`, up or down, which shows the effect of rounding errors in float32.
        """
        with computing_in(self.model, "float64"), self._shaken() if shaken else nullcontext():
            return _arrays(self.function(self._tensors(inputs)))

    def _shaken(self) -> AbstractContextManager[Any]:
        stored, rng, moved = FileWeights(self.model), np.random.default_rng(0), {}
        for name, variable in stored.variables.items():  # not `stored.value`, to which adapters would be added again
            if "float" in stored.dtype(name):
                value = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")).astype("float64")
                value *= 1 + SHAKE * rng.choice((-1.0, 1.0), value.shape)
                moved[name] = keras.ops.convert_to_tensor(value.astype("float32"))  # as functions expect
        return reading(moved, stored)

    def _traced(self, names: frozenset[str]) -> Function:
        import tensorflow as tf

        if names not in self.traced:
            assert self.signature is not None
            specs = {spec.name: spec for spec in input_specs(self.signature, self.integers) if spec.name in names}
            self.traced[names] = tf.function(self.function, input_signature=[specs], autograph=False)
        return self.traced[names]

    def _tensors(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {
            name: keras.ops.convert_to_tensor(
                array.astype(self.integers) if self.integers and array.dtype.kind == "i" else array
            )
            for name, array in inputs.items()
        }


def _steps_in_python(model: Exportable) -> bool:
    return any(isinstance(layer, keras.layers.RNN) for layer in model._flatten_layers())


def _arrays(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}
