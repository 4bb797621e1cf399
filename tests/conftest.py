"""Environment variables, fixtures, and the groups of tests that one worker runs.

The variables are set before anything imports Keras. The controller of pytest-xdist never imports it.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its preparation costs more than it saves for small matrices
if "PYTEST_XDIST_WORKER" in os.environ:  # there is a worker for every core, so more threads would wait
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# In importlib mode pytest does not change sys.path, so workers would not find helpers.py and reference.py.
sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest

from attention_zoo.zoo.presets import FAMILIES

# A variant in the parameters of a test's id, such as "gpt-llama" in "test_export.py::test_precisions[gpt-llama-int8]".
VARIANT = re.compile(rf"\[(?:.*-)?((?:{'|'.join(FAMILIES)})-\w+)(?:-[^\]]*)?\]$")

BEFORE_GROUP = " in group "


def group_of(item: pytest.Item) -> str:
    """Return the name of the group of tests that run in one process: the test's own id if it runs by itself."""
    if found := VARIANT.search(item.nodeid):
        return found[1]
    if marker := item.get_closest_marker("runs_with"):
        return marker.args[0]
    return item.nodeid.partition("::")[0] if item.get_closest_marker("runs_together") else item.nodeid


class _Grouped:
    """A test item whose id ends in its group."""

    def __init__(self, item: pytest.Item) -> None:
        self.item, self.nodeid = item, f"{item.nodeid}{BEFORE_GROUP}{group_of(item)}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.item, name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of one group in one process: a variant's model is built, exported and compiled once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition(BEFORE_GROUP)[2]

    return ByGroup(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection_finish(session: pytest.Session) -> Iterator[None]:
    """Report the groups to the scheduler, which runs in another process and gets the ids of the tests alone.

    ``--dist loadgroup`` of pytest-xdist 3.8 does the same through an attribute that the items of pytest 9 do not have.
    Here the ids have a group only while this hook runs, so reports and messages show them as they are.
    """
    gc.freeze()  # imported modules stay; garbage collections, such as those of the TFLite converter, skip them
    items = session.items
    if "PYTEST_XDIST_WORKER" in os.environ:
        session.items = [_Grouped(item) for item in items]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        session.items = items


@pytest.fixture(autouse=True, scope="session")
def one_thread_each() -> Iterator[None]:
    """Run one thread per runtime too: a second thread would wait for work by spinning on another worker's core."""
    from attention_zoo.runtime import runner

    several = "PYTEST_XDIST_WORKER" in os.environ
    with mock.patch.object(runner, "usable_cores", lambda: 1) if several else nullcontext():
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whatever ran before it in this process."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return exports that are made once per process: ``files(family, variant, "onnx")`` gives (model, result).

    Without `cache` the file has one graph without a key/value cache, with ``cache=True`` the graphs with a cache.
    """
    from attention_zoo import export
    from helpers import shared

    folder, made = tmp_path_factory.mktemp("exports"), {}

    def get(family: str, variant: str, format: str, cache: bool = False) -> tuple[Any, Any]:
        key = (family, variant, format, cache)
        if key not in made:
            model = shared(family, variant)
            to: Any = {"onnx": export.to_onnx, "tflite": export.to_tflite}[format]
            made[key] = to(model, folder / f"{family}-{variant}-{cache}.{format}", cache=cache)
        return shared(family, variant), made[key]

    return get
