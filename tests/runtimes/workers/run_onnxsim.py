"""Simplify the files of the cases with onnxsim, and run the results in ONNX Runtime."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import onnx
import onnxsim
from run_onnxruntime import session


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    simplified, same = onnxsim.simplify(onnx.load(path))
    if not same:
        raise RuntimeError("onnxsim reports that its result differs")
    return session(simplified.SerializeToString())


if __name__ == "__main__":
    harness.main(load)
