"""Metrics of tokens, for ``model.compile(metrics=[…])``."""

from __future__ import annotations
