"""Write the table and the figure of transformer_vs_lstm.py from the JSON lines that a run records. Without Keras."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TRANSFORMER = "Transformer"
CHANCE = {"reversal": 1 / 32, "recall": 1 / 32}
LEVEL = 0.99  # share of the best accuracy that must be reached
WHY = "## Why"
STYLES = {
    TRANSFORMER: ("tab:blue", "-"),
    "LSTM": ("tab:orange", "-"),
    "LSTM + additive attention": ("tab:orange", "--"),
}
Point = list[float]  # seconds, steps, accuracy of tokens, share of rows without an error


def report(file: Path) -> None:
    """Write the page and the figure next to `file`, and print the table. The section "Why" of an older page stays."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    runs = [line for line in lines if line["kind"] == "run"]
    order = list(dict.fromkeys(run["name"] for run in runs))
    runs.sort(key=lambda run: (order.index(run["name"]), run["length"]))
    found = compared(runs)
    page = file.with_suffix(".md")
    why = page.read_text().partition(WHY)[2] if page.exists() else "\n"
    sections = [*heading(lines), *table(found), "", *settings(lines)]
    page.write_text("\n".join(sections) + f"\n\n{WHY}{why}")
    draw(runs, found, file.with_suffix(".png"))
    print("\n".join(table(found)))


@dataclass(frozen=True)
class Comparison:
    """The runs of one LSTM and of the Transformer in a task, in pairs of the same seed."""

    lstm: list[dict[str, Any]]
    transformer: list[dict[str, Any]]

    def costs(self) -> list[tuple[tuple[float, float] | None, tuple[float, float] | None]]:
        """Return the costs, (seconds, operations) or None, of each pair of runs to reach the LSTM's best accuracy."""
        pairs = zip(self.lstm, self.transformer, strict=True)
        return [(cost(a, LEVEL * a["best"]), cost(b, LEVEL * a["best"])) for a, b in pairs]

    def guessing(self) -> bool:
        """Return whether the best accuracy of a run is below 1.5 times chance."""
        return any(run["best"] < 1.5 * CHANCE.get(run["name"], 0.0) for run in (*self.lstm, *self.transformer))

    def ratio(self, unit: int) -> tuple[float, float, float, bool] | None:
        """Return the median, minimum and maximum of the ratios LSTM / Transformer, and whether `reverse` applies.

        A ratio is that of the seconds (`unit` 0) or operations (1) to reach the LSTM's best accuracy. If a Transformer
        does not reach it, all ratios refer to the Transformer's best accuracy (`reverse`). Return None if a side is
        guessing or does not reach the accuracy.
        """
        if self.guessing():
            return None
        costs, reverse = self.costs(), False
        if any(b is None for _, b in costs):
            pairs = zip(self.lstm, self.transformer, strict=True)
            costs, reverse = [(cost(a, LEVEL * b["best"]), cost(b, LEVEL * b["best"])) for a, b in pairs], True
        ratios = [a[unit] / b[unit] for a, b in costs if a and b and b[unit]]
        if len(ratios) < len(costs):
            return None
        return float(np.median(ratios)), min(ratios), max(ratios), reverse


def cost(run: dict[str, Any], accuracy: float) -> tuple[float, float] | None:
    """Return the seconds and operations of training until the accuracy is first at least `accuracy`, or None."""
    for seconds, steps, reached, _ in run["curve"]:
        if reached >= accuracy:
            return seconds, steps * run["operations"]
    return None


def compared(runs: list[dict[str, Any]]) -> dict[tuple[str, str], Comparison]:
    """Pair the runs of every LSTM with those of the Transformer, by (task, LSTM)."""
    by_place = {(run["task"], run["side"], run["seed"]): run for run in runs}
    found: dict[tuple[str, str], Comparison] = {}
    for (task, side, seed), run in by_place.items():
        other = by_place.get((task, TRANSFORMER, seed))
        if side == TRANSFORMER or other is None:
            continue
        pair = found.setdefault((task, side), Comparison([], []))
        pair.lstm.append(run)
        pair.transformer.append(other)
    return found


def shown(ratio: tuple[float, float, float, bool] | None, brief: bool = False) -> str:
    """Format a ratio; if `brief`, without its minimum and maximum."""
    if ratio is None:
        return "none"
    middle, low, high, reverse = ratio
    spread = "" if brief or math.isclose(low, high) else f" ({low:.2g} to {high:.2g})"
    return f"{middle:.2g}{spread}{' *' if reverse else ''}"


def table(found: dict[tuple[str, str], Comparison]) -> list[str]:
    """Return the lines of the main table."""
    columns = ("task, length", "LSTM", "parameters, LSTM / Transformer", "accuracy, LSTM's best (whole rows)")
    columns += ("Transformer at its end (whole rows)", "seconds to the LSTM's best, LSTM / Transformer")
    columns += ("ratio of seconds", "ratio of operations", "seeds")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for (task, side), pair in found.items():
        sizes = [f"{runs[0]['parameters']:,}" for runs in (pair.lstm, pair.transformer)]
        best = [max(run["curve"], key=lambda point: point[2]) for run in pair.lstm]
        last = [run["curve"][-1] for run in pair.transformer]
        accuracies = [f"{mean(points, 2):.3f} ({mean(points, 3):.2f})" for points in (best, last)]
        seconds = ["-", "-"] if pair.guessing() else [middle([costs[i] for costs in pair.costs()]) for i in (0, 1)]
        ratios = [shown(pair.ratio(unit)) for unit in (0, 1)]
        cells = [task, side, " / ".join(sizes), *accuracies, " / ".join(seconds), *ratios, str(len(pair.lstm))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def mean(points: list[Point], part: int) -> float:
    return float(np.mean([point[part] for point in points]))


def middle(costs: list[tuple[float, float] | None]) -> str:
    """Format the median of the seconds, or "not reached" if a run did not reach the accuracy."""
    reached = [pair[0] for pair in costs if pair]
    return f"{np.median(reached):.1f}" if len(reached) == len(costs) else "not reached"


def heading(lines: list[dict[str, Any]]) -> list[str]:
    """Return the lines above the main table, which explain it."""
    about = next(line for line in lines if line["kind"] == "about")
    spent = sum(line.get("compile", 0) for line in lines if line["kind"] == "kernel")
    spent += sum(line["seconds"] for line in lines if line["kind"] == "tuning")
    spent += sum(line["last"][0] + line["measuring"] for line in lines if line["kind"] == "run")
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return [
        f"# Transformer compared with LSTM, {about['date']}",
        "",
        f"`python benchmarks/transformer_vs_lstm.py`, {about['machine']}, {versions};",
        f"{spent / 60:.0f} CPU minutes of training, measuring and compiling.",
        "",
        "The benchmark trains a Transformer and an LSTM of the same size on the same data and measures the cost of",
        "reaching the LSTM's best accuracy.",
        "",
        f"- Seconds are CPU seconds of training alone, up to {LEVEL:.0%} of the best accuracy that the LSTM reaches",
        "  within its budget, so that noise on a plateau does not count. They are medians over the seeds.",
        "- Ratios are LSTM / Transformer, as median (least to most). `*`: the Transformer does not reach that",
        "  accuracy, and the ratio is for the Transformer's best accuracy. `none`: one side stays below 1.5 times",
        "  chance.",
        "- Accuracy is that of tokens under teacher forcing; in brackets, that of whole rows.",
        "- Operations are those of the matrix multiplications.",
        "- Budgets are in the last table. Where an LSTM still improves at the end of its budget, a longer budget gives",
        "  another ratio.",
        "",
    ]


def settings(lines: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the tables of learning rates, kernels and budgets."""
    rows = ["## Rates, kernels, budgets", "", "| task | side | rate: accuracy on validation rows, seconds each |"]
    rows.append("|---|---|---|")
    tried: dict[tuple[str, str], list[str]] = {}
    for line in (line for line in lines if line["kind"] == "tuning"):
        entry = f"{line['rate']:g}: {line['accuracy']:.3f} in {line['seconds']:.0f} s"
        tried.setdefault((line["task"], line["side"]), []).append(entry)
    rows += [f"| {task} | {side} | {'; '.join(entries)} |" for (task, side), entries in tried.items()]
    rows += ["", "| task | side | ms per step (seconds to compile) by kernel | rate | rows per step | budget, s |"]
    rows.append("|---|---|---|---|---|---|")
    timed: dict[tuple[str, str], list[str]] = {}
    for line in (line for line in lines if line["kind"] == "kernel"):
        entry = f"{line['kernel']} {line['milliseconds']:.0f} ({line['compile']:.0f})"
        timed.setdefault((line["task"], line["side"]), []).append(entry)
    for line in (line for line in lines if line["kind"] == "run" and line["seed"] == 0):
        kernels = "; ".join(timed.get((line["task"], line["side"]), [f"{line['kernel']}, not timed anew"]))
        values = (line["task"], line["side"], kernels, f"{line['rate']:g}", str(line["batch"]), f"{line['budget']:g}")
        rows.append(f"| {' | '.join(values)} |")
    return rows


def draw(runs: list[dict[str, Any]], found: dict[tuple[str, str], Comparison], file: Path) -> None:
    """Draw one panel per task, with the accuracy over the seconds of training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(run["task"] for run in runs))
    columns = min(3, len(tasks))
    height = math.ceil(len(tasks) / columns)
    figure, panels = plt.subplots(height, columns, figsize=(5 * columns, 3.9 * height), squeeze=False)
    for panel in panels.flat[len(tasks) :]:
        panel.axis("off")
    for task, panel in zip(tasks, panels.flat, strict=False):
        for side, (colour, dashes) in STYLES.items():
            curves = [run["curve"] for run in runs if (run["task"], run["side"]) == (task, side)]
            draw_side(panel, side, curves, colour, dashes)
        ratios = {side: pair.ratio(0) for (name, side), pair in found.items() if name == task}
        titles = [
            shown(ratio, brief=True) + (" with attention" if "+" in side else "") for side, ratio in ratios.items()
        ]
        panel.set_title(f"{task}\nLSTM's seconds / Transformer's: {', '.join(titles)}", fontsize=9)
        panel.set(xscale="log", xlabel="CPU seconds of training", ylabel="accuracy", ylim=(0, 1.02))
        panel.xaxis.set_minor_formatter("")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    plt.close(figure)


def draw_side(panel: Any, side: str, curves: list[list[Point]], colour: str, dashes: str) -> None:
    """Draw a thin line for each seed, and a thick line for their mean."""
    if not curves:
        return
    for curve in curves:
        panel.plot(
            [p[0] for p in curve[1:]], [p[2] for p in curve[1:]], dashes, color=colour, alpha=0.35, linewidth=0.8
        )
    end = max(curve[-1][0] for curve in curves)
    start = max(curve[1][0] for curve in curves)
    seconds = np.geomspace(start, end, 100)
    # A run ends early only if it has reached the target accuracy, so np.interp may extend its last value.
    means = np.mean([np.interp(seconds, [p[0] for p in curve], [p[2] for p in curve]) for curve in curves], axis=0)
    panel.plot(seconds, means, dashes, color=colour, linewidth=2.2, label=side)
