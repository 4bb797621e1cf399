"""Registration of this package's classes with Keras, so that ``import attention_zoo`` is enough to load models.

``keras.models.load_model`` looks up custom classes in a registry that is filled when their modules are imported; it
does not import them itself. ``import attention_zoo`` must not import Keras, which is slow and not needed to list
models, so the classes are registered as soon as something else imports Keras.
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

    # If one of these modules is the one that is importing Keras, it is only partially initialized, and importing the
    # families, which use it, would fail. The classes are registered when the families are imported later.
    if any(f"{__package__}.zoo.{name}" in sys.modules for name in ("base", "huggingface")):
        return
    # A module that is already being imported (it is the one that imports Keras) is skipped here and completed later.
    for module in ("layers", *(f"zoo.{name}" for name in FAMILIES), "training.losses", "training.metrics"):
        importlib.import_module(f".{module}", __package__)


class _KerasFinder(MetaPathFinder):
    """Import finder that wraps the loader of ``keras`` once, to register the classes after Keras is imported."""

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
    """Register this package's layers and models with Keras: now if it is imported, else as soon as it is."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _KerasFinder())
