"""The Keras side of a comparison: what the user's own model computes in float32 and in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

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
        self.single = False  # whether the model can only be computed in float32
        self.small: set[str] | None = None  # see ``only_small``
        self.integers = None if isinstance(model, Foreign) else "int32"  # attention_zoo models accept any integer dtype

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs in float32, by name."""
        with computing_in(self.model, "float32"):
            function = self.function if self.signature is None else self._traced(frozenset(inputs))
            return _called(function, self._tensors(inputs))

    def exact(self, inputs: Mapping[str, np.ndarray], shaken: int = 0) -> dict[str, np.ndarray]:
        """Return the outputs in float64, by name. The model's own outputs are rounded to float32 at the end, which is
        accurate enough.

        If a third-party model cannot be computed in float64, because it has constants of float32 or operators without
        float64, the outputs are those in float32, and `single` is set.

        Args:
            inputs: arrays by name.
            shaken: with 1, change every weight by `SHAKE`, up or down, which shows the effect of rounding errors in
                float32. With 2, also change the outputs of every layer, as other kernels do: this breaks ties.
        """
        foreign = isinstance(self.model, Foreign)
        if not self.single:
            try:
                with (
                    computing_in(self.model, "float64"),
                    _inputs_in_float64(self.model) if foreign else nullcontext(),
                    self._shaken(shaken > 1) if shaken else nullcontext(),
                ):
                    return _called(self.function, self._tensors(inputs, double=foreign))
            except Exception:  # of any class: each operator has its own
                if not foreign:
                    raise
                self.single = True
        with computing_in(self.model, "float32"), self._shaken(shaken > 1) if shaken else nullcontext():
            return _called(self.function, self._tensors(inputs))

    def only_small(self, name: str, signature: Signature) -> bool:
        """Return whether an input must not be large: it may determine the size of a tensor or the number of steps of a
        loop, or is an angle, such as a time step in sinusoidal positions, whose sine LiteRT computes with few digits.

        The model is traced to find it out. If it cannot be traced, the answer is True.
        """
        if self.small is None:
            names = [spec.name for spec in signature.inputs]
            try:
                with computing_in(self.model, "float32"):
                    graph = self._function(signature, frozenset(names)).get_concrete_function()
                self.small = {
                    one for one, tensor in zip(names, graph.inputs, strict=False) if _is_size_or_angle(tensor)
                }
            except Exception:  # of any class: the sizes of this signature may not be open
                self.small = set(names)
        return name in self.small

    @contextmanager
    def _shaken(self, layers: bool) -> Iterator[None]:
        stored, rng, moved = FileWeights(self.model), np.random.default_rng(0), {}
        for name, variable in stored.variables.items():  # not `stored.value`, to which adapters would be added again
            if "float" in stored.dtype(name):
                value = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")).astype("float64")
                value *= 1 + SHAKE * rng.choice((-1.0, 1.0), value.shape)
                moved[name] = keras.ops.convert_to_tensor(value.astype("float32"))  # as functions expect
        with reading(moved, stored), _layers_shaken() if layers else nullcontext():
            yield

    def _traced(self, names: frozenset[str]) -> Function:
        if names not in self.traced:
            assert self.signature is not None
            self.traced[names] = self._function(self.signature, names)
        return self.traced[names]

    def _function(self, signature: Signature, names: frozenset[str]) -> Any:
        import tensorflow as tf

        specs = {spec.name: spec for spec in input_specs(signature, self.integers) if spec.name in names}
        return tf.function(self.function, input_signature=[specs], autograph=False)

    def _tensors(self, inputs: Mapping[str, np.ndarray], *, double: bool = False) -> dict[str, Any]:
        def converted(array: np.ndarray) -> np.ndarray:
            if self.integers and array.dtype.kind == "i":
                return array.astype(self.integers)
            return array.astype("float64") if double and array.dtype.kind == "f" else array

        return {name: keras.ops.convert_to_tensor(converted(array)) for name, array in inputs.items()}


def _steps_in_python(model: Exportable) -> bool:
    return any(isinstance(layer, keras.layers.RNN) for layer in model._flatten_layers())


def _called(function: Function, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Call a function of a model. Operators that TensorFlow has for CPUs only with XLA, such as convolutions with the
    channels first in float64, are compiled by XLA."""
    import tensorflow as tf

    try:
        outputs = function(tensors)
    except tf.errors.UnimplementedError:
        outputs = tf.function(function, autograph=False, jit_compile=True)(tensors)
    return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}


@contextmanager
def _layers_shaken() -> Iterator[None]:
    """Within the block, change the outputs of all layers and Keras operations by `SHAKE`, up or down."""
    rng, call = np.random.default_rng(2), keras.Operation.__call__

    def moved(value: Any) -> Any:
        dtype = keras.backend.standardize_dtype(getattr(value, "dtype", "int32"))
        if "float" not in dtype or None in value.shape:
            return value
        return value * keras.ops.convert_to_tensor(1 + SHAKE * rng.choice((-1.0, 1.0), tuple(value.shape)), dtype)

    def called(operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(operation, *args, **kwargs)
        return outputs if isinstance(operation, keras.layers.InputLayer) else keras.tree.map_structure(moved, outputs)

    with mock.patch.object(keras.Operation, "__call__", called):
        yield


@contextmanager
def _inputs_in_float64(model: Exportable) -> Iterator[None]:
    """Within the block, let Functional models take inputs in float64, which they otherwise cast to their own dtype."""
    inputs = [tensor for layer in model._flatten_layers() for tensor in getattr(layer, "_inputs", None) or ()]
    changed = {id(tensor): tensor for tensor in inputs if getattr(tensor, "_dtype", "").startswith("float")}
    before = {key: tensor._dtype for key, tensor in changed.items()}
    try:
        for tensor in changed.values():
            tensor._dtype = "float64"
        yield
    finally:
        for key, tensor in changed.items():
            tensor._dtype = before[key]


# For each operator that makes a tensor of a size that an input determines: the positions of these inputs.
_SIZES = {
    **{"Range": (0, 1, 2), "LinSpace": (2,), "Fill": (0,), "Tile": (1,), "BroadcastTo": (1,), "OneHot": (1,)},
    **{"Pad": (1,), "PadV2": (1,), "MirrorPad": (1,), "ScatterNd": (2,), "TensorListReserve": (1,), "Empty": (0,)},
    **{"Bincount": (1,), "DenseBincount": (1,), "SparseToDense": (1,), "RandomUniform": (0,)},
    **{f"UnsortedSegment{name}": (2,) for name in ("Sum", "Prod", "Max", "Min")},
    **{f"Resize{name}": (1,) for name in ("Bilinear", "NearestNeighbor", "Bicubic", "Area")},
}
_ANGLES = ("Sin", "Cos", "Tan")
_CALLS = ("While", "If", "Case", "Call", "Map", "Random")  # in names of operators with graphs of their own, or sizes


def _is_size_or_angle(tensor: Any) -> bool:
    waiting, seen = [tensor], set()
    while waiting:
        value = waiting.pop()
        for op in value.consumers():
            places = _SIZES.get(op.type, ())
            called = any(word in op.type for word in _CALLS)
            if called or op.type in _ANGLES or any(op.inputs[place] is value for place in places):
                return True
            if op.name not in seen:
                seen.add(op.name)
                waiting += op.outputs
    return False
