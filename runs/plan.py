"""The plan of a training run: every value of a TOML file, checked. Without Keras, so that mistakes show at once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..checks import is_integer, is_number, meant, shown
from ..files import read_text

DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")
SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw", "muon", "sgd", "lion")
FORMATS = ("onnx", "tflite", "litertlm")
PRECISIONS = ("fp32", "fp16", "int8", "int4")


class Field(NamedTuple):
    """One value of a section: what is accepted, in words and as a test, and the value if there is none."""

    accepted: str
    test: Callable[[Any], bool]
    default: Any = None
    required: bool = False


def _integer(least: int, default: int | None, note: str = "") -> Field:
    accepted = f"an integer of at least {least}{note}"
    return Field(accepted, lambda value: is_integer(value) and value >= least, default)


def _number(accepted: str, test: Callable[[float], bool], default: float | None) -> Field:
    return Field(f"a number {accepted}", lambda value: is_number(value) and test(value), default)


def _choice(names: tuple[str, ...], default: str) -> Field:
    return Field(f"one of {list(names)}", lambda value: isinstance(value, str) and value in names, default)


def _flag(default: bool) -> Field:
    return Field("true or false", lambda value: isinstance(value, bool), default)


def _text(accepted: str, *, required: bool = False) -> Field:
    return Field(accepted, lambda value: isinstance(value, str) and bool(value), None, required)


def _texts(accepted: str, default: tuple[str, ...] = ()) -> Field:
    return Field(
        f"a list of {accepted}",
        lambda value: isinstance(value, list) and all(isinstance(entry, str) and entry for entry in value),
        default,
    )


SECTIONS: dict[str, dict[str, Field]] = {
    "model": {
        "source": _text("a model folder, a .gguf file, org/name of the hub, or a preset", required=True),
        "config": Field("a table of config fields, for a preset", lambda value: isinstance(value, dict), {}),
        "tokenizer": _text("a folder, or a tokenizer.json or .gguf file"),
        "vocabulary": Field(
            "an integer from 300 to 1000000, the size of a byte-level BPE that is trained on the data",
            lambda value: is_integer(value) and 300 <= value <= 10**6,
        ),
    },
    "data": {
        "train": _text("a .jsonl file of messages, texts, or prompts and completions, or a text file", required=True),
        "validation": _text("a file like train"),
        "held_out": _number("from 0 up to, not including, 1, the share of train", lambda value: 0 <= value < 1, 0.0),
        "length": _integer(8, None, ", tokens of a row"),
    },
    "training": {
        "epochs": _integer(1, 1),
        "batch_size": _integer(1, 8),
        "learning_rate": _number("over 0 and up to 1", lambda value: 0 < value <= 1, None),
        "schedule": _choice(SCHEDULES, "cosine"),
        "warmup": _number("from 0 up to, not including, 1, a share of the steps", lambda value: 0 <= value < 1, 0.05),
        "optimizer": _choice(OPTIMIZERS, "adamw"),
        "weight_decay": _number("from 0 to 1", lambda value: 0 <= value <= 1, 0.01),
        "global_clipnorm": _number("over 0", lambda value: 0 < value < float("inf"), 1.0),
        "accumulation": _integer(1, 1, ", batches to an update"),
        "dtype": _choice(DTYPES, "float32"),
        "gradient_checkpointing": _flag(False),
        "seed": Field("an integer from 0 to 4294967295", lambda value: is_integer(value) and 0 <= value < 2**32, 0),
    },
    "lora": {
        "rank": _integer(1, None),
        "alpha": _number("over 0", lambda value: 0 < value < float("inf"), None),
        "targets": _texts("names of layers, or shell patterns over their paths", ("query", "value")),
    },
    "output": {
        "folder": _text("a folder for the backup and the trained model", required=True),
        "files": _texts("paths that end in .onnx, .tflite or .litertlm, or folders"),
        "precision": _choice(PRECISIONS, "fp32"),
        "max_length": _integer(16, None, ", tokens of a text in a .tflite or .litertlm file"),
        "samples": _texts("questions, which are answered after every epoch and by the files"),
        "max_new_tokens": _integer(1, None, ", tokens of an answer; default: 32, or half of the model's max_length"),
        "save_every": _integer(1, None, ", steps between two backups; default: an epoch"),
        "keep_best": _integer(1, None, ", folders of the epochs with the lowest validation loss"),
    },
}
OPTIONAL = ("lora",)
OWN = ("model", "backup", "best")  # folders that a run writes in its own


@dataclass(frozen=True)
class Plan:
    """A checked plan: the values of each section by name, defaults filled in. `lora` is None without adapters."""

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    output: Mapping[str, Any]
    lora: Mapping[str, Any] | None = None

    @property
    def learning_rate(self) -> float:
        given = self.training["learning_rate"]
        return given if given is not None else (1e-3 if self.lora else 1e-4)


def read_plan(file: Path) -> Plan:
    """Read a plan from a TOML file.

    Raises:
        ValueError: the file cannot be read, or as in ``plan_of``.
    """
    accepted = f"accepted: a TOML file in UTF-8 with sections {list(SECTIONS)}"
    if not file.is_file():
        raise ValueError(f"config: got {str(file)!r}, which is not a file; {accepted}")
    try:
        raw = tomllib.loads(read_text(file).removeprefix("\ufeff"))  # editors of Windows write a byte order mark
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"config: {file} is not TOML: {error}; {accepted}") from error
    except ValueError as error:
        raise ValueError(f"config: {str(error).removeprefix('path: ')}") from error
    return plan_of(raw)


def format_of(file: str) -> str:
    """Return the format of a file to write, which is its suffix, or "" for a folder.

    Digits behind a dot belong to the name of a folder, as in "model-1.7b".
    """
    suffix = Path(file).suffix.removeprefix(".")
    return "" if suffix[:1].isdigit() else suffix


def plan_of(raw: Mapping[str, Any]) -> Plan:
    """Check the sections of a config and return the plan.

    Raises:
        ValueError: an unknown section or key, a missing one, a value of another type or out of range, or values that
            exclude each other. The message names the key as "section.key", and what is accepted.
    """
    for name in raw:
        if name not in SECTIONS:
            raise ValueError(f"config: got a section {name!r}; {meant([name], SECTIONS)}accepted: {list(SECTIONS)}")
    sections = {name: _section(name, raw.get(name)) for name in SECTIONS if name in raw or name not in OPTIONAL}
    plan = Plan(**sections)
    _check_together(plan)
    return plan


def _section(name: str, given: Any) -> dict[str, Any]:
    fields = SECTIONS[name]
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ValueError(f"{name}: got {shown(given)}; accepted: a section with {_described(fields)}")
    for key, value in given.items():
        if key not in fields:
            raise ValueError(
                f"{name}.{key}: got {shown(value)}, which is no key of [{name}]; {meant([key], fields)}accepted: "
                f"{_described(fields)}"
            )
        if not fields[key].test(value):
            raise ValueError(f"{name}.{key}: got {shown(value)}; accepted: {fields[key].accepted}")
    for key, field in fields.items():
        if field.required and key not in given:
            raise ValueError(f"{name}.{key}: got nothing; accepted: {field.accepted}")
    return {key: given.get(key, field.default) for key, field in fields.items()}


def _described(fields: Mapping[str, Field]) -> str:
    return ", ".join(f"{key} ({field.accepted})" for key, field in fields.items())


def _check_together(plan: Plan) -> None:
    for key in ("train", "validation"):
        file = plan.data[key]
        if file is not None and not Path(file).is_file():
            raise ValueError(f"data.{key}: got {file!r}, which is not a file; accepted: a .jsonl or text file")
    if plan.data["validation"] is not None and plan.data["held_out"]:
        raise ValueError(
            f"data.held_out: got {plan.data['held_out']} beside data.validation; accepted: one or the other"
        )
    if plan.model["tokenizer"] is not None and plan.model["vocabulary"] is not None:
        raise ValueError("model.vocabulary: got a size beside model.tokenizer; accepted: one or the other")
    if plan.lora is not None and plan.lora["rank"] is None:
        raise ValueError("lora.rank: got nothing; accepted: an integer of at least 1")
    if plan.output["keep_best"] and not (plan.data["validation"] or plan.data["held_out"]):
        raise ValueError(
            f"output.keep_best: got {plan.output['keep_best']} without validation data; accepted: beside "
            "data.validation or data.held_out"
        )
    _check_output(plan.output)


def _check_output(output: Mapping[str, Any]) -> None:
    """Check where the run writes, before hours of training."""
    folder, files = Path(output["folder"]).absolute(), output["files"]
    _check_place("output.folder", output["folder"])
    formats = [format_of(file) for file in files]
    for file, kind in zip(files, formats, strict=True):
        if kind and kind not in FORMATS:
            raise ValueError(
                f"output.files: got {file!r}; accepted: names that end in .onnx, .tflite or .litertlm, or folders"
            )
        if kind and Path(file).is_dir():
            raise ValueError(f"output.files: got {file!r}, which is a folder; accepted: the name of a file")
        _check_place("output.files", str(Path(file).parent) if kind else file)
        if Path(file).absolute() in (folder, *(folder / name for name in OWN)) or files.count(file) > 1:
            raise ValueError(f"output.files: got {file!r}, which the run writes already; accepted: another name")
    for key, without, kinds in (("precision", "fp32", FORMATS), ("max_length", None, FORMATS[1:])):
        if output[key] != without and not set(kinds) & set(formats):
            named = " or ".join(f".{kind}" for kind in kinds)
            raise ValueError(
                f"output.{key}: got {output[key]!r} without a file that it is for; accepted: beside a file that ends "
                f"in {named}"
            )


def _check_place(name: str, folder: str) -> None:
    """Check that `folder` can be written to, or created."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "not a folder" if not there.is_dir() else "a folder that is not writable"
        raise ValueError(
            f"{name}: got {folder!r}, but {there} is {what}; accepted: a folder, or one that can be created"
        )
