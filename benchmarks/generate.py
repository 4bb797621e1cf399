"""Compare ``model.generate`` with keras-nlp's ``GPT2CausalLM.generate`` for the same GPT-2 in one run.

Both sides decode greedily after one prompt of 32 tokens, in float32 and with the same weights, so their tokens are
compared too. Each side and size runs several times, alternately, in processes of their own. The table has:

    first token    seconds from the first call to the first token, including tracing and compilation. attention_zoo is
                   called with a callback, which receives each token. keras-nlp returns all tokens at once, so the table
                   has two times for it: for all tokens, and for a call that generates one token, the least possible.
    tokens/s       speed of the fastest of three later calls, including the prompt, without a callback.

Takes about ten minutes.

    python benchmarks/generate.py [--rounds 2] [--sizes small gpt2] [--lengths 96 512]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

PROMPT = 32
SIZES: dict[str, dict[str, int]] = {
    "small": {"vocab_size": 2048, "num_layers": 4, "num_heads": 4, "hidden_dim": 256, "max_length": 1024},
    "gpt2": {"vocab_size": 50257, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "max_length": 1024},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="number of processes for each side, size and length")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[96, 512], help="tokens of prompt and continuation")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measured = measure(arguments.side, arguments.sizes[0], arguments.lengths[0])
        print(json.dumps(measured))
        return

    print(", ".join(f"{name} {version(name)}" for name in ("keras", "keras-nlp", "tensorflow")))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print(
        "| model, length | tokens/s, attention_zoo | keras-nlp | ratio "
        "| first token, attention_zoo | keras-nlp: all tokens, one token | ratios | equal tokens |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        for length in arguments.lengths:
            found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
            for _ in range(arguments.rounds):
                for side, results in found.items():
                    results.append(in_process(side, size, length))
            print(row(size, length, found), flush=True)


def row(size: str, length: int, found: dict[str, list[dict[str, Any]]]) -> str:
    speed = {side: max(run["tokens_per_second"] for run in runs) for side, runs in found.items()}
    first = {side: min(run["first_token"] for run in runs) for side, runs in found.items()}
    least = min(run["one_token"] for run in found["theirs"])
    ours, theirs = (np.array(found[side][0]["ids"]) for side in ("ours", "theirs"))
    same = int((ours == theirs).cumprod().sum()) - PROMPT
    return (
        f"| {size}, {length} | {speed['ours']:.1f} | {speed['theirs']:.1f} | {speed['ours'] / speed['theirs']:.2f} "
        f"| {first['ours']:.2f} s | {first['theirs']:.2f}, {least:.2f} s "
        f"| {first['ours'] / first['theirs']:.2f}, {first['ours'] / least:.2f} | {same} of {length - PROMPT} |"
    )


def in_process(side: str, size: str, length: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--sizes", size, "--lengths", str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, size: str, length: int) -> dict[str, Any]:
    """Measure one side in this process: seconds to the first token, then tokens per second."""
    import keras

    keras.utils.set_random_seed(0)
    call = {"ours": ours, "theirs": theirs}[side](SIZES[size])
    measured: dict[str, Any] = {}
    if side == "theirs":  # does not affect the next measurement, because another length is compiled anew
        measured["one_token"] = call(PROMPT + 1)["first"]
    first = call(length)
    call(length, streaming=False)  # compiles the loop without a callback, which is another one
    runs = [call(length, streaming=False) for _ in range(3)]
    best = min(run["total"] for run in runs)
    return {
        **measured,
        "first_token": first["first"],
        "tokens_per_second": (length - PROMPT) / best,
        "ids": runs[-1]["ids"],
    }


def ours(size: dict[str, int]) -> Any:
    """Return a function that generates with attention_zoo, and returns the times and the ids."""
    import attention_zoo as az

    model = az.zoo.GPT(**size)
    set_weights(model)

    def call(length: int, streaming: bool = True) -> dict[str, Any]:
        times: list[float] = []
        start = time.perf_counter()
        heard = (lambda _: times.append(time.perf_counter() - start)) if streaming else None
        ids = model.generate(prompt(), max_new_tokens=length - PROMPT, callback=heard)
        total = time.perf_counter() - start
        return {"first": times[0] if times else total, "total": total, "ids": ids[0].tolist()}

    return call


def theirs(size: dict[str, int]) -> Any:
    """Return a function that generates with keras-nlp, and returns the times and the ids."""
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=size["vocab_size"],
        num_layers=size["num_layers"],
        num_heads=size["num_heads"],
        hidden_dim=size["hidden_dim"],
        intermediate_dim=4 * size["hidden_dim"],
        max_sequence_length=size["max_length"],
        dropout=0.0,
    )
    set_weights(backbone)
    model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy", jit_compile=True)

    def call(length: int, streaming: bool = False) -> dict[str, Any]:  # keras-nlp cannot stream
        inputs = {name: np.zeros((1, length), "int32") for name in ("token_ids", "padding_mask")}
        inputs["token_ids"][:, :PROMPT], inputs["padding_mask"][:, :PROMPT] = prompt(), 1
        start = time.perf_counter()
        ids = np.asarray(model.generate(inputs, stop_token_ids=None)["token_ids"])
        total = time.perf_counter() - start
        return {"first": total, "total": total, "ids": ids[0].tolist()}

    return call


def set_weights(model: Any) -> None:
    """Set the same kernels and embedding tables for both sides, which have them in the same order.

    Biases and scales keep their initial values.
    """
    number = 0
    for variable in model.weights:
        if variable.path.rpartition("/")[2] in ("kernel", "embeddings"):
            size = int(np.prod(variable.shape))
            values = np.random.default_rng(number).normal(0, 0.05, size).astype("float32")
            variable.assign(values.reshape(variable.shape))
            number += 1


def prompt() -> np.ndarray:
    return np.arange(1, PROMPT + 1, dtype="int32")[None]


if __name__ == "__main__":
    main()
