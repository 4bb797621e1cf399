"""Corrections of Keras where it fails, or computes something else, in a graph with open sizes.

They apply to every call of a third-party model: in the traces, in the reference of a comparison and in the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import keras
from keras import ops

from .layers import replaced_method

Tensor = Any


@contextmanager
def keras_mended(layers: Sequence[Any]) -> Iterator[None]:
    """Within the block, let the given layers and Keras' functions compute with open sizes as with fixed ones."""
    from keras.src.ops import image

    with ExitStack() as stack:
        for home in (image, keras.ops.image):  # Keras' own layers and users find it in different modules
            stack.enter_context(mock.patch.object(home, "resize", _resizing(home.resize)))
        for layer in layers:
            if (
                isinstance(layer, keras.layers.TimeDistributed)
                and type(layer).call is keras.layers.TimeDistributed.call
            ):
                stack.enter_context(replaced_method(layer, "call", _each_step(layer)))
        yield


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
