"""Dropout whose random numbers are bytes.

Training draws one random number for each element that may be dropped. With eight bits each, of four from a 32-bit
random number, this takes a quarter of the time that Keras' layer needs for 32-bit floats.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops
from keras.backend import backend

Tensor = Any

LEVELS = 256  # number of values of a byte


@keras.saving.register_keras_serializable(package="attention_zoo")
class Dropout(keras.layers.Dropout):
    """Dropout layer: in training, set elements to zero at the given rate and multiply the others by 1 / (1 - rate).

    The arguments are those of ``keras.layers.Dropout``, which computes the layer with the PyTorch backend, with a
    `noise_shape`, and at rates above 0.99. Every element is dropped with a probability of exactly `rate`: if `rate` is
    no multiple of 1/256, a random part of the columns has the next higher threshold. Elements of one column therefore
    have a correlation, which is below 5e-5 at rates of 0.1 to 0.9.

    ``.keras`` and weights files have the state of the random numbers, so that training that is resumed from them, by
    ``keras.callbacks.BackupAndRestore`` too, draws the masks of training that was not interrupted. Files without a
    state, of other layers or earlier versions, can be loaded.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        plain = self.noise_shape is not None or not 0 < self.rate <= 0.99 or not inputs.shape
        if not training or plain or backend() not in ("tensorflow", "jax"):
            return super().call(inputs, training=training)
        shape = ops.shape(inputs)
        keep = random_bytes(shape, self.seed_generator) >= self._thresholds(shape[-1])
        return ops.where(keep, inputs * ops.cast(1 / (1 - self.rate), inputs.dtype), ops.zeros((), inputs.dtype))

    def _thresholds(self, columns: Any) -> Tensor:
        """Return the smallest byte that is kept, uint8 (), or (columns,) if their mean is no integer."""
        part, whole = math.modf(self.rate * LEVELS)
        lower = ops.cast(int(whole), "uint8")
        if not part:
            return lower
        limit = ops.convert_to_tensor(round(part * 2**32), "uint32")
        return lower + ops.cast(random_words((columns,), self.seed_generator) < limit, "uint8")

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.rate > 0:  # otherwise there is no generator
            store["seed_generator_state"] = self.seed_generator.state

    def load_own_variables(self, store: Any) -> None:
        if self.rate > 0 and "seed_generator_state" in store.keys():  # noqa: SIM118 (an HDF5 group)
            self.seed_generator.state.assign(store["seed_generator_state"])


def random_bytes(shape: tuple[Any, ...], seed: keras.random.SeedGenerator) -> Tensor:
    """Return uniform random bytes, uint8 of the given shape, whose sizes may be tensors. TensorFlow and JAX only."""
    last = shape[-1]
    found = ops.view(random_words((*shape[:-1], (last + 3) // 4), seed), "uint8")  # (..., a multiple of four)
    return found if isinstance(last, int) and last % 4 == 0 else found[..., :last]


def random_words(shape: tuple[Any, ...], seed: keras.random.SeedGenerator) -> Tensor:
    """Return uniform random uint32 numbers of the given shape, whose sizes may be tensors. TensorFlow and JAX only."""
    if backend() == "jax":
        import jax  # pyright: ignore[reportMissingImports]

        return jax.random.bits(seed.next(), shape, "uint32")
    import tensorflow as tf

    pair = tf.cast(tf.math.floormod(seed.next(), tf.int32.max - 1), "int32")  # as XLA needs it
    # Without a named algorithm, XLA on a CPU takes 120 times as long.
    every: Any = None  # of the 2^32 numbers
    return tf.random.stateless_uniform(shape, pair, minval=every, maxval=every, dtype=tf.uint32, alg="philox")
