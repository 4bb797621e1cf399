"""Small runs from a file to files that answer as Keras does, on the command line too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from attention_zoo import cli
from attention_zoo.runs import training
from attention_zoo.runs.plan import plan_of
from attention_zoo.runs.training import Prepared, train
from helpers import numpy

TEXT = "the quick brown fox jumps over the lazy dog\n" * 60


def config(folder: Path, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    data = folder / "text.txt"
    data.write_text(TEXT)
    size = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "max_length": 32}
    whole: dict[str, dict[str, Any]] = {
        "model": {"source": "gpt2", "config": size, "vocabulary": 300},
        "data": {"train": str(data), "length": 16, "held_out": 0.2},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
        "output": {"folder": str(folder / "run"), "samples": ["the quick"], "max_new_tokens": 4},
    }
    return {name: {**whole.get(name, {}), **sections.get(name, {})} for name in {**whole, **sections}}


def test_a_run_learns_and_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / "out" / "gpt.onnx"), str(tmp_path / "out" / "folder")]
    report = train(plan_of(config(tmp_path, output={"files": files})), verbose=0)
    assert capsys.readouterr().out == ""
    assert report["passed"] and [file["path"] for file in report["files"]] == files
    losses = report["history"]["val_loss"]
    assert losses[-1] < losses[0] < np.log(300)
    for file in report["files"]:
        (answer,) = file["answers"]
        assert answer["keras"] == answer["file"]
    model = az.load(report["model"])
    ids = np.array([[5, 9, 3]], "int32")
    np.testing.assert_allclose(numpy(az.load(files[1])(ids)), numpy(model(ids)), atol=1e-5)
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
    assert not list((tmp_path / "run" / "backup").glob("*"))  # the run is complete
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 2


def test_the_order_of_a_run_is_that_of_its_seed(tmp_path: Path) -> None:
    same = [Prepared(plan_of(config(tmp_path))) for _ in range(2)]
    assert all((same[0].train[i][1] == same[1].train[i][1]).all() for i in range(len(same[0].train)))
    ids = np.array([[5, 9, 3]], "int32")
    np.testing.assert_array_equal(numpy(same[0].model(ids)), numpy(same[1].model(ids)))
    assert same[0].steps == 2 * len(same[0].train)
    other = Prepared(plan_of(config(tmp_path, training={"seed": 1})))
    assert not all((same[0].train[i][1] == other.train[i][1]).all() for i in range(len(other.train)))
    assert np.abs(numpy(same[0].model(ids)) - numpy(other.model(ids))).max() > 1e-3


@pytest.mark.filterwarnings("error")
def test_muon_leaves_the_output_projection_to_adam(tmp_path: Path) -> None:
    untied = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "max_length": 32, "tie_embeddings": False}
    sections = {"model": {"config": untied}, "training": {"optimizer": "muon"}}
    prepared = Prepared(plan_of(config(tmp_path, **sections)))  # ``compile`` would warn
    by_adam = {v.path for v in prepared.model.trainable_variables if prepared.model.optimizer._should_use_adamw(v)}
    assert prepared.model.lm_head.kernel.path in by_adam
    assert prepared.model.blocks[0].attention.query_dense.kernel.path not in by_adam


def test_refused(tmp_path: Path) -> None:
    for sections, named in (
        ({"data": {"length": 64}}, "data.length: got 64; accepted: at most 32"),
        ({"model": {"vocabulary": None}}, "^model.source: got gpt2, which has no tokenizer"),
        (
            {"model": {"source": "bert-base", "config": {}}},
            "^model.source: .*, a bert; accepted: a causal language model",
        ),
        ({"model": {"source": "gpt3", "config": {}}}, r"^model.source: got 'gpt3'; did you mean \['gpt2'\]"),
        ({"model": {"config": {"num_layer": 1}}}, "^model.config: GPTConfig: got unknown fields"),
        ({"lora": {"rank": 4}}, "^lora.rank: got 4 for the preset gpt2, whose weights are random"),
        ({"model": {"source": str(tmp_path), "config": {}}}, "^model.vocabulary: got 300 for a model with weights"),
        ({"training": {"accumulation": 1000}}, "^training.accumulation: got 1000; accepted: at most "),
        ({"output": {"samples": ["quick " * 40]}}, "^output.samples: got .* accepted: at most 32 together"),
        ({"output": {"files": ["a.tflite"], "max_length": 64}}, "^output.max_length: got 64; accepted: at most 32"),
    ):
        raw = config(tmp_path, **sections)
        if raw["model"]["vocabulary"] is None:
            del raw["model"]["vocabulary"]
        with pytest.raises(ValueError, match=named):
            Prepared(plan_of(raw))


def test_the_end_of_a_text_is_held_out(tmp_path: Path) -> None:
    raw = config(tmp_path)
    Path(raw["data"]["train"]).write_text("the quick brown fox " * 60 + "\n")  # one line
    prepared = Prepared(plan_of(raw))
    assert prepared.validation is not None and 0.15 < prepared.validation.tokens / prepared.tokens < 0.35
    with pytest.raises(ValueError, match=r"^data.held_out: got 0.9999 of 1201 characters"):
        Prepared(plan_of(raw | {"data": raw["data"] | {"held_out": 0.9999}}))
    pair = tmp_path / "pair.jsonl"
    pair.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(ValueError, match=r"^data.held_out: got 0.2 of 1 examples"):
        Prepared(plan_of(config(tmp_path, data={"train": str(pair)})))


def test_nothing_remains_of_a_run_without_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Any, verbose: Any) -> Any:
        assert (tmp_path / "run" / "backup" / "plan.json").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(Prepared, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        train(plan_of(config(tmp_path)), verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_failed_export_does_not_cost_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup stays until the files are written, and belongs to its plan and data."""
    raw = config(tmp_path, output={"samples": []})

    def full(prepared: Any) -> Any:
        raise OSError("no space left")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="no space left"):
        broken.setattr(training, "shipped", full)
        train(plan_of(raw), verbose=0)
    folder = tmp_path / "run"
    trained = numpy(az.load(folder / "model")(np.array([[5, 9, 3]], "int32")))
    other = {**raw, "training": {**raw["training"], "learning_rate": 1e-3}}
    with pytest.raises(ValueError, match=r"^training.learning_rate: got 0.001, but the interrupted run in .* has 0.01"):
        train(plan_of(other), verbose=0)
    data = Path(raw["data"]["train"])
    data.write_text(TEXT + "more")
    with pytest.raises(ValueError, match=r"^data.train: got 'a file of sha256 .*, but the interrupted run"):
        train(plan_of(raw), verbose=0)
    data.write_text(TEXT)
    report = train(plan_of(raw), verbose=0)
    assert report["history"] == {} and not (folder / "backup").exists()
    np.testing.assert_array_equal(numpy(az.load(folder / "model")(np.array([[5, 9, 3]], "int32"))), trained)
    with pytest.raises(ValueError, match=r"^output.folder: got .*, which has the report of a complete run"):
        train(plan_of(raw), verbose=0)


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(map(str, arguments))
    return int(stopped.value.code or 0)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = config(tmp_path)
    lines = []
    for name, section in raw.items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            table = isinstance(value, dict)
            written = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) if table else json.dumps(value)
            lines.append(f"{key} = {{{written}}}" if table else f"{key} = {written}")
    plan = tmp_path / "plan.toml"
    plan.write_text("\n".join(lines))
    assert run("train", plan, "--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["steps"] == 2 * -(-said["rows"] // 8) and said["length"] == 16 and said["seconds"] > 0
    assert said["peak_bytes"] > 1e8 and said["parameters"]["trained"] == said["parameters"]["all"]
    assert not (tmp_path / "run").exists()
    plan.write_text("\n".join([*lines, "[lora]", "rang = 3"]))
    assert run("train", plan) == 2
    error = capsys.readouterr().err
    assert error.count(os.linesep) == 1 and "lora.rang: got 3" in error and "did you mean ['rank']" in error


@pytest.mark.slow
def test_finetune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adapters are trained on prompts with completions, and merged in the file that is shipped."""
    base = Path(train(plan_of(config(tmp_path)), verbose=0)["model"])
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"prompt": "the quick", "completion": " lazy dog"}) + "\n" for _ in range(16)))
    files = ["--to", tmp_path / "tuned.onnx", "--to", tmp_path / "tuned.tflite"]
    options = ["--lora", 4, "--epochs", 60, "--learning-rate", 0.1, "--batch-size", 8, "--ask", "the quick"]
    assert run("finetune", base, data, *files, *options, "--folder", tmp_path / "tuned", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    for file in report["files"]:
        assert file["passed"] and file["answers"][0]["file"].startswith(" lazy dog")
    assert report["parameters"]["trained"] < report["parameters"]["all"] / 10
    assert (tmp_path / "tuned" / "adapters.safetensors").is_file()
