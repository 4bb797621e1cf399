"""The runners of exported files, under the name that scripts call them by: ``runtime/`` has them, and needs neither
Keras nor TensorFlow."""

from __future__ import annotations

from ..runtime.loading import load
from ..runtime.onnx.runner import OnnxRunner
from ..runtime.runner import Runner
from ..runtime.tflite.runner import TFLiteRunner

__all__ = ["OnnxRunner", "Runner", "TFLiteRunner", "load"]
