"""Convert the files of the cases to PyTorch with onnx2torch, and run the results there."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import onnx2torch
import torch


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    torch.set_num_threads(1)  # and so without the threads of the parent process, which a fork does not have
    module = onnx2torch.convert(str(path)).eval()

    def run(inputs: harness.Inputs) -> dict[str, Any]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(inputs[name]) for name in about["inputs"]))
        found = found if isinstance(found, list | tuple) else [found]
        return {name: value.numpy() for name, value in zip(about["outputs"], found, strict=True)}

    return run


if __name__ == "__main__":
    harness.main(load)
