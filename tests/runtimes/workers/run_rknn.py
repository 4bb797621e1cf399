"""Build the files of the cases for a neural processor of Rockchip, and run the results in the simulator of its toolkit.

The processor, and so the simulator, computes in float16.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from rknn.api import RKNN

TARGET = "rk3588"


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    tool = RKNN(verbose=False)

    def must(code: int, step: str) -> None:
        if code != 0:
            raise RuntimeError(f"{step} returned {code}")

    must(tool.config(target_platform=TARGET), "config")
    must(tool.load_onnx(str(path)), "load_onnx")
    must(tool.build(do_quantization=False), "build")
    must(tool.init_runtime(), "it builds, but init_runtime of the simulator")

    def run(inputs: harness.Inputs) -> dict[str, Any]:
        given = [inputs[name] for name in about["inputs"]]
        found = tool.inference(given, data_format=["nchw"] * len(given))  # as in the file; "nhwc" would transpose
        if found is None:
            raise RuntimeError("it builds, but inference in the simulator returned nothing")
        return dict(zip(about["outputs"], found, strict=True))

    return run


if __name__ == "__main__":
    harness.main(load)
