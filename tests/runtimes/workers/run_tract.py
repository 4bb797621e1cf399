"""Run cases in tract, with open sizes as its symbols."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import tract


def load(path: Path, about: dict[str, Any]) -> harness.Model:
    model = tract.onnx().load(path).into_model()
    names = [model.input_name(index) for index in range(model.input_count())]
    runnable = model.into_runnable()

    def run(inputs: harness.Inputs) -> dict[str, Any]:
        found = runnable.run([inputs[name] for name in names])
        return {name: value.to_numpy() for name, value in zip(about["outputs"], found, strict=True)}

    return run


if __name__ == "__main__":
    harness.main(load)
