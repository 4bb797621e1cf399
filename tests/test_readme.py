"""The README and the pages in docs/: their Python code runs, their commands exist, and the targets of their links."""

from __future__ import annotations

import json
import re
import shlex
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
# The pages whose Python blocks run here, and the files that each page must have written.
RUN = {
    "README.md": {"bert.onnx", "bert.tflite"},
    "docs/getting_started.md": {"bert.keras", "bert.onnx", "bert.tflite"},
    "docs/models.md": {"heads.png", "positions.png"},
    "docs/checkpoints.md": {"bert.keras", "zoo-folder", "folder"},
    "docs/training.md": {"adapters.safetensors", "classifier.onnx"},
    "docs/generation.md": {"gpt2.onnx", "gpt2.tflite", "translator.onnx", "translator.encoder.onnx", "smollm2.onnx"},
    "docs/exporting.md": {"bert.onnx", "bert.tflite", "small.onnx", "small.tflite", "gpt.onnx"},
    "docs/any_keras.md": {"tagger.onnx", "tagger.tflite", "reader.onnx"},
    "docs/precision.md": {"m.onnx"},
    "docs/litert.md": {"m.tflite", "t.tflite", "v.tflite"},
    "docs/verification.md": {"m.onnx"},
}
# Pages whose Python does not run here: a bundle needs a chat template and 1,024 positions, which the stand-in does not
# have (test_litertlm.py makes bundles); test_adding_a_family.py runs the module of that page; the layouts of the third
# need eight devices, which the tests in training/ have.
NOT_RUN = {"docs/litertlm.md", "docs/adding_a_family.md", "docs/scaling.md"}
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    """Return the text of a page without its code."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes for the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def stand_ins(folder: Path) -> None:
    """Write small checkpoints under the names of the published ones that the pages load."""
    for name, golden in (
        ("path/to/all-MiniLM-L6-v2", "sentence-mean"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-mean"),
        ("google-bert/bert-base-uncased", "bert-backbone"),
    ):  # a path wins over the hub's repository
        shutil.copytree(GOLDENS / golden, folder / name)
        (folder / name / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
        (folder / name / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    shutil.copytree(GOLDENS / "qwen3", folder / "Qwen" / "Qwen3-0.6B")
    shutil.copytree(GOLDENS / "adapters" / "llama", folder / "path" / "to" / "my-lora")
    words = json.loads((folder / "path" / "to" / "my-lora" / "adapter_config.json").read_text())
    words["base_model_name_or_path"] = str(GOLDENS / "llama")
    (folder / "path" / "to" / "my-lora" / "adapter_config.json").write_text(json.dumps(words))
    shutil.copy(GOLDENS / "llama-gguf" / "q4_1.gguf", folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    shutil.copy(GOLDENS / "llama-gguf" / "tokenizer.json", folder)
    (folder / "SmolLM2-135M-Instruct").mkdir()
    shutil.copy(GOLDENS / "llama-gguf" / "tokenizer.json", folder / "SmolLM2-135M-Instruct")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (folder / "SmolLM2-135M-Instruct" / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


@pytest.mark.parametrize("page", RUN)
def test_names_are_made_before_they_are_used(page: str) -> None:
    """Quicker than running them."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
    done = subprocess.run(command, input="\n".join(blocks(page)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert blocks(page)


def test_every_page_with_python_is_known() -> None:
    with_python = {page for page in PAGES if blocks(page)}
    assert with_python == set(RUN) | NOT_RUN
    assert sum(len(blocks(page)) for page in RUN) >= 22


def test_the_readme_lists_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", prose("README.md")))
    assert set(PAGES) - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):  # of the web
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    import typer.main

    from attention_zoo.cli import app

    commands: Any = typer.main.get_command(app)
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("attention-zoo ")]
    if page == "docs/command_line.md":
        assert len(lines) >= 14
    for line in lines:
        words = shlex.split(line, comments=True)
        command = commands.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= known, line


def test_the_number_of_model_types() -> None:
    from attention_zoo.zoo.loading import model_types

    assert f"loads [{len(model_types())} model types](" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page unchanged and in order, in one process, in a folder that contains only checkpoints."""
    stand_ins(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    assert RUN[page] <= {file.name for file in tmp_path.iterdir()}
    if page == "docs/training.md":
        runner = names["export"].load("classifier.onnx")
        inputs = dict(names["az"].load("sentence-transformers/all-MiniLM-L6-v2").tokenizer(names["texts"]))
        found = runner.run(inputs)["logits"]
        assert found.shape == (16, 2) and np.isfinite(found).all()
    if page in ("README.md", "docs/getting_started.md", "docs/exporting.md"):
        found = names["logits"]
        assert found.shape == (8, 3) and np.isfinite(found).all()
