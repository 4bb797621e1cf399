"""Every value of a config file is checked, with one line that says what is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attention_zoo.runs.command import finetune_plan
from attention_zoo.runs.plan import SECTIONS, plan_of, read_plan


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
    file.write_text("[model\n")
    with pytest.raises(ValueError, match=r"^config: .*plan.toml is not TOML"):
        read_plan(file)


def test_options_of_finetune(config: dict[str, dict[str, Any]]) -> None:
    options = {"lora.rank": 8, "lora.targets": None, "training.epochs": 2}
    plan = finetune_plan("gpt2", config["data"]["train"], "run", ["a.onnx"], options)
    assert plan.lora == {"rank": 8, "alpha": None, "targets": ("query", "value")}
    assert plan.output["files"] == ["a.onnx"] and plan.training["epochs"] == 2
