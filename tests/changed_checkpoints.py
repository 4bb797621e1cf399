"""Copies of the reference checkpoints with other config entries, names and tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from helpers import ROOT

GOLDENS = ROOT / "tests" / "goldens"


def changed(
    name: str, folder: Path, config: Mapping[str, Any] | None = None, rename: Any = None, **tensors: Any
) -> Path:
    """Return a copy of a stored checkpoint with other config entries, names and tensors."""
    copy = Path(shutil.copytree(GOLDENS / name, folder / name))
    (copy / "config.json").write_text(json.dumps({**json.loads((copy / "config.json").read_text()), **(config or {})}))
    found = load_file(copy / "model.safetensors")
    save_file({(rename or str)(key): value for key, value in {**found, **tensors}.items()}, copy / "model.safetensors")
    return copy
