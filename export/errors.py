"""The exceptions of the exporters other than ``ValueError``."""

from __future__ import annotations


class ExportError(RuntimeError):
    """A failed export whose arguments were valid. No file is written."""


class AccuracyError(ExportError):
    """The outputs of the file differ too much from those of the model in float32. No file is written."""
