"""Crash every writer of models and files at random moments, and print what is there afterwards.

    python tests/crashing.py [--how kill|interrupt|full|limit|read_only] [--tries 50] [--seconds 600] [WRITER …]

A process writes another model over an earlier one, in the same folder. It is killed after a random time, or before a
random step (a file that is opened, renamed or removed), or gets Ctrl-C, or a disk that is full or read-only, or a limit
of the size of files. The folder must then have all files of the one model or all of the other, byte for byte; after a
kill between two renames ``files.finish``, which ``load`` calls, may have to complete them. The next write must leave
nothing else. Processes are forked from one that has imported everything and computed nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import h5py
import keras
import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

import attention_zoo as az
from attention_zoo import export, files, sources, zoo  # noqa: F401 (imported before the processes are forked)
from attention_zoo.export.bundles import genai, huggingface_onnx, litertlm  # noqa: F401
from attention_zoo.export.onnx import exporter  # noqa: F401
from attention_zoo.export.tflite import exporter as tflite_exporter  # noqa: F401
from attention_zoo.runs.shipping import saved
from attention_zoo.text.tokenizer import Tokenizer
from attention_zoo.training.callbacks.resume import Resume
from helpers import randomise, tiny

SENTENCE = {"projections": [{"units": 6, "activation": "tanh"}]}
STOPPED, REFUSED, FAILED = 3, 4, 5  # exit statuses: KeyboardInterrupt, a ValueError of one line, another error
NAMES = {0: "written", -9: "killed", STOPPED: "stopped", REFUSED: "refused in a line", FAILED: "another error"}
STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def tokenizer(version: int) -> Tokenizer:
    backend = Backend(models.WordLevel({f"w{i}": i for i in range(90)} | {f"v{version}": 90}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The first one has its chat template in a file of its own, and the second one has none.
    template = {"chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"} if version else {}
    return Tokenizer(backend, eos_token="w2", pad_token="w3", **template)


def model(family: str, variant: str, version: int, **fields: Any) -> Any:
    keras.utils.set_random_seed(version)  # of the seed generators of dropout, which are saved too
    made = tiny(family, variant, seed=version, dropout=0.25 * version, **fields)
    made.tokenizer = tokenizer(version)
    return made


def gpt(version: int) -> Any:
    return model("gpt", "llama", version, eos_token_id=2)


def without_tokenizer(version: int) -> Any:
    made = gpt(version)
    made.tokenizer = None  # GGUF has no kind for that of the others
    return made


def with_adapters(version: int) -> Any:
    made = gpt(version)
    made.enable_lora(2 + version)
    return randomise(made, version)


def trained(version: int) -> Any:
    made = gpt(version)
    made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.optimizer.build(made.trainable_variables)
    return made


def resume(made: Any, folder: Path) -> None:
    callback = Resume(folder)
    callback.set_model(made)
    callback._save(1, 0, {})


def bert(version: int) -> Any:
    return model("bert", "sentence_max", version, **SENTENCE)


def vit(version: int) -> Any:
    return tiny("vit", "plain", seed=version)


WRITERS: dict[str, tuple[Callable[[int], Any], Callable[[Any, Path], Any]]] = {
    "save": (gpt, az.save),
    "to_huggingface": (bert, az.to_huggingface),
    "to_gguf": (without_tokenizer, lambda made, folder: az.to_gguf(made, folder / "m.gguf")),
    "save .keras": (trained, lambda made, folder: made.save(folder / "m.keras")),
    "save zipped=False": (gpt, lambda made, folder: made.save(folder / "m", zipped=False)),
    "save_weights": (trained, lambda made, folder: made.save_weights(folder / "m.weights.h5")),
    "save_weights, shards": (
        gpt,
        lambda made, folder: made.save_weights(folder / "m.weights.json", max_shard_size=2e-5),
    ),
    "save_lora": (with_adapters, lambda made, folder: made.save_lora(folder / "m.safetensors")),
    "tokenizer.save": (tokenizer, lambda made, folder: made.save(folder)),
    "saved of a run": (gpt, lambda made, folder: saved(made, folder / "model")),
    "Resume": (trained, resume),
    "to_onnx": (gpt, lambda made, folder: export.to_onnx(made, folder / "m.onnx")),
    "to_onnx, parts": (
        lambda version: tiny("transformer", "marian", seed=version),
        lambda made, folder: export.to_onnx(made, folder / "m.onnx"),
    ),
    "to_tflite": (gpt, lambda made, folder: export.to_tflite(made, folder / "m.tflite", sequence_length=8)),
    "to_genai": (gpt, lambda made, folder: export.to_genai(made, folder / "m")),
    "to_huggingface_onnx": (gpt, lambda made, folder: export.to_huggingface_onnx(made, folder / "m")),
    "to_litertlm": (gpt, lambda made, folder: export.to_litertlm(made, folder / "m.litertlm", prefill=4)),
}
SAVERS = list(WRITERS)[: list(WRITERS).index("to_onnx")]
LAST = {"save": "config.json", "to_huggingface": "config.json", "tokenizer.save": "tokenizer.json"}
LAST |= {"save zipped=False": "m/config.json", "save_weights, shards": "m.weights.json", "to_onnx, parts": "m.onnx"}


def found(folder: Path) -> dict[str, Any]:
    """Return a digest of every file, by name, without what depends on the time."""
    result: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if files.ROOM in name or not file.is_file():
            continue
        if file.suffix == ".keras":
            with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
                result[name] = [archive.testzip(), *(digest(e, archive.read(e)) for e in archive.namelist())]
                continue
        result[name] = arrays(file) if file.suffix == ".h5" else digest(file.name, file.read_bytes())
    return result


def arrays(file: Path) -> str:
    """Return a digest of the arrays of an HDF5 file, between which there are bytes that nobody has set."""
    found: dict[str, str] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, h5py.Dataset):
            found[name] = hashlib.sha256(np.asarray(value).tobytes()).hexdigest()

    try:
        with h5py.File(file) as opened:
            opened.visititems(add)
    except (OSError, RuntimeError) as error:
        return f"damaged: {error}"
    return json.dumps(found, sort_keys=True)


def digest(name: str, content: bytes) -> str:
    """Return a digest without dates, the number of a bundle, and the addresses of objects that Keras writes."""
    if name == "metadata.json":
        content = b""
    if name == "config.json":
        content = re.sub(rb'"shared_object_id": \d+', b"", content)
    if name.endswith(".litertlm"):  # its builder writes a time and a UUID
        content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:.+]{21}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b"", content)
    return f"{name} {hashlib.sha256(content).hexdigest()}"


def rooms(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(files.ROOM)]


class Child:
    """A forked process that builds a version of a model, says so, and writes it."""

    def __init__(self, writer: str, version: int, folder: Path, before: Callable[[], None] = lambda: None) -> None:
        self.reads, writes = os.pipe()
        self.process = os.fork()
        if self.process:
            os.close(writes)
            return
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            make, write = WRITERS[writer]
            made = make(version)
            os.write(writes, b"ready\n")
            before()
            start = time.monotonic()
            write(made, folder)
            os.write(writes, f"{json.dumps([start, time.monotonic()])}\n".encode())
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(STOPPED)
        except ValueError as error:
            if "\n" in str(error) or "cannot be written" not in str(error):
                print(f"{writer}: ValueError: {error!s:.300}", file=sys.stderr, flush=True)
                os._exit(FAILED)
            os._exit(REFUSED)
        except BaseException as error:
            print(f"{writer}: {type(error).__name__}: {error!s:.300}", file=sys.stderr, flush=True)
            os._exit(FAILED)

    def line(self) -> str:
        text = b""
        while not text.endswith(b"\n") and (more := os.read(self.reads, 1)):
            text += more
        return text.decode()

    def after(self, seconds: float, number: int) -> None:
        """Send a signal after some time, unless the process ends before."""
        if not select.select([self.reads], [], [], seconds)[0]:
            os.kill(self.process, number)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def written(writer: str, version: int, folder: Path) -> float:
    """Write a version without a crash, and return the seconds."""
    child = Child(writer, version, folder)
    assert child.line() == "ready\n", writer
    line = child.line()
    assert child.wait() == 0, writer
    os.close(child.reads)
    start, end = json.loads(line)
    return end - start


def suicide(step: int) -> Callable[[], None]:
    def before() -> None:
        counted = [0]

        def hook(event: str, arguments: Any) -> None:
            if event in STEPS and (event != "open" or "w" in str(arguments[1]) or files.ROOM in str(arguments[0])):
                counted[0] += 1
                if counted[0] > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return before


def nothing() -> None:
    """Do nothing before a write."""


def limited(largest: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


@contextlib.contextmanager
def disk(size: int | None) -> Iterator[Path]:
    """Yield a folder, on a file system of `size` bytes of its own if given (as root, on Linux)."""
    folder = Path(tempfile.mkdtemp())
    if size is not None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        if size is not None:
            subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Leave a random part of the space that the files of `folder` take free on its file system within the block."""
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free - random.randrange(used)
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, free)
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make the file system of `folder` read-only within the block."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


class Crashes:
    """Crashes of one writer, and the counts of what they left."""

    def __init__(self, writer: str, how: str, seed: int = 0) -> None:
        self.writer, self.how = writer, how
        self.chance = random.Random(f"{writer}{how}{seed}")
        self.counts: Counter[str] = Counter()
        self.whole, self.sizes, self.took = [], [], 0.0
        for version in (0, 1):
            with disk(None) as place:
                self.took = max(self.took, written(writer, version, place))
                self.whole.append(found(place))
                self.sizes.append([file.stat().st_size for file in place.rglob("*") if file.is_file()])
        assert self.whole[0] != self.whole[1], writer
        self.present, self.steps = 0, 60

    def run(self, tries: int, seconds: float) -> Counter[str]:
        """Crash the writer up to `tries` times in `seconds`."""
        until = time.monotonic() + seconds
        with disk(2**28 if self.how in ("full", "read_only") else None) as folder:
            written(self.writer, 0, folder)
            assert found(folder) == self.whole[0], f"{self.writer} does not write the same bytes twice"
            while self.counts["tries"] < tries and time.monotonic() < until:
                self.counts["tries"] += 1
                status = self.crash(folder)
                self.counts[NAMES.get(status, f"exit {status}")] += 1
                self.check(folder)
            written(self.writer, 0, folder)
            self.counts["left after the next write"] += len(rooms(folder))
            self.counts["lost or mixed"] += found(folder) != self.whole[0]
        return self.counts

    def crash(self, folder: Path) -> int:
        """Let a process write the other version, crash it, and return its exit status."""
        step, before, sent = None, nothing, 0.0
        if self.how == "kill" and self.chance.random() < 0.5:
            before = suicide(step := self.chance.randrange(self.steps))
        elif self.how == "limit":
            before = limited(self.chance.randrange(1, max(self.sizes[1 - self.present])))
        kept = {"read_only": read_only, "full": filled}.get(self.how, contextlib.nullcontext)
        with kept(folder):
            child = Child(self.writer, 1 - self.present, folder, before)
            child.line()
            if self.how in ("kill", "interrupt") and step is None:
                number = signal.SIGKILL if self.how == "kill" else signal.SIGINT
                child.after(self.chance.uniform(0, 1.02 * self.took), number)
                sent = time.monotonic()
            line, status = child.line(), child.wait()
            os.close(child.reads)
        if step is not None and status == 0:
            self.steps = max(10, step)  # the write has fewer steps than that
        if self.how == "interrupt" and status == 0:
            self.counts["swallowed"] += json.loads(line)[1] > sent + 0.5
        return status

    def check(self, folder: Path) -> None:
        """Count what is in the folder after a crash."""
        if self.how != "kill" and rooms(folder):
            self.counts["left"] += 1
        now, last = found(folder), LAST.get(self.writer)
        if now not in self.whole and self.how == "kill" and last and not (folder / last).exists():
            self.counts["finished by load"] += 1
            files.finish((folder / last).parent, Path(last).name)
            now = found(folder)
        if now in self.whole:
            self.counts["old" if self.whole.index(now) == self.present else "new"] += 1
            self.present = self.whole.index(now)
            return
        others = [[name for name in {**now, **one} if now.get(name) != one.get(name)] for one in self.whole]
        print(
            self.writer, self.how, "differs from one in", others[0], "and from the other in", others[1], file=sys.stderr
        )
        self.counts["lost or mixed"] += 1
        written(self.writer, 0, folder)
        self.present = 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("writers", nargs="*", metavar="WRITER")
    parser.add_argument("--how", default="kill", choices=("kill", "interrupt", "full", "limit", "read_only"))
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.writers or WRITERS:
        print(json.dumps({name: Crashes(name, given.how, given.seed).run(given.tries, given.seconds)}), flush=True)
