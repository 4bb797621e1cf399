"""Gradient checkpointing, which recomputes each block in the backward pass instead of storing its activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from .stacks import BlockStacks

Tensor = Any


class Checkpointing(BlockStacks):
    """Mixin for models that adds gradient checkpointing of each block."""

    train_function: Any
    _checkpointing = False

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training stores only the input of each block and recomputes the block in the backward pass.

        This needs less memory and about a third more time. Losses and gradients stay the same, with dropout too (Chen
        et al. 2016, arXiv:1604.06174). Calls with a cache or with attention weights as outputs are not checkpointed.
        The default is False. It may be set before or after ``compile``, and ``.keras`` files keep it.

        Raises:
            ValueError: set to True for a model without blocks.
        """
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on:
            self._require_stacks("gradient_checkpointing")
        self._checkpointing = bool(on)
        self.train_function = None  # it was compiled with the old setting


class _Pass(keras.StatelessScope):
    """A forward pass of a block with given states of its seed generators, without effects outside.

    All other variables have the values that they have outside, also in a scope around this one, as in ``fit`` on JAX.

    Attributes:
        draws: by the identity of a seed generator's state, how many seeds the pass has drawn from it.
        losses: what ``add_loss`` was called with.
    """

    def __init__(self, generators: Sequence[Any], seeds: Sequence[Tensor]) -> None:
        super().__init__(state_mapping=list(zip(generators, seeds, strict=True)), collect_losses=True)
        self.draws: Counter[int] = Counter()

    def get_current_value(self, variable: Any) -> Tensor | None:
        own, outer = super().get_current_value(variable), self.original_scope
        return own if own is not None or outer is None else outer.get_current_value(variable)

    def add_update(self, update: tuple[Any, Tensor]) -> None:
        self.draws[id(update[0])] += 1
        super().add_update(update)


def checkpointed(block: Any, x: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Return ``block(x, **arguments)``, and store only `x` and `arguments` for the backward pass."""
    flat = keras.tree.flatten(dict(arguments))
    # Only positional arguments of a rematerialized function get gradients. Float arguments, such as a trained attention
    # bias, are passed by position; masks and flags need no gradients.
    differentiable = [i for i, part in enumerate(flat) if _is_float(part)]
    # Both passes must draw the same dropout masks, so they begin with the same states of the seed generators.
    generators = [v for v in block.non_trainable_variables if v.name == "seed_generator_state"]
    seeds = [ops.copy(generator) for generator in generators]
    draws: Counter[int] = Counter()

    def run(x: Tensor, *values: Tensor) -> list[Tensor]:
        parts = list(flat)
        for i, value in zip(differentiable, values, strict=True):
            parts[i] = value
        with _Pass(generators, seeds) as scope:
            output = block(x, **keras.tree.pack_sequence_as(dict(arguments), parts))
            losses = list(scope.losses)
        for layer in block._flatten_layers():  # the results of ``run`` are added to the block in their place
            layer._loss_ids.difference_update(map(id, losses))
        draws.update(scope.draws - draws)
        return [output, *losses]

    output, *losses = keras.remat(run)(x, *(flat[i] for i in differentiable))
    for generator, seed in zip(generators, seeds, strict=True):
        generator.assign(seed + ops.convert_to_tensor([0, draws[id(generator)]], dtype=seed.dtype))
    for loss in losses:
        block.add_loss(loss)
    return output


def _is_float(part: Any) -> bool:
    return hasattr(part, "dtype") and "float" in keras.backend.standardize_dtype(part.dtype)
