"""Every writer, crashed at random moments: ``crashing.py``, of which more tries are a command of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crashing.py")
SAVERS = ["save", "to_huggingface", "to_gguf", "save .keras", "save zipped=False", "save_weights"]
SAVERS += ["save_weights, shards", "save_lora", "tokenizer.save", "saved of a run", "Resume"]
EXPORTERS = ["to_onnx", "to_onnx, parts", "to_tflite", "to_genai", "to_huggingface_onnx", "to_litertlm"]
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux", reason="mounts a file system"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "writers", "tries"),
    [
        ("kill", SAVERS, 8),
        ("kill", EXPORTERS, 4),
        ("interrupt", EXPORTERS, 4),
        # A shard may be larger than its limit by a weight, and HDF5 ends the process where it cannot write.
        ("limit", [name for name in SAVERS + EXPORTERS if name != "save_weights, shards"], 2),
        pytest.param("full", SAVERS + EXPORTERS, 1, marks=root),
        pytest.param("read_only", SAVERS + EXPORTERS, 1, marks=root),
    ],
    ids=["kill-savers", "kill-exporters", "interrupt", "limit", "full", "read_only"],
)
def test_crashes(how: str, writers: list[str], tries: int) -> None:
    """Nothing is lost, mixed or left behind, and an error of the disk is one line."""
    command = [sys.executable, SCRIPT, "--how", how, "--tries", str(tries), *writers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: counts for line in done.stdout.splitlines() for name, counts in json.loads(line).items()}
    assert list(found) == writers
    for name, counts in found.items():
        assert counts["tries"] == tries
        for bad in ("lost or mixed", "left", "left after the next write", "swallowed", "another error"):
            assert not counts.get(bad), (name, counts, done.stderr[-2000:])
