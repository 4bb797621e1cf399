"""Set before anything imports Keras, which the process that hands out the tests never does; the helpers beside this
file are importable in every worker."""

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
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # of matrices as small as these it prepares more than it computes
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker for every core: TensorFlow's pools would wait on one another's
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# In importlib mode pytest leaves sys.path alone, and workers would not find helpers.py and reference.py.
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest

from attention_zoo.zoo.presets import FAMILIES

# Tests without a variant in their names, and the variant whose exports or compiled steps most of them use.
OWNERS = {
    **dict.fromkeys(("test_reload_in_a_new_process", "test_without_tensorflow"), "all variants"),
    **dict.fromkeys(("test_generate_equals_keras", "test_generate_stops_and_refuses"), "gpt-llama"),
    **dict.fromkeys(("test_large_weights_go_beside_the_file", "test_runner_needs_only_its_runtime"), "gpt-llama"),
    **dict.fromkeys(("test_verify_notices", "test_files_that_are_cut_or_lie", "test_wrong_arguments"), "bert-backbone"),
    **dict.fromkeys(("test_weights_that_are_kept", "test_what_the_file_says_of_itself"), "bert-backbone"),
    **dict.fromkeys(("test_benchmark_reports_what_it_measured", "test_runner_refuses_wrong_inputs"), "bert-backbone"),
    **dict.fromkeys(("test_memory_is_that_of_the_file_alone", "test_mistakes_in_bench_come_first"), "bert-backbone"),
    **dict.fromkeys(("test_wrong_arguments_of_the_bench", "test_compare_real_files"), "gpt-llama"),
    **dict.fromkeys(("test_bench_of_several_files", "test_bench_needs_only_the_runtime"), "gpt-llama"),
    **dict.fromkeys(("test_a_step_copies_no_cache", "test_the_terminal_stays_clean"), "gpt-llama"),
    **dict.fromkeys(("test_files_beside_the_file_count", "test_a_source_in_several_lengths"), "transformer-marian"),
}
# Modules with a file that is exported once for several of their tests.
TOGETHER = ("tests/export/test_buckets.py", "tests/export/test_litertlm.py", "tests/export/test_texts.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one variant run in one process, which builds, exports and compiles its model once.

    By the ids, since the marks of ``--dist loadgroup`` do not reach pytest-xdist 3.8 through pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    alone = re.compile(rf"\[(?:.*-)?((?:{'|'.join(FAMILIES)})-\w+)(?:-[^\]]*)?\]$")

    class ByVariant(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            found = alone.search(nodeid)
            if found:
                return found[1]
            file, _, name = nodeid.partition("[")[0].rpartition("::")
            return OWNERS.get(name, file if file in TOGETHER else nodeid)

    return ByVariant(config, log)


def pytest_collection_finish() -> None:
    """What was imported stays: it need not be looked through whenever a conversion to TFLite collects garbage."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread_each() -> Iterator[None]:
    """As of TensorFlow above: a second thread of a runtime would wait for work by spinning on another worker's core."""
    from attention_zoo.runtime import runner

    several = "PYTEST_XDIST_WORKER" in os.environ
    with mock.patch.object(runner, "usable_cores", lambda: 1) if several else nullcontext():
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it in this process."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Exports made once per process: ``files(family, variant, "onnx")`` gives (model, result), of one graph without
    memory, and with ``cache=True`` what the family has with one."""
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
