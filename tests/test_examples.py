"""The examples run as their docstrings say, and give the numbers these promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers import ROOT


def example(name: str, *arguments: Any) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=os.path.sep)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_attention_by_hand() -> None:
    assert "1.9366 6.6831 1.5951" in example("attention_by_hand.py")


def test_attention_in_keras() -> None:
    accuracy = re.search(r"test accuracy (0\.\d+)", example("attention_in_keras.py"))
    assert accuracy is not None
    assert float(accuracy[1]) > 0.94


def test_reverse_and_ship(tmp_path: Path) -> None:
    printed = example("reverse_and_ship.py", tmp_path)
    accuracy = re.search(r"accuracy on unseen rows: ([01]\.\d+)", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.99
    pairs = [[json.loads(part) for part in line.split(" -> ")] for line in printed.splitlines() if " -> " in line]
    assert len(pairs) == 3
    assert all(written == source[::-1] for source, written in pairs)
    assert {"alignment.png", "reverse.onnx", "reverse.encoder.onnx"} == {path.name for path in tmp_path.iterdir()}
