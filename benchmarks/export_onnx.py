"""Compare the export of a BERT with Keras' own exporter in one run: seconds, megabytes, and latency of the files.

The peer is keras-nlp's ``BertBackbone`` at MiniLM's size (6 layers, 12 heads, hidden size 384, 22.7 M parameters),
exported with ``model.export(format="onnx")`` and ``model.export(format="litert")``. The files are timed alternately, so
that changes in the load of the machine affect both. Takes about four minutes.

    python benchmarks/export_onnx.py [--rounds 5] [--repeats 30] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_nlp
import numpy as np
import onnx
import tensorflow as tf

import attention_zoo as az
from attention_zoo import export
from attention_zoo.runtime.quiet import quiet

SHAPES = ((1, 128), (8, 128))
PEER_INPUTS = ("token_ids", "segment_ids", "padding_mask")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes per file and shape")
    parser.add_argument("--repeats", type=int, default=30, help="timed runs per process")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    packages = ("keras", "keras-nlp", "tensorflow", "tf2onnx", "onnxruntime", "ai-edge-litert")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"{arguments.threads} threads, load {os.getloadavg()[0]:.1f}\n")

    keras.utils.set_random_seed(0)
    ours = az.create("minilm-l6")
    theirs = keras_nlp.models.BertBackbone(
        vocabulary_size=30522, num_layers=6, num_heads=12, hidden_dim=384, intermediate_dim=1536
    )
    weights = 4 * ours.count_params() / 1e6
    assert ours.count_params() == theirs.count_params(), "not the same model"

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The first export of a process includes imports and setup of TensorFlow and tf2onnx, so it is not timed.
        warm = az.create("bert", num_layers=1, hidden_dim=48)
        export.to_onnx(warm, folder / "warm.onnx")
        rows = []
        for side, model in (("attention_zoo", ours), ("keras-nlp, model.export", theirs)):
            file = folder / f"{'ours' if model is ours else 'theirs'}.onnx"
            start = time.perf_counter()
            if model is ours:
                export.to_onnx(model, file)
            else:
                export_theirs(model, file, batch=None, sequence=None)
            seconds = time.perf_counter() - start
            rows.append((side, seconds, file.stat().st_size / 1e6, *describe(file)))
        print("| ONNX | seconds | MB | MB / weights MB | nodes | shape of the first input |")
        print("|---|---|---|---|---|---|")
        for side, seconds, megabytes, nodes, dims in rows:
            print(f"| {side} | {seconds:.1f} | {megabytes:.1f} | {megabytes / weights:.3f} | {nodes} | {dims} |")
        print(f"\nattention_zoo takes 1/{rows[1][1] / rows[0][1]:.1f} of the time\n")

        print("| file | shape | attention_zoo, ms, median of rounds | keras-nlp, ms | ratio, median of pairs |")
        print("|---|---|---|---|---|")
        for batch, sequence in SHAPES:
            compare("ONNX", folder / "ours.onnx", folder / "theirs.onnx", batch, sequence, arguments)
        for batch, sequence in SHAPES:
            pair = [folder / f"{side}_{batch}.tflite" for side in ("ours", "theirs")]
            export.to_tflite(ours, pair[0], batch_size=batch, sequence_length=sequence)
            export_theirs(theirs, pair[1], batch=batch, sequence=sequence)
            compare("TFLite", *pair, batch, sequence, arguments)


def export_theirs(model: keras.Model, file: Path, *, batch: int | None, sequence: int | None) -> None:
    """Export the peer with Keras' exporter. A size of None is dynamic."""
    signature = {name: keras.InputSpec(shape=(batch, sequence), dtype="int32", name=name) for name in PEER_INPUTS}
    format = "onnx" if file.suffix == ".onnx" else "litert"
    with quiet():
        model.export(str(file), format=format, verbose=False, input_signature=[signature])


def describe(file: Path) -> tuple[int, str]:
    """Return the number of nodes, and the name and shape of the first input."""
    graph = onnx.load(str(file), load_external_data=False).graph
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    return len(graph.node), f"{graph.input[0].name} {dims}"


def compare(kind: str, ours: Path, theirs: Path, batch: int, sequence: int, arguments: argparse.Namespace) -> None:
    """Time two files alternately, each in a process of its own, because two runtimes in one would compete for cores."""
    medians: list[list[float]] = [[], []]
    for turn in range(arguments.rounds):
        for side in (0, 1) if turn % 2 else (1, 0):
            command = [sys.executable, "-m", "attention_zoo.cli", "bench", str((ours, theirs)[side]), "--json"]
            command += ["--batch", str(batch), "--sequence", str(sequence)]
            command += ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            medians[side].append(json.loads(done.stdout)["median_ms"])
    ratios = np.array(medians[0]) / np.array(medians[1])
    shown = [f"{np.median(m):.1f} ({min(m):.1f} to {max(m):.1f})" for m in medians]
    print(f"| {kind} | ({batch}, {sequence}) | {shown[0]} | {shown[1]} | {np.median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
