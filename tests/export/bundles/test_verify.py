"""``verify`` of folders for ONNX Runtime GenAI and of LiteRT-LM bundles, correct and changed."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from rounded_faults import KERNEL, change_numbers, one_scale
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

import attention_zoo as az
from attention_zoo import export
from attention_zoo.cli import main
from attention_zoo.export.bundles.litertlm import bundle
from attention_zoo.runtime.litertlm.runner import section
from attention_zoo.text.tokenizer import Tokenizer
from helpers import tiny

pytestmark = pytest.mark.runs_together

SPECIAL = ["<s>", "</s>", "<|user|>", "<|model|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] + '</s>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)


def tokenizer(template: str = TEMPLATE) -> Tokenizer:
    letters = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    backend = Backend(models.BPE({token: i for i, token in enumerate([*SPECIAL, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend, bos_token="<s>", eos_token="</s>", chat_template=template)


def gpt() -> Any:
    model = tiny("gpt", "llama", vocab_size=100, max_length=60, num_layers=2)
    model.tokenizer = tokenizer()
    return model


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
    export.to_genai(gpt(), place, precision="int8")
    return place


def settings(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        file = folder / "genai_config.json"
        found = json.loads(file.read_text())
        change(found)
        file.write_text(json.dumps(found))

    return changed


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        found = (folder / name).read_text(encoding="utf-8")
        assert old in found
        (folder / name).write_text(found.replace(old, new, 1), encoding="utf-8")

    return changed


GENAI: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "another end token": ("settings", settings(lambda found: found["model"].update(eos_token_id=5))),
    "another number of heads": ("settings", settings(lambda found: found["model"]["decoder"].update(head_size=8))),
    "sampling": ("settings", settings(lambda found: found["search"].update(do_sample=True))),
    "another length": ("settings", settings(lambda found: found["search"].update(max_length=59))),
    "settings that are no JSON": ("settings", lambda folder: (folder / "genai_config.json").write_text("[")),
    "another template": ("tokenizer of the folder", text("chat_template.jinja", "assistant", "model")),
    "no template": ("tokenizer of the folder", lambda folder: (folder / "chat_template.jinja").unlink()),
    "another vocabulary": ("tokenizer of the folder", text("tokenizer.json", '"A": 36', '"A": 37')),
    "another start token": ("tokenizer of the folder", text("tokenizer_config.json", "<s>", "</s>")),
    "a scale doubled": ("weights", lambda folder: change_numbers(folder / "model.onnx", KERNEL, one_scale)),
}


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    report = export.verify(gpt(), folder, precision="int8")
    assert report.passed and report.format == "genai", report.to_markdown()
    az.save(gpt(), tmp_path / "gpt")
    code, out = cli("verify", tmp_path / "gpt", folder, "--json")
    assert code == 0 and json.loads(out)["passed"] is True
    with pytest.raises(ValueError, match=r"path: got .* without genai_config.json"):
        export.verify(gpt(), tmp_path)


@pytest.mark.parametrize(
    "name", [n if n == "another template" else pytest.param(n, marks=pytest.mark.slow) for n in GENAI]
)
def test_a_changed_folder(name: str, folder: Path, tmp_path: Path) -> None:
    check, change = GENAI[name]
    shutil.copytree(folder, tmp_path / "folder")
    change(tmp_path / "folder")
    assert failed(gpt(), tmp_path / "folder") == [check]


# ---- LiteRT-LM bundles -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.to_litertlm(gpt(), tmp_path_factory.mktemp("bundle") / "m.litertlm", precision="int8").path


def changed_bundle(whole: Path, target: Path, change: Callable[[Any], Any], **parts: Any) -> Path:
    """Write the bundle again, with a changed message, another tokenizer or a changed TFLite file."""
    file, place = target.with_suffix(".tflite"), section(whole, "TFLiteModel")
    file.write_bytes(whole.read_bytes()[place.begin : place.end])
    if "numbers" in parts:
        change_numbers(file, KERNEL, parts["numbers"])
    message: Any = export.load(whole).said  # pyright: ignore[reportAttributeAccessIssue]
    change(message)
    bundle(file, parts.get("tokenizer", tokenizer()), message, target, {})
    return target


def prefix(message: Any) -> None:
    message.prompt_templates.user.prefix = "<|model|>user\n"


def template(message: Any) -> None:
    message.jinja_prompt_template = message.jinja_prompt_template.replace("assistant", "model")


def end(message: Any) -> None:
    message.stop_tokens[0].token_ids.ids[0] = 3


def start(message: Any) -> None:
    message.start_token.token_ids.ids.append(1)


BUNDLES: dict[str, tuple[str, Callable[[Any], Any], dict[str, Any]]] = {
    "another template": ("settings", template, {}),
    "another end token": ("settings", end, {}),
    "another prompt prefix": ("settings", prefix, {}),
    "a start token": ("settings", start, {}),
    "fewer tokens": ("settings", lambda message: setattr(message, "max_num_tokens", 9), {}),
    "sampling": ("settings", lambda message: setattr(message.sampler_params, "k", 40), {}),
    "another tokenizer": (
        "tokenizer of the bundle",
        lambda _: None,
        {"tokenizer": Tokenizer(Backend(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0")))},
    ),
    "a scale doubled": ("weights", lambda _: None, {"numbers": one_scale}),
}


def test_a_bundle(whole: Path, tmp_path: Path) -> None:
    report = export.verify(gpt(), whole)
    assert report.passed and report.format == "litertlm", report.to_markdown()
    again = changed_bundle(whole, tmp_path / "again.litertlm", lambda _: None)
    assert not failed(gpt(), again)


@pytest.mark.parametrize(
    "name", [n if n == "another prompt prefix" else pytest.param(n, marks=pytest.mark.slow) for n in BUNDLES]
)
def test_a_changed_bundle(name: str, whole: Path, tmp_path: Path) -> None:
    check, change, parts = BUNDLES[name]
    found = failed(gpt(), changed_bundle(whole, tmp_path / "changed.litertlm", change, **parts))
    assert found == [check]


@pytest.mark.slow
def test_options_of_the_export_count(folder: Path, whole: Path) -> None:
    assert failed(gpt(), folder, stop_tokens=[1, 5]) == ["settings"]
    assert failed(gpt(), folder, precision="int4") == ["precision"]
    with pytest.raises(ValueError, match=r"stop_tokens: got 5 for model.onnx; accepted: None"):
        export.verify(gpt(), folder / "model.onnx", stop_tokens=5)
