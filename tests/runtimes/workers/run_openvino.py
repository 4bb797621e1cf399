"""Run cases in OpenVINO, on the CPU and in float32, which it would otherwise replace by bfloat16 where that is fast."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import openvino


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    request = compiled.create_infer_request()

    def run(inputs: harness.Inputs) -> dict[str, Any]:
        found = request.infer(dict(inputs))
        return {name: found[name].copy() for name in about["outputs"]}

    return run


if __name__ == "__main__":
    harness.main(load)
