"""Run pyright over the scripts in user_scripts/, as an editor does for a user of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from attention_zoo.zoo.presets import FAMILIES, PRESETS

SCRIPTS = Path(__file__).parent / "user_scripts"
# All of pyright's checks, except that Keras has no types: its import, and what is read from or passed to it.
RULES = {
    "typeCheckingMode": "strict",
    "reportMissingTypeStubs": False,
    "reportUnknownMemberType": False,
}
# Expressions, and their types as pyright prints them.
REVEALED = {
    'az.create("opt", num_layers=2)': "ZooModel",  # a family that another package could register
    'az.create(str(), **{"num_layers": 2})': "ZooModel",
    'az.create("gpt", num_layers=2, dtype="float16").generate([[1]])': "ndarray[tuple[Any, ...], dtype[Any]]",
    'az.load("folder", head="masked_lm")': "ZooModel",
    'az.load("folder").generate([[1]])': "ndarray[tuple[Any, ...], dtype[Any]]",
    "az.GPT()": "GPT",
    "az.list_models()": "list[str]",
    'az.Tokenizer.load("tokenizer.json")': "Tokenizer",
    'export.to_onnx(az.GPT(), "m.onnx")': "ExportResult",
    'export.to_tflite(az.GPT(), "m.tflite")': "ExportResult",
    'export.to_litertlm(az.GPT(), "m.litertlm")': "ExportResult",
    'export.to_genai(az.GPT(), "folder")': "ExportResult",
    'export.to_huggingface_onnx(az.GPT(), "folder")': "ExportResult",
    'export.to_huggingface_onnx(az.GPT(), "folder", precision=["fp32", "int8"], card={})': "list[ExportResult]",
    'export.to_onnx(az.GPT(), "m.onnx").path': "Path",
    'export.verify(az.GPT(), "m.onnx")': "VerifyReport",
    'export.verify(az.GPT(), "m.onnx").passed': "bool",
    'export.load("m.onnx")': "Runner",
    'export.load("m.onnx").run({})': "dict[str, ndarray[tuple[Any, ...], dtype[Any]]]",
    'export.load("m.onnx").generate([[1]])': "ndarray[tuple[Any, ...], dtype[Any]]",
    "layers.MultiHeadAttention(4)": "MultiHeadAttention",
}


def check_user_scripts(python: str, folder: Path) -> None:
    """Check the scripts, copied to `folder`, with the packages of the interpreter `python`."""
    for script in SCRIPTS.glob("*.py"):
        shutil.copy(script, folder)
    (folder / "revealed.py").write_text(_revealed())
    (folder / "pyrightconfig.json").write_text(json.dumps(RULES))
    found = _pyright(python, folder)
    mistakes = (folder / "mistakes.py").read_text().splitlines()
    expected = {("mistakes.py", number) for number, line in enumerate(mistakes, 1) if "  # " in line}
    assert len(expected) > 20
    wrong = {place: messages for place, messages in found.items() if place not in expected}
    assert not wrong, "\n".join(f"{place}: {message}" for place, messages in wrong.items() for message in messages)
    unseen = sorted(number for _, number in expected - set(found))
    assert not unseen, "no error in mistakes.py:\n" + "\n".join(mistakes[number - 1] for number in unseen)


def _revealed() -> str:
    """A script in which pyright compares the types of expressions with the expected ones."""
    created = {f'az.create("{name}", num_layers=2)': cls for name, cls in FAMILIES.items()}
    created |= {f'az.create("{name}")': FAMILIES[preset.family] for name, preset in PRESETS.items()}
    lines = [f"reveal_type({code}, expected_text={text!r})" for code, text in (created | REVEALED).items()]
    return "\n".join(["import attention_zoo as az", "from attention_zoo import export, layers", *lines, ""])


def _pyright(python: str, folder: Path) -> dict[tuple[str, int], list[str]]:
    """Return the messages of errors and warnings by file name and line number."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python, "--project", str(folder)]
    quiet = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=quiet, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[tuple[str, int], list[str]] = {}
    diagnostics: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    for entry in diagnostics:
        if entry["severity"] != "information":
            place = Path(entry["file"]).name, entry["range"]["start"]["line"] + 1
            found.setdefault(place, []).append(f"{entry['message']} ({entry.get('rule')})")
    return found
