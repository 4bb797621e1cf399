"""``verify`` of folders for ONNX Runtime GenAI and of LiteRT-LM bundles, correct and changed."""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from planted.bundles import rewrite_bundle
from planted.fault import decoder

import attention_zoo as az
from attention_zoo import export
from attention_zoo.cli import main

pytestmark = pytest.mark.runs_together


def failed(model: Any, path: Path, **options: Any) -> list[str]:
    """Return the names of the checks that fail."""
    return [check.name for check in export.verify(model, path, **options).checks if not check.passed]


def cli(*arguments: Any) -> tuple[int, str]:
    out = io.StringIO()
    command = ["attention-zoo", *map(str, arguments)]
    with mock.patch.object(sys, "argv", command), redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), out.getvalue()


# ---- folders for ONNX Runtime GenAI ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("genai") / "folder"
    export.to_genai(decoder(), place, precision="int8")
    return place


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    report = export.verify(decoder(), folder, precision="int8")
    assert report.passed and report.format == "genai", report.to_markdown()
    az.save(decoder(), tmp_path / "gpt")
    code, out = cli("verify", tmp_path / "gpt", folder, "--json")
    assert code == 0 and json.loads(out)["passed"] is True
    with pytest.raises(ValueError, match=r"path: got .* without genai_config.json"):
        export.verify(decoder(), tmp_path)


@pytest.mark.slow
def test_true_is_not_one(folder: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    config = changed / "genai_config.json"
    settings = json.loads(config.read_text())
    ids = [name for name, value in settings["model"].items() if name.endswith("_token_id") and value in (0, 1)]
    settings["model"][ids[0]] = bool(settings["model"][ids[0]])
    config.write_text(json.dumps(settings))
    assert failed(decoder(), changed) == ["settings"]


# ---- LiteRT-LM bundles -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.to_litertlm(decoder(), tmp_path_factory.mktemp("bundle") / "m.litertlm", precision="int8").path


def test_a_bundle(whole: Path, tmp_path: Path) -> None:
    report = export.verify(decoder(), whole)
    assert report.passed and report.format == "litertlm", report.to_markdown()
    again = Path(shutil.copy(whole, tmp_path / "again.litertlm"))
    rewrite_bundle(again, lambda _: None)
    assert not failed(decoder(), again)


@pytest.mark.slow
def test_options_of_the_export_count(folder: Path, whole: Path) -> None:
    assert failed(decoder(), folder, stop_tokens=[1, 5]) == ["settings"]
    assert failed(decoder(), folder, precision="int4") == ["precision"]
    with pytest.raises(ValueError, match=r"stop_tokens: got 5 for model.onnx; accepted: None"):
        export.verify(decoder(), folder / "model.onnx", stop_tokens=5)


@pytest.mark.slow
def test_another_kind_of_model(whole: Path, tmp_path: Path) -> None:
    """The kind is a message without fields."""
    changed = Path(shutil.copy(whole, tmp_path / "changed.litertlm"))
    rewrite_bundle(changed, lambda content: content.message.llm_model_type.gemma3.SetInParent())
    assert failed(decoder(), changed) == ["settings"]
