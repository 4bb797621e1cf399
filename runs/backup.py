"""The backup of a run: it belongs to one plan, and stays until the files of the run are written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checks import shown
from ..files import no_empty_folder, read_json, write_json
from ..training.callbacks.resume import FILE
from .plan import Plan

FACTS = "plan.json"
SECTIONS = ("model", "data", "training", "lora")  # what training follows from; [output] may change


def backup_of(plan: Plan) -> Path:
    """Return the folder of the backup of a run."""
    return Path(plan.output["folder"]) / "backup"


def check_backup(plan: Plan) -> dict[str, Any]:
    """Check that a run may go on from the backup in its folder, or begin there, and return what ``claimed`` notes.

    Raises:
        ValueError: an interrupted run has left a backup there with other values or other data, or a complete run its
            report.
    """
    folder = backup_of(plan)
    ours = json.loads(json.dumps(_facts(plan)))
    if (folder / FILE).is_file():
        theirs = read_json(folder / FACTS) if (folder / FACTS).is_file() else ours
        for name in (*ours, *theirs):
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"{name}: got {shown(ours.get(name))}, but the interrupted run in {folder} has "
                    f"{shown(theirs.get(name))}; accepted: the same, to go on, or another output.folder"
                )
        return ours
    report = folder.parent / "report.json"
    if report.is_file():
        raise ValueError(
            f"output.folder: got {str(folder.parent)!r}, which has the report of a complete run; accepted: another "
            "folder, or this one without its report.json and best"
        )
    return ours


@contextmanager
def claimed(plan: Plan, facts: Mapping[str, Any]) -> Iterator[None]:
    """Note beside the backup whose it is, so that a run with another plan or other data does not go on from it.

    Nothing remains if the block raises before there is a backup.
    """
    folder = backup_of(plan)
    with no_empty_folder(folder / FACTS):
        write_json(facts, folder / FACTS)
        try:
            yield
        except BaseException:  # also KeyboardInterrupt
            if not (folder / FILE).is_file():
                (folder / FACTS).unlink(missing_ok=True)
            raise


def release(plan: Plan) -> None:
    """Remove the backup of a run that is complete."""
    shutil.rmtree(backup_of(plan), ignore_errors=True)


def _facts(plan: Plan) -> dict[str, Any]:
    """Return the values that training follows from by "section.key"; data files as their contents."""
    facts: dict[str, Any] = {}
    for section in SECTIONS:
        values: Mapping[str, Any] = getattr(plan, section) or {}
        facts |= {f"{section}.{key}": value for key, value in values.items()}
    for key in ("data.train", "data.validation"):
        if facts[key] is not None:
            with Path(facts[key]).open("rb") as file:
                facts[key] = f"a file of sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return facts
