"""The runners of exported files, importable from ``attention_zoo.export.runtime``.

The modules in ``runtime/`` implement them, and need neither Keras nor TensorFlow.
"""

from __future__ import annotations

from ..runtime.loading import load
from ..runtime.onnx.runner import OnnxRunner
from ..runtime.runner import Runner
from ..runtime.tflite.runner import TFLiteRunner

__all__ = ["OnnxRunner", "Runner", "TFLiteRunner", "load"]
