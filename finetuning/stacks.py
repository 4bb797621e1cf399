"""The stacks of blocks of a model, for layer-wise learning rates and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class BlockStacks:
    """Mixin for models that provides their stacks of blocks."""

    family: ClassVar[str]

    def block_stacks(self) -> list[Sequence[Any]]:
        """Return the stacks of blocks, each in order from input to output: `blocks` if the model has them, else none.

        This is not a property, because Keras also saves the layers that it finds in properties, under their names.
        """
        blocks = getattr(self, "blocks", None)
        return [blocks] if blocks else []

    def _require_stacks(self, argument: str) -> list[Sequence[Any]]:
        """Return the stacks of blocks.

        Raises:
            ValueError: the model has no blocks; the message names `argument`.
        """
        stacks = self.block_stacks()
        if not stacks:
            raise ValueError(f"{argument}: got a {self.family}; accepted: a model made of Transformer blocks")
        return stacks
