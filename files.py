"""Reading of text and JSON files with a size limit, and writing of files and folders that appear whole or not at all.

Everything is first written to a *room*: a hidden folder beside the target, on the same file system. A room belongs to
whoever holds the lock of its file ``lock``, which the system releases when the process ends, however it ends. The next
write to the same folder removes the rooms that nobody holds.

- A file replaces another one by a rename, and a folder by an exchange of two names. Neither is ever missing.
- Several files of a folder cannot be renamed at once. When all of them are complete, the file ``plan.json`` of the room
  is written. Then the *last* file, without which no program reads the others, is removed first and appears last. A
  process that is killed in between leaves some of the new files, and a room with the others: nothing that loads as a
  mixture of two models. ``finish`` and the next write to the folder carry out what is left of the plan.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOM = ".attention-zoo-"  # the beginning of the names of rooms
LOCK, PLAN, NEW, OLD = "lock", "plan.json", "new", "old"  # inside of a room
PATIENCE = 10.0  # seconds that ``finish`` waits for a process that is renaming
WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors that only writing has
OF_LIBRARIES = re.compile(r"(?:[Ee]rrno(?: =)?|os error) (\d+)")  # how h5py, safetensors and others state them
SHORT = re.compile(r"^\d+ requested and \d+ written$")  # NumPy's ``tofile``, which does not say why


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a file to write, which is renamed to `path` at the end of the block unless the block raises.

    The folder of `path` is created if necessary.

    Raises:
        ValueError: the folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    with room(target.parent, target) as place:
        temporary = place / target.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with _told(target, everything=True):
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
            temporary.replace(target)


def reserve(folder: Path, size: int, largest: int) -> None:
    """Check that `size` bytes can be written, for libraries that end the process where they cannot, as HDF5 does.

    Args:
        folder: a folder to write a file to for the time of the check.
        size: the number of bytes of all files.
        largest: that of the largest file.

    Raises:
        OSError: there is not enough space, or a file must not be so large.
    """
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if largest and hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with tempfile.TemporaryFile(dir=folder) as stream:
            os.posix_fallocate(stream.fileno(), 0, largest)


@contextmanager
def written_files(folder: str | os.PathLike[str], last: str, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder, whose files replace those of the same names in `folder` at the end of the block.

    Other files of `folder` stay. Nothing changes if the block raises.

    Args:
        folder: the folder, which is created if necessary.
        last: name of the file without which no program reads the others, such as "config.json".
        stale: names of files in `folder` that are removed if the block does not write them.

    Raises:
        ValueError: `folder` cannot be written to, or the disk is full.
    """
    with room(folder) as place:
        (place / NEW).mkdir()
        yield place / NEW
        _put(place, last, stale)


@contextmanager
def written_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder, which becomes `folder` at the end of the block, in place of what was there.

    Nothing changes if the block raises.

    Raises:
        ValueError: the folder above `folder` cannot be written to, or the disk is full.
    """
    target = Path(os.path.abspath(folder))
    with room(target.parent, target) as place:
        new, old = place / NEW, place / OLD / target.name
        new.mkdir()
        yield new
        with _told(target, everything=True):
            if not target.exists():
                new.rename(target)
            elif not _exchanged(new, target):
                old.parent.mkdir()
                target.rename(old)
                try:
                    new.rename(target)
                finally:
                    _put_back(place)


def put(files: Sequence[Path], place: Path, stale: Sequence[str] = ()) -> None:
    """Move files of the room `place` to the folder that it is in, as ``written_files`` does.

    Args:
        files: the files. The last is the one without which no program reads the others.
        place: the room.
        stale: names of files in the folder that are removed if they are not among `files`.
    """
    (place / NEW).mkdir()
    for file in files:
        file.replace(place / NEW / file.name)
    _put(place, files[-1].name, stale)


def _put(place: Path, last: str, stale: Sequence[str]) -> None:
    folder, new, draft = place.parent, place / NEW, place / f"{PLAN}.part"
    if _files(new) == {last} and not any((folder / name).exists() for name in stale):
        with _told(folder / last, everything=True):
            (new / last).replace(folder / last)
        return
    draft.write_text(json.dumps({"last": last, "stale": list(stale)}))
    with _told(folder / last, everything=True), _alone(folder):
        for left in _rooms(folder):  # an older plan must not be carried out after this one
            _clear(left)
        draft.replace(place / PLAN)
        _carry_out(place)


def _plan_of(place: Path) -> tuple[str, list[str]] | None:
    """Return the last file and the stale files of a room's plan, or None if it has no plan."""
    try:
        plan = read_json(place / PLAN)
        last, stale = plan["last"], list(plan["stale"])
    except (ValueError, KeyError, TypeError):
        return None
    names = all(isinstance(name, str) and Path(name).name not in ("", "..") for name in (last, *stale))
    return (last, stale) if names else None


def _files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def _carry_out(place: Path) -> None:
    """Do what is left of the plan of a room, if it has one. A process may be killed after any of the steps."""
    folder, new = place.parent, place / NEW
    if (plan := _plan_of(place)) is None or not (new / plan[0]).is_file():
        return
    last, stale = plan
    others = sorted(_files(new) - {last})
    for name in (last, *others, *stale):
        if not (folder / name).parent.resolve().is_relative_to(folder.resolve()):  # in a stranger's folder
            raise ValueError(f"path: {place} has {name}, which is outside of {folder}; accepted: files inside")
    for name in (last, *others, *stale):
        (folder / name).unlink(missing_ok=True)
    for name in (*others, last):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(folder / name)


def finish(folder: Path, last: str) -> None:
    """Carry out the plan of a process that was killed while it renamed the files of `folder`, or wait for it.

    There can only be one if the `last` file is missing; see ``written_files``.

    Raises:
        ValueError: the folder cannot be written to, or the other process takes too long.
    """
    until = time.monotonic() + PATIENCE
    while not (folder / last).exists():
        places = [place for place in _rooms(folder) if (plan := _plan_of(place)) and plan[0] == last]
        if not places:
            return
        if time.monotonic() > until:
            raise ValueError(f"path: {folder} is being written by another process; accepted: a complete folder")
        with _told(folder / last, everything=True), _alone(folder):
            for place in places:
                _clear(place)
        time.sleep(0.01)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process, or thread, carry out a plan in `folder` within the block, where the system can do that."""
    held = None
    try:
        with suppress(ImportError, OSError):
            import fcntl

            held = os.open(folder, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        if held is not None:
            os.close(held)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names as one step, and return whether the system has such a call."""
    call, at_working_folder, exchange = {
        "linux": ("renameat2", -100, 2),
        "darwin": ("renameatx_np", -2, 2),
    }.get(sys.platform, ("", 0, 0))
    function = getattr(ctypes.CDLL(None), call, None) if call else None
    if function is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return function(at_working_folder, names[0], at_working_folder, names[1], exchange) == 0


@contextmanager
def room(folder: str | os.PathLike[str], target: Path | None = None) -> Iterator[Path]:
    """Yield a new hidden folder in `folder`, which is created if necessary. It is removed at the end of the block.

    What killed processes have left in `folder` is removed.

    Args:
        folder: the folder.
        target: the path to name in errors. Default: `folder`.

    Raises:
        ValueError: `folder` cannot be written to, or the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    target = folder if target is None else target
    with no_empty_folder(folder / ROOM), _told(target):
        with _told(target, everything=True):
            folder.mkdir(parents=True, exist_ok=True)
            if rooms := _rooms(folder):
                with _alone(folder):
                    for left in rooms:
                        _clear(left)
            place, lock = _new_room(folder)
        try:
            yield place
        finally:
            _remove(place, lock)


def _rooms(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.startswith(ROOM)]
        return sorted(Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False))
    return []


def _new_room(folder: Path) -> tuple[Path, int]:
    while True:
        place = Path(tempfile.mkdtemp(prefix=ROOM, dir=folder))
        try:
            if (lock := _locked(place, create=True)) is not None:
                return place, lock
        except FileNotFoundError:  # another process took it for one that was left
            continue
        except BaseException:  # also KeyboardInterrupt
            shutil.rmtree(place, ignore_errors=True)
            raise


def _locked(place: Path, *, create: bool = False) -> int | None:
    """Lock a room and return the descriptor of its lock, or None if somebody else holds it.

    Raises:
        FileNotFoundError: the room has no lock, or is not there any more.
        OSError: the room is another user's.
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    lock, held = os.open(place / LOCK, flags | (os.O_CREAT if create else 0), 0o600), False
    try:
        if not _take(lock, create):
            return None
        if not (place / LOCK).exists():  # who held it has removed the room
            raise FileNotFoundError(place / LOCK)
        held = True
        return lock
    finally:
        if not held:
            os.close(lock)


def _take(lock: int, new: bool) -> bool:
    """Lock an open file, and return False if somebody else holds it. Where files have no locks, `new` ones are free."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return new and error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _clear(place: Path) -> None:
    """Remove a room that nobody holds, after its plan is carried out."""
    try:
        lock = _locked(place)
    except FileNotFoundError:
        with suppress(OSError):
            place.rmdir()  # a process was killed before it made the lock, or is about to make it
        return
    except OSError:  # another user's
        return
    if lock is None:
        return
    try:
        _carry_out(place)
        _put_back(place)
    except BaseException:
        os.close(lock)
        raise
    _remove(place, lock)


def _put_back(place: Path) -> None:
    """Give a folder that ``written_folder`` was about to replace its name back, if the new one does not have it."""
    for old in (place / OLD).glob("*"):
        target = place.parent / old.name
        if not target.exists():
            old.rename(target)


def _remove(place: Path, lock: int) -> None:
    """Remove a room, its lock last: one without it would not be known for one that can be removed."""
    for path in place.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
    if sys.platform == "win32":  # which does not remove open files
        os.close(lock)
    with suppress(OSError):
        (place / LOCK).unlink(missing_ok=True)
        place.rmdir()
    if sys.platform != "win32":
        os.close(lock)


@contextmanager
def _told(target: Path, *, everything: bool = False) -> Iterator[None]:
    """Turn errors of writing into a ValueError of one line that names `target`.

    Args:
        target: the path.
        everything: whether every OSError in the block is one of writing.
    """
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found is not None:
            number = _number(found)
            if number in WRITING or (everything and isinstance(found, OSError) and number):
                why = os.strerror(number)
                raise ValueError(
                    f"path: {target} cannot be written: {why}; accepted: a folder that can be written to, with space"
                ) from error
            found = found.__cause__ or found.__context__
        raise


def _number(error: BaseException) -> int:
    """Return the system's number of an error, also of a library's error that states it; 0 if there is none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if stated := OF_LIBRARIES.search(text := str(error)):
        return int(stated[1])
    if SHORT.search(text):
        return errno.ENOSPC
    return next((number for number in (errno.ENOSPC, errno.EFBIG) if os.strerror(number) in text), 0)


@contextmanager
def no_empty_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Remove the folders above `path` that the block created, if it raises and leaves them empty."""
    new = [folder for folder in Path(path).absolute().parents if not folder.exists()]
    try:
        yield
    except BaseException:  # also KeyboardInterrupt
        with suppress(OSError):  # a folder that is not there, or not empty
            for folder in new:
                folder.rmdir()
        raise


LARGEST_JSON = 2**24  # bytes; twice the index of the largest models. Parsed JSON can take 30 times its size


def read_json(file: Path, kind: type = dict, *, most: int = LARGEST_JSON) -> Any:
    """Return the object in a JSON file, or the list if `kind` is ``list``.

    Raises:
        ValueError: the file does not exist, has more than `most` bytes, is not JSON, or contains another type.
    """
    accepted = "accepted: a JSON object" if kind is dict else "accepted: a JSON list"
    try:
        size = file.stat().st_size
        raw = json.loads(file.read_text(encoding="utf-8")) if size <= most else None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"path: {file} is not JSON: {' '.join(str(error).split())}; {accepted}") from error
    if size > most:
        raise ValueError(f"path: {file} has {size} bytes; {accepted} of at most {most}")
    if not isinstance(raw, kind):
        raise ValueError(f"path: {file} holds a {type(raw).__name__}; {accepted}")
    return raw


def read_text(file: Path, *, most: int = LARGEST_JSON) -> str:
    """Return the text of a UTF-8 file, with its line ends unchanged.

    Raises:
        ValueError: the file cannot be read, has more than `most` bytes, or is not UTF-8.
    """
    try:
        if (size := file.stat().st_size) > most:
            raise ValueError(f"path: {file} has {size} bytes; accepted: a UTF-8 file of at most {most}")
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path: {file} cannot be read: {error}; accepted: a UTF-8 file") from error


def write_json(value: Any, file: str | os.PathLike[str]) -> None:
    """Write `value` as indented JSON, atomically."""
    with written(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
