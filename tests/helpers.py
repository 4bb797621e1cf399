"""Helpers shared by the tests: models with random weights, inputs built from a signature, parametrization."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo.signature import BATCHES
from attention_zoo.zoo.registry import families

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = [(family, variant) for family, cls in families().items() for variant in cls.tiny()]
# The variants after the first two of each family: tests that compile or export these run only with make test-all.
FURTHER = {(family, variant) for family, cls in families().items() for variant in list(cls.tiny())[2:]}
ALL_BUT_ONE = FURTHER | {(family, next(iter(cls.tiny()))) for family, cls in families().items()}  # all but the second
FURTHER_BUT_GPT = {pair for pair in FURTHER if pair[0] != "gpt"}  # GPT's variants differ in position encodings
TEXT = [pair for pair in VARIANTS if pair[0] not in ("vit", "clip", "whisper")]


def every_variant(pairs: list[tuple[str, str]] = VARIANTS, slow: Collection[tuple[str, str]] = ()) -> Any:
    """Parametrize a test over ``family, variant``; the cases in `slow` run only with make test-all."""
    marks = {True: [pytest.mark.slow], False: []}
    cases = [pytest.param(*pair, marks=marks[pair in slow], id="-".join(pair)) for pair in pairs]
    return pytest.mark.parametrize(("family", "variant"), cases)


def in_precisions(quickly: Mapping[str, Collection[str]]) -> Any:
    """Parametrize a test over ``family, variant, precision``.

    The fast tests cover one variant of each family, in the precisions that `quickly` lists for that family.
    """
    cases = []
    for pair in VARIANTS:
        for precision in ("fp16", "int8", "int4"):
            fast = pair not in ALL_BUT_ONE and precision in quickly.get(pair[0], ())
            marks = [] if fast else [pytest.mark.slow]
            cases.append(pytest.param(*pair, precision, marks=marks, id="-".join((*pair, precision))))
    return pytest.mark.parametrize(("family", "variant", "precision"), cases)


def randomise(model: Any, seed: int = 0, spread: float = 0.2) -> Any:
    """Give every weight a random value: zeros, ones and equal rows would hide a wrong or forgotten weight.

    Multiplicative weights (scales, gammas) are centered at 1, all others at 0.
    """
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        name = variable.path.rpartition("/")[2]
        if "seed_generator" in variable.path:
            continue
        centre = 1.0 if name in ("gamma", "scale") else 0.0
        variable.assign((centre + generator.normal(0, spread, variable.shape)).astype("float32"))
    return model


def tiny(family: str, variant: str, *, seed: int = 0, dtype: Any = None, **overrides: Any) -> Any:
    """Create a new model with random weights."""
    cls = families()[family]
    return randomise(cls(cls.config_class.from_dict({**cls.tiny()[variant], **overrides}), dtype=dtype), seed)


@functools.cache
def shared(family: str, variant: str, dtype: Any = None) -> Any:
    """Return a cached model, shared by all tests that do not change it."""
    return tiny(family, variant, dtype=dtype)


def inputs_for(model: Any, rng: np.random.Generator, batch: int = 2, length: int = 9) -> dict[str, np.ndarray]:
    """Return random values for the required inputs, and for the token types where the model has them."""
    made: dict[str, np.ndarray] = {}
    sizes = {**model.signature.defaults, **dict.fromkeys(BATCHES, batch)}
    sizes |= dict.fromkeys(("sequence", "source", "target"), length)
    for spec in model.signature.inputs:
        shape = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.dims]
        if spec.name.endswith("attention_mask") or spec.name in ("position_ids", "segment_ids"):
            continue
        if spec.below is None:
            made[spec.name] = rng.normal(size=shape).astype("float32")
        else:
            made[spec.name] = rng.integers(0, spec.below, shape).astype("int32")
    return made


def run(model: Any, inputs: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Return the model's outputs by name as NumPy arrays; tuples of intermediate tensors become lists."""
    result = model(dict(inputs), **kwargs)
    if not isinstance(result, Mapping):
        result = {model.signature.outputs[0].name: result}
    return {
        name: [numpy(part) for part in value] if isinstance(value, tuple) else numpy(value)
        for name, value in result.items()
    }


def numpy(tensor: Any) -> np.ndarray:
    array = keras.ops.convert_to_numpy(tensor)
    return array.astype("float32") if "bfloat16" in str(array.dtype) else array


def float64(tensor: Any) -> np.ndarray:
    return numpy(tensor).astype("float64")


def beside_mask(model: Any) -> set[str]:
    """Return the names of the inputs that have one value per column of `attention_mask`."""
    specs = {spec.name: spec for spec in model.signature.inputs}
    return {name for name, spec in specs.items() if spec.dims == specs["attention_mask"].dims}


def per_token(model: Any) -> set[str]:
    """Return the names of the outputs that have one value per token."""
    return {spec.name for spec in model.signature.outputs if "sequence" in spec.dims}


def close(actual: Any, expected: Any, atol: float = 1e-5, what: str = "") -> None:
    """Check that two arrays are equal within the absolute tolerance `atol` and contain no NaN."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, equal_nan=False, err_msg=what)


def refusing(*packages: str) -> str:
    """Return code to prepend to the code of a new process, in which `packages` then appear not to be installed."""
    return f"""
import sys
from importlib.abc import MetaPathFinder
class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


# Prepended to the code of a new process, in which importing TensorFlow then fails. Keras' NumPy backend uses JAX for
# convolution and little else, so with that backend a stand-in replaces JAX. It only lets the backend be imported; a
# test that needs the convolution of patches replaces it with a matrix multiplication.
WITHOUT_TENSORFLOW = """
import importlib.abc, importlib.machinery, importlib.util, json, os, sys
from unittest.mock import MagicMock

backend = os.environ["KERAS_BACKEND"]

class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        blocked = name.split(".")[0]
        if blocked == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
        if blocked == "jax" and backend == "numpy":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None
    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, StandIn())
"""


def python(code: str, *arguments: Any, **environment: str) -> str:
    """Run `code` in a new process, outside the repository, and return its standard output."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=os.path.sep, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
