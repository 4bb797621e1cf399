"""Compare training steps of GPT-2 124M on a GPU, with JAX, with a compiled PyTorch step in the manner of nanoGPT.

    python benchmarks/train_gpu.py [--rows 16] [--length 1024] [--torch PYTHON] [--peak 989e12] [--tiny]

Ours is ``az.create("gpt2")`` in mixed bfloat16 with the JAX backend, the fused attention of Keras on a GPU and Keras'
cross-entropy with the next tokens as labels, by ``train_on_batch``. The other side is the same model of
``train_torch.py`` with a vocabulary of 50,304 rows, bfloat16 autocast, fused AdamW and ``torch.compile``. Dropout is 0
on both sides, as in nanoGPT. Each side is a process of its own; they take turns after compilation, and the best turn
counts. `--peak` is the machine's FLOP/s in bfloat16, for the share of it (MFU) that 6 · parameters · tokens take.
`--tiny` checks on a CPU that the script runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.append(sys.path.pop(0))  # a file in this folder may have the name of a package
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

PARAMETERS = 124_439_808
STEPS, TURNS = 10, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--torch", default=sys.executable, help="interpreter of an environment with PyTorch")
    parser.add_argument("--peak", type=float, help="FLOP/s of the GPU in bfloat16, such as 989e12 of an H100 or H200")
    parser.add_argument("--tiny", action="store_true", help="two layers of width 64, on whatever there is")
    parser.add_argument("--side", choices=("ours", "torch"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        work((ours if given.side == "ours" else theirs)(given.rows, given.length, given.tiny))
        return
    options = [f"--rows={given.rows}", f"--length={given.length}", *(["--tiny"] if given.tiny else [])]
    sides = {}
    for name, python in (("ours", sys.executable), ("torch", given.torch)):
        environment = {**os.environ, "KERAS_BACKEND": "jax"}
        command = [python, __file__, f"--side={name}", *options]
        pipe = subprocess.PIPE
        sides[name] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    best: dict[str, dict[str, Any]] = {}
    for _ in range(TURNS):
        for name, side in sides.items():
            assert side.stdin and side.stdout
            side.stdin.write("turn\n")
            side.stdin.flush()
            line = side.stdout.readline()
            if not line:
                sys.exit(f"{name} failed")
            found = json.loads(line)
            best[name] = min(found, best.get(name, found), key=lambda each: each["seconds"])
    for side in sides.values():
        side.communicate()
    print(f"| side | ms a step | tokens/s | MFU | loss after {STEPS * TURNS + 2} steps | versions |")
    print("|---|---|---|---|---|---|")
    for name, found in best.items():
        speed = given.rows * given.length / found["seconds"]
        share = f"{6 * PARAMETERS * speed / given.peak:.2f}" if given.peak and not given.tiny else "-"
        row = f"{1e3 * found['seconds']:.1f} | {speed:,.0f} | {share} | {found['loss']:.3f} | {found['versions']}"
        print(f"| {name} | {row} |")


def work(made: tuple[Callable[[], Any], str]) -> None:
    """Take a turn of `STEPS` steps for each line of standard input. A step returns its loss, not waited for."""
    step, versions = made
    float(step()), float(step())  # compiles
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            loss = step()
        loss = float(loss)  # waits for the device
        seconds = (time.perf_counter() - start) / STEPS
        print(json.dumps({"seconds": seconds, "loss": loss, "versions": versions}), flush=True)


def tokens(rows: int, length: int, words: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, words, (rows, length + 1)).astype("int32")


def ours(rows: int, length: int, tiny: bool) -> tuple[Callable[[], Any], str]:
    import jax  # pyright: ignore[reportMissingImports]
    import keras

    import attention_zoo as az

    size = {"num_layers": 2, "num_heads": 2, "hidden_dim": 64, "vocab_size": 512} if tiny else {}
    model = az.create("gpt2", **size, max_length=max(length, 1024), dropout=0.0, dtype="mixed_bfloat16")
    data = tokens(rows, length, size.get("vocab_size", 50257))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(6e-4, beta_2=0.95, weight_decay=0.1, global_clipnorm=1.0)
    model.compile(optimizer, loss)
    x, y = data[:, :-1], data[:, 1:]
    return lambda: model.train_on_batch(x, y), f"keras {keras.__version__}, jax {jax.__version__}"


def theirs(rows: int, length: int, tiny: bool) -> tuple[Callable[[], Any], str]:
    import torch  # pyright: ignore[reportMissingImports]
    import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
    from train_torch import Block  # pyright: ignore[reportMissingImports]

    layers, heads, width, words = (2, 2, 64, 512) if tiny else (12, 12, 768, 50304)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = torch.nn.Embedding(words, width), torch.nn.Embedding(max(length, 1024), width)
            for table in (self.words, self.places):
                torch.nn.init.normal_(table.weight, std=0.02)
            self.blocks = torch.nn.Sequential(*(Block(width, heads, 4 * width, 0.0, True) for _ in range(layers)))
            self.norm = torch.nn.LayerNorm(width)

        def forward(self, x: Any, y: Any) -> Any:
            hidden = self.words(x) + self.places.weight[: x.shape[1]]
            logits = self.norm(self.blocks(hidden)) @ self.words.weight.T
            return F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())

    model = Model().to(device)
    fused = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), 6e-4, betas=(0.9, 0.95), weight_decay=0.1, **fused)
    compiled = torch.compile(model)
    data = torch.from_numpy(tokens(rows, length, 512 if tiny else 50257)).long()
    x, y = data[:, :-1].contiguous().to(device), data[:, 1:].contiguous().to(device)

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step, f"torch {torch.__version__}, {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}"


if __name__ == "__main__":
    main()
