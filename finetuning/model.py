"""The fine-tuning methods of every model: adapters, frozen weights, layer-wise learning rates, gradient checkpointing.

``.keras`` files store the adapters, the names of the frozen weights and whether there is gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .checkpointing import Checkpointing
from .lora import Adapters, LowRankAdapters
from .optimizers import RatesByDepth


class FineTuning(LowRankAdapters, RatesByDepth, Checkpointing):
    """Mixin with the fine-tuning methods of every model. ``Freezing`` documents patterns over weights."""

    def fine_tuning_config(self) -> dict[str, Any]:
        """Return the entries that ``get_config`` adds for what differs from a new model, if anything does."""
        frozen = self._frozen_names()
        config: dict[str, Any] = {"frozen": frozen} if frozen else {}
        if self._adapters is not None:
            config["lora"] = asdict(self._adapters)
        if self.gradient_checkpointing:
            config["gradient_checkpointing"] = True
        return {"fine_tuning": config} if config else {}

    def restore_fine_tuning(self, config: Mapping[str, Any]) -> None:
        """Restore what `config`, the entry "fine_tuning" of ``get_config``, describes.

        The values of the adapters are loaded later, with all weights.
        """
        if lora := config.get("lora"):
            layers, before = tuple(lora["layers"]), tuple(lora["frozen_before"])
            self._add_adapters(Adapters(lora["rank"], lora["alpha"], layers, before))
        self._freeze_only(set(config.get("frozen", ())))
        self.gradient_checkpointing = config.get("gradient_checkpointing", False)
