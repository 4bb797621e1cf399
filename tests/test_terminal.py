"""Output of the command line: progress on a terminal, errors in one line, and descriptions of files."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import attention_zoo as az
from attention_zoo import export
from attention_zoo.cli import main
from attention_zoo.needs import named_extras
from attention_zoo.terminal import working
from attention_zoo.text.prompts import unescaped
from helpers import python, refusing, tiny


def cli(*arguments: Any) -> tuple[int, str, str]:
    """Run a command, and return its exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0, out.getvalue(), err.getvalue()  # pyright: ignore


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("exprot",), "No such command 'exprot'. Did you mean 'export'"),
        (("generate", "gpt2", "--temprature", "1"), "--temperature"),
        (("bench", "m.onnx", "--repeats", "x"), "Invalid value for '--repeats'"),
        (("verify", "gpt2"), "Missing argument 'file'"),
        (("bench", "no/m.onnx"), "file: got no/m.onnx, which is not a file"),
        (("verify", "gpt2", "no.onnx"), "file: got no.onnx, which is not a file"),
        (("info", "no/such/folder"), "model: got no/such/folder, which is not there; accepted: a folder"),
        (("info", "no.gguf"), "model: got no.gguf, which is not there"),
        (("info", "no.tflite"), "name: got no.tflite, which is not a file"),
        (("generate", "no.onnx", "--ids", "5"), "model: got no.onnx, which is not a file"),
        (("info", "minilm-16"), "did you mean ['minilm-l6']?"),
        (("convert", "gpt2", "folder", "--to", "hugingface"), "to: got 'hugingface'"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "") and message in err
    assert err.startswith("attention-zoo: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_and_version() -> None:
    assert cli("--version") == (0, f"attention-zoo {az.__version__}\n", "")
    for arguments in (("-h",), ("--help",), ("bench", "-h"), ("bench", "--help")):
        code, out, err = cli(*arguments)
        assert (code, err) == (0, "") and "--help" in out and "-h" in out


def test_an_export_that_went_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> float:
        raise export.ExportError("the exported file differs\nfrom Keras")

    az.save(tiny("bert", "backbone"), tmp_path / "model")
    monkeypatch.setattr("attention_zoo.export.onnx.exporter.quick_check", broken)
    code, out, err = cli("export", tmp_path / "model", tmp_path / "m.onnx")
    assert (code, out, err) == (1, "", "attention-zoo: the exported file differs from Keras\n")
    monkeypatch.setattr("attention_zoo.export.onnx.exporter.quick_check", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # unexpected errors keep their traceback
        main(["export", str(tmp_path / "model"), str(tmp_path / "m.onnx")])


def test_near_names_are_told_in_python_too() -> None:
    for call, near in (
        (lambda: az.create("gpt2", num_layer=3), "num_layers"),
        (lambda: az.create("bert", activation="gelu_"), "gelu"),
        (lambda: az.create("vit-tiny16"), "vit-tiny-16"),
        (lambda: tiny("gpt", "gpt2").generate([[5]], temprature=1.0), "temperature"),
        (lambda: tiny("gpt", "gpt2")({"input_id": np.array([[5]])}), "input_ids"),
    ):
        with pytest.raises(ValueError, match=rf"did you mean \['.*{near}.*'\]\? accepted: "):
            call()


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_info_reads_files(format: str, files: Any) -> None:
    model, result = files("gpt", "gpt2", format, cache=True)
    code, out, _ = cli("info", result.path, "--json")
    facts = json.loads(out)
    assert (code, facts["family"], facts["format"], facts["task"]) == (0, "gpt", format, "text-generation")
    assert facts["bytes"] == result.path.stat().st_size
    assert az.GPTConfig(**facts["config"]) == model.config
    if format == "onnx":
        graph = onnx.load(result.path).graph
        assert list(facts["graphs"]) == ["decoder"]
        for side, nodes in (("inputs", graph.input), ("outputs", graph.output)):
            assert [spec["name"] for spec in facts["graphs"]["decoder"][side]] == [node.name for node in nodes]
        assert sum(facts["operators"].values()) == len(graph.node)
        assert facts["operators"]["LayerNormalization"] == 5
        assert (facts["opset"], facts["ir_version"], facts["least_runtime"]) == (17, 8, "1.12")
    else:
        assert set(facts["graphs"]) == {"decode", "prefill_32"}
        assert facts["operators"] == result.operators
    _, out, _ = cli("info", result.path)
    assert "gpt2" not in out and "gpt, text-generation" in out and "hidden_dim" in out and "cache tensors" in out


def test_info_of_another_s_file(tmp_path: Path) -> None:
    spec = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, "n"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", spec[:1], spec[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    facts = export.describe(tmp_path / "m.onnx")
    assert (facts["family"], facts["operators"]) == (None, {"Relu": 1})
    assert facts["graphs"]["model"]["inputs"][0]["dims"] == (2, "n")
    assert "not of attention_zoo" in repr(export.load(tmp_path / "m.onnx"))


@pytest.mark.slow
def test_bench_takes_a_file_s_own_sizes(tmp_path: Path) -> None:
    made = export.to_tflite(tiny("bert", "backbone"), tmp_path / "m.tflite", batch_size=3, sequence_length=5)
    code, out, err = cli("bench", made.path, "--repeats", 2)
    assert (code, err) == (0, "") and "input_ids (3, 5)" in out and out.count("\n") == 4
    assert max(map(len, out.splitlines())) < 140
    assert json.loads(cli("bench", made.path, "--repeats", 2, "--json")[1])["shapes"]["input_ids"] == [3, 5]
    code, _, err = cli("bench", made.path, "--sequence", 6)
    assert code == 2 and "got sequence of 6; accepted: at most 5" in err


def test_objects_say_what_they_are(files: Any) -> None:
    path = files("gpt", "gpt2", "onnx", cache=True)[1].path
    said = repr(export.load(path))
    assert str(path) in said and "(gpt, decoder)" in said and "a state of 4 tensors" in said
    assert "input_ids (batch, sequence)" in said and "logits (batch, sequence, 97)" in said
    words = Tokenizer(WordLevel({"a": 0, "[PAD]": 1}, unk_token="a"))
    tokenizer = az.Tokenizer(words, pad_token="[PAD]", model_max_length=9)
    said = repr(tokenizer)
    assert all(part in said for part in ("WordLevel", "vocab_size=2", "model_max_length=9", "'pad_token': '[PAD]'"))


# ---- missing packages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "code", "advice"),
    [
        ("onnxruntime", "az.export.load(sys.argv[1])", "onnxruntime is not installed; .*'attention-zoo[onnx]'"),
        ("keras", "az.create('gpt2')", "keras is not installed; .*'attention-zoo'"),
        ("tensorflow", "az.layers", "tensorflow is not installed; .*'attention-zoo[tensorflow]'"),
        ("tokenizers", "from attention_zoo.text import vocabularies as v; v.backend_class()", "'attention-zoo'"),
    ],
)
def test_packages_are_named(package: str, code: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    call = f"import attention_zoo as az\ntry: {code}\nexcept ImportError as error: print(error)"
    said = python(refusing(package) + call, tmp_path / "m.onnx")
    for part in advice.split(".*"):
        assert part in said


def test_the_command_line_without_its_library() -> None:
    code = "try: import attention_zoo.cli\nexcept SystemExit as ended: print(ended.code)"
    assert python(refusing("typer") + "sys.stderr = sys.stdout\n" + code).splitlines() == [
        "attention-zoo: typer is not installed; get it with: pip install 'attention-zoo'",
        "2",
    ]


def test_other_imports_fail_as_they_do() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"), named_extras():
        import nowhere  # noqa: F401  # pyright: ignore


# ---- progress --------------------------------------------------------------------------------------------------------


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a terminal shows the elapsed time, also while libraries are silenced, and that a file gets nothing."""
    from attention_zoo.runtime.quiet import quiet

    err = io.StringIO()
    with redirect_stderr(err), working("exporting"):
        pass
    assert err.getvalue() == ""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with working("exporting [m].onnx"), quiet():
            pass
    read = b""
    with suppress(OSError):  # Linux raises it at the end; a single read may return only a part
        while part := os.read(ours, 10_000):
            read += part
    said = read.decode()
    os.close(ours)
    assert "exporting [m].onnx" in said and "0:00:0" in said


def test_characters_that_the_console_has_not() -> None:
    """An answer of a model is shown as far as the console can, rather than lost."""
    code = "from attention_zoo.terminal import accept_any_text; accept_any_text(); print('\u00e9\u2713', input())"
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], input=b"a\x81\n", capture_output=True, env=env, check=True)
    assert done.stdout.rstrip() == b"\xe9? a?"


@pytest.mark.slow
def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    source = Path(__file__).parent / "goldens" / "llama-gguf" / "q8_0.gguf"
    assert unescaped(r"a\nb\\n\tc\x") == "a\nb\\n\tc\\x"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("attention-zoo")), "generate", source, b"a\xff"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "text: got 'a\\udcff', with bytes that are not UTF-8; accepted: UTF-8 text" in done.stderr
