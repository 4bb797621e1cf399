"""What an export raises beside ``ValueError``."""

from __future__ import annotations


class ExportError(RuntimeError):
    """An export that did not become what it should: nothing the caller passed was wrong, and no file was left."""


class AccuracyError(ExportError):
    """The file computes something too different from the model in float32. No file was left."""
