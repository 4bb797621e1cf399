"""What editors and type checkers see of the package, and that it agrees with the package itself."""

from __future__ import annotations

import importlib.util
import sys
import typing
from dataclasses import fields
from pathlib import Path

import pytest

import attention_zoo as az
from attention_zoo import zoo
from attention_zoo.generation.search import GenerateOptions, Options
from attention_zoo.zoo import _HOMES
from helpers import ROOT, python
from type_checks import SCRIPTS, check_user_scripts


@pytest.mark.slow
def test_pyright_checks_user_scripts(tmp_path: Path) -> None:
    """Check scripts outside of the repository against the editable installation of this environment."""
    check_user_scripts(sys.executable, tmp_path)


@pytest.mark.slow
def test_the_correct_script_runs() -> None:
    python((SCRIPTS / "correct.py").read_text(), ROOT / "tests" / "goldens" / "llama-gguf" / "tokenizer.json")


def test_public_names_are_listed_once() -> None:
    """``__all__`` is literal for the sake of type checkers."""
    assert sorted(zoo.__all__) == sorted([*_HOMES, "create", "list_models"])
    assert sorted(az.__all__) == dir(az) == sorted([*zoo.__all__, *az._MODULES, *az._HOMES])
    for module in (az, zoo):
        assert all(getattr(module, name) is not None for name in module.__all__)


def test_generated_types_are_current() -> None:
    """``zoo/typed.py`` is what tools/make_typed.py writes for the configs and presets there are."""
    spec = importlib.util.spec_from_file_location("make_typed", ROOT / "tools" / "make_typed.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "zoo" / "typed.py").read_text() == tool.source(), "run: python tools/make_typed.py"


def test_options_of_generate_are_typed() -> None:
    own = {entry.name: entry.type for entry in fields(Options)}
    assert {name: hint.__forward_arg__ for name, hint in GenerateOptions.__annotations__.items()} == own
    assert typing.get_type_hints(GenerateOptions)
