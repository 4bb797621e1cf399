"""Concurrent requests from many threads to one model or file give the same answers as requests in sequence."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_zoo import export
from helpers import every_variant, shared

THREADS = 16
MODELS = [("gpt", "llama"), ("transformer", "t5"), ("seq2seq", "luong")]


def requests(model: Any, count: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Return prompts of one to seven tokens with options for greedy decoding, sampling and beam search."""
    rng = np.random.default_rng(4)
    kinds: list[dict[str, Any]] = [{}, {"temperature": 1.5, "seed": 3}, {"num_beams": 2}]
    made = []
    for number in range(count):
        ids = rng.integers(3, model.config.vocab_size, (1 + number % 2, 1 + number % 7))
        made.append((ids, {"max_new_tokens": 3 + number % 8, "stop_tokens": [], **kinds[number % 3]}))
    return made


def answers(source: Any, asked: list[tuple[np.ndarray, dict[str, Any]]], threads: int) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda request: source.generate(request[0], **request[1]).tolist(), asked))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant"), MODELS)
def test_keras_models_answer_many_threads(family: str, variant: str) -> None:
    model = shared(family, variant)
    asked = requests(model, 21)
    alone = answers(model, asked, 1)
    assert len({str(answer) for answer in alone}) > 15, "answers that are alike would hide a mix-up"
    assert answers(model, asked * 3, THREADS) == alone * 3


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@every_variant(MODELS, slow=MODELS[1:])
def test_files_answer_many_threads(family: str, variant: str, format: str, files: Any) -> None:
    model, result = files(family, variant, format, cache=True)
    runner, asked = export.load(result.path), requests(model, 21)
    alone = answers(runner, asked, 1)
    assert answers(runner, asked * 3, THREADS) == alone * 3
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (3, 4))
    assert alone[0] == answers(model, asked[:1], 1)[0]
    assert (
        answers(runner, [(ids, {"max_new_tokens": 4})] * 9, 3) == answers(runner, [(ids, {"max_new_tokens": 4})], 1) * 9
    )


def test_many_threads_run_one_tflite_graph(files: Any) -> None:
    _, result = files("bert", "backbone", "tflite")
    runner = export.load(result.path)
    inputs = [np.random.default_rng(seed).integers(0, 80, (1, 9)) for seed in range(64)]
    alone = [runner.run(ids)["last_hidden_state"] for ids in inputs]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda ids: runner.run(ids)["last_hidden_state"], inputs))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


@every_variant(MODELS, slow=MODELS[1:])
def test_a_callback_may_generate(family: str, variant: str) -> None:
    """A callback generates with the same model and sizes without an effect on the outer generation."""
    model = shared(family, variant)
    ids, other = np.array([[5, 6, 7]]), np.array([[9, 8, 4]])
    options: dict[str, Any] = {"max_new_tokens": 8, "stop_tokens": []}
    expected, inner = model.generate(ids, **options).tolist(), model.generate(other, **options).tolist()
    seen: list[Any] = []
    found = model.generate(ids, callback=lambda _: seen.append(model.generate(other, **options).tolist()), **options)
    assert found.tolist() == expected
    assert seen == [inner] * 8


@pytest.mark.slow
def test_parallel_exports(tmp_path: Path, capfd: Any) -> None:
    """Export two models with two dtypes at the same time; standard error still works afterwards."""
    models = [shared("bert", "backbone"), shared("bert", "backbone", "mixed_bfloat16")]
    names = ["0.tflite", "1.tflite", "0.onnx", "1.onnx"]

    def make(name: str) -> Any:
        to: Any = export.to_onnx if name.endswith("onnx") else export.to_tflite
        return to(models[int(name[0])], tmp_path / name, cache=False)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(make, names))
    for name in names:
        assert export.verify(models[int(name[0])], tmp_path / name).passed, name
    capfd.readouterr()
    os.write(2, b"still here")
    assert capfd.readouterr().err.endswith("still here")
