"""The command line: exit codes, standard output and standard error.

Each exit code is tested once with the installed command in a new process.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

import attention_zoo as az
from attention_zoo.cli import main
from attention_zoo.zoo.registry import preset
from helpers import tiny


def process(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a new process."""
    command = [str(Path(sys.executable).with_name("attention-zoo")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=os.path.sep)


def cli(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has imported TensorFlow already."""
    command, out, err, code = ["attention-zoo", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def test_list_is_light() -> None:
    listed = process("list", "vit*", "--json")
    rows = json.loads(listed.stdout)
    assert (listed.returncode, [row["name"] for row in rows]) == (0, az.list_models("vit*"))
    assert rows[0] == {"name": "vit-tiny-16", "family": "vit", **{k: rows[0][k] for k in ("source", "licence")}} | {
        "parameters": preset("vit-tiny-16").parameters
    }
    code = (
        "import sys; sys.argv = ['attention-zoo', '--help']; from attention_zoo.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nassert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=os.path.sep)
    assert done.returncode == 0, done.stderr
    assert "export" in done.stdout


def test_export_verify_bench(tmp_path: Path) -> None:
    """Check the exit codes: 0 for an export, 0 if the file matches the model, and 1 for another model."""
    az.save(tiny("bert", "backbone"), tmp_path / "model")
    az.save(tiny("bert", "backbone", seed=4), tmp_path / "other")
    file = tmp_path / "m.onnx"
    made = cli("export", tmp_path / "model", file, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["bytes"] == file.stat().st_size
    passed = cli("verify", tmp_path / "model", file, "--json")
    assert (passed.returncode, json.loads(passed.stdout)["passed"]) == (0, True)
    failed = process("verify", tmp_path / "other", file, "--json")
    assert (failed.returncode, json.loads(failed.stdout)["passed"]) == (1, False)
    assert not failed.stderr, "what libraries greet with is not for the terminal"
    timed = cli("bench", file, "--sequence", 8, "--repeats", 3, "--json")
    assert json.loads(timed.stdout)["shapes"]["input_ids"] == [1, 8]


def test_generate_and_plot(tmp_path: Path) -> None:
    """Generate from a folder and both files, as ids and, with a tokenizer in the same folder, as texts; then plot."""
    model = tiny("gpt", "gpt2")
    az.save(model, tmp_path / "model")
    words = {f"w{i}": i for i in range(97)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for arguments in (("m.onnx",), ("m.tflite", "--prefill", 4, "--max-length", 24)):
        assert cli("export", tmp_path / "model", tmp_path / arguments[0], *arguments[1:]).returncode == 0
    prompts = np.array([[0, 0, 5], [7, 8, 9]]), np.array([[0, 0, 1], [1, 1, 1]])
    expected = model.generate(*prompts, max_new_tokens=6)[:, 3:].tolist()
    options = ("--max-new-tokens", 6, "--json")
    for source in ("model", "m.onnx", "m.tflite"):
        by_id = cli("generate", tmp_path / source, "--ids", "5", "--ids", "7 8,9", *options)
        assert [row["ids"] for row in json.loads(by_id.stdout)] == expected, by_id.stderr
    by_text = json.loads(cli("generate", tmp_path / "m.onnx", "w5", "w7 w8 w9", *options).stdout)
    assert [row["text"] for row in by_text] == ["".join(f" w{i}" for i in row) for row in expected]
    stop = f"w{expected[1][1]}"
    stopped = cli("generate", tmp_path / "m.onnx", "w7 w8 w9", "--stop", stop, *options)
    (row,) = json.loads(stopped.stdout)
    assert stop not in row["text"].split() and (row["ids"], row["finish_reason"]) == (expected[1][:1], "stop")
    several = cli("generate", tmp_path / "m.onnx", "w5", "w7 w8 w9", "--max-new-tokens", 6).stdout
    assert several.splitlines()[::3] == ["> w5", "> w7 w8 w9"], "several are told apart"

    drawn = cli("plot", "attention", tmp_path / "model", tmp_path / "heads.png", "--ids", "1 2 3 4")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    for arguments, message in (
        (("generate", tmp_path / "m.onnx"), "prompts: got none or both kinds"),
        (("generate", tmp_path / "m.onnx", "--ids", "five"), "ids: got 'five'"),
        (("generate", tmp_path / "m.onnx", "--ids", "97"), "input_ids: got values from 97 to 97"),
        (("generate", tmp_path / "m.onnx", "--ids", "5", "--top-k", 3), "temperature: got 0"),
        (("generate", tmp_path / "m.onnx", "w5", "--tokenizer", tmp_path / "none.json"), "tokenizer: none at"),
        (("plot", "attention", tmp_path / "model", tmp_path / "heads.gif"), "path: got"),
        (("plot", "rollout", tmp_path / "model", tmp_path / "r.png"), "accepted: "),
    ):
        done = cli(*arguments)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_keras_files(tmp_path: Path) -> None:
    """Check that every command that takes a model reads what ``convert`` writes, including the tokenizer."""
    source = Path(__file__).parent / "goldens" / "llama-gguf" / "q8_0.gguf"
    file = tmp_path / "m.keras"
    assert cli("convert", source, file).returncode == 0  # the suffix says the format
    said = [json.loads(cli("info", path, "--json").stdout) for path in (source, file)]
    assert said[0] == {**said[1], "name": str(source)}
    said = [cli("generate", path, "ab", "--max-new-tokens", 4, "--json").stdout for path in (source, file)]
    assert said[0] == said[1] and json.loads(said[0])
    assert cli("plot", "attention", file, tmp_path / "a.png", "--ids", "1 2 3").returncode == 0
    assert cli("export", file, tmp_path / "m.onnx", "--no-cache").returncode == 0
    assert cli("convert", file, tmp_path / "folder", "--to", "zoo").returncode == 0
    assert (tmp_path / "folder" / "tokenizer.json").is_file()
    assert cli("convert", file, tmp_path / "m.gguf", "--dtype", "f16").returncode == 0
    written = json.loads(cli("generate", tmp_path / "m.gguf", "ab", "--max-new-tokens", 4, "--json").stdout)
    assert [len(one["ids"]) for one in written] == [len(one["ids"]) for one in json.loads(said[0])]
    done = cli("convert", file, tmp_path / "m.onnx")
    assert done.returncode == 2 and "a format of attention-zoo export" in done.stderr
    done = cli("convert", file, tmp_path / "m.bin", "--to", "gguf")
    assert done.returncode == 2 and "accepted for gguf: a name that ends in .gguf" in done.stderr
    done = cli("info", tmp_path / "none.keras")
    assert done.returncode == 2 and "none.keras, which is not there" in done.stderr


def test_any_keras_model(tmp_path: Path) -> None:
    """Check that ``export`` and ``verify`` accept a ``.keras`` file of a third-party model."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    y = keras.layers.Embedding(20, 8)(ids)
    keras.Model(ids, keras.layers.Dense(2, name="label")(keras.layers.LSTM(4)(y))).save(tmp_path / "m.keras")
    done = cli("export", tmp_path / "m.keras", tmp_path / "m.onnx", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["greatest_difference"] < 2e-6, done.stderr
    done = cli("verify", tmp_path / "m.keras", tmp_path / "m.onnx", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["passed"]
    done = cli("export", tmp_path / "m.keras", tmp_path / "m.tflite")
    assert done.returncode == 2 and "sequence_length: got none for 'sequence' of ids" in done.stderr
    (tmp_path / "bad.keras").write_bytes(b"PK")
    done = cli("export", tmp_path / "bad.keras", tmp_path / "n.onnx")
    assert done.returncode == 2 and "bad.keras cannot be read" in done.stderr and done.stderr.count("\n") == 1


OWN_LAYER = """
import keras

@keras.saving.register_keras_serializable("mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_a_model_of_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the missing class is named, that ``--import`` imports it, and that a shape can be given."""
    (tmp_path / "own_layers.py").write_text(OWN_LAYER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    x = keras.Input((3,), name="x")
    keras.Model(x, importlib.import_module("own_layers").Twice()(x)).save("m.keras")
    del sys.modules["own_layers"], keras.saving.get_custom_objects()["mine>Twice"]
    done = cli("export", "m.keras", "new/m.onnx")
    assert done.returncode == 2 and "classes ['mine>Twice'], which are not known" in done.stderr
    assert "--import MODULE" in done.stderr and done.stderr.count("\n") == 1
    shape = ("--import", "own_layers.py", "--input-signature", "x=2,3")
    done = cli("export", "m.keras", "m.onnx", *shape)
    assert done.returncode == 0, done.stderr
    assert cli("verify", "m.keras", "m.onnx", *shape).returncode == 0
    facts = json.loads(cli("info", "m.keras", "--import", "own_layers", "--json").stdout)
    assert facts["inputs"][0]["dims"] == ["batch", 3]
    done = cli("export", "m.keras", "m.onnx", "--import", "none_such")
    assert done.returncode == 2 and "import: got 'none_such': ModuleNotFoundError" in done.stderr
    assert not (tmp_path / "new").exists()


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
    done = (process if arguments[0] == "info" else cli)(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if "Missing" not in message:
        assert len(done.stderr.strip().splitlines()) == 1
