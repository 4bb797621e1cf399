"""Parquet and Arrow files, and the folders that ``datasets.Dataset.save_to_disk`` writes, read with pyarrow."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...needs import named_extras


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `datasets` wrote `folder`.

    Raises:
        ValueError: it holds several splits, each in a folder of its own.
    """
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8")).get("splits")
        raise ValueError(f"{folder}: got a folder of splits; accepted: the folder of one of {splits}")
    return (folder / "state.json").exists()


def saved_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder for which ``is_saved_dataset`` is true, in order.

    Raises:
        ValueError: the folder's state is not what `datasets` writes.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [folder / Path(entry["filename"]).name for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}/state.json: got {error}; accepted: what datasets.save_to_disk writes") from error


def table_rows(path: Path, column: str) -> Iterator[tuple[int, Any]]:
    """Yield the numbers, from 1, and values of a column of a Parquet or Arrow file, a batch of rows at a time.

    Raises:
        ValueError: the file cannot be read, or does not have the column.
        ModuleNotFoundError: pyarrow is not installed.
    """
    with named_extras():
        pyarrow: Any = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.ipc")
        importlib.import_module("pyarrow.parquet")
    number = 0
    try:
        for batch, names in _batches(path, column, pyarrow):
            if column not in names:
                raise KeyError(names)
            for value in batch.column(column).to_pylist():
                number += 1
                yield number, value
    except KeyError as error:
        raise ValueError(f"{path}: got the columns {error.args[0]}; accepted: one named {column!r}") from error
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: got {error}; accepted: a {path.suffix[1:]} file".replace("\n", " ")) from error


def _batches(path: Path, column: str, pyarrow: Any) -> Iterator[tuple[Any, list[str]]]:
    if path.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise KeyError(names)
            for batch in file.iter_batches(columns=[column]):
                yield batch, names
        return
    with pyarrow.memory_map(str(path)) as source:
        try:
            reader = pyarrow.ipc.open_stream(source)  # as `datasets` writes
        except pyarrow.ArrowInvalid:
            file = pyarrow.ipc.open_file(source)
            for i in range(file.num_record_batches):
                yield file.get_batch(i), file.schema.names
            return
        for batch in reader:
            yield batch, reader.schema.names
