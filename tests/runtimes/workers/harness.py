"""The part that all workers in Python share: it runs every case in a process of its own and stores what comes out.

A worker needs only NumPy and its engine. ``worker.py CASES_FOLDER OUT_FOLDER [CASE…]`` runs the named cases, or all.
A case is a folder with ``model.onnx``, ``case.json`` and ``inputs.npz``, whose keys are "0/input_ids", "1/input_ids"
and so on: several sets of inputs. The outputs go to ``OUT_FOLDER/CASE.npz`` under the same numbers. If a case fails,
the reason goes to ``OUT_FOLDER/CASE.txt`` in one line.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = int(os.environ.get("RUNTIME_SECONDS", "120"))  # of one case
# What an error says about the source of an engine: lines of OpenVINO, and places and functions of others.
NOISE = ("Exception from ", "Check '")
SOURCE = re.compile(r"(/[\w./+-]+|\b\w+)\.(cc|cpp|h|hpp):\d+:?( [\w:~<>]+\([^()]*\))? ?| ?Stack backtrace: .*")
Inputs = Mapping[str, np.ndarray]
Model = Callable[[Inputs], Mapping[str, np.ndarray]]
Load = Callable[[Path, "dict[str, Any]"], Model]


def main(load: Load) -> None:
    """Run the cases of the command line.

    Args:
        load: gets the path of a model and the content of ``case.json``, which names its inputs and outputs, and returns
            a function of the inputs by name that returns the outputs by name.
    """
    cases, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[3:] or sorted(folder.name for folder in cases.iterdir() if (folder / "case.json").is_file()):
        for ending in ("npz", "txt"):
            (out / f"{name}.{ending}").unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=_run, args=(load, cases / name, out / name))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            said = f"it did not end within {SECONDS} s"
        elif process.exitcode < 0:
            said = f"the process crashed: {signal.Signals(-process.exitcode).name}"
        elif process.exitcode > 1:
            said = f"the process ended with exit code {process.exitcode}"
        else:  # the process wrote the outputs or the reason
            continue
        (out / f"{name}.txt").write_text(f"{said}\n")


def _run(load: Load, case: Path, out: Path) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    stage = "load"
    try:
        about = json.loads((case / "case.json").read_text())
        sets: dict[str, dict[str, np.ndarray]] = {}
        with np.load(case / "inputs.npz") as stored:
            for key in stored.files:
                number, _, name = key.partition("/")
                sets.setdefault(number, {})[name] = stored[key]
        model = load(case / "model.onnx", about)
        stage = "run"
        found = {}
        for number, inputs in sets.items():
            for name, value in model(inputs).items():
                found[f"{number}/{name}"] = np.asarray(value)
        np.savez(out.with_name(f"{out.name}.part.npz"), **found)
        out.with_name(f"{out.name}.part.npz").rename(out.with_name(f"{out.name}.npz"))
    except BaseException as error:  # of any class: engines raise what they like, and rewriting tools may exit
        lines = [line.strip() for line in str(error).strip().replace(f"{case}/", "").splitlines()] or [""]
        lines = lines[-1:] if lines[0].startswith("Traceback") else lines
        said = SOURCE.sub("", " ".join(line for line in lines if line and not line.startswith(NOISE)))
        out.with_name(f"{out.name}.txt").write_text(f"{stage}: {type(error).__name__}: {said}"[:200] + "\n")
        os._exit(1)
    os._exit(0)  # without the destructors of the engine, which may crash
