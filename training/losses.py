"""Losses of tokens, for ``model.compile(loss=…)``."""

from __future__ import annotations
