"""What is installed: the list of packages, and the wheel and source distribution, which run without the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import attention_zoo as az
from helpers import ROOT
from type_checks import check_user_scripts

pytestmark = pytest.mark.runs_together

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NO_NETWORK = ("--no-deps", "--no-index")


def package_folders() -> list[Path]:
    """Folders of the repository that are packages, relative to it."""
    outside = ("tests", "benchmarks", "build", "dist")
    files = [file.relative_to(ROOT) for file in ROOT.rglob("__init__.py")]
    return [file.parent for file in files if not file.parts[0].startswith((".", *outside))]


def test_pyproject_lists_every_package() -> None:
    found = sorted(".".join(["attention_zoo", *folder.parts]) for folder in package_folders())
    assert PROJECT["tool"]["setuptools"]["packages"] == found
    assert len(found) > 20


def test_pyright_reads_every_package() -> None:
    folders = {folder.parts[0] for folder in package_folders() if folder.parts}
    assert folders <= set(PROJECT["tool"]["pyright"]["include"])


def test_files_are_short() -> None:
    for folder in package_folders():
        for file in (ROOT / folder).glob("*.py"):
            assert len(file.read_text().splitlines()) <= 500, file
    for file in (ROOT / "tests").rglob("test_*.py"):
        assert len(file.read_text().splitlines()) <= 1200, file


def test_the_version_is_written_once() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert f"## [{az.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_license() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text().splitlines()


def run(command: Sequence[Any], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, of a clean copy whose path has a space."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    copy = tmp_path_factory.mktemp("package") / "a checkout"
    for name in run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT).split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    (copy / "build" / "lib" / "attention_zoo").mkdir(parents=True)
    (copy / "build" / "lib" / "attention_zoo" / "moved.py").touch()  # of an earlier build
    run([sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", "dist"], copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and sees this environment's packages for what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run([sys.executable, "-m", "pip", "--python", interpreter, "install", *NO_NETWORK, wheel], built)
    packages = run([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], built).strip()
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def in_wheel(file: Path) -> set[str]:
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_distributions_contain_the_package_and_nothing_else(built: Path, tmp_path: Path) -> None:
    modules = {file.name for file in ROOT.glob("*.py")}
    modules |= {
        (folder / file.name).as_posix() for folder in package_folders() for file in (ROOT / folder).glob("*.py")
    }
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    names = in_wheel(wheel)
    assert {name for name in names if not name.startswith(info)} == {
        "attention_zoo/py.typed",
        *(f"attention_zoo/{module}" for module in modules),
    }
    assert f"{info}/licenses/LICENSE" in names

    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    beside = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "py.typed"}
    assert packed >= modules | beside | {"tools/build_backend.py"}
    assert not {name for name in packed if name.startswith(("tests", "benchmarks", ".", "docs"))}

    run([sys.executable, "-m", "pip", "wheel", *NO_NETWORK, "--no-build-isolation", sdist], tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert in_wheel(again) == names


EXPORT = """
import attention_zoo as az
import numpy as np
from attention_zoo import export

model = az.create("gpt", num_layers=1, num_heads=2, hidden_dim=8, vocab_size=11, max_length=16)
ids = np.arange(10).reshape(2, 5)
export.to_onnx(model, "gpt.onnx")
logits = export.load("gpt.onnx").run({"input_ids": ids})["logits"]
assert abs(logits - np.asarray(model(ids))).max() < 1e-4
print(az.__file__)
"""


@pytest.mark.slow
def test_the_wheel_runs(installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "attention-zoo"
    assert run([command, "--version"], tmp_path) == f"attention-zoo {az.__version__}\n"
    assert "gpt2" in run([command, "list"], tmp_path)
    file = Path(run([installed, "-c", EXPORT], tmp_path).splitlines()[-1])
    assert file.is_relative_to(installed.parents[1])


@pytest.mark.slow
def test_pyright_checks_user_scripts_against_the_wheel(installed: Path, tmp_path: Path) -> None:
    check_user_scripts(str(installed), tmp_path)
