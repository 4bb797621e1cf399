"""Check the answers and measure the throughput of one model that many threads use at the same time.

    python benchmarks/threads.py [--threads 16] [--requests 200]

A GPT with 4 layers of hidden size 256 and random weights continues prompts of unequal lengths by 16 tokens, as a Keras
model, in ONNX Runtime and in LiteRT. Every answer is compared with the one that a single thread got before. Takes three
minutes on two cores.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import attention_zoo as az
from attention_zoo import export

NEW = 16
LENGTHS = (3, 9, 17, 30)
CONFIG = {"vocab_size": 4000, "num_layers": 4, "num_heads": 4, "hidden_dim": 256, "max_length": 64}


def measure(source: Any, prompts: list[np.ndarray], threads: int) -> tuple[list[np.ndarray], float]:
    """Return the answers to all prompts, and the number of answers per second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(lambda prompt: source.generate(prompt, max_new_tokens=NEW), prompts))
    return answers, len(prompts) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--requests", type=int, default=200, help="number of requests per thread")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = az.create("gpt", **CONFIG, position="rotary", norm="rms_norm", activation="swiglu", use_bias=False)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 4000, (1, LENGTHS[i % len(LENGTHS)])) for i in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        export.to_onnx(model, Path(folder) / "m.onnx")
        export.to_tflite(model, Path(folder) / "m.tflite", prefill=32)
        sources = {
            "Keras": model,
            "ONNX Runtime": export.load(Path(folder) / "m.onnx"),
            "LiteRT": export.load(Path(folder) / "m.tflite"),
        }
        print(f"| | requests of {arguments.threads} threads | wrong | per second | with 1 thread | ratio |")
        print("|---|---|---|---|---|---|")
        for name, source in sources.items():
            measure(source, prompts, 1)  # warm-up, which includes compilation
            expected, alone = measure(source, prompts, 1)
            asked = [i % len(prompts) for i in range(arguments.threads * arguments.requests)]
            answers, together = measure(source, [prompts[i] for i in asked], arguments.threads)
            wrong = sum(not np.array_equal(expected[i], answer) for i, answer in zip(asked, answers, strict=True))
            print(
                f"| {name} | {len(asked)} | {wrong} | {together:.1f} | {alone:.1f} | {together / alone:.2f} |",
                flush=True,
            )
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("keras", "onnxruntime", "ai-edge-litert"))
    print(f"\n{versions}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
