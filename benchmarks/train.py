"""Compare training steps with those of KerasHub's models of the same shape, and with PyTorch.

    python benchmarks/train.py [--jax PYTHON] [--torch PYTHON] [--only gpt bert vit] [--rounds 5] [--ablation]

A GPT with tied embeddings (4 layers, width 256, 8 heads, 8 rows of 256 tokens, 2048 words), a classifier of BERT-mini's
size (the same, 2 classes) and ViT-tiny's (6 layers, width 192, 32 x 32 pixels in patches of 4, 64 rows, 10 classes) are
trained with AdamW on a CPU: with TensorFlow in a graph, Keras' default there, and under XLA, with JAX, and, if
`--torch` names an interpreter that has it, in PyTorch eagerly and compiled, with ``scaled_dot_product_attention``.
Each side is a process of its own; they take turns, a few steps each, and the best of all rounds counts. Memory is the
largest of the process. A matrix product of the GPT's shapes, (2048, 256) with (256, 1024), shows what each framework
reaches on this machine.

With `--ablation`, ours runs beside ours without one of its parts each, for which Keras' way is taken: dropout from
bytes, causal attention in parts (on JAX) and gradients written by hand (on TensorFlow).

`--jax` and `--torch` are interpreters of environments with JAX or PyTorch; those of JAX need this package and KerasHub.
Takes about ten minutes. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # a file in this folder may have the name of a package
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from train_shapes import HEADS, IMAGES, INNER, LAYERS, LENGTH, SHAPES, WIDTH, WORDS, best_product, data

STEPS = 3  # in a turn
MODELS = ("gpt", "bert", "vit")
PARTS = {"graph": ("dropout", "gradients"), "XLA": ("dropout", "gradients"), "JAX": ("dropout", "attention")}
Step = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax", type=Path, help="interpreter of an environment with JAX")
    parser.add_argument("--torch", type=Path, help="interpreter of an environment with PyTorch")
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    print(f"{platform.machine()} {cpu.rpartition(': ')[2]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    places = {"graph": sys.executable, "XLA": sys.executable, "JAX": arguments.jax, "torch": arguments.torch}
    for model in arguments.only:
        if arguments.ablation:
            ablation(model, places, arguments.rounds)
            continue
        print(f"| {model} | dropout | ours, ms | KerasHub, ms | ratio | ours, MB | KerasHub, MB | products, GFLOP/s |")
        print("|---|---|---|---|---|---|---|---|")
        for dropout in ("0.1", "0.0"):
            for place in ("graph", "XLA", "JAX"):
                if places[place]:
                    sides = {who: Side(str(places[place]), model, place, who, dropout) for who in ("ours", "peer")}
                    ours, peer = measured(sides, arguments.rounds)
                    shown = f"{ours['ms']:.0f} | {peer['ms']:.0f} | {peer['ms'] / ours['ms']:.2f}"
                    memory = f"{ours['MB']:.0f} | {peer['MB']:.0f}"
                    print(f"| {place} | {dropout} | {shown} | {memory} | {ours['products']:.0f} |", flush=True)
            if places["torch"]:
                sides = {who: Side(str(places["torch"]), model, "torch", who, dropout) for who in ("eager", "compiled")}
                eager, compiled = measured(sides, arguments.rounds)
                took = f"eager {eager['ms']:.0f} | compiled {compiled['ms']:.0f} | "
                memory = f"{eager['MB']:.0f} | {compiled['MB']:.0f}"
                print(f"| PyTorch | {dropout} | {took} | {memory} | {eager['products']:.0f} |", flush=True)
        print()


def ablation(model: str, places: dict[str, Any], rounds: int) -> None:
    """Print the time of ours, and of ours without one of its parts."""
    print(f"| {model} | dropout | ours, ms | without | ms |")
    print("|---|---|---|---|---|")
    for dropout in ("0.1", "0.0"):
        for place, all_parts in PARTS.items():
            parts = [part for part in all_parts if part != "dropout" or dropout != "0.0"]
            if places[place]:
                sides = {who: Side(str(places[place]), model, place, who, dropout) for who in ("ours", *parts)}
                ours, *others = measured(sides, rounds)
                for part, other in zip(parts, others, strict=True):
                    print(f"| {place} | {dropout} | {ours['ms']:.0f} | {part} | {other['ms']:.0f} |", flush=True)
    print()


def measured(sides: dict[str, Side], rounds: int) -> list[dict[str, float]]:
    """Return the figures of each side, which take turns."""
    for _ in range(rounds):
        for side in sides.values():
            side.turn()
    return [side.end() for side in sides.values()]


class Side:
    """A process that trains one model."""

    def __init__(self, python: str, model: str, place: str, who: str, dropout: str) -> None:
        backend = {"JAX": "jax", "torch": "torch"}.get(place, "tensorflow")
        command = [python, __file__, "--worker", model, place, who, dropout]
        environment = {**os.environ, "KERAS_BACKEND": backend}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.found = self._answer()

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.found |= {**answer, "ms": min(answer["ms"], self.found.get("ms", answer["ms"]))}

    def end(self) -> dict[str, float]:
        self.process.communicate()
        return self.found

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} failed")
        return json.loads(line)


# ---- in the process of a side -------------------------------------------------------------------------------------


def work(model: str, place: str, who: str, dropout: str) -> None:
    """Build and compile a side, then take a turn for each line of standard input."""
    rate = float(dropout)
    if place == "torch":
        import train_torch  # pyright: ignore[reportMissingImports]

        step, products = train_torch.step(model, who == "compiled", rate), train_torch.products()
    else:
        step, products = keras_step(model, place, who, rate), keras_products()
    for _ in range(2):
        step()
    print(json.dumps({"products": products}), flush=True)
    for _ in sys.stdin:
        took = []
        for _ in range(STEPS):
            start = time.perf_counter()
            step()
            took.append(1e3 * (time.perf_counter() - start))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"ms": min(took), "MB": memory}), flush=True)


def keras_step(model: str, place: str, who: str, dropout: float) -> Step:
    import keras

    keras.utils.set_random_seed(0)
    x, y = data(model)
    if who not in ("ours", "peer"):
        take_out(who)
    made, inputs = (theirs if who == "peer" else ours)(model, dropout, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.AdamW(1e-4), loss, jit_compile={"graph": False, "XLA": True, "JAX": "auto"}[place])
    return lambda: made.train_on_batch(inputs, y)


def take_out(part: str) -> None:
    """Let Keras compute this part, for the ablation."""
    import keras

    from attention_zoo.layers import dropout, functional

    if part == "dropout":
        dropout.Dropout.call = keras.layers.Dropout.call
    elif part == "attention":
        functional.LEAST = 10**9
    else:
        functional._gradients_by_hand = lambda: False


def ours(model: str, dropout: float, x: np.ndarray) -> tuple[Any, Any]:
    import attention_zoo as az

    size = {"num_layers": LAYERS, "num_heads": HEADS, "hidden_dim": WIDTH, "max_length": LENGTH, "vocab_size": WORDS}
    if model == "gpt":
        return az.create("gpt", **size, intermediate_dim=INNER, dropout=dropout), x
    if model == "bert":
        head = {"head": "sequence_classification", "num_classes": 2}
        return az.create("bert", **size, **head, intermediate_dim=INNER, dropout=dropout, attention_dropout=dropout), x
    patches = {"image_size": 32, "patch_size": 4, "num_classes": 10, "head": "image_classification"}
    return az.create("vit-tiny-16", **{**IMAGES, **patches}, intermediate_dim=768, dropout=dropout), {"pixel_values": x}


def theirs(model: str, dropout: float, x: np.ndarray) -> tuple[Any, Any]:
    import keras_hub

    size = {"num_layers": LAYERS, "num_heads": HEADS, "hidden_dim": WIDTH, "intermediate_dim": INNER}
    text = {**size, "vocabulary_size": WORDS, "max_sequence_length": LENGTH, "dropout": dropout}
    tokens = {"token_ids": x, "padding_mask": np.ones_like(x)} if model != "vit" else {}
    if model == "gpt":
        backbone = keras_hub.models.GPT2Backbone(**text)
        return keras_hub.models.GPT2CausalLM(backbone, preprocessor=None), tokens
    if model == "bert":
        backbone = keras_hub.models.BertBackbone(**text)
        head = keras_hub.models.BertTextClassifier(backbone, num_classes=2, dropout=dropout, preprocessor=None)
        return head, {**tokens, "segment_ids": np.zeros_like(x)}
    rates = {"dropout_rate": dropout, "attention_dropout": dropout}
    backbone = keras_hub.models.ViTBackbone(image_shape=(32, 32, 3), patch_size=4, mlp_dim=768, **IMAGES, **rates)
    return keras_hub.models.ViTImageClassifier(backbone, num_classes=10, preprocessor=None), x


def keras_products() -> float:
    """Return the GFLOP/s of a matrix product of the GPT's shapes."""
    import keras

    one, other = (np.random.default_rng(i).normal(size=shape).astype("float32") for i, shape in enumerate(SHAPES))
    one, other = keras.ops.convert_to_tensor(one), keras.ops.convert_to_tensor(other)
    return best_product(lambda: keras.ops.convert_to_numpy(keras.ops.matmul(one, other)[:1, :1]))


if __name__ == "__main__":
    main()
