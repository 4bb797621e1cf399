"""Every value of a config file is checked, with one line that says what is accepted."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from attention_zoo.runs.command import finetune_plan, named_options
from attention_zoo.runs.plan import SECTIONS, format_of, plan_of, read_plan


@pytest.fixture
def config(tmp_path: Path) -> dict[str, dict[str, Any]]:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a"}\n')
    return {
        "model": {"source": "gpt2"},
        "data": {"train": str(data)},
        "output": {"folder": str(tmp_path / "run")},
    }


WRONG = {
    "accepted: a number": "much",
    "accepted: an integer": 0.5,
    "accepted: one of": "another",
    "accepted: true or false": 1,
    "accepted: a list of": "query",
    "accepted: a table": [],
    "accepted: a": "",
}


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in SECTIONS.items() for key in keys])
def test_every_value_is_checked(section: str, key: str, config: dict[str, dict[str, Any]]) -> None:
    field = SECTIONS[section][key]
    wrong = next(value for words, value in WRONG.items() if f"accepted: {field.accepted}".startswith(words))
    config.setdefault(section, {})[key] = wrong
    with pytest.raises(ValueError) as caught:
        plan_of(config)
    assert str(caught.value) == f"{section}.{key}: got {wrong!r}; accepted: {field.accepted}"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "epochs", 0),
        ("training", "epochs", True),
        ("training", "learning_rate", 0),
        ("training", "learning_rate", float("nan")),
        ("training", "warmup", 1.0),
        ("training", "global_clipnorm", float("inf")),
        ("data", "held_out", -0.1),
        ("lora", "rank", 0),
        ("model", "vocabulary", 10),
        ("model", "vocabulary", 10**9),  # more than the memory of the process
        ("training", "seed", 2**32),
    ],
)
def test_limits(section: str, key: str, value: Any, config: dict[str, dict[str, Any]]) -> None:
    config.setdefault(section, {})[key] = value
    with pytest.raises(ValueError, match=f"^{section}.{key}: got "):
        plan_of(config)


def test_unknown_names(config: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ValueError) as caught:
        plan_of({**config, "training": {"epoch": 3}})
    assert str(caught.value).startswith(
        "training.epoch: got 3, which is no key of [training]; did you mean ['epochs']? accepted: "
        "epochs (an integer of at least 1), batch_size (an integer of at least 1), "
    )
    with pytest.raises(ValueError, match=r"got a section 'modle'; did you mean \['model'\]\? accepted: \['model', "):
        plan_of({**config, "modle": {}})
    with pytest.raises(ValueError, match=r"^data.train: got nothing; accepted: a .jsonl file"):
        plan_of({**config, "data": {}})
    with pytest.raises(ValueError, match=r"^model: got 3; accepted: a section with source"):
        plan_of({**config, "model": 3})


def test_values_that_exclude_each_other(config: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for changed, named in (
        ({"data": {"train": str(tmp_path / "none.jsonl")}}, "data.train"),
        ({"data": {**config["data"], "validation": config["data"]["train"], "held_out": 0.1}}, "data.held_out"),
        ({"model": {"source": "gpt2", "tokenizer": "a", "vocabulary": 300}}, "model.vocabulary"),
        ({"lora": {"alpha": 2.0}}, "lora.rank"),
        ({"output": {**config["output"], "keep_best": 2}}, "output.keep_best"),
        ({"output": {**config["output"], "files": ["model.pt"]}}, "output.files"),
    ):
        with pytest.raises(ValueError, match=f"^{named}: got"):
            plan_of({**config, **changed})


def test_defaults_and_files(config: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        f'[model]\nsource = "gpt2"\n[data]\ntrain = "{config["data"]["train"]}"\n[output]\nfolder = "run"\n[lora]\n'
        "rank = 4\n"
    )
    plan = read_plan(file)
    assert plan.training["batch_size"] == 8 and plan.learning_rate == 1e-3 and plan.lora is not None
    assert plan.lora["targets"] == ("query", "value")
    assert plan_of(config).lora is None and plan_of(config).learning_rate == 1e-4
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))  # as editors of Windows write it
    assert read_plan(file) == plan
    for content, said in ((b"[model\n", "plan.toml is not TOML"), ("[model]".encode("utf-16"), "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^config: .*{said}"):
            read_plan(file)
    with pytest.raises(ValueError, match=r"^config: got '.*none.toml', which is not a file; accepted: a TOML file"):
        read_plan(tmp_path / "none.toml")


def test_options_of_finetune(config: dict[str, dict[str, Any]]) -> None:
    options = {"lora.rank": 8, "lora.targets": None, "training.epochs": 2}
    plan = finetune_plan("gpt2", config["data"]["train"], "run", ["a.onnx"], options)
    assert plan.lora == {"rank": 8, "alpha": None, "targets": ("query", "value")}
    assert plan.output["files"] == ["a.onnx"] and plan.training["epochs"] == 2


def test_places_are_checked_before_the_training(config: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    data, folder = config["data"]["train"], config["output"]["folder"]
    for output, said in (
        ({"folder": data}, rf"^output.folder: got '{data}', but {data} is not a folder; accepted: a folder"),
        ({"folder": f"{data}/run"}, "^output.folder: got .* is not a folder"),
        ({"files": [f"{data}/a.onnx"]}, "^output.files: got .* is not a folder"),
        ({"files": ["a.onnx", "a.onnx"]}, "^output.files: got 'a.onnx', which the run writes already"),
        ({"files": [f"{folder}/model"]}, "^output.files: .* which the run writes already"),
        ({"files": [folder], "precision": "int8"}, "^output.files"),
        ({"files": [str(tmp_path / "a")], "precision": "int8"}, "^output.precision: got 'int8' without a file"),
        ({"files": ["a.onnx"], "max_length": 32}, "^output.max_length: got 32 without a file .* .tflite or .litertlm"),
    ):
        with pytest.raises(ValueError, match=said):
            plan_of({**config, "output": {**config["output"], **output}})
    (tmp_path / "b.onnx").mkdir()
    with pytest.raises(ValueError, match="which is a folder; accepted: the name of a file"):
        plan_of({**config, "output": {**config["output"], "files": [str(tmp_path / "b.onnx")]}})
    assert [format_of(name) for name in ("a.onnx", "out/model-1.7b", "folder", "a.pt")] == ["onnx", "", "", "pt"]
    plan_of({**config, "output": {**config["output"], "files": [str(tmp_path / "model-1.7b")]}})


def test_finetune_names_its_options(config: dict[str, dict[str, Any]]) -> None:
    for options, files, said in (
        ({"lora.rank": 0}, [], "--lora: got 0; accepted: an integer of at least 1"),
        ({"training.batch_size": 0}, [], "--batch-size: got 0; accepted: an integer of at least 1"),
        ({}, ["a.pt"], "--to: got 'a.pt'; accepted: names that end in .onnx, .tflite or .litertlm, or folders"),
    ):
        with pytest.raises(ValueError) as caught, named_options():
            finetune_plan("gpt2", config["data"]["train"], "run", files, options)
        assert str(caught.value) == said
    with pytest.raises(ValueError, match=r"^data: got 'none.jsonl'"), named_options():
        finetune_plan("gpt2", "none.jsonl", "run", [], {})


def test_the_documentation_has_every_key(config: dict[str, dict[str, Any]]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
    blocks = [tomllib.loads(block.partition("```")[0]) for block in page.split("```toml\n")[1:]]
    raw: dict[str, Any] = {name: section for block in blocks for name, section in block.items()}
    shown = {f"{name}.{key}" for name, section in raw.items() for key in section}
    assert shown | {"model.tokenizer", "data.validation"} == {
        f"{n}.{key}" for n, keys in SECTIONS.items() for key in keys
    }
    raw["data"] |= {"train": config["data"]["train"], "held_out": 0.1}
    raw["output"] |= {"files": ["run/model.onnx", "run/model.tflite"]}
    plan = plan_of(raw)
    for name in ("training", "lora"):
        for key, value in getattr(plan, name).items():
            assert SECTIONS[name][key].default in (None, value, tuple(value) if isinstance(value, list) else value), key
