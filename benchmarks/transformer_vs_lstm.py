"""What it costs to train a Transformer to what an LSTM reaches: same data, parameters, optimiser, and clock.

Three tasks (sequence_tasks.py): rows of symbols to reverse, values to recall by their keys, and real text by character.
For each, both sides are timed with every kernel they have and take the fastest, their learning rates come from grids
of three with the same seconds for each rate, measured on rows of a seed of its own, and then they train in turn, seed
by seed, with the same budget; a run ends early at 99.5 % accuracy. Time is CPU time of training alone; compilation and
measuring are kept apart. A task at another length takes the rates and kernels of its first; recall takes QUICK_RATES.

    python benchmarks/transformer_vs_lstm.py            # three hours on one core
    python benchmarks/transformer_vs_lstm.py --quick    # under 4 minutes: reversal of 32 and text, one seed
    python benchmarks/transformer_vs_lstm.py --resume   # goes on where a run was cut short
    python benchmarks/transformer_vs_lstm.py --report   # table and picture again, from what a run has kept

Every step is kept at once in benchmarks/results/ (--quick: benchmarks/out/, which git does not see) as lines of JSON;
sequence_report.py makes the table and the picture of them. Expect the Transformer three to seventeen times cheaper than
an LSTM without attention where a row is looked up by place, as dear as one with attention, and dearer in text.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from sequence_report import TRANSFORMER, Point, report
from sequence_tasks import Batch, Side, Task, characters, recall, reversal

PACKAGES = ("keras", "tensorflow", "numpy")
HERE = Path(__file__).parent
NAME = "transformer_vs_lstm"
WARMUP = 50  # steps
ENOUGH = 0.995  # accuracy at which a run ends
VALIDATION, TEST = 1, 2  # seeds of the rows that tune, and of those that are reported
HELD_OUT = 128  # rows


@dataclass(frozen=True)
class Plan:
    """What is spent on one task, in seconds of training. Without `tuning` or `kernels`, as for its first length.
    `without` names sides that are left out."""

    task: Task
    seconds: float
    seeds: int
    tuning: float = 0.0
    kernels: tuple[str, ...] = ()
    points: int = 60
    without: tuple[str, ...] = ()


QUICK_RATES = {TRANSFORMER: 3e-3, "LSTM": 1e-2, "LSTM + additive attention": 1e-2}
RATES = {TRANSFORMER: (1.5e-3, 3e-3, 6e-3), "LSTM": (5e-3, 1e-2, 2e-2)}


def plans(quick: bool) -> Iterator[Plan]:
    """The same task at another length takes the rates of the first."""
    if quick:
        yield Plan(reversal(32, 16), 25, 1, points=25)
        yield Plan(characters(256, 8), 12, 1, points=6)
        return
    kernels = ("graph", "xla")
    yield Plan(reversal(64, 16), 480, 2, 20, (*kernels, "unrolled"))
    yield Plan(reversal(32, 16), 60, 3)
    yield Plan(characters(256, 8), 35, 3, 10, kernels, points=30)
    yield Plan(recall(256, 8), 90, 1, points=30)
    yield Plan(reversal(128, 8), 480, 2)
    yield Plan(reversal(256, 8), 600, 1)
    # A step of additive attention takes seconds there, and tens of minutes to compile unrolled.
    yield Plan(reversal(512, 4), 900, 1, without=("LSTM + additive attention",))


class Learner:
    """One side of a task, compiled once; every run starts it anew."""

    def __init__(self, side: Side, kernel: str, sample: Batch) -> None:
        self.side, self.kernel = side, kernel
        self.model = side.build()
        for layer in self.model._flatten_layers():
            if kernel == "unrolled" and isinstance(layer, keras.layers.LSTM):
                layer.unroll = True
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
        optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
        self.model.compile(optimizer, loss, jit_compile=kernel == "xla")
        self.compile_seconds = self.step(*sample)
        started = time.process_time()
        self.model.predict_on_batch(sample[0])
        self.compile_seconds += time.process_time() - started

    def step(self, inputs: dict[str, np.ndarray], targets: np.ndarray) -> float:
        """One step of training, and its seconds."""
        started = time.process_time()
        self.model.train_on_batch(inputs, targets)
        return time.process_time() - started

    def reset(self, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.side.build().get_weights())
        for variable in self.model.optimizer.variables:
            variable.assign(np.zeros(variable.shape, keras.backend.standardize_dtype(variable.dtype)))

    def accuracy(self, rows: Batch, batch: int) -> tuple[float, float]:
        """Of the tokens asked, each after the true ones before it, and of whole rows without an error."""
        inputs, targets = rows
        right = []
        for i in range(0, len(targets), batch):
            logits = self.model.predict_on_batch({name: value[i : i + batch] for name, value in inputs.items()})
            right.append(np.argmax(logits, axis=-1) == targets[i : i + batch])
        found, asked = np.concatenate(right), targets >= 0
        return float(found[asked].mean()), float((found | ~asked).all(axis=1).mean())

    def run(self, task: Task, seed: int, rate: float, seconds: float, rows: Batch, points: int) -> list[Point]:
        """Train from the beginning for `seconds`; the accuracy on `rows` after every 1/points of them."""
        self.reset(seed)
        rng = np.random.default_rng(1000 + seed)
        curve: list[Point] = []
        spent, steps, due = 0.0, 0, 0.0
        while True:
            if spent >= due:
                curve.append([round(spent, 2), steps, *(round(value, 4) for value in self.accuracy(rows, task.batch))])
                due = spent + seconds / points
                if spent >= seconds or curve[-1][2] >= ENOUGH:
                    return curve
            batch = task.draw(rng, task.batch)
            self.model.optimizer.learning_rate.assign(rate * min(1.0, (steps + 1) / WARMUP))
            spent += self.step(*batch)
            steps += 1


class Record:
    """Lines of JSON, each on the disk as soon as it is known; what is there already is not done again."""

    def __init__(self, file: Path, keep: bool) -> None:
        self.file = file
        file.parent.mkdir(exist_ok=True)
        if not keep:
            file.write_text("")
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]

    def find(self, kind: str, **values: Any) -> list[dict[str, Any]]:
        wanted = {"kind": kind, **values}
        return [line for line in self.lines if all(line.get(name) == value for name, value in wanted.items())]

    def add(self, kind: str, **values: Any) -> None:
        self.lines.append({"kind": kind, **values})
        with self.file.open("a") as lines:
            lines.write(json.dumps(self.lines[-1]) + "\n")
        shown = {name: value for name, value in values.items() if name != "curve"}
        print(kind, *(f"{name}={value}" for name, value in shown.items()), flush=True)


def fastest(task: Task, name: str, kernels: tuple[str, ...], record: Record) -> str:
    """The kernel whose median step is shortest; without `kernels`, the choice for another length of the task."""
    sample = task.draw(np.random.default_rng(0), task.batch)
    for kernel in kernels:
        known = record.find("kernel", task=task.key, side=name, kernel=kernel)
        if known or (kernel == "unrolled" and name == TRANSFORMER):
            continue
        learner = Learner(task.sides[name], kernel, sample)
        seconds = float(np.median([learner.step(*sample) for _ in range(7)]))
        values = {"milliseconds": round(1000 * seconds, 1), "compile": round(learner.compile_seconds, 1)}
        record.add("kernel", task=task.key, side=name, kernel=kernel, **values)
    if not kernels:
        return next((run["kernel"] for run in record.find("run", name=task.name, side=name)), "graph")
    return min(record.find("kernel", task=task.key, side=name), key=lambda line: line["milliseconds"])["kernel"]


def tune(plan: Plan, name: str, learner: Learner, record: Record) -> float:
    """Every rate of a side's grid for the same seconds: the best accuracy on validation rows, or the first there.
    Without seconds for it, the choice for another length of the task."""
    if not plan.tuning:
        return next((run["rate"] for run in record.find("run", name=plan.task.name, side=name)), QUICK_RATES[name])
    rows = plan.task.held_out(VALIDATION, HELD_OUT // 2)
    for rate in RATES.get(name, RATES["LSTM"]):
        if not record.find("tuning", task=plan.task.key, side=name, rate=rate):
            curve = learner.run(plan.task, 100, rate, plan.tuning, rows, points=12)
            accuracy = max(point[2] for point in curve)
            record.add("tuning", task=plan.task.key, side=name, rate=rate, accuracy=accuracy, seconds=curve[-1][0])
    tried = record.find("tuning", task=plan.task.key, side=name)
    return max(tried, key=lambda line: (round(line["accuracy"], 2), -line["seconds"]))["rate"]


def measure(plan: Plan, record: Record) -> None:
    """One task: kernels, rates, then the seeds of all sides in turn."""
    task = plan.task
    sample = task.draw(np.random.default_rng(0), task.batch)
    sides = {name: side for name, side in task.sides.items() if name not in plan.without}
    if len(record.find("run", task=task.key)) >= plan.seeds * len(sides):
        return
    learners = {name: Learner(side, fastest(task, name, plan.kernels, record), sample) for name, side in sides.items()}
    rates = {name: tune(plan, name, learner, record) for name, learner in learners.items()}
    rows = task.held_out(TEST, HELD_OUT)
    for seed in range(plan.seeds):
        for name, learner in learners.items():
            if record.find("run", task=task.key, side=name, seed=seed):
                continue
            started = time.process_time()
            curve = learner.run(task, seed, rates[name], plan.seconds, rows, plan.points)
            values = {"rate": rates[name], "kernel": learner.kernel, "parameters": learner.side.parameters}
            values |= {"operations": task.batch * learner.side.operations, "batch": task.batch, "budget": plan.seconds}
            values |= {"compile": round(learner.compile_seconds, 1)}
            values |= {"measuring": round(time.process_time() - started - curve[-1][0], 1)}
            best = max(point[2] for point in curve)
            place = {"task": task.key, "name": task.name, "length": task.length, "side": name, "seed": seed}
            record.add("run", **place, **values, best=best, last=curve[-1], curve=curve)
    keras.backend.clear_session()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two tasks, rates as found by the full run")
    parser.add_argument("--report", action="store_true", help="train nothing: table and picture from the file kept")
    parser.add_argument("--resume", action="store_true", help="go on where a run was cut short")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="in the names of the files")
    arguments = parser.parse_args()
    file = HERE / ("out" if arguments.quick else "results") / f"{NAME}_{arguments.date}.jsonl"
    if not arguments.report:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
        record = Record(file, keep=arguments.resume)
        versions = {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        machine = f"{platform.system()} {platform.machine()}, {arguments.threads} thread(s)"
        if not record.find("about"):
            record.add("about", date=arguments.date, machine=machine, versions=versions)
        for plan in plans(arguments.quick):
            measure(plan, record)
    report(file)


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    main()
