"""The commands ``attention-zoo train`` and ``attention-zoo finetune``: their options as a plan, and their reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import working
from .plan import SECTIONS, Plan, plan_of, read_plan

Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")]
OPTIONS = {"model.source": "model", "data.train": "data", "output.files": "--to", "lora.rank": "--lora"}
OPTIONS |= {"model.tokenizer": "model", "output.samples": "--ask"}
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only predict memory and time, from three steps.")]


def finetune_plan(model: str, data: str, folder: str, files: Sequence[str], options: Mapping[str, Any]) -> Plan:
    """Return the plan of ``attention-zoo finetune``.

    Args:
        model: as "model.source" in a TOML file.
        data: as "data.train".
        folder: as "output.folder".
        files: as "output.files".
        options: further values by "section.key"; those that are None are left out.

    Raises:
        ValueError: as in ``plan_of``.
    """
    raw: dict[str, dict[str, Any]] = {"model": {"source": model}, "data": {"train": data}, "training": {}}
    raw["output"] = {"folder": folder, "files": list(files)}
    for name, value in options.items():
        if value is not None:
            section, _, key = name.partition(".")
            raw.setdefault(section, {})[key] = value
    return plan_of(raw)


def carried_out(plan: Plan, *, dry_run: bool, silent: bool) -> dict[str, Any]:
    """Carry out a plan, or predict what it needs, and return the report."""
    from ..runtime.quiet import quiet

    with quiet():
        import keras  # noqa: F401  (prints messages)
    if dry_run:
        from .forecast import forecast

        with working("measuring three steps"):
            return forecast(plan)
    from .training import train

    return train(plan, verbose=0 if silent else "auto")


@contextmanager
def named_options() -> Iterator[None]:
    """Let errors name the options of ``finetune`` in place of the keys of a TOML file."""
    try:
        yield
    except ValueError as error:
        key, colon, rest = str(error).partition(":")
        section, _, name = key.partition(".")
        if section not in SECTIONS or name not in SECTIONS[section]:
            raise
        option = OPTIONS.get(key, f"--{name.replace('_', '-')}")
        raise ValueError(f"{option}{colon}{rest.replace('output.folder', '--folder')}") from error


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return a report of ``carried_out`` as lines of text."""
    counts = report["parameters"]
    head = f"{counts['trained']:,} of {counts['all']:,} parameters trained on {report['rows']:,} rows, "
    head += f"{report['tokens']:,} tokens, in {report['steps']:,} steps"
    if report["cut"]:
        head += f"; {report['cut']:,} examples are longer than {report['length']} tokens and were cut at the end"
    if "peak_bytes" in report:
        step, whole, peak = report["seconds_per_step"], report["seconds"], report["peak_bytes"] / 1e9
        return [head, f"{step:.3g} s a step, {whole / 60:.1f} minutes in all; {peak:.2f} GB of memory at the peak"]
    losses, seconds = report["history"].get("loss", []), report["seconds"]
    found = [head]
    if losses:  # none if an earlier process had finished the last epoch
        found.append(f"loss {losses[0]:.4f} → {losses[-1]:.4f}")
    found += [f"{name}: {value} s" for name, value in seconds.items()]
    found.append(f"model: {report['model']}")
    for file in report["files"]:
        state = "passed" if file["passed"] else "failed"
        found.append(f"{file['path']}: {file['bytes'] / 1e6:.1f} MB, {state}: {file['checked']}")
        found += [f"  {answer['sample']} → {' '.join(answer['file'].split())}" for answer in file["answers"]]
    return found


def train(
    config: Annotated[Path, typer.Argument(help="TOML file: sections model, data, training, lora and output.")],
    dry_run: DryRun = False,
    json_: Json = False,
):
    """Train a language model as a TOML file says, and write and check its files."""
    _carry_out(read_plan(config), dry_run, json_)


def finetune(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf or .keras file, or org/name of the hub.")],
    data: Annotated[Path, typer.Argument(help=".jsonl with messages, text, or prompt and completion; or a text.")],
    to: Annotated[
        list[str] | None, typer.Option(help="File to write: .onnx, .tflite, .litertlm, or a folder; repeatable.")
    ] = None,
    folder: Annotated[str, typer.Option(help="Folder of the backup, the model and the report.")] = "finetuned",
    lora: Annotated[int | None, typer.Option(help="Rank of the adapters; default: all weights are trained.")] = None,
    targets: Annotated[str | None, typer.Option(help="Layers with adapters; default: query,value.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; default: 1.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a step; default: 8.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 1e-4, with adapters 1e-3.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a row; default: 512 at most.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the data for validation; default: 0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the files: fp32, fp16, int8 or int4.")] = None,
    max_length: Annotated[int | None, typer.Option(help="TFLite, LiteRT-LM: slots of the key/value cache.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="Question for the model and the files; repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed; default: 0.")] = None,
    dry_run: DryRun = False,
    json_: Json = False,
):
    """Fine-tune a language model on conversations or texts, and write and check the files to ship."""
    options: dict[str, Any] = {"lora.rank": lora, "lora.targets": None if targets is None else targets.split(",")}
    options |= {"training.epochs": epochs, "training.batch_size": batch_size, "training.learning_rate": learning_rate}
    options |= {"training.dtype": dtype, "training.seed": seed, "data.length": length, "data.held_out": held_out}
    if targets is not None and lora is None:
        raise ValueError(f"--targets: got {targets!r} without --lora; accepted: beside --lora")
    options |= {"output.precision": precision, "output.max_length": max_length, "output.samples": ask or None}
    with named_options():
        _carry_out(finetune_plan(model, str(data), folder, to or [], options), dry_run, json_)


def _carry_out(plan: Any, dry_run: bool, as_json: bool) -> None:
    report = carried_out(plan, dry_run=dry_run, silent=as_json)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        for line in lines(report):
            print(line, flush=True)
    if not report.get("passed", True):
        raise typer.Exit(1)
