"""Run exported ONNX files in the runtimes that are installed, compare the outputs with Keras, and write a page.

    python tests/runtimes/environments.py                       # creates the environments, once
    python tests/runtimes/matrix.py --write docs/runtimes.md    # all installed runtimes
    python tests/runtimes/matrix.py onnxruntime openvino-2025   # those whose names begin with this

Cases and results are kept in the folder of the environments under the digest of the package's source, so a second run
takes up what is missing. ``results.json`` there has the result of every file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from environments import BY_NAME, FOLDER, RUNTIMES, Runtime, named

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("export", "generation", "layers", "runtime", "zoo", "signature.py", "checks.py", "tests/helpers.py")
# The difference above which an int8 result is wrong, as a share of the largest magnitude. Runtimes round activations at
# different places, and so choose other integers.
WRONG_IN_INT8 = 0.1
FORMS = {
    "17": "Opset 17, float32",
    "20": "Opset 20, float32",
    "21": "Opset 21, float32",
    "23": "Opset 23, float32",
    "int8": "int8 (compared with ONNX Runtime and the same file)",
    "static": "Opset 17, float32, static shapes",
    "rknn": 'Opset 17, target="rknn", static shapes',
}
MOST_BYTES = 200_000  # of a file with details beside the page


@dataclass(frozen=True)
class Result:
    """What one runtime made of one case.

    Attributes:
        runtime, case, kind, form: what was run; see ``environments.Runtime`` and ``cases.About``.
        difference: the greatest difference from the expected outputs, divided by their largest magnitude or 1; None if
            there are no outputs.
        reason: why there is no difference, in one line; or "".
    """

    runtime: str
    case: str
    kind: str
    form: str
    difference: float | None
    reason: str = ""

    @property
    def wrong(self) -> bool:
        """Whether the runtime computed something else without an error."""
        limit = WRONG_IN_INT8 if self.form == "int8" else BY_NAME[self.runtime].limit
        return self.difference is not None and not self.difference <= limit


def digest() -> str:
    """Return the digest of all source that determines the cases."""
    found = hashlib.sha256()
    for source in (*SOURCES, "tests/runtimes/cases.py"):
        path = ROOT / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            found.update(f"{file.relative_to(ROOT)}\n".encode())
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def run(
    runtime: Runtime, cases: Path, results: Path, forms: Iterable[str], only: str = "", *, stored_only: bool = False
) -> list[Result]:
    """Run the cases that a runtime has no results of yet, and return the results of all.

    Args:
        runtime: an installed runtime.
        cases: the folder of the cases.
        results: the folder of the results of all runtimes.
        forms: which forms of the files to run; of a runtime that reads one form only, just that form.
        only: the beginning of the names of cases.
        stored_only: whether to run nothing, and return the results that exist.
    """
    chosen, found = [], []
    accepted = [form for form in forms if form == runtime.form or (not runtime.form and form != "rknn")]
    for case in sorted(cases.glob(f"{only}*/")):
        stored = case / "refused.json" if (case / "refused.json").is_file() else case / "case.json"
        if not stored.is_file() or case.name.startswith("."):
            continue
        about = json.loads(stored.read_text())
        if about["form"] not in accepted:
            continue
        if stored.name == "refused.json":
            reason = f"the exporter: {(case / 'refused.txt').read_text().strip()}"
            found.append(Result(runtime.name, case.name, about["kind"], about["form"], None, reason))
        else:
            chosen.append((case, about))
    out = results / runtime.name
    missing = [case.name for case, _ in chosen if not _is_newer(out, case)]
    if stored_only:
        chosen = [(case, about) for case, about in chosen if case.name not in missing]
    elif missing:
        subprocess.run(
            [*runtime.command, str(cases), str(out), *missing],
            env=runtime.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    for case, about in chosen:
        difference, reason = _compared(case, out)
        found.append(Result(runtime.name, case.name, about["kind"], about["form"], difference, reason))
    return found


def _files(out: Path, case: str) -> list[Path]:
    return [file for ending in ("npz", "json", "txt") if (file := out / f"{case}.{ending}").is_file()]


def _is_newer(out: Path, case: Path) -> bool:
    files = _files(out, case.name)
    return bool(files) and files[0].stat().st_mtime > (case / "case.json").stat().st_mtime


def _compared(case: Path, out: Path) -> tuple[float | None, str]:
    """Return the greatest difference of a result, or None and the reason for which there is none."""
    files = _files(out, case.name)
    if not files:
        return None, "the worker stopped before this case"
    if files[0].suffix == ".txt":
        return None, files[0].read_text().strip()
    if files[0].suffix == ".json":
        actual = decoded(files[0].read_text())
    else:
        with np.load(files[0]) as stored:
            actual = {key: stored[key] for key in stored.files}
    worst = 0.0
    with np.load(case / "expected.npz") as expected:
        for key in expected.files:
            if key.startswith("valid/"):
                continue
            if key not in actual:
                return None, f"the output {key.partition('/')[2]} is missing"
            valid = expected[f"valid/{key}"] if f"valid/{key}" in expected.files else None
            worst = max(worst, difference(actual[key], expected[key], valid))
    return worst, ""


def decoded(text: str) -> dict[str, np.ndarray]:
    """Return the arrays that a worker in JavaScript wrote as JSON."""
    return {
        key: np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"])
        for key, value in json.loads(text).items()
    }


def difference(actual: np.ndarray, expected: np.ndarray, valid: np.ndarray | None = None) -> float:
    """Return the greatest difference, divided by the largest magnitude that is expected or by 1.

    It is infinite if shapes differ other than by axes of size 1, which some runtimes add or drop, or where a value is
    not finite. Only the tokens that `valid` marks count.
    """
    if [n for n in actual.shape if n != 1] != [n for n in expected.shape if n != 1]:
        return float("inf")
    actual, expected = actual.reshape(expected.shape).astype("float64"), expected.astype("float64")
    if valid is not None:
        counted = np.broadcast_to(valid.reshape(*valid.shape, *[1] * (expected.ndim - valid.ndim)), expected.shape)
        actual, expected = actual[counted], expected[counted]
    if not expected.size:
        return 0.0
    found = float(np.abs(actual - expected).max() / max(1.0, float(np.abs(expected).max())))
    return found if np.isfinite(found) else float("inf")


# ---- the page --------------------------------------------------------------------------------------------------------


class Notes:
    """The reasons for which files do not run, numbered. Those that differ in names and numbers only are one."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def number(self, reason: str) -> int:
        text = re.sub(r"(?<!\w)(/[\w.+~-]+){2,}", lambda found: found[0].rpartition("/")[2], reason)
        key = (
            re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\[[^]]*\]|[\w./:]*[\d_/][\w./:]*|\W+", " ", text)[:60].strip().lower()
        )
        self.texts.setdefault(key, text.replace("|", "\\|").replace("<", "\\<"))
        return list(self.texts).index(key) + 1


def cell(results: Sequence[Result], notes: Notes) -> str:
    """Return the cell for all results of a runtime with one kind of model in one form."""
    if not results:
        return ""
    ran = [result for result in results if result.difference is not None]
    failed = [result for result in results if result.difference is None]
    wrong = [result for result in ran if result.wrong]
    parts = []
    if ran:
        worst = max(float(result.difference or 0) for result in ran)
        parts.append(f"**wrong** {worst:.0e} ({len(wrong)} of {len(ran)})" if wrong else f"{worst:.0e}")
    if failed:
        reasons = [result.reason for result in failed]
        numbers = sorted({notes.number(reason) for reason in reasons})
        share = f"{len(failed)} of {len(results)} " if ran else ""
        parts.append(f"{share}no [{', '.join(map(str, numbers[:3]))}]")
    return ", ".join(parts)


def page(results: Sequence[Result], runtimes: Sequence[Runtime]) -> str:
    """Return the content of ``docs/runtimes.md``."""
    notes, lines = Notes(), [INTRODUCTION]
    for form, title in FORMS.items():
        of_form = [result for result in results if result.form == form]
        if not of_form:
            continue
        kinds = sorted({result.kind for result in of_form}, key=str.lower)
        counts = {kind: len({result.case for result in of_form if result.kind == kind}) for kind in kinds}
        lines += [f"## {title}", ""]
        lines.append("| runtime | " + " | ".join(f"{kind} ({counts[kind]})" for kind in kinds) + " |")
        lines.append("|---" * (len(kinds) + 1) + "|")
        for runtime in runtimes:
            mine = [result for result in of_form if result.runtime == runtime.name]
            if mine:
                cells = [cell([result for result in mine if result.kind == kind], notes) for kind in kinds]
                lines.append(f"| {runtime.name} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## Reasons", ""]
    lines += [f"{number}. {text}" for number, text in enumerate(notes.texts.values(), start=1)] or ["There are none."]
    own = f"attention_zoo {version('attention-zoo')}, Python {platform.python_version()}, {platform.machine()}"
    lines += ["", "## Versions", "", f"{own}, {date.today()}.", "", "| runtime | packages |", "|---|---|"]
    for runtime in runtimes:
        shown = [f"{name} {version}" for name, version in runtime.versions.items() if _is_named(name, runtime)]
        lines.append(f"| {runtime.name} | {', '.join(shown) or f'not installed: {runtime.reason}'} |")
    return "\n".join(lines) + "\n"


def _is_named(package: str, runtime: Runtime) -> bool:
    own = [re.split(r"[=<>@]", name)[0] for name in (*runtime.packages, *runtime.without_dependencies)]
    return package.lower().replace("_", "-") in [name.lower().replace("_", "-") for name in ("numpy", *own)]


INTRODUCTION = """\
# Exported ONNX files in other runtimes

This page is written by `tests/runtimes/matrix.py`. It exports the small models of every family that the tests use, and
ten Keras models, all with random weights, runs the files in each runtime, and compares the outputs with those of Keras
in float32. Inputs are batches of one and three rows, rows padded on the right and on the left, and a single token; for
a decoder with a key/value cache, a prompt with an empty cache and a step with the cache that it returned. The encoder
and the decoder of an encoder–decoder are two files.

```bash
python tests/runtimes/environments.py                     # an environment for each runtime, about 16 GB
python tests/runtimes/matrix.py --write docs/runtimes.md  # all that are installed
python tests/runtimes/matrix.py --forms 17 -- openvino    # one runtime, one form of the files; prints the page
```

A cell has the greatest difference over all files of its kind, divided by the largest magnitude of the output or by 1.
**wrong** marks differences above 1e-3 (int8: 0.1; RKNN, which computes in float16: 0.02), and is followed by the number
of files that have them. "no" means that a file does not load or run; the number in brackets is that of a
[reason](#reasons). The head of each table has the number of files of each kind. Padding does not count. onnxslim,
onnxsim and onnx2torch rewrite a file, and ONNX Runtime or PyTorch runs the result. OpenVINO computes in float32 here;
by default it uses bfloat16 on processors that have it. OpenCV and RKNN run files with static shapes only.
The result of every file is written to `results.json` beside the exported files.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtimes", nargs="*", metavar="RUNTIME", help="the beginnings of the names of runtimes")
    parser.add_argument("--write", type=Path, help="the page to write; it is printed by default")
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=list(FORMS), help="which forms of the files to run"
    )
    parser.add_argument("--only", default="", help="the beginning of the names of models")
    parser.add_argument("--stored", action="store_true", help="run nothing, and report the results that exist")
    parser.add_argument("--cases", type=Path, help="a folder of cases to use as they are, with the results beside it")
    arguments = parser.parse_args()
    chosen = named(arguments.runtimes)
    folder = arguments.cases.resolve().parent if arguments.cases else FOLDER / digest()
    cases = arguments.cases.resolve() if arguments.cases else folder / "cases"
    if arguments.cases is None and not arguments.stored:
        from cases import make

        make(cases, tuple(arguments.forms), arguments.only, lambda line: print(line, file=sys.stderr, flush=True))
    results: list[Result] = []
    for runtime in chosen:
        if runtime.reason:
            print(f"{runtime.name:32} skipped: {runtime.reason}", file=sys.stderr)
            continue
        found = run(runtime, cases, folder / "results", arguments.forms, arguments.only, stored_only=arguments.stored)
        ran, wrong = sum(r.difference is not None for r in found), sum(r.wrong for r in found)
        print(f"{runtime.name:32} {ran} of {len(found)} ran, {wrong} wrong", file=sys.stderr, flush=True)
        results += found
    details = json.dumps([asdict(result) for result in results], indent=0)
    (folder / "results.json").write_text(details)
    text = page(results, chosen if arguments.runtimes else RUNTIMES)
    if arguments.write is None:
        print(text)
        return
    arguments.write.write_text(text)
    if len(details) <= MOST_BYTES:
        arguments.write.with_suffix(".json").write_text(details)


if __name__ == "__main__":
    main()
