"""Writing of files and folders: what a kill before any step leaves, several writers at once, full disks, strangers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from attention_zoo import files
from killed_writes import contents, put_files, rooms, write_files, write_folder

SCRIPT = Path(__file__).with_name("killed_writes.py")


@pytest.mark.slow
def test_kills_before_every_step() -> None:
    """A kill leaves the old files or the new ones, or files that nothing reads, which ``finish`` completes."""
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout)
    assert set(found) == {"write_file", "write_files", "put_files", "write_folder", "write_folder_without_exchange"}
    for name, counts in found.items():
        wrong = {key: counts.get(key, 0) for key in ("mixtures", "lost", "rooms", "not finished")}
        assert not any(wrong.values()), (name, wrong)
        assert counts["old"] > 0 < counts["new"]
        assert ("without the last file" in counts) == (name in ("write_files", "put_files"))


@pytest.mark.parametrize("write", [write_files, write_folder, put_files])
def test_several_writers_at_once(write, tmp_path: Path) -> None:
    """The files are those of one of them, and no room of a living writer is taken for one that was left."""
    write(tmp_path, "old")

    def go(content: str) -> None:
        for _ in range(15):
            write(tmp_path, content)

    threads = [threading.Thread(target=go, args=(f"new{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(contents(tmp_path).values())) == 1 and not rooms(tmp_path)


def test_reading_waits_for_a_writer(tmp_path: Path) -> None:
    """``finish`` waits for a living process that is renaming, and not for one that is still writing."""
    with files.room(tmp_path) as place:
        (place / files.NEW).mkdir()
        (place / files.NEW / "config.json").write_text("new")
        files.finish(tmp_path, "config.json")
        (place / files.PLAN).write_text(json.dumps({"last": "config.json", "stale": []}))
        timer = threading.Timer(0.2, lambda: (place / files.NEW / "config.json").rename(tmp_path / "config.json"))
        timer.start()
        files.finish(tmp_path, "config.json")
        assert (tmp_path / "config.json").read_text() == "new"
        timer.join()
        (tmp_path / "config.json").rename(place / files.NEW / "config.json")
        files.PATIENCE, patience = 0.1, files.PATIENCE
        try:
            with pytest.raises(ValueError, match=r"path: .* is being written by another process; accepted: a complete"):
                files.finish(tmp_path, "config.json")
        finally:
            files.PATIENCE = patience


def test_modes_and_links(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        write_folder(tmp_path, "new")
        write_files(tmp_path / "other", "new")
    finally:
        os.umask(umask)
    for folder in (tmp_path / "f", tmp_path / "other"):
        assert (folder / "1_Pooling").stat().st_mode & 0o777 == 0o750
        assert (folder / "config.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("6144 requested and 3584 written"),
        RuntimeError("/tmp/x/saved_model.pb; File too large"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("variables/variables.data; No space left on device"),
    ],
)
def test_a_full_disk_is_one_line(error: Exception, tmp_path: Path) -> None:
    """As Python, h5py, safetensors and TensorFlow report it. Other errors are not changed."""
    file = tmp_path / "new" / "m.bin"
    said = r"^path: .*m\.bin cannot be written: (No space left on device|File too large); accepted: [^\n]*$"
    with pytest.raises(ValueError, match=said), files.written(file) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert not list(tmp_path.iterdir())
    for other in (FileNotFoundError(errno.ENOENT, "x"), RuntimeError("os error 2"), KeyboardInterrupt()):
        with pytest.raises(type(other)), files.written(file):
            raise other
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^path: .* cannot be written: .*; accepted: [^\n]*$"):
        write_files(tmp_path / "file", "new")
    with pytest.raises(ValueError, match=r"^path: .*m cannot be written: Is a directory; accepted: [^\n]*$"):
        (tmp_path / "m").mkdir()
        with files.written(tmp_path / "m") as temporary:
            temporary.write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "m"]


def strangers_room(folder: Path, plan: object) -> Path:
    place = folder / f"{files.ROOM}x"
    (place / files.NEW / "sub").mkdir(parents=True)
    (place / files.LOCK).write_text("")
    (place / files.NEW / "config.json").write_text("theirs")
    (place / files.NEW / "sub" / "keys").write_text("theirs")
    (place / files.PLAN).write_text(json.dumps(plan))
    return place


@pytest.mark.parametrize("stale", ["../kept", "/etc/x", "sub/../../kept", "link/kept", ".."])
def test_a_strangers_room_reaches_nothing_outside(stale: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    for kept in (tmp_path / "kept", outside / "kept"):
        kept.write_text("kept")
    (folder / "link").symlink_to(outside)
    strangers_room(folder, {"last": "config.json", "stale": [stale]})
    with suppress(ValueError):
        files.finish(folder, "config.json")
    assert (tmp_path / "kept").is_file() and (outside / "kept").is_file()


def test_a_strangers_link_reaches_nothing_outside(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "sub").symlink_to(outside)
    strangers_room(folder, {"last": "config.json", "stale": []})
    with pytest.raises(ValueError, match=r"^path: .*sub/keys, which is outside of"):
        files.finish(folder, "config.json")
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    "plan", [[], {}, {"last": 1, "stale": []}, {"last": "config.json", "stale": [[]]}, {"last": ""}]
)
def test_a_strangers_plan_of_another_form_is_none(plan: object, tmp_path: Path) -> None:
    strangers_room(tmp_path, plan)
    files.finish(tmp_path, "config.json")
    assert not (tmp_path / "config.json").exists()
