"""Corrections of Keras where it fails or computes something else, depending on whether sizes are known and equal.

They apply to every call of a third-party model: in the traces, in the reference of a comparison and in the files.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import keras
from keras import ops

from .layers import replaced_method

Tensor = Any
CONVOLUTIONS = (
    *(getattr(keras.layers, f"Conv{rank}D{end}") for rank in (1, 2, 3) for end in ("", "Transpose")),
    *(getattr(keras.layers, f"{kind}Conv{rank}D") for rank in (1, 2) for kind in ("Depthwise", "Separable")),
)

_biases = threading.local()


@contextmanager
def keras_mended(layers: Sequence[Any]) -> Iterator[None]:
    """Within the block, let the given layers and Keras' functions compute with all sizes alike, open or fixed."""
    from keras.src import backend  # the module in which ``keras.ops`` looks up its functions
    from keras.src.layers.preprocessing.data_layer import DataLayer
    from keras.src.ops import image

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(DataLayer, "__call__", _as_in_a_graph(DataLayer.__call__)))
        stack.enter_context(mock.patch.object(backend.numpy, "add", _adding(backend.numpy.add)))
        for home in (image, keras.ops.image):  # Keras' own layers and users find it in different modules
            stack.enter_context(mock.patch.object(home, "resize", _resizing(home.resize)))
        for layer in layers:
            if (
                isinstance(layer, keras.layers.TimeDistributed)
                and type(layer).call is keras.layers.TimeDistributed.call
            ):
                stack.enter_context(replaced_method(layer, "call", _each_step(layer)))
            elif isinstance(layer, CONVOLUTIONS):
                stack.enter_context(replaced_method(layer, "call", _adding_a_bias(layer)))
        yield


def _as_in_a_graph(original: Any) -> Any:
    """Return ``__call__`` of Keras' preprocessing layers, which converts inputs to the layer's dtype.

    Keras' own does so in a TensorFlow graph, that is in ``fit`` and ``predict``, and declares that dtype of its output.
    In an eager call an image of uint8 remains one, and ``Resizing`` rounds what it returns.
    """

    def call(layer: Any, inputs: Any, **options: Any) -> Any:
        def converted(x: Any) -> Any:
            return x if isinstance(x, keras.KerasTensor) else ops.convert_to_tensor(x, dtype=layer.compute_dtype)

        return original(layer, keras.tree.map_structure(converted, inputs), **options)

    return call


def _adding(original: Any) -> Any:
    """Return ``add``, which adds the rows of two batches as NumPy does.

    Keras' own takes the second operand for a bias where all its dimensions but one are 1, and that one is as large as
    the second or the last of the first operand. It adds (2, 1) to (2, 2) along the wrong dimension, so that the result
    of a model depends on the size of the batch. An operand that has no batch, such as the bias of a convolution, is
    added as Keras does: its result does not depend on the batch, and the model was trained with it.
    """
    import tensorflow as tf

    def add(x1: Any, x2: Any) -> Tensor:
        one, other = (list[Any](getattr(x, "shape", ())) for x in (x1, x2))
        aligned = len(one) >= len(other) and one[-1:] == other[-1:] != [1]
        rows = len(one) == len(other) > 0 and (other[0] != 1 or one[0] == 1) and not getattr(_biases, "added", False)
        if (
            not rows
            or aligned
            or isinstance(x2, keras.Variable)
            or isinstance(x1, tf.SparseTensor)
            or isinstance(x2, tf.SparseTensor)
        ):
            return original(x1, x2)
        dtype: Any = keras.backend.result_type(x1.dtype, x2.dtype)
        return tf.add(tf.cast(tf.convert_to_tensor(x1), dtype), tf.cast(tf.convert_to_tensor(x2), dtype))

    return add


def _adding_a_bias(layer: Any) -> Any:
    """Return ``call`` of a convolution, inside which a second operand of one row is the bias and not a batch of one."""
    original = layer.call

    def call(*args: Any, **options: Any) -> Tensor:
        _biases.added = True
        try:
            return original(*args, **options)
        finally:
            _biases.added = False

    return call


def _resizing(original: Any) -> Any:
    """Return ``resize`` without its comparison of the size with zero, which fails for a size that is not a number."""
    import tensorflow as tf
    from keras.src.ops.image import _resize

    def resize(images: Tensor, size: Any, *args: Any, **options: Any) -> Tensor:
        computed = any(tf.is_tensor(side) for side in size)
        return (_resize if computed else original)(images, tuple(size) if computed else size, *args, **options)

    return resize


def _each_step(layer: Any) -> Any:
    """Return ``call`` of a ``TimeDistributed``, which applies its layer to all steps of an open length at once.

    Keras' own call counts the rows of the batch in place of the steps where the length is open.
    """
    original = layer.call

    def call(inputs: Tensor, training: Any = None, mask: Any = None) -> Tensor:
        if inputs.shape[1] is not None:
            return original(inputs, training=training, mask=mask)
        batch, length, *rest = ops.shape(inputs)
        inner, options = layer.layer, {}
        if inner._call_has_mask_arg and mask is not None:
            options["mask"] = ops.reshape(mask, (-1, *ops.shape(mask)[2:]))
        if inner._call_has_training_arg:
            options["training"] = training
        outputs = inner.call(ops.reshape(inputs, (-1, *rest)), **options)
        return ops.reshape(outputs, (batch, length, *ops.shape(outputs)[1:]))

    return call
