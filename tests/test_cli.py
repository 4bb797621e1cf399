"""The command line as a user has it: a process, its exit code, what it prints where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import attention_zoo as az
from helpers import tiny


def cli(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("attention-zoo")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=os.path.sep)


def test_list_is_light() -> None:
    assert json.loads(cli("list", "vit*", "--json").stdout) == az.list_models("vit*")
    code = (
        "import sys; sys.argv = ['attention-zoo', '--help']; from attention_zoo.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nassert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=os.path.sep)
    assert done.returncode == 0, done.stderr
    assert "export" in done.stdout


def test_export_verify_bench(tmp_path: Path) -> None:
    """A saved model becomes a file, the file passes, another model's does not: 0, 0 and 1."""
    az.save(tiny("bert", "backbone"), tmp_path / "model")
    az.save(tiny("bert", "backbone", seed=4), tmp_path / "other")
    file = tmp_path / "m.onnx"
    made = cli("export", tmp_path / "model", file, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["bytes"] == file.stat().st_size
    passed = cli("verify", tmp_path / "model", file, "--json")
    assert (passed.returncode, json.loads(passed.stdout)["passed"]) == (0, True)
    failed = cli("verify", tmp_path / "other", file, "--json")
    assert (failed.returncode, json.loads(failed.stdout)["passed"]) == (1, False)
    timed = cli("bench", file, "--sequence", 8, "--repeats", 3, "--json")
    assert json.loads(timed.stdout)["shapes"]["input_ids"] == [1, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "gpt3"), "name: got 'gpt3'; did you mean ['gpt2']?"),
        (("export", "gpt3", "m.onnx"), "name: got 'gpt3'"),
        (("bench", "nothing.onnx"), "which is not a file"),
        (("verify", "gpt2"), "Missing argument"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if "Missing" not in message:
        assert len(done.stderr.strip().splitlines()) == 1
