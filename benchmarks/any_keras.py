"""Export Keras models of every kind to ONNX and TFLite, with this package and with Keras' own ``model.export``.

    python benchmarks/any_keras.py [--only 'KerasHub*'] [--json results.json]

For each model it reports the largest difference between the file of this package and Keras, relative to the largest
output; the seconds of both exports, of which only that of this package includes a check of the file; and the latency of
both files at one shape, as the best of interleaved rounds. Each model has a process of its own. Nothing else should run
on the machine.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROUNDS, BUDGET = 7, 0.15  # number of rounds, and minimum seconds per file in a round
LONGEST = 300  # seconds; the process of a model is stopped after four times as long


def _timed(run: Callable[[], Any]) -> tuple[float, Any, str]:
    """Return the seconds, the result, and the error if there is no result."""
    start = time.perf_counter()
    try:
        result = run()
    except Exception as error:  # any error is reported as a result of the benchmark
        return time.perf_counter() - start, None, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return time.perf_counter() - start, result, ""


def _latency(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the milliseconds per call of each file, as the best of interleaved rounds."""
    best: dict[str, float] = {}
    counts = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        counts[name] = max(1, int(BUDGET / (time.perf_counter() - start)))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                run()
            took = 1e3 * (time.perf_counter() - start) / counts[name]
            best[name] = min(took, best.get(name, took))
    return best


def _onnx_run(path: str, arrays: list[Any]) -> Callable[[], Any]:
    """Return a function that runs an ONNX file on these inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = _matched([(node.name, list(node.shape)) for node in session.get_inputs()], arrays)
    kinds = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool"}
    feeds = {node.name: feeds[node.name].astype(kinds[node.type]) for node in session.get_inputs()}
    return lambda: session.run(None, feeds)


def _litert_run(path: str, arrays: list[Any]) -> Callable[[], Any]:
    """Return a function that runs a TFLite file on these inputs."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=os.cpu_count())
    details = interpreter.get_input_details()
    names = {d["index"]: d["name"].removeprefix("serving_default_").partition(":")[0] for d in details}
    feeds = _matched([(names[d["index"]], list(d["shape"])) for d in details], arrays)
    for detail in details:
        array = feeds[names[detail["index"]]]
        if tuple(detail["shape"]) != array.shape:
            interpreter.resize_tensor_input(detail["index"], array.shape)
    interpreter.allocate_tensors()

    def run() -> None:
        for detail in details:
            interpreter.set_tensor(
                detail["index"], np.ascontiguousarray(feeds[names[detail["index"]]], detail["dtype"])
            )
        interpreter.invoke()

    return run


def _matched(wanted: list[tuple[str, list[Any]]], arrays: list[tuple[str, Any]]) -> dict[str, Any]:
    """Assign the inputs by name, or else by order, because Keras' exporter may change the names."""
    given = dict(arrays)
    if {name for name, _ in wanted} <= {*given}:
        return {name: given[name] for name, _ in wanted}
    if len(wanted) != len(arrays):
        raise ValueError(f"it asks for {len(wanted)} inputs, where the model has {len(arrays)}")
    return {name: array for (name, _), (_, array) in zip(wanted, arrays, strict=True)}


def measure(name: str, formats: list[str]) -> dict[str, Any]:
    """Export one model to these formats with both exporters, and return all results."""
    import keras
    import numpy as np
    from any_keras_models import build

    from attention_zoo import export
    from attention_zoo.runtime.inputs import example_inputs

    with tempfile.TemporaryDirectory() as folder:  # warm-up, so that no timed export includes imports
        warm = build("Functional, two inputs and two outputs")
        export.to_onnx(warm.model, f"{folder}/m.onnx")
        export.to_tflite(warm.model, f"{folder}/m.tflite", **warm.sizes)
        for kind in ("onnx", "litert"):
            warm.model.export(f"{folder}/k.{kind.replace('litert', 'tflite')}", format=kind, verbose=False)
    case = build(name)
    model = case.model
    row: dict[str, Any] = {"name": name, "parameters": int(model.count_params())}
    with tempfile.TemporaryDirectory() as folder:
        paths = {key: f"{folder}/{key}" for key in ("ours.onnx", "keras.onnx", "ours.tflite", "keras.tflite")}
        how = {"input_signature": case.input_signature}
        seconds, result, why = _timed(lambda: export.to_onnx(model, paths["ours.onnx"], **how))
        row["onnx"] = {"seconds": seconds, "why": why, "bytes": result and result.bytes}
        static = None
        if "tflite" in formats:
            seconds, static, why = _timed(lambda: export.to_tflite(model, paths["ours.tflite"], **how, **case.sizes))
            row["tflite"] = {"seconds": seconds, "why": why, "bytes": static and static.bytes}
        loaded = export.load(paths["ours.tflite"] if static else paths["ours.onnx"])
        signature = loaded.signature
        sizes = {**signature.examples, **signature.sizes, "batch": 1}
        inputs = example_inputs(signature, sizes)
        expected = model(*_called(case, signature, inputs))
        flat = [np.asarray(x) for x in keras.tree.flatten(expected) if x is not None]
        for form, done in (("onnx", result), ("tflite", static)):
            if done:
                got = list(export.load(paths[f"ours.{form}"]).run(inputs).values())
                scales = (float(np.abs(b).max()) or 1.0 for b in flat)
                apart = (float(np.abs(a.astype("float64") - b).max()) for a, b in zip(got, flat, strict=True))
                row[form]["difference"] = max(one / scale for one, scale in zip(apart, scales, strict=True))
        arrays = [(spec.name, inputs[spec.name]) for spec in signature.inputs]
        options: dict[str, Any] = {"verbose": False}
        if case.input_signature is not None:
            options["input_signature"] = list(case.input_signature.values())
        for form, kind, run in (("onnx", "onnx", _onnx_run), ("tflite", "litert", _litert_run)):
            if form not in row:
                continue
            path = paths[f"keras.{form}"]
            took, _, why = _timed(lambda path=path, kind=kind: model.export(path, format=kind, **options))
            row[form]["keras_seconds"], row[form]["keras_why"] = took, why
            runs = {}
            for side, there in (("ours", f"ours.{form}"), ("keras", f"keras.{form}")):
                if os.path.exists(paths[there]):
                    _, ready, why = _timed(lambda there=there, run=run: _tried(run(paths[there], arrays)))
                    runs |= {side: ready} if ready else {}
                    if why and side == "keras":
                        row[form]["keras_why"] = row[form]["keras_why"] or f"cannot be run: {why}"
            row[form]["latency"] = _latency(runs) if runs else {}
    return row


def _tried(run: Callable[[], Any]) -> Callable[[], Any]:
    """Run once, so that a file that cannot be run raises its error here."""
    run()
    return run


def _called(case: Any, signature: Any, inputs: dict[str, Any]) -> list[Any]:
    """Return the positional arguments with which the Keras model is called."""
    import keras

    if case.input_signature is not None:
        return [inputs[name] for name in case.input_signature]
    structure = getattr(case.model, "_inputs_struct", None)
    if structure is None or isinstance(structure, dict):
        return [inputs if len(inputs) > 1 or structure is not None else next(iter(inputs.values()))]
    names = iter([spec.name for spec in signature.inputs])
    return [keras.tree.map_structure(lambda _: inputs[next(names)], structure)]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table. A "-" means that there is no file that its runtime can run."""
    lines = [
        "| model | parameters | ONNX: difference | seconds | Keras' | ms | Keras' "
        "| TFLite: difference | seconds | Keras' | ms | Keras' |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["name"], f"{row['parameters']:,}"]
        for form in ("onnx", "tflite"):
            if form not in row:
                cells += ["-"] * 5
                continue
            some = row[form]
            ms = some["latency"]
            keras_ran = not some["keras_why"]
            cells += [
                f"{some['difference']:.0e}" if "difference" in some else "-",
                "-" if some["why"] else f"{some['seconds']:.1f}",
                f"{some['keras_seconds']:.1f}" if keras_ran else "-",
                f"{ms['ours']:.2f}" if "ours" in ms else "-",
                f"{ms['keras']:.2f}" if "keras" in ms and keras_ran else "-",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """Summarize how many models have files, the ratios of export time and latency, and the errors."""
    lines = []
    for form, title in (("onnx", "ONNX"), ("tflite", "TFLite")):
        if any(form not in row for row in rows):
            continue
        right = [row for row in rows if not row[form]["why"]]
        theirs = [row for row in right if not row[form]["keras_why"]]
        shares = [row[form]["seconds"] / row[form]["keras_seconds"] for row in theirs]
        large = [row[form]["seconds"] / row[form]["keras_seconds"] for row in theirs if row["parameters"] >= 20e6]
        both = [row[form]["latency"] for row in theirs if {"ours", "keras"} <= {*row[form]["latency"]}]
        faster = [ms["ours"] / ms["keras"] for ms in both]
        said = f"{title}: attention_zoo exports {len(right)} of {len(rows)} models, all checked against Keras. "
        said += f"Keras' exporter makes a file that runs for {len(theirs)}."
        if shares:
            said += f" For these the export of attention_zoo takes {median(shares):.2f} of the time in the median"
            said += f", and {median(large):.2f} for models with 20 M parameters or more." if large else "."
        if faster:
            said += (
                f" The latency of its files is {median(faster):.2f} of that of Keras' files in the median, "
                f"and {max(faster):.2f} in the worst case."
            )
        lines.append(said)
        for row in rows:
            for whose, key in (("attention_zoo", "why"), ("Keras", "keras_why")):
                if row[form][key]:
                    lines.append(f"- {title}, {whose}: {row['name']}: {row[form][key]}")
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine and the versions of the packages."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if f" {flag}" in flags]
    packages = ("keras", "tensorflow", "tf2onnx", "onnxruntime", "ai-edge-litert", "keras-hub")
    shown = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{platform.machine()}, {os.cpu_count()} cores ({' '.join(known)}), Python {platform.python_version()}; {shown}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="shell pattern for the names of the models")
    parser.add_argument("--json", type=Path, help="file to which all results are written after each model")
    parser.add_argument("--formats", nargs="+", default=["onnx", "tflite"], choices=["onnx", "tflite"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print("\nROW " + json.dumps(measure(arguments.one, ["onnx", *arguments.formats])))
        return
    from any_keras_models import MODELS

    rows = []
    for name in [name for name in MODELS if fnmatch.fnmatchcase(name, arguments.only)]:
        command = [sys.executable, __file__, "--one", name, "--formats", *arguments.formats]
        done = subprocess.run(command, capture_output=True, text=True, timeout=4 * LONGEST, check=False)
        found = [line[4:] for line in done.stdout.splitlines() if line.startswith("ROW ")]
        if not found:
            print(f"{name}: {done.stderr.strip()[-300:]}", file=sys.stderr, flush=True)
            continue
        rows.append(json.loads(found[0]))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1))
    print(f"\n{machine()}\n\n{table(rows)}\n\n{summary(rows)}")


if __name__ == "__main__":
    main()
