"""Simplify the files of the cases with onnxslim, and run the results in ONNX Runtime."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import onnxslim
from run_onnxruntime import session


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    return session(onnxslim.slim(str(path)).SerializeToString())


if __name__ == "__main__":
    harness.main(load)
