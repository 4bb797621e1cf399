"""Run cases in ONNX Runtime."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import onnxruntime


def session(model: Any) -> harness.Model:
    """Return the function that runs a file, or the bytes of one."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in opened.get_outputs()]
    return lambda inputs: dict(zip(names, opened.run(names, dict(inputs)), strict=True))


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    return session(str(path))


if __name__ == "__main__":
    harness.main(load)
