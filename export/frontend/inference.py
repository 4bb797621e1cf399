"""A model as a file has it: in another precision, and without adapters, with every layer as it is.

Nothing is built anew. A copy made of the config would lose what is not in the config: a layer that was replaced, an
activation or an epsilon that was changed, blocks in another order, an overridden ``call``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import numpy as np

from ...finetuning.lora import with_adapters
from .any_keras.functions import AnyFunctions
from .spec import Exportable

_lock = threading.RLock()  # a model computes in one precision at a time, and standard error is the process'


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """An export or a verification: of several threads' one begins when the one before has ended."""

    @functools.wraps(function)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            return function(*args, **kwargs)

    return locked


class _ComputingIn(keras.DTypePolicy):
    """Computes in `dtype` with variables of the dtype that they have, which Keras casts."""

    def __init__(self, dtype: str, variable_dtype: str) -> None:
        super().__init__(dtype)
        self._compute_dtype, self._variable_dtype = dtype, variable_dtype


@contextmanager
def computing_in(model: Exportable, dtype: str) -> Iterator[None]:
    """`model` and all its layers compute in `dtype` within the block, whatever their policies; other threads must not
    call it meanwhile."""
    layers = [layer for layer in model._flatten_layers() if layer.compute_dtype != dtype]
    before = [layer.dtype_policy for layer in layers]
    with _lock:
        try:
            for layer, policy in zip(layers, before, strict=True):
                layer.dtype_policy = _ComputingIn(dtype, policy.variable_dtype)
            yield
        finally:
            for layer, policy in zip(layers, before, strict=True):
                layer.dtype_policy = policy


@contextmanager
def without_adapters(model: Exportable) -> Iterator[None]:
    """Layers with adapters read their kernels alone, for which a trace then puts in the merged ones."""
    layers = with_adapters(model)
    try:
        for layer in layers:
            layer.lora_enabled = False
        yield
    finally:
        for layer in layers:
            layer.lora_enabled = True


class FileWeights:
    """The weights of a file: the names, the variables that the layers read, and their values in float32."""

    def __init__(self, model: Exportable) -> None:
        self.model = model
        self.variables = model.named_weights()
        merged = dict(model.merged_weights("float32"))
        self.variables = {name: variable for name, variable in self.variables.items() if name in merged}
        # What is stored is the variable itself, unless it is in another dtype or has an adapter.
        self.changed = {
            name: value
            for name, value in merged.items()
            if value is not self.variables[name] or _dtype(value) != self.dtype(name)
        }

    def dtype(self, name: str) -> str:
        """Floats are float32 in a file."""
        own = _dtype(self.variables[name])
        return "float32" if "float" in own else own

    def value(self, name: str) -> np.ndarray:
        value = self.changed.get(name, self.variables[name])
        return np.ascontiguousarray(keras.ops.convert_to_numpy(keras.ops.cast(value, self.dtype(name))))

    @property
    def bytes(self) -> int:
        return sum(4 * int(np.prod(variable.shape)) for variable in self.variables.values())


def _dtype(value: Any) -> str:
    return keras.backend.standardize_dtype(value.dtype)


@contextmanager
def inference(model: Exportable) -> Iterator[FileWeights]:
    """`model` as its file computes: in float32, its adapters merged. For the time of a trace."""
    weights = FileWeights(model)
    with computing_in(model, "float32"), without_adapters(model):
        yield weights


def reading(values: Mapping[str, Any], weights: FileWeights) -> AbstractContextManager[Any]:
    """A scope in which layers read `values` for the variables of these names, as they are: given to the scope by its
    own argument, they would be rounded to the dtypes of the variables."""
    if isinstance(weights.model, AnyFunctions):
        return weights.model.reading(values)
    scope = keras.StatelessScope()
    scope.state_mapping.update({id(weights.variables[name]): value for name, value in values.items()})
    return scope
