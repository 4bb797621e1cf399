"""Values of variables that are spread over devices by ``keras.distribution`` (JAX): placed in parts, and collected."""

from __future__ import annotations

from typing import Any

import numpy as np


def layout_of(variable: Any) -> Any:
    """Return JAX's sharding of a variable under a ``keras.distribution``, or None for a variable on one device."""
    import keras

    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return None
    variable._initialize_layout()  # Keras asks the distribution when the variable gets its first value
    return getattr(variable._layout, "backend_layout", variable._layout)


def placed(array: np.ndarray, dtype: Any, layout: Any) -> Any:
    """Return `array` as a JAX array of which every device gets its own part, and none holds the whole.

    Args:
        array: the value, in host memory.
        dtype: the dtype of the result.
        layout: JAX's sharding of the result.
    """
    import jax  # pyright: ignore[reportMissingImports]

    kind = jax.numpy.dtype(dtype)
    return jax.make_array_from_callback(
        array.shape, layout, lambda index: np.asarray(array[index], order="C").astype(kind, copy=False)
    )


def whole(variable: Any) -> np.ndarray:
    """Return the whole value of a variable in host memory, also if other processes hold parts of it.

    All processes must then call this function for the same variables in the same order.
    """
    import keras

    tensor = keras.ops.convert_to_tensor(variable)
    if not getattr(tensor, "is_fully_addressable", True) and not tensor.is_fully_replicated:
        from jax.experimental import multihost_utils  # pyright: ignore[reportMissingImports]

        return np.asarray(multihost_utils.process_allgather(tensor, tiled=True))
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def empty(variable: Any) -> None:
    """Make a variable without a value one of a single number, so that Keras can initialize it at no cost."""
    import keras

    variable._shape, variable._initializer = (), _zeros
    if (distribution := keras.distribution.distribution()) is not None:
        mesh: Any = distribution.device_mesh
        variable._layout = keras.distribution.TensorLayout([], mesh)  # that of its own shape has an axis too many


def _zeros(shape: tuple[int, ...], dtype: Any = None) -> Any:
    import keras

    return keras.ops.zeros(shape, dtype)
