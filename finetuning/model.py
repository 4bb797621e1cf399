"""Fine-tuning: low-rank adapters, frozen parts, learning rates by depth, gradient checkpointing.

Every model has these as methods, and ``.keras`` files keep all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .checkpointing import Checkpointing
from .lora import Adapters, LowRankAdapters
from .optimizers import RatesByDepth


class FineTuning(LowRankAdapters, RatesByDepth, Checkpointing):
    """Methods of every model. For patterns over weights see ``Freezing``."""

    def fine_tuning_config(self) -> dict[str, Any]:
        """What ``get_config`` adds: frozen weights and adapters, nothing where there is neither."""
        frozen = self._frozen_names()
        config: dict[str, Any] = {"frozen": frozen} if frozen else {}
        if self._adapters is not None:
            config["lora"] = asdict(self._adapters)
        return {"fine_tuning": config} if config else {}

    def restore_fine_tuning(self, config: Mapping[str, Any]) -> None:
        """Undo ``fine_tuning_config``; the adapters' values come with the weights."""
        if lora := config.get("lora"):
            layers, before = tuple(lora["layers"]), tuple(lora["frozen_before"])
            self._add_adapters(Adapters(lora["rank"], lora["alpha"], layers, before))
        self._freeze_only(set(config.get("frozen", ())))
