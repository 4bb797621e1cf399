"""Files with damaged metadata: the error names the entry, in Python and in one line on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from planted.files import rewrite

from attention_zoo import export
from attention_zoo.cli import main
from attention_zoo.runtime.description import rows
from attention_zoo.runtime.metadata import CARD, CONFIG, FILES, OURS, PADDING, SIGNATURES, STOP_TOKENS, stated
from helpers import shared

LATE = (CARD, CONFIG, STOP_TOKENS)  # entries that are not read when a file is loaded


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    file = tmp_path_factory.mktemp("whole") / f"m.{request.param}"
    model = shared("bert", "backbone")
    if request.param == "onnx":
        export.to_onnx(model, file, card={"author": "Ada"})
    else:
        export.to_tflite(model, file, sequence_length=4, card={"author": "Ada"})
    return request.param, file.read_bytes()


@pytest.mark.parametrize("text", ["{", "null", *(pytest.param(t, marks=pytest.mark.slow) for t in ("3", '"text'))])
@pytest.mark.parametrize("key", [SIGNATURES, PADDING, *LATE])
def test_what_cannot_be_read(key: str, text: str, content: tuple[str, bytes], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / f"m.{content[0]}"
    file.write_bytes(content[1])
    rewrite(file, lambda entries: entries.update({key: text}))
    with pytest.raises(ValueError, match=rf"path: the {key.partition('.')[2]} in .* cannot be read: .*; accepted: "):
        export.describe(file)
    with pytest.raises(SystemExit) as ended:
        main(["info", str(file)])
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (2, "") and error.count("\n") == 1 and OURS in error


def test_signatures_that_are_no_objects(content: tuple[str, bytes], tmp_path: Path) -> None:
    file = tmp_path / f"m.{content[0]}"
    file.write_bytes(content[1])
    rewrite(
        file,
        lambda entries: entries.update({SIGNATURES: json.dumps(dict.fromkeys(json.loads(entries[SIGNATURES]), 3))}),
    )
    with pytest.raises(ValueError, match=r"path: the signature in .* cannot be read: .*; accepted: "):
        export.load(file)


def test_names_that_are_not_utf8(content: tuple[str, bytes], tmp_path: Path) -> None:
    """The runtimes give the names of inputs as text."""
    file = tmp_path / f"m.{content[0]}"
    file.write_bytes(content[1].replace(b"attention_mask", b"attention_\xffask"))
    with pytest.raises(
        ValueError, match=r"path: .*(has text that is|cannot read|cannot be read).*; accepted: "
    ) as found:
        export.load(file)
    assert type(found.value) is ValueError


def test_changed_files(content: tuple[str, bytes], tmp_path: Path) -> None:
    file = tmp_path / f"m.{content[0]}"
    file.write_bytes(content[1])
    assert export.describe(file)["unchanged"] is True
    file.write_bytes(content[1].replace(b"Ada", b"Bob"))
    facts = export.describe(file)
    assert facts["unchanged"] is False and facts["card"] == {"author": "Bob"}
    assert ("SHA-256", "does not match: changed after the export") in rows(facts)


def test_what_stands_there() -> None:
    entries = {FILES: '{"encoder": "e.onnx"}', STOP_TOKENS: "[1]", PADDING: '"right"'}
    path = Path("m.onnx")
    assert stated(path, entries, FILES, dict) == {"encoder": "e.onnx"}
    assert stated(path, entries, STOP_TOKENS, list) == [1] and stated(path, entries, PADDING, str) == "right"
    assert [stated(path, {}, FILES, dict), stated(path, {}, FILES, list), stated(path, {}, FILES, str)] == [{}, [], ""]
    with pytest.raises(ValueError, match=r"the files in m\.onnx cannot be read: got \[1\]"):
        stated(path, {FILES: "[1]"}, FILES, dict)
