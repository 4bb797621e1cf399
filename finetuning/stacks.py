"""A model's stacks of blocks: depth is counted along them, and checkpoints lie between their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class BlockStacks:
    """The blocks of a model, by the stacks that they make up."""

    family: ClassVar[str]

    def block_stacks(self) -> list[Sequence[Any]]:
        """Stacks of blocks, each from its input to its output: of a model with `blocks` those, of another none.

        No property: Keras' files follow those, and would keep the blocks under this name.
        """
        blocks = getattr(self, "blocks", None)
        return [blocks] if blocks else []

    def _require_stacks(self, argument: str) -> list[Sequence[Any]]:
        stacks = self.block_stacks()
        if not stacks:
            raise ValueError(f"{argument}: got a {self.family}; accepted: a model made of Transformer blocks")
        return stacks
