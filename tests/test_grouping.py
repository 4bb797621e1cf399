"""Which tests run in one process under pytest-xdist; see conftest.py."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT, VARIANTS

TESTS = {
    "test_variants.py": """
import pytest

@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("variant", ["gpt-small", "bert-small"])
def test_variant(variant, number): pass

@pytest.mark.runs_with("gpt-small")
@pytest.mark.parametrize("place", ["a@b", "c"])
def test_marked(place): pass
""",
    "test_module.py": """
import pytest
pytestmark = pytest.mark.runs_together

@pytest.mark.parametrize("number", range(4))
def test_one(number): pass

def test_two(): pass

@pytest.mark.runs_with("bert-small")
def test_elsewhere(): pass
""",
}
GROUPS = (r"\[gpt-small|test_marked", r"\[bert-small|test_elsewhere", "test_one|test_two")


def test_markers_name_variants() -> None:
    known = {"all variants", *("-".join(pair) for pair in VARIANTS)}
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if file.name != Path(__file__).name]
    named = {name for file in files for name in re.findall(r'mark\.runs_with\("([^"]+)"\)', file.read_text())}
    assert named and named <= known, named - known


@pytest.mark.slow
def test_a_group_runs_in_one_process(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    for name, code in TESTS.items():
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-v", "-n", "3", "--import-mode=importlib", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"^\[(gw\d)\].* PASSED (\S+)", done.stdout, re.MULTILINE)
    assert len(ran) == 14 and all("::test_" in name for _, name in ran)
    for group in GROUPS:
        assert len({worker for worker, name in ran if re.search(group, name)}) == 1, done.stdout
