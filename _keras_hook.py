"""Let ``keras.models.load_model`` know our classes after no more than ``import attention_zoo``.

Keras looks custom classes up in a register that is filled when their modules are imported, and refuses to import
them itself. Importing them here would import Keras for everybody who only lists models, so it waits until Keras is
imported by whoever needs it.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def _register() -> None:
    from .zoo.presets import FAMILIES

    # Whoever imports one of these by itself, and Keras through it, is about to import a family, which has half of it.
    if any(f"{__package__}.zoo.{name}" in sys.modules for name in ("base", "huggingface")):
        return
    # A module that is half imported already (it asked for Keras just now) is skipped by Python and finishes later.
    for module in ("layers", *(f"zoo.{name}" for name in FAMILIES)):
        importlib.import_module(f".{module}", __package__)


class _KerasFinder(MetaPathFinder):
    """Finds `keras` as everybody else would, once, and registers our classes when its import has ended."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = find_spec("keras")
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        _register()


def register_when_keras_is_imported() -> None:
    """Register our layers and models with Keras: now if it is there, else as soon as somebody imports it."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())
