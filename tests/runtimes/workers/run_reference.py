"""Run cases in the reference evaluator of ONNX, which is written in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from onnx.reference import ReferenceEvaluator


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    evaluator: Any = ReferenceEvaluator(str(path))
    return lambda inputs: dict(zip(about["outputs"], evaluator.run(about["outputs"], dict(inputs)), strict=True))


if __name__ == "__main__":
    harness.main(load)
