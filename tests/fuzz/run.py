"""Open changed files in child processes, and report what happens.

    python tests/fuzz/run.py --seconds 3600 --jobs 2      # as `make fuzz` does
    python tests/fuzz/run.py --kind tflite --seed 7       # one kind, from another seed
    python tests/fuzz/run.py --kind tflite --try 70000042 # one try, in this process, with the traceback

A reader must accept a file or refuse it with a ValueError of one line. Anything else is a finding: another exception, a
signal, more than a minute of time, or more than 1 GB of memory. The files of findings are kept in the folder --keep.

A worker imports every reader and computes nothing. It forks a child for each batch of tries of one kind, which ends
after some seconds, or when a try ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from report import GOOD, Report  # noqa: E402

BATCH = 1000  # most tries of one child, which keeps what native code does not free
SECONDS, MEMORY = 60, 2**30  # of the time of a processor, and bytes
LONGEST = 1000  # characters of a message


def memory(field: str) -> int:
    """Return VmRSS or VmHWM, the memory that this process has or had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def limit(seconds: float) -> None:
    """End this process by a signal after so much time of a processor, or twice as much of a clock; 0 for never.

    The default action of both signals also ends native code that does not return.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)


def attempt(kind: str, seed: Path, work: Path, chance: random.Random) -> tuple[str, str, int]:
    """Change a seed and open it. Return the outcome, its message, and the memory that it took."""
    from readers import READERS

    change, use, _ = READERS[kind]
    path = change(seed, work, chance)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory("VmRSS")
    limit(SECONDS)
    outcome = "accepted", ""
    try:
        use(path)
    except ValueError as error:
        text = str(error)
        plain = type(error) is ValueError and "\n" not in text and len(text) < LONGEST
        outcome = ("refused" if plain else "long message"), f"{type(error).__name__}: {text[:300]}"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = "exception", f"{type(error).__name__}: {str(error)[:200]} at {place.filename}:{place.lineno}"
    limit(0)
    used = max(0, memory("VmHWM") - before)
    return (*(("over 1 GB", outcome[1]) if used > MEMORY else outcome), used)


def batch(kind: str, seeds: list[Path], work: Path, start: int, seconds: float, pipe: int) -> None:
    """Make tries in this process for some seconds, at least one, and write a line before and after each."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end = time.monotonic() + seconds
    for number in range(start, start + BATCH):
        chance = random.Random(f"{kind} {number}")
        seed = chance.choice(seeds)
        os.write(pipe, f"{json.dumps(['begin', number])}\n".encode())
        outcome = attempt(kind, seed, work, chance)
        os.write(pipe, f"{json.dumps([*outcome, number])}\n".encode())
        if time.monotonic() > end:
            break


def one_batch(kind: str, seeds: list[Path], work: Path, start: int, keep: Path, report: Report, seconds: float) -> int:
    """Make tries in a child, and return their number."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            batch(kind, seeds, work, start, seconds, writing)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        records = [json.loads(line) for line in lines]
    _, status, used = os.wait4(child, 0)
    report.seconds[kind] += used.ru_utime + used.ru_stime
    done = 0
    for record in records:
        if record[0] != "begin":
            done += 1
            report.add(kind, *record)
            if record[0] not in GOOD:
                keep_files(kind, record[3], seeds, work, keep)
    if os.WIFSIGNALED(status) or done < len(records) / 2:
        number = records[-1][1] if records else start
        ended = os.WTERMSIG(status) or signal.SIGABRT
        outcome = "over a minute" if ended in (signal.SIGPROF, signal.SIGALRM) else "signal"
        report.add(kind, outcome, signal.Signals(ended).name, 0, number)
        keep_files(kind, number, seeds, work, keep)
        done += 1
    return done


def keep_files(kind: str, number: int, seeds: list[Path], work: Path, keep: Path) -> None:
    """Write the changed file of a try to the folder `keep`."""
    from readers import READERS

    chance = random.Random(f"{kind} {number}")
    path = READERS[kind][0](chance.choice(seeds), work, chance)
    target = keep / f"{kind}_{number}{path.suffix}"
    keep.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if path.is_dir() else shutil.copy)(path, target)


def imported(kinds: Any) -> None:
    """Import what the readers of these kinds use: a child that is forked then starts at once."""
    import attention_zoo.runtime.description
    import attention_zoo.runtime.loading
    import attention_zoo.text.tokenizer

    if "metadata" in kinds:
        import planted.files  # noqa: F401
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401
        from ai_edge_litert import schema_py_generated  # noqa: F401
    if {"gguf", "folder"} & set(kinds):
        import keras  # noqa: F401

        import attention_zoo.zoo  # noqa: F401


def worker(seeds: dict[str, list[Path]], seconds: float, first: int, keep: Path, queue: Any) -> None:
    """Make tries of all kinds in turn until the time is over."""
    from readers import READERS

    imported(seeds)
    report, end = Report(), time.monotonic() + seconds
    places = dict.fromkeys(seeds, first)
    shares = {kind: READERS[kind][2] for kind in seeds}
    # Every kind has its turn ten times, but TensorFlow needs seconds before the first try of a batch.
    slot = min(max(seconds / sum(shares.values()) / 10, 0.2), 5.0)
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            for kind, share in shares.items():
                left = min(share * slot, end - time.monotonic())
                places[kind] += one_batch(kind, seeds[kind], Path(folder), places[kind], keep, report, left)
    queue.put(report.to_dict())


def campaign(seeds: dict[str, list[Path]], *, seconds: float, jobs: int, seed: int, keep: Path) -> Report:
    """Run `jobs` workers for some seconds, and return the sum of their reports."""
    context = get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=worker, args=(seeds, seconds, (seed * jobs + i) * 10**7, keep, queue))
        for i in range(jobs)
    ]
    for process in workers:
        process.start()
    report = Report()
    for process in workers:
        while True:
            try:
                report.merge(queue.get(timeout=5))
                break
            except Empty:
                if not any(other.is_alive() for other in workers) and queue.empty():
                    raise RuntimeError(f"a worker ended with {process.exitcode}") from None
    for process in workers:
        process.join()
    return report


def once(kind: str, seeds: list[Path], work: Path, number: int) -> int:
    """Make one try in this process."""
    from readers import READERS

    chance = random.Random(f"{kind} {number}")
    path = READERS[kind][0](chance.choice(seeds), work, chance)
    READERS[kind][1](path)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", help="only this kind, several times for several")
    parser.add_argument("--seeds", type=Path, help="the folder of the exports, which are made if it is empty")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--json", type=Path, help="also write the totals to this file")
    parser.add_argument("--try", type=int, dest="number", help="only this try, in this process, with its traceback")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from seeds import seeds_in

        seeds = seeds_in(given.seeds or Path(folder))
        chosen = {kind: files for kind, files in seeds.items() if files and kind in (given.kind or seeds)}
        if given.number is not None:
            return once(given.kind[0], chosen[given.kind[0]], Path(folder), given.number)
        report = campaign(chosen, seconds=given.seconds, jobs=given.jobs, seed=given.seed, keep=given.keep)
    if given.json:
        given.json.write_text(json.dumps(report.to_dict()))
    print(report.to_markdown())
    return int(bool(report.findings))


if __name__ == "__main__":
    raise SystemExit(main())
