"""Convert the files of the cases with MNN's own converter, and run the results in MNN. It computes with int32 ids."""

# pyright: reportMissingImports=false

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
from MNN import expr, nn

TYPES = {"float32": expr.float, "int32": expr.int, "int8": expr.int8, "uint8": expr.uint8}
CONVERTER = "import sys, _tools; _tools.mnnconvert(sys.argv)"  # the program mnnconvert also installs packages
NARROW = {"int64": "int32", "bool": "int32", "float64": "float32"}


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.mnn"
        arguments = ["-f", "ONNX", "--modelFile", path, "--MNNModel", converted, "--bizCode", "none"]
        command = [sys.executable, "-c", CONVERTER, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not converted.is_file():
            if done.returncode < 0:
                raise RuntimeError(f"the converter crashed: {signal.Signals(-done.returncode).name}")
            said = [
                line.partition("] ")[2] or line for line in (done.stdout + done.stderr).splitlines() if line.strip()
            ]
            errors = [line for line in said if "error" in line.lower() or "not support" in line.lower()]
            reason = (errors or said or [f"exit code {done.returncode}"])[-1]
            raise RuntimeError(f"the converter wrote no file: {reason}")
        precision = {"precision_mode": expr.PrecisionMode.High, "thread_num": 1, "shape_mutable": True}
        module = nn.load_module_from_file(str(converted), list(about["inputs"]), about["outputs"], **precision)

    def run(inputs: harness.Inputs) -> dict[str, Any]:
        given = []
        for name in about["inputs"]:
            value = inputs[name].astype(NARROW.get(str(inputs[name].dtype), inputs[name].dtype))
            given.append(expr.const(value, list(value.shape), expr.NCHW, TYPES[str(value.dtype)]))
        found = module.onForward(given)
        if len(found) != len(about["outputs"]):
            raise RuntimeError(f"MNN returns {len(found)} outputs in place of {len(about['outputs'])}")
        pairs = zip(about["outputs"], found, strict=True)
        return {name: np.array(expr.convert(value, expr.NCHW).read()) for name, value in pairs}

    return run


if __name__ == "__main__":
    harness.main(load)
