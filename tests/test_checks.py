"""Validation of numeric arguments.

Numbers of Python and NumPy are accepted alike, booleans are rejected, and the stored values are plain Python numbers.
"""

from __future__ import annotations

import json
import linecache
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from attention_zoo import checks
from attention_zoo.finetuning.optimizers import WarmupLinearDecay
from attention_zoo.generation.search import Options
from attention_zoo.layers.attention import MultiHeadAttention
from attention_zoo.layers.position import RelativePositionBias
from attention_zoo.layers.rotary import check_scaling
from helpers import python

WHOLE = [3, np.int64(3), np.int32(3), np.uint8(3)]
BROKEN = [0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), Fraction(1, 2)]
NEITHER = [True, np.True_, np.bool_(False), "3", None, 1j, np.array(3), np.array([3]), [3]]


def same(actual: Any, expected: Any) -> bool:
    """Return whether the values are equal and have the same type."""
    return type(actual) is type(expected) and actual == expected


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_integers_of_every_kind(value: Any) -> None:
    assert checks.is_integer(value) and checks.is_number(value)
    for given in (
        checks.integer("n", value), checks.positive_integer("n", value), checks.multiple("n", value, 3),
        checks.positive_number("n", value), checks.plain(value),
    ):  # fmt: skip
        assert same(given, 3)


@pytest.mark.parametrize("value", BROKEN, ids=repr)
def test_numbers_of_every_kind(value: Any) -> None:
    assert checks.is_number(value) and not checks.is_integer(value)
    for given in (checks.positive_number("n", value), checks.rate("n", value), checks.plain(value)):
        assert same(given, 0.5)
    with pytest.raises(ValueError, match=r"^n: got .*; accepted: a positive integer$"):
        checks.positive_integer("n", value)


@pytest.mark.parametrize("value", NEITHER, ids=repr)
def test_what_is_no_number(value: Any) -> None:
    assert not checks.is_integer(value) and not checks.is_number(value)
    for check in (checks.integer, checks.positive_integer, checks.positive_number, checks.rate):
        with pytest.raises(ValueError, match=r"^n: got .*; accepted: "):
            check("n", value)


def test_checks_need_python_alone() -> None:
    code = "import sys, importlib.util as u; s = u.spec_from_file_location('checks', sys.argv[1]);"
    code += "m = u.module_from_spec(s); s.loader.exec_module(m); assert 'numpy' not in sys.modules"
    python(code, sys.modules["attention_zoo.checks"].__file__)


def test_options_keep_plain_numbers() -> None:
    given = {"max_new_tokens": np.int64(3), "temperature": np.float32(0.5), "top_k": np.int32(4), "seed": np.uint8(7)}
    given |= {"top_p": np.float16(0.5), "min_p": np.float64(0.25), "repetition_penalty": np.float32(1.5)}
    found = Options(**given)
    assert all(same(getattr(found, name), value.item()) for name, value in given.items())


def test_configs_and_layers_keep_plain_numbers() -> None:
    """Configs must be JSON-serializable, so their numbers have Python's own types."""
    fields = {
        "vocab_size": np.int64(50),
        "num_layers": np.int32(1),
        "num_heads": np.uint8(2),
        "eos_token_id": np.int64(4),
    }
    config = az.GPTConfig(**fields, hidden_dim=np.int64(8), dropout=np.float32(0.5), rope_theta=np.float64(100.0))
    assert json.loads(json.dumps(config.to_dict()))["eos_token_id"] == 4
    assert same(config.dropout, 0.5) and same(config.head_dim, 4)
    for layer in (
        MultiHeadAttention(np.int64(4), key_dim=np.int32(2), num_kv_heads=np.int64(2)),
        RelativePositionBias(np.int64(2), num_buckets=np.int64(8), max_distance=np.int64(20)),
    ):
        kept = layer.get_config()
        assert all(type(kept[name]) is int for name in ("num_heads", "key_dim", "num_buckets") if name in kept)
    assert json.dumps(check_scaling({"rope_type": "linear", "factor": np.float32(2.0)}))
    assert json.dumps(WarmupLinearDecay(np.float32(0.5), np.int64(1), np.int64(3)).get_config())
    with pytest.raises(ValueError, match=r"^num_layers: got .*True.*; accepted: a positive integer"):
        az.GPTConfig(num_layers=np.True_)


def test_warnings_name_the_line_that_called_the_package() -> None:
    inner: dict[str, Any] = {"__name__": "attention_zoo.inner", "warn": checks.warn}
    exec("def outer(depth):\n    outer(depth - 1) if depth else warn('odd')", inner)
    for depth in (0, 1, 7):
        with pytest.warns(UserWarning, match="^odd$") as told:
            inner["outer"](depth)
        where = linecache.getline(told[0].filename, told[0].lineno)
        assert told[0].filename == __file__ and where.strip() == 'inner["outer"](depth)'
