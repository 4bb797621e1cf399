"""Callbacks: their figures against counts, and that none of them changes the training."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models as vocabularies

import attention_zoo as az
from attention_zoo.text.tokenizer import Tokenizer
from attention_zoo.training import callbacks
from attention_zoo.training.callbacks import throughput
from attention_zoo.training.callbacks.state import snapshot
from helpers import numpy, python

SMALL = {"vocab_size": 32, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_length": 24, "dropout": 0.2}
X = np.random.default_rng(0).integers(2, 32, (32, 8)).astype("int32")
FIT: dict[str, Any] = {"batch_size": 4, "verbose": 0, "shuffle": False}


def gpt(rate: Any = 1e-2, **config: Any) -> Any:
    keras.utils.set_random_seed(5)
    model = az.create("gpt", **{**SMALL, **config})
    words = vocabularies.WordLevel({f"w{i}": i for i in range(32)}, unk_token="w0")
    model.tokenizer = Tokenizer(Backend(words), eos_token="w1", pad_token="w0")
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Steps(keras.callbacks.Callback):
    """Record the running loss after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])


def losses(model: Any, *others: Any, epochs: int = 2) -> list[float]:
    steps = Steps()
    model.fit(X, X, epochs=epochs, callbacks=[*others, steps], **FIT)
    return steps.losses


@pytest.mark.slow
def test_callbacks_do_not_change_the_training(tmp_path: Path) -> None:
    quiet: list[str] = []
    samples = callbacks.TextSamples(["w3"], 3, write=quiet.append, file=tmp_path / "s.jsonl", max_new_tokens=4)
    watched = gpt()
    others = [samples, callbacks.Throughput(8, peak=1e9, every=2), callbacks.BestCheckpoints(tmp_path / "b", "loss")]
    others += [callbacks.HuggingFaceCheckpoint(tmp_path / "hf", 5, keep=2)]
    assert losses(watched, *others) == losses(gpt())
    # 16 steps: samples after 3, 6, …; the last sample is what the model of that step says.
    assert [step for step, _ in samples.samples] == [3, 6, 9, 12, 15] and len(quiet) == 5
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15] and lines[0]["prompt"] == "w3"
    partly = gpt()
    partly.fit(X[:24], X[:24], epochs=1, **FIT)
    assert samples.samples[1][1] == [" ".join(partly.generate_text("w3", max_new_tokens=4).split())]
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == ["step-00000010", "step-00000015"]
    loaded = az.load(tmp_path / "b" / "epoch-0002")
    np.testing.assert_array_equal(numpy(loaded(X)), numpy(watched(X)))


@pytest.mark.slow
def test_a_resumed_run_writes_each_step_once(tmp_path: Path) -> None:
    """Steps count on, and nothing is written while ``Resume`` passes over batches."""

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 6:
                raise KeyboardInterrupt

    def attempt(*others: Any) -> tuple[list[int], list[str]]:
        samples = callbacks.TextSamples("w3", 3, write=lambda line: None, max_new_tokens=1)
        folders = callbacks.HuggingFaceCheckpoint(tmp_path / "hf", 6, keep=1)
        with contextlib.suppress(KeyboardInterrupt):
            losses(gpt(), callbacks.Resume(tmp_path / "run", save_freq=3), samples, folders, *others)
        return [step for step, _ in samples.samples], [path.name for path in (tmp_path / "hf").iterdir()]

    assert attempt(Fail()) == ([3, 6], ["step-00000006"])
    shutil.rmtree(tmp_path / "hf" / "step-00000006")  # to see that it is not written again
    assert attempt() == ([9, 12, 15], ["step-00000012"])


@pytest.mark.slow
def test_hugging_face_folders_have_merged_adapters(tmp_path: Path) -> None:
    model = gpt()
    model.enable_lora(2)
    model.compile(keras.optimizers.Adam(1e-1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, X, callbacks=[callbacks.HuggingFaceCheckpoint(tmp_path)], **FIT)
    assert model.lora is not None
    (folder,) = tmp_path.iterdir()
    np.testing.assert_allclose(numpy(az.load(folder)(X)), numpy(model(X)), atol=1e-5)


@pytest.mark.slow
def test_hugging_face_folders_of_accumulated_steps(tmp_path: Path) -> None:
    """A step of the optimizer that takes several batches is written once, and there is no folder of step 0."""
    model, folder = gpt(), callbacks.HuggingFaceCheckpoint(tmp_path, 2)
    optimizer = keras.optimizers.SGD(1e-2, gradient_accumulation_steps=4)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    written: list[int] = []
    write, folder._write = folder._write, lambda steps: (written.append(steps), write(steps))[1]
    model.fit(X[:19], X[:19], callbacks=[folder], **{**FIT, "batch_size": 1})
    assert written == [2, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize(("mode", "kept"), [("min", [2, 5]), ("max", [3, 1])])
def test_best_checkpoints(mode: str, kept: list[int], tmp_path: Path) -> None:
    model, best = gpt(), callbacks.BestCheckpoints(tmp_path, "val_loss", mode=mode, keep=2)
    best.set_model(model)
    for epoch, value in enumerate((3.0, 1.0, 4.0, float("nan"), 2.0)):
        best.on_epoch_end(epoch, {"val_loss": value})
    names = [f"epoch-{number:04d}" for number in kept]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "best.json"])
    assert best.best == tmp_path / names[0]
    # Another process goes on with the list.
    again = callbacks.BestCheckpoints(tmp_path, "val_loss", mode=mode, keep=1)
    again.set_model(model)
    again.on_epoch_end(5, {"val_loss": 2.5})
    assert again.best == tmp_path / names[0]
    # The epochs of a run from the beginning have the same names.
    value = again._listed()[0]["value"]
    again.on_epoch_end(kept[0] - 1, {"val_loss": value + (0.5 if mode == "min" else -0.5)})
    assert again._listed()[0] == {"folder": names[0], "value": value} and again.best == tmp_path / names[0]
    with pytest.raises(ValueError, match="monitor: got 'val_loss'; accepted: one of \\['loss'\\]"):
        again.on_epoch_end(6, {"loss": 1.0})
    with pytest.raises(ValueError, match=r"^folder: got .*best\.json with .*'val_loss'.*; accepted: .*'loss'"):
        callbacks.BestCheckpoints(tmp_path, "loss", mode=mode).on_epoch_end(6, {"loss": 1.0})


@pytest.mark.slow
def test_the_finder_undoes_its_search() -> None:
    plain = losses(gpt())
    model, finder = gpt(), callbacks.LearningRateFinder(1e-5, 10.0, steps=20)
    before = snapshot(model, metrics=False)
    model.fit(X, X, epochs=50, callbacks=[finder], **FIT)
    after = snapshot(model, metrics=False)
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    assert losses(model) == plain  # dropout included
    ratios = np.diff(np.log(finder.rates))
    np.testing.assert_allclose(ratios, np.log(1e6) / 19, rtol=1e-9)
    assert 10 <= len(finder.losses) <= 20 and finder.rates[0] == 1e-5
    for inner in (keras.optimizers.Adam, lambda rate: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate))):
        model.compile(inner(keras.optimizers.schedules.CosineDecay(1e-2, 10)), model.loss)
        with pytest.raises(ValueError, match=r"^optimizer: got one with a learning rate schedule"):
            losses(model, callbacks.LearningRateFinder())


def test_the_finder_records_the_loss_of_each_batch() -> None:
    """With rates of almost zero the model stays as it is, and the losses are those of its batches."""
    model, finder = gpt(dropout=0.0), callbacks.LearningRateFinder(1e-12, 2e-12, steps=12)
    model.fit(X, X, epochs=2, callbacks=[finder], **FIT)
    expected = [model.evaluate(X[i : i + 4], X[i : i + 4], verbose=0) for i in range(0, 32, 4)]
    np.testing.assert_allclose(finder.losses[:8], expected, rtol=1e-6)
    np.testing.assert_allclose(finder.losses[8:], expected[:4], rtol=1e-6)
    kernel = 0.9 ** np.arange(12)
    last = (np.array(finder.losses[::-1]) * kernel).sum() / kernel.sum()
    np.testing.assert_allclose(finder.smoothed[-1], last, rtol=1e-9)


def test_throughput_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once per reading, an update every 2 steps of 4 rows of 8 tokens is 64 tokens a tick."""
    clock = itertools.count()
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    speed = callbacks.Throughput(8, flops_per_example=100.0, peak=1600.0, every=2)
    history = gpt().fit(X, X, epochs=2, callbacks=[speed], **FIT).history
    assert history["tokens_per_second"] == [64.0, 64.0]
    assert history["mfu"] == [0.5, 0.5]  # 8 rows of 100 operations a tick


def test_operations_of_a_token() -> None:
    """Against the products of a GPT-2 block counted by hand: 12 · width², the tied head, and attention."""
    model = gpt(hidden_dim=64, use_bias=False, num_heads=4, vocab_size=256)
    length, width = 24, 64
    by_hand = 6 * (12 * width**2 + 256 * width) + 12 * width * length
    norms_and_positions = 6 * (3 * 2 * width + 24 * width)
    assert by_hand <= throughput.flops_per_token(model, length) <= by_hand + norms_and_positions
    # A head of 8 features instead of 16, and of 4 experts the one that a token is sent to.
    experts = {"num_experts": 4, "experts_per_token": 1, "expert_intermediate_dim": 32, "activation": "swiglu"}
    sparse = gpt(hidden_dim=64, use_bias=False, num_heads=4, head_dim=8, vocab_size=256, **experts)
    by_hand = 6 * (4 * 64 * 32 + 64 * 4 + 3 * 64 * 32 + 256 * 64) + 12 * 32 * length
    assert by_hand <= throughput.flops_per_token(sparse, length) <= by_hand + norms_and_positions
    assert throughput.measured_peak() > 1e8


def test_arguments(tmp_path: Path) -> None:
    for make, argument in (
        (lambda: callbacks.TextSamples([]), "prompts"),
        (lambda: callbacks.TextSamples("a", 0), "every"),
        (lambda: callbacks.Throughput(0), "length"),
        (lambda: callbacks.LearningRateFinder(1.0, 0.5), "most"),
        (lambda: callbacks.LearningRateFinder(steps=3), "steps"),
        (lambda: callbacks.BestCheckpoints(tmp_path, mode="best"), "mode"),
        (lambda: callbacks.HuggingFaceCheckpoint(tmp_path, keep=0), "keep"),
    ):
        with pytest.raises(ValueError, match=f"^{argument}: got"):
            make()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend: str) -> None:
    pytest.importorskip(backend)
    names = "test_callbacks_do_not_change_the_training", "test_the_finder_undoes_its_search"
    code = f"""
import pathlib, sys, tempfile
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
import test_callbacks
test_callbacks.{names[0]}(pathlib.Path(tempfile.mkdtemp()))
test_callbacks.{names[1]}()
print("done")
"""
    assert "done" in python(code, KERAS_BACKEND=backend, PYTHONPATH=":".join(sys.path))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_peak_is_measured_in_every_dtype(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks once per reading: the four products of 2 · 8³ operations take a tick."""
    monkeypatch.setattr(throughput, "SIDE", 8)
    ticks = itertools.count()
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(ticks)))
    assert throughput.measured_peak(dtype) == 4 * 2 * 8**3
