"""Model cards in ONNX files, read with ONNX Runtime and onnx. Those of TFLite files are in tflite/test_tasks.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

import attention_zoo as az
from attention_zoo import export
from attention_zoo.cli import main
from helpers import shared, tiny

CARD = {"license": "Apache-2.0", "author": "Ada, Grace", "description": "Stars of a review: 1 … 5.", "name": "Reviews"}


@pytest.mark.parametrize("options", [{}, {"precision": "int8", "least_cosine": 0.5}, {"target": "onnxruntime"}])
def test_onnx(options: Any, tmp_path: Path) -> None:
    model = tiny("gpt", "llama", head_dim=16) if "target" in options else shared("bert", "backbone")
    file = export.to_onnx(model, tmp_path / "m.onnx", card=CARD, **options).path
    read = onnxruntime.InferenceSession(file).get_modelmeta()
    assert (read.description, read.custom_metadata_map["model_author"]) == (CARD["description"], CARD["author"])
    assert read.custom_metadata_map["model_license"] == CARD["license"]
    assert export.describe(file)["card"] == CARD and next(iter(export.describe(file)["card"])) == "name"
    assert export.verify(model, file).passed


def test_both_files_of_a_pair(tmp_path: Path) -> None:
    result = export.to_onnx(shared("seq2seq", "luong"), tmp_path / "m.onnx", card=CARD)
    assert len(result.files) == 2
    for file in result.files:
        properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert properties["model_license"] == CARD["license"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    az.save(tiny("bert", "backbone"), tmp_path / "model")
    file = str(tmp_path / "m.onnx")
    for arguments in (["export", str(tmp_path / "model"), file, "--card", "author=Ada = Grace"], ["info", file]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    assert "Ada = Grace" in capsys.readouterr().out
    for card, said in (("Ada", "card: got 'Ada'; accepted: each name once"), ("licence=MIT", "did you mean")):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(tmp_path / "model"), str(tmp_path / "n.onnx"), "--card", card])
        out = capsys.readouterr()
        assert ended.value.code == 2 and said in out.err and out.err.count("\n") == 1
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("Ada", "card: got str; accepted: texts by name"),
        ({"authors": "Ada"}, "card: got ['authors']; did you mean ['author']?"),
        ({"author": ["Ada"]}, "card: got ['Ada'] for author"),
        ({"author": " "}, "card: got ' ' for author"),
        ({1: "Ada"}, "card: got [1]"),
    ],
)
def test_mistakes(card: Any, said: str, tmp_path: Path) -> None:
    for write, name in ((export.to_onnx, "m.onnx"), (export.to_tflite, "m.tflite")):
        with pytest.raises(ValueError, match=r"^card: got") as refused:
            write(shared("bert", "backbone"), tmp_path / name, card=card)
        assert str(refused.value).startswith(said)
    assert not any(tmp_path.iterdir())
