"""The build backend: setuptools, with an editable install that editors and type checkers can follow.

The repository root is the package ``attention_zoo``, whatever the folder of the checkout is called. setuptools installs
such a package in editable mode by an import hook, which works in Python alone: pyright and Pylance read ``sys.path``
and do not find it. Here an editable install is a link, ``.editable/attention_zoo``, to the checkout, and a ``.pth``
file that adds ``.editable`` to ``sys.path``. Every file is read where it is, so new modules need no new installation.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "attention_zoo"
Settings = dict[str, str | list[str] | None] | None


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Write the package's wheel and return its name; see PEP 517."""
    # setuptools packs whatever is there, such as modules that have been moved since the last build.
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Write a wheel whose only file is the ``.pth`` file, and return its name; see PEP 660.

    Where links cannot be made, such as on Windows without developer mode, the wheel is that of setuptools.
    """
    try:
        link_package()
    except OSError:
        return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder) / prepare_metadata_for_build_editable(folder, config_settings)
        wheel = "Wheel-Version: 1.0\nGenerator: attention-zoo\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        (metadata / "WHEEL").write_text(wheel)
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes() for file in metadata.rglob("*") if file.is_file()
        }
        files[f"__editable__.{PACKAGE}.pth"] = f"{ROOT / '.editable'}\n".encode()
        record = f"{metadata.name}/RECORD"
        lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
        files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
        name = f"{metadata.name.removesuffix('.dist-info')}-0.editable-py3-none-any.whl"
        with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in files.items():
                archive.writestr(file, content)
    return name


def link_package() -> None:
    """Make ``.editable/attention_zoo`` a link to the checkout."""
    link = ROOT / ".editable" / PACKAGE
    link.parent.mkdir(exist_ok=True)
    if link.is_symlink() and link.resolve() != ROOT:
        link.unlink()
    if not link.is_symlink():
        os.symlink("..", link, target_is_directory=True)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
