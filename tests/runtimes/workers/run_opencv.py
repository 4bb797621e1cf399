"""Run cases in OpenCV's DNN module, which infers all shapes when it loads a file."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import harness
import numpy as np


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    cv2.setNumThreads(1)
    try:
        net = cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        raise RuntimeError(error.err) from error  # without the names of OpenCV's source files
    if net.empty():
        raise RuntimeError("OpenCV returns an empty network")

    def run(inputs: harness.Inputs) -> dict[str, np.ndarray]:
        for name, value in inputs.items():
            net.setInput(value, name)
        names = list(about["outputs"])
        return {name: np.array(value) for name, value in zip(names, net.forward(names), strict=True)}

    return run


if __name__ == "__main__":
    harness.main(load)
