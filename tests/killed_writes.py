"""Kill a process before every step of a write of ``files.py``, and print what was found, as JSON.

A step is an operation on a folder: opening, renaming, making or removing something. Processes are forked: this script
imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attention_zoo import files

STEPS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "open", "ctypes.dlsym", "fcntl.flock")
NAMES = ("config.json", "model.safetensors", "1_Pooling/config.json")


def write_file(folder: Path, content: str) -> None:
    with files.written(folder / "m.bin") as temporary:
        temporary.write_text(content)


def write_files(folder: Path, content: str) -> None:
    with files.written_files(folder, "config.json", ["template" if content != "old" else "other"]) as new:
        for name in (*NAMES, *(["template"] if content == "old" else [])):
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(content)


def write_folder(folder: Path, content: str) -> None:
    with files.written_folder(folder / "f") as new:
        for name in NAMES:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(content)


def write_folder_without_exchange(folder: Path, content: str) -> None:
    files._exchanged = lambda one, other: False
    write_folder(folder, content)


def put_files(folder: Path, content: str) -> None:
    with files.room(folder) as place:
        for name in ("m.onnx.data", "m.onnx"):
            (place / name).write_text(content)
        files.put([place / "m.onnx.data", place / "m.onnx"], place, ["n.onnx.data"])


WRITERS = {
    function.__name__: (function, last)
    for function, last in (
        (write_file, None),
        (write_files, "config.json"),
        (put_files, "m.onnx"),
        (write_folder, None),
        (write_folder_without_exchange, None),
    )
}


def contents(folder: Path) -> dict[str, str]:
    found = [file for file in folder.rglob("*") if file.is_file() and files.ROOM not in str(file)]
    return {file.relative_to(folder).as_posix(): file.read_text() for file in found}


def rooms(folder: Path) -> int:
    return sum(path.name.startswith(files.ROOM) for path in folder.rglob("*"))


def killed(step: int, action: Callable[..., None], *arguments: Any) -> bool:
    """Run `action` in a process that kills itself before a step, and return whether it came that far."""
    if (child := os.fork()) == 0:
        counted = [0]

        def hook(event: str, _: object) -> None:
            if event in STEPS:
                counted[0] += 1
                if counted[0] > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        action(*arguments)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def tries(write: Callable[[Path, str], None], last: str | None) -> Counter[str]:
    found: Counter[str] = Counter()
    step, going = 0, True
    while going:
        folder = Path(tempfile.mkdtemp())
        write(folder, "old")
        old = contents(folder)
        new = {name: "new" for name in old if name != "template"}
        going = killed(step, write, folder, "new")
        now = contents(folder)
        found["kills"] += going
        if now in (old, new):
            found["old" if now == old else "new"] += 1
        elif last is not None and last not in now:  # nothing reads the others
            found["without the last file"] += 1
            after, again = 0, True
            while again:  # killed in ``finish`` too, and then not
                copy = Path(tempfile.mkdtemp()) / "copy"
                shutil.copytree(folder, copy)
                again = killed(after, files.finish, copy, last)
                found["kills"] += again
                files.finish(copy, last)
                found["not finished"] += contents(copy) != new
                shutil.rmtree(copy.parent)
                after += 1
            files.finish(folder, last)
            found["not finished"] += contents(folder) != new
        elif not now and (folder.parent).exists() and write is write_folder_without_exchange:
            found["between two names"] += 1
        else:
            found["mixtures"] += 1
        write(folder, "newest")
        found["lost"] += set(contents(folder).values()) != {"newest"}
        found["rooms"] += rooms(folder)
        shutil.rmtree(folder)
        step += 1
    return found


if __name__ == "__main__":
    print(json.dumps({name: tries(*writer) for name, writer in WRITERS.items()}))
