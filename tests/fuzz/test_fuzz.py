"""A short run of ``run.py``: no reader ends the process, takes 1 GB or raises anything but a ValueError of one line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from mutations import changed_bytes, changed_json  # noqa: E402


def run(seconds: int, seeds: Path, report: Path, *kinds: str) -> dict[str, dict[str, int]]:
    given = [part for kind in kinds for part in ("--kind", kind)]
    command = [sys.executable, HERE / "run.py", "--seconds", seconds, "--seeds", seeds, "--json", report]
    done = subprocess.run(
        [str(part) for part in (*command, "--keep", report.parent / "findings", *given)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    found = json.loads(report.read_text())
    assert found["findings"] == [] and max(found["peaks"].values()) < 2**30
    return found["counts"]


def test_texts(tmp_path: Path) -> None:
    counts = run(8, tmp_path / "none", tmp_path / "report.json", "tokenizer", "template")
    assert set(counts) == {"tokenizer", "template"}
    assert all(count["refused"] > 5 and count["accepted"] > 5 for count in counts.values())


@pytest.mark.slow
def test_every_kind(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    counts = run(120, seeds, tmp_path / "report.json")
    assert all(count["refused"] > 2 for count in counts.values())
    assert {"tflite", "onnx", "metadata", "tokenizer", "template", "gguf", "folder"} <= set(counts)


def test_mutations_depend_on_their_seed_alone() -> None:
    content, text = bytes(range(256)) * 4, json.dumps({"a": [1, {"b": "c"}], "d": None})
    for number in range(50):
        one, other = random.Random(number), random.Random(number)
        assert changed_bytes(content, one) == changed_bytes(content, other)
        assert changed_json(text, one) == changed_json(text, other)
    assert len({changed_bytes(content, random.Random(number)) for number in range(50)}) > 45
