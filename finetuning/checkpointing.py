"""Gradient checkpointing, which recomputes each block in the backward pass instead of storing its activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from .stacks import BlockStacks

Tensor = Any
DRAWS = 16  # more than the number of dropout masks that a block draws from one seed generator


class Checkpointing(BlockStacks):
    """Mixin for models that adds gradient checkpointing of each block."""

    train_function: Any
    _checkpointing = False

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training stores only the input of each block and recomputes the block in the backward pass.

        This needs less memory and about a third more time. Losses and gradients stay the same (Chen et al. 2016,
        arXiv:1604.06174). Calls with a cache or with attention weights as outputs are not checkpointed. The default is
        False. It may be set before or after ``compile``.

        Raises:
            ValueError: set to True for a model without blocks, or with another backend than TensorFlow.
        """
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on:
            self._require_stacks("gradient_checkpointing")
            if keras.backend.backend() != "tensorflow":
                raise ValueError(f"KERAS_BACKEND: got {keras.backend.backend()!r}; accepted: 'tensorflow' for this")
        self._checkpointing = bool(on)
        self.train_function = None  # it was compiled with the old setting


def checkpointed(block: Any, x: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Return ``block(x, **arguments)``, and store only `x` and `arguments` for the backward pass."""
    flat = keras.tree.flatten(dict(arguments))
    # Only positional arguments of a rematerialized function get gradients. Float arguments, such as a trained attention
    # bias, are passed by position; masks and flags need no gradients.
    differentiable = [i for i, part in enumerate(flat) if _is_float(part)]
    # Both passes must draw the same dropout masks, so the block reads its seeds from a scope with fixed values.
    # The seed generators themselves are advanced here, once.
    generators = [v for v in block.non_trainable_variables if v.name == "seed_generator_state"]
    seeds = [ops.copy(generator) for generator in generators]
    for generator, seed in zip(generators, seeds, strict=True):
        generator.assign(seed + ops.convert_to_tensor([0, DRAWS], dtype=seed.dtype))

    def run(x: Tensor, *values: Tensor) -> Tensor:
        parts = list(flat)
        for i, value in zip(differentiable, values, strict=True):
            parts[i] = value
        with keras.StatelessScope(state_mapping=list(zip(generators, seeds, strict=True))):
            return block(x, **keras.tree.pack_sequence_as(dict(arguments), parts))

    return keras.remat(run)(x, *(flat[i] for i in differentiable))


def _is_float(part: Any) -> bool:
    return hasattr(part, "dtype") and "float" in keras.backend.standardize_dtype(part.dtype)
