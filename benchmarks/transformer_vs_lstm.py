"""Measure the cost of training a Transformer to the accuracy of an LSTM with equal data, size, optimizer and clock.

There are three tasks (sequence_tasks.py): to reverse rows of symbols, to recall values by their keys, and to predict
real text by character. In each, every model is timed with all its kernels and uses the fastest. Learning rates are
selected from grids of three, which are trained for equal times and evaluated on validation rows. Then the models train
in turns, seed by seed, with the same budget; a run ends early at 99.5 % accuracy. In recall, easier rows come first and
the rate falls. Time is CPU time of training alone,
without compilation and evaluation. A task at another length uses the rates and kernels of its first length, and recall
uses QUICK_RATES.

    python benchmarks/transformer_vs_lstm.py            # three and a half hours on one core
    python benchmarks/transformer_vs_lstm.py --quick    # under 4 minutes: reversal of 32 and text, one seed
    python benchmarks/transformer_vs_lstm.py --resume   # continues an interrupted run
    python benchmarks/transformer_vs_lstm.py --report   # writes table and figure again from the records of a run

Every result is recorded at once as a JSON line in benchmarks/results/ (with --quick in benchmarks/out/, which git
ignores), and sequence_report.py writes the table and the figure. In reversal, expect the Transformer to cost a third to
a seventeenth of an LSTM without attention, and about as much as one with attention. It costs more for text.
"""

from __future__ import annotations

import argparse
import json
import math
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
NAMES = ("reversal", "characters", "recall")
WARMUP = 50  # steps
ENOUGH = 0.995  # accuracy at which a run ends early
VALIDATION, TEST = 1, 2  # seeds of the rows for tuning, and of those for the report
HELD_OUT = 128  # rows


@dataclass(frozen=True)
class Plan:
    """The budget of one task.

    Attributes:
        task: the task.
        seconds: training time of each run.
        seeds: number of runs of each side.
        tuning: training time for each learning rate. 0: the rates are those of the first length of the task.
        kernels: kernels to time. Empty: the kernels are those of the first length of the task.
        points: number of evaluations of a run.
        without: sides that are left out.
        falling: whether the rate falls to 0 over the budget, along a cosine.
    """

    task: Task
    seconds: float
    seeds: int
    tuning: float = 0.0
    kernels: tuple[str, ...] = ()
    points: int = 60
    without: tuple[str, ...] = ()
    falling: bool = False


QUICK_RATES = {TRANSFORMER: 3e-3, "LSTM": 1e-2, "LSTM + additive attention": 1e-2}
RATES = {TRANSFORMER: (1.5e-3, 3e-3, 6e-3), "LSTM": (5e-3, 1e-2, 2e-2)}


def plans(quick: bool) -> Iterator[Plan]:
    """Yield the plans of all tasks. The first plan of a task has its tuning, which the other lengths use as well."""
    if quick:
        yield Plan(reversal(32, 16), 25, 1, points=25)
        yield Plan(characters(256, 8), 12, 1, points=6)
        return
    kernels = ("graph", "xla")
    yield Plan(reversal(64, 16), 480, 2, 20, (*kernels, "unrolled"))
    yield Plan(reversal(32, 16), 60, 3)
    yield Plan(characters(256, 8), 35, 3, 10, kernels, points=30)
    yield Plan(recall(8, 16), 600, 2, kernels=kernels, points=60, falling=True)
    yield Plan(recall(16, 8), 900, 1, points=60, falling=True)
    yield Plan(reversal(128, 8), 480, 2)
    yield Plan(reversal(256, 8), 600, 1)
    # At this length a step with additive attention takes seconds, and its unrolled compilation tens of minutes.
    yield Plan(reversal(512, 4), 900, 1, without=("LSTM + additive attention",))


class Learner:
    """One side of a task. It is compiled once, and its weights are reset for every run."""

    def __init__(self, side: Side, kernel: str, task: Task) -> None:
        self.side, self.kernel = side, kernel
        self.model = side.build()
        for layer in self.model._flatten_layers():
            if kernel == "unrolled" and isinstance(layer, keras.layers.LSTM):
                layer.unroll = True
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
        optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
        self.model.compile(optimizer, loss, jit_compile=kernel == "xla")
        samples = [
            draw(np.random.default_rng(0), task.batch) for draw in (*(lesson for lesson, _ in task.lessons), task.draw)
        ]
        self.compile_seconds = sum(self.step(*sample)[0] for sample in samples)
        started = time.process_time()
        self.model.predict_on_batch(samples[-1][0])
        self.compile_seconds += time.process_time() - started

    def step(self, inputs: dict[str, np.ndarray], targets: np.ndarray) -> tuple[float, float]:
        """Train for one step, and return its CPU seconds and its loss."""
        started = time.process_time()
        loss = self.model.train_on_batch(inputs, targets)
        seconds = time.process_time() - started
        self.model.reset_metrics()
        return seconds, float(loss)

    def reset(self, seed: int) -> None:
        """Set new initial weights, and clear the state of the optimizer."""
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.side.build().get_weights())
        for variable in self.model.optimizer.variables:
            variable.assign(np.zeros(variable.shape, keras.backend.standardize_dtype(variable.dtype)))

    def accuracy(self, rows: Batch, batch: int) -> tuple[float, float]:
        """Return the accuracy of tokens under teacher forcing, and the share of rows without an error.

        Targets of -1 do not count.
        """
        inputs, targets = rows
        right = []
        for i in range(0, len(targets), batch):
            logits = self.model.predict_on_batch({name: value[i : i + batch] for name, value in inputs.items()})
            right.append(np.argmax(logits, axis=-1) == targets[i : i + batch])
        found, asked = np.concatenate(right), targets >= 0
        return float(found[asked].mean()), float((found | ~asked).all(axis=1).mean())

    def run(
        self, task: Task, seed: int, rate: float, seconds: float, rows: Batch, points: int, falling: bool = False
    ) -> list[Point]:
        """Train from the beginning for `seconds`, and return the accuracy on `rows` at about `points` times."""
        self.reset(seed)
        rng = np.random.default_rng(1000 + seed)
        curve: list[Point] = []
        lessons = [*task.lessons, (task.draw, 0.0)]
        spent, steps, due, level = 0.0, 0, 0.0, math.inf
        while True:
            if spent >= due:
                curve.append([round(spent, 2), steps, *(round(value, 4) for value in self.accuracy(rows, task.batch))])
                due = spent + seconds / points
                if spent >= seconds or curve[-1][2] >= ENOUGH:
                    return curve
            draw, learned = lessons[0]
            share = (1 + math.cos(math.pi * spent / seconds)) / 2 if falling else 1.0
            self.model.optimizer.learning_rate.assign(rate * share * min(1.0, (steps + 1) / WARMUP))
            took, loss = self.step(*draw(rng, task.batch))
            level = loss if math.isinf(level) else 0.95 * level + 0.05 * loss
            if level < learned:
                lessons, level = lessons[1:], math.inf
            spent += took
            steps += 1


class Record:
    """Results as JSON lines in a file, which are written immediately, so that an interrupted run can be resumed."""

    def __init__(self, file: Path, keep: bool) -> None:
        self.file = file
        file.parent.mkdir(exist_ok=True)
        if not keep:
            file.write_text("")
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]

    def find(self, kind: str, **values: Any) -> list[dict[str, Any]]:
        """Return the lines of this kind that have these values."""
        wanted = {"kind": kind, **values}
        return [line for line in self.lines if all(line.get(name) == value for name, value in wanted.items())]

    def add(self, kind: str, **values: Any) -> None:
        """Write a line to the file, and print it without its curve."""
        self.lines.append({"kind": kind, **values})
        with self.file.open("a") as lines:
            lines.write(json.dumps(self.lines[-1]) + "\n")
        shown = {name: value for name, value in values.items() if name != "curve"}
        print(kind, *(f"{name}={value}" for name, value in shown.items()), flush=True)


def fastest(task: Task, name: str, kernels: tuple[str, ...], record: Record) -> str:
    """Return the kernel with the shortest median step; without `kernels`, the one selected for another length."""
    for kernel in kernels:
        known = record.find("kernel", task=task.key, side=name, kernel=kernel)
        if known or (kernel == "unrolled" and name == TRANSFORMER):
            continue
        learner = Learner(task.sides[name], kernel, task)
        sample = task.draw(np.random.default_rng(0), task.batch)
        seconds = float(np.median([learner.step(*sample)[0] for _ in range(7)]))
        values = {"milliseconds": round(1000 * seconds, 1), "compile": round(learner.compile_seconds, 1)}
        record.add("kernel", task=task.key, side=name, kernel=kernel, **values)
    if not kernels:
        return next((run["kernel"] for run in record.find("run", name=task.name, side=name)), "graph")
    return min(record.find("kernel", task=task.key, side=name), key=lambda line: line["milliseconds"])["kernel"]


def tune(plan: Plan, name: str, learner: Learner, record: Record) -> float:
    """Train with every rate of a side's grid for the same seconds, and return the best rate on validation rows.

    Of rates with the same accuracy, to two digits, the one with the fewest seconds is the best. Without seconds for
    tuning, return the rate that was selected for another length of the task.
    """
    if not plan.tuning:
        return next((run["rate"] for run in record.find("run", name=plan.task.name, side=name)), QUICK_RATES[name])
    rows = plan.task.held_out(VALIDATION, HELD_OUT // 2)
    for rate in RATES.get(name, RATES["LSTM"]):
        if not record.find("tuning", task=plan.task.key, side=name, rate=rate):
            curve = learner.run(plan.task, 100, rate, plan.tuning, rows, points=12, falling=plan.falling)
            accuracy = max(point[2] for point in curve)
            record.add("tuning", task=plan.task.key, side=name, rate=rate, accuracy=accuracy, seconds=curve[-1][0])
    tried = record.find("tuning", task=plan.task.key, side=name)
    return max(tried, key=lambda line: (round(line["accuracy"], 2), -line["seconds"]))["rate"]


def measure(plan: Plan, record: Record) -> None:
    """Run one task: select kernels and rates, then train the sides in turns for every seed."""
    task = plan.task
    sides = {name: side for name, side in task.sides.items() if name not in plan.without}
    if len(record.find("run", task=task.key)) >= plan.seeds * len(sides):
        return
    learners = {name: Learner(side, fastest(task, name, plan.kernels, record), task) for name, side in sides.items()}
    rates = {name: tune(plan, name, learner, record) for name, learner in learners.items()}
    rows = task.held_out(TEST, HELD_OUT)
    for seed in range(plan.seeds):
        for name, learner in learners.items():
            if record.find("run", task=task.key, side=name, seed=seed):
                continue
            started = time.process_time()
            curve = learner.run(task, seed, rates[name], plan.seconds, rows, plan.points, plan.falling)
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
    parser.add_argument("--quick", action="store_true", help="one seed, two tasks, rates of the full run")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="names of tasks")
    parser.add_argument("--report", action="store_true", help="do not train; write table and figure from the records")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="date in the names of the files")
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
            if plan.task.name in arguments.only:
                measure(plan, record)
    report(file)


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    main()
