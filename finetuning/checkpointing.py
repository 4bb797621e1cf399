"""Gradient checkpointing: a backward pass that computes each block again instead of keeping what is inside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from .stacks import BlockStacks

Tensor = Any
DRAWS = 16  # more than the dropout masks that one block draws from one generator


class Checkpointing(BlockStacks):
    """Gradient checkpointing of a model, block by block."""

    train_function: Any
    _checkpointing = False

    @property
    def gradient_checkpointing(self) -> bool:
        """In training, keep each block's input only, and compute the rest again in the backward pass (Chen et al. 2016,
        arXiv:1604.06174): less memory for about a third more time. Losses and gradients stay the same.

        Raises:
            ValueError: when set to True on a model without blocks, or on another backend than TensorFlow.
        """
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on:
            self._require_stacks("gradient_checkpointing")
            if keras.backend.backend() != "tensorflow":
                raise ValueError(f"KERAS_BACKEND: got {keras.backend.backend()!r}; accepted: 'tensorflow' for this")
        self._checkpointing = bool(on)
        self.train_function = None  # compiled with the other setting


def checkpointed(block: Any, x: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """``block(x, **arguments)``, of which the backward pass keeps `x` and `arguments` only."""
    flat = keras.tree.flatten(dict(arguments))
    # Gradients flow to what is given by position, such as a bias that is trained; masks and switches have none.
    differentiable = [i for i, part in enumerate(flat) if _is_float(part)]
    # Both passes must draw the same dropout masks: the block reads its seeds from a scope, not from its generators.
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
