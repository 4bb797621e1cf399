"""The README's Python runs as it stands: every block, in order, in one process, in an empty folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ROOT

GOLDENS = ROOT / "tests" / "goldens"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sun", "##ny", "all", "day", "rain", "by", "noon", "."]


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def stand_ins(folder: Path) -> None:
    """Small checkpoints of the same kinds under the names of those that one would download."""
    for name, golden in (("all-MiniLM-L6-v2", "sentence-mean"), ("bert-base-uncased", "bert-backbone")):
        shutil.copytree(GOLDENS / golden, folder / name)
        (folder / name / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
        (folder / name / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    shutil.copy(GOLDENS / "llama-gguf" / "q4_1.gguf", folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    shutil.copy(GOLDENS / "llama-gguf" / "tokenizer.json", folder)


def test_names_are_made_before_they_are_used() -> None:
    """Quicker than running them."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
    done = subprocess.run(command, input="\n".join(blocks()), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(blocks()) >= 6


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks()):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
    assert {"bert.onnx", "bert.tflite", "gpt2.onnx", "gpt2.tflite", "translator.encoder.onnx", "classifier.onnx"} <= {
        file.name for file in tmp_path.iterdir()
    }
    runner = names["export"].load("classifier.onnx")
    inputs = dict(names["az"].load("all-MiniLM-L6-v2").tokenizer(names["texts"]))
    found = runner.run(inputs)["logits"]
    assert found.shape == (16, 2) and np.isfinite(found).all()
