"""Export, run, verify and time model files. Each name is imported on first use, with its own dependencies only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..needs import named_extras

if TYPE_CHECKING:
    from ..bench import benchmark, compare
    from ..runtime.description import describe
    from ..runtime.loading import load
    from .bundles.genai import to_genai
    from .bundles.huggingface_onnx import to_huggingface_onnx
    from .bundles.litertlm import to_litertlm
    from .bundles.verify import verify
    from .errors import AccuracyError, ExportError
    from .onnx.exporter import to_onnx
    from .options import Precision
    from .precision.report import Accuracy
    from .targets.check import check
    from .tflite.exporter import to_tflite

_HOMES = {
    "Accuracy": ".precision.report",
    "AccuracyError": ".errors",
    "ExportError": ".errors",
    "Precision": ".options",
    "benchmark": "..bench",
    "check": ".targets.check",
    "compare": "..bench",
    "describe": "..runtime.description",
    "load": "..runtime.loading",
    "to_genai": ".bundles.genai",
    "to_huggingface_onnx": ".bundles.huggingface_onnx",
    "to_litertlm": ".bundles.litertlm",
    "to_onnx": ".onnx.exporter",
    "to_tflite": ".tflite.exporter",
    "verify": ".bundles.verify",
}

__all__ = [
    "Accuracy",
    "AccuracyError",
    "ExportError",
    "Precision",
    "benchmark",
    "check",
    "compare",
    "describe",
    "load",
    "to_genai",
    "to_huggingface_onnx",
    "to_litertlm",
    "to_onnx",
    "to_tflite",
    "verify",
]


if not TYPE_CHECKING:  # for type checkers every name would exist, misspelled ones too

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with named_extras():
            return getattr(importlib.import_module(_HOMES[name], __name__), name)
