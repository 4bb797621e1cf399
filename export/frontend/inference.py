"""A model as its exported file computes it: in float32 and with merged adapters, without building a second model.

The model itself is switched for the duration of a trace. A copy built from the config would lose everything that is not
in the config: a replaced layer, a changed activation or epsilon, reordered blocks, an overridden ``call``.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np

from ...files import no_empty_folder
from ...finetuning.lora import with_adapters
from ..errors import ExportError
from .any_keras.functions import AnyFunctions
from .diagnostics import explained, is_plain
from .interrupts import interruptible
from .spec import Exportable

# Dtype policies are changed on the model, and standard error is redirected for the whole process.
_lock = threading.RLock()
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_at_a_time(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make an export or a verification wait until no other thread exports or verifies.

    Errors of Keras, TensorFlow and the converters, which have many lines, become an ``ExportError`` of one line.
    """

    @functools.wraps(function)
    def locked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        paths = (getattr(given, "path", None) for given in args)  # of an ExportRequest
        target = next((path for path in paths if isinstance(path, Path)), Path())
        with _lock, interruptible(), no_empty_folder(target):
            try:
                return function(*args, **kwargs)
            except Exception as error:  # of any class: third-party code raises them
                # Keras adds lines to an error that is raised inside of a layer's call.
                own = isinstance(error, ExportError) and "Exception encountered when calling" not in str(error)
                if is_plain(error) or own or not _passed_third_parties(error):
                    raise
                raise ExportError(f"{_model_name(args)} cannot be converted: {explained(error)}") from error

    return locked


def _passed_third_parties(error: BaseException) -> bool:
    """Return whether an installed package took part in an error. Otherwise it is a fault of this package."""
    frames = traceback.walk_tb(error.__traceback__)
    return any("site-packages" in frame.f_code.co_filename for frame, _ in frames)


def _model_name(arguments: Sequence[Any]) -> str:
    model = arguments[0] if arguments else None
    name = getattr(model, "name", None)
    return f"the model {name!r}" if isinstance(name, str) else "the model"


class _ComputingIn(keras.DTypePolicy):
    """A dtype policy that computes in `dtype` and keeps the dtype of the variables, which Keras casts when read."""

    def __init__(self, dtype: str, variable_dtype: str) -> None:
        super().__init__(dtype)
        self._compute_dtype, self._variable_dtype = dtype, variable_dtype


@contextmanager
def computing_in(model: Exportable, dtype: str) -> Iterator[None]:
    """Let `model` and all its layers that compute in floating point do so in `dtype` within the block, whatever their
    dtype policies are.

    Other threads must not call the model at the same time.
    """
    layers = [
        layer for layer in model._flatten_layers() if "float" in layer.compute_dtype and layer.compute_dtype != dtype
    ]
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
    """Switch adapters off within the block: layers read their kernels, which ``reading`` replaces by merged ones."""
    layers = with_adapters(model)
    try:
        for layer in layers:
            layer.lora_enabled = False
        yield
    finally:
        for layer in layers:
            layer.lora_enabled = True


class FileWeights:
    """The weights that a file stores: their names, the variables that the layers read, and their values in float32."""

    def __init__(self, model: Exportable) -> None:
        self.model = model
        self.variables = model.named_weights()
        merged = dict(model.merged_weights("float32"))
        self.variables = {name: variable for name, variable in self.variables.items() if name in merged}
        # The file stores the value of the variable, except where the dtype differs or an adapter is merged.
        self.changed = {
            name: value
            for name, value in merged.items()
            if value is not self.variables[name] or _dtype(value) != self.dtype(name)
        }

    def dtype(self, name: str) -> str:
        """Return the dtype in the file: float32 for floating point weights, else that of the variable."""
        own = _dtype(self.variables[name])
        return "float32" if "float" in own else own

    def value(self, name: str) -> np.ndarray:
        value = self.changed.get(name, self.variables[name])
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(value, self.dtype(name))), order="C")

    @property
    def bytes(self) -> int:
        return sum(4 * int(np.prod(variable.shape)) for variable in self.variables.values())


def _dtype(value: Any) -> str:
    return keras.backend.standardize_dtype(value.dtype)


@contextmanager
def inference(model: Exportable) -> Iterator[FileWeights]:
    """Let `model` compute as its file does, in float32 and without adapters, and yield the file's weights."""
    weights = FileWeights(model)
    with computing_in(model, "float32"), without_adapters(model):
        yield weights


def reading(values: Mapping[str, Any], weights: FileWeights) -> AbstractContextManager[Any]:
    """Return a context in which layers read `values` instead of the variables with these names, without a cast.

    Values passed to ``keras.StatelessScope`` as its argument would be cast to the dtypes of the variables.
    """
    if isinstance(weights.model, AnyFunctions):
        return weights.model.reading(values)
    scope = keras.StatelessScope()
    scope.state_mapping.update({id(weights.variables[name]): value for name, value in values.items()})
    return scope
