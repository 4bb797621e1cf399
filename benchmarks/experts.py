"""Compare a mixture of experts with a dense model of as many active weights, and with one that computes all experts.

Random weights, float32, one row, greedy decoding after a prompt of 64 tokens. Each model and format is measured in a
process of its own. The table has the time of the prompt and the first token, the time of each further token (both of
the fastest of three calls), the size of the file, and the peak memory of the process, which includes the export.

Takes about fifteen minutes; the times only count on a machine that does nothing else.

    python benchmarks/experts.py [--formats keras onnx tflite] [--layers 8]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

PROMPT, NEW = 64, 32
SIZES = {"vocab_size": 8000, "num_heads": 8, "num_kv_heads": 2, "hidden_dim": 512, "max_length": 256}
KIND = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
MODELS: dict[str, dict[str, int]] = {
    "dense": {"intermediate_dim": 2048},
    "2 of 16 experts": {"intermediate_dim": 1024, "num_experts": 16, "experts_per_token": 2},
    "16 of 16 experts": {"intermediate_dim": 1024, "num_experts": 16, "experts_per_token": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["keras", "onnx", "tflite"])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--model", choices=list(MODELS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model:
        print(json.dumps(measure(arguments.model, arguments.formats[0], arguments.layers)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| model | format | prompt, ms | token, ms | file, MB | peak memory, MB |\n|---|---|---:|---:|---:|---:|")
    for model in MODELS:
        for kind in arguments.formats:
            own = ["--model", model, "--formats", kind, "--layers", str(arguments.layers)]
            done = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            print(f"| {model} | {kind} | " + " | ".join(f"{value:.1f}" for value in row) + " |", flush=True)


def measure(name: str, kind: str, layers: int) -> list[float]:
    """Return the numbers of one row of the table."""
    import attention_zoo as az
    from attention_zoo import export

    model = az.create("gpt", num_layers=layers, **SIZES, **KIND, **MODELS[name])
    ids = np.random.default_rng(0).integers(3, SIZES["vocab_size"], (1, PROMPT)).astype("int32")
    with tempfile.TemporaryDirectory() as folder:
        generator: Any = model
        file = Path(folder) / f"m.{kind}"
        if kind != "keras":
            write: Callable[..., Any] = export.to_onnx if kind == "onnx" else export.to_tflite
            write(model, file, cache=True)
            generator = export.load(file)
        first, whole = (fastest(lambda n=n: generator.generate(ids, max_new_tokens=n)) for n in (1, 1 + NEW))
        size = file.stat().st_size if file.exists() else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [1e3 * first, 1e3 * (whole - first) / NEW, size / 1e6, peak / 1e3]


def fastest(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
