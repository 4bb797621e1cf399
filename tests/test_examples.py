"""The examples run as their docstrings say, and give the numbers these promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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
