"""Our export beside Keras' own, of the same BERT, in one run: seconds, megabytes, latency of the files.

The peer is keras-nlp's ``BertBackbone`` at MiniLM's size (6 layers, 12 heads, width 384, 22.7 M parameters), exported
with ``model.export(format="onnx")`` and ``model.export(format="litert")``. Files are timed in turn, ours and theirs,
so that a slower minute of the machine meets both. Takes about three minutes.

    python benchmarks/export_onnx.py [--repeats 40] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import platform
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
from attention_zoo.export.quiet import quiet

SHAPES = ((1, 128), (8, 128))
PEER_INPUTS = ("token_ids", "segment_ids", "padding_mask")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
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
        # A process' first export pays for what TensorFlow and tf2onnx import and build; neither side shall pay alone.
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
        print("| ONNX | seconds | MB | of the weights | nodes | dimensions of the first input |")
        print("|---|---|---|---|---|---|")
        for side, seconds, megabytes, nodes, dims in rows:
            print(f"| {side} | {seconds:.1f} | {megabytes:.1f} | {megabytes / weights:.3f} | {nodes} | {dims} |")
        print(f"\nours takes 1/{rows[1][1] / rows[0][1]:.1f} of the time\n")

        print("| file | shape | ours ms | theirs ms | ours / theirs, median of pairs |\n|---|---|---|---|---|")
        for batch, sequence in SHAPES:
            compare("ONNX", folder / "ours.onnx", folder / "theirs.onnx", batch, sequence, arguments)
        for batch, sequence in SHAPES:
            pair = [folder / f"{side}_{batch}.tflite" for side in ("ours", "theirs")]
            export.to_tflite(ours, pair[0], batch_size=batch, sequence_length=sequence)
            export_theirs(theirs, pair[1], batch=batch, sequence=sequence)
            compare("TFLite", *pair, batch, sequence, arguments)


def export_theirs(model: keras.Model, file: Path, *, batch: int | None, sequence: int | None) -> None:
    signature = {name: keras.InputSpec(shape=(batch, sequence), dtype="int32", name=name) for name in PEER_INPUTS}
    format = "onnx" if file.suffix == ".onnx" else "litert"
    with quiet():
        model.export(str(file), format=format, verbose=False, input_signature=[signature])


def describe(file: Path) -> tuple[int, str]:
    graph = onnx.load(str(file), load_external_data=False).graph
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    return len(graph.node), f"{graph.input[0].name} {dims}"


def compare(kind: str, ours: Path, theirs: Path, batch: int, sequence: int, arguments: argparse.Namespace) -> None:
    """Time two files in turn."""
    rng = np.random.default_rng(0)
    runners = [export.load(path, threads=arguments.threads) for path in (ours, theirs)]
    feeds = []
    for runner in runners:
        names = [spec.name for spec in runner.signature.inputs]
        feeds.append(
            {
                n: np.ones((batch, sequence), "int32") if "mask" in n else np.zeros((batch, sequence), "int32")
                for n in names
            }
        )
        for name in names:
            if name.endswith(("input_ids", "token_ids")):
                feeds[-1][name] = rng.integers(0, 30000, (batch, sequence)).astype("int32")
    times: list[list[float]] = [[], []]
    for turn in range(arguments.repeats + 3):
        for side in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            runners[side].run(feeds[side])
            if turn >= 3:
                times[side].append(1e3 * (time.perf_counter() - start))
    ratio = np.median(np.array(times[0]) / np.array(times[1]))
    best = [f"{np.median(t):.1f} (best {min(t):.1f})" for t in times]
    print(f"| {kind} | ({batch}, {sequence}) | {best[0]} | {best[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
