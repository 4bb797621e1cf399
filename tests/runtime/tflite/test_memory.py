"""The state of TFLite files between decode steps: every row has its own buffers in LiteRT, which are not copied."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tensor_buffer import TensorBuffer

from attention_zoo import export
from attention_zoo.generation.search import stream
from attention_zoo.runtime.tflite.compiled import Memory
from attention_zoo.runtime.tflite.decoder import CALL, calls_for
from helpers import python, shared

FREE: dict[str, Any] = {"stop_tokens": []}
FURTHER = [("transformer", "t5"), ("seq2seq", "luong")]
every_memory = pytest.mark.parametrize(
    ("family", "variant"), [("gpt", "llama"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in FURTHER)]
)


def prompts(model: Any, rows: int, length: int = 5) -> np.ndarray:
    return np.random.default_rng(rows).integers(3, model.config.vocab_size, (rows, length))


def taken(step: Any, count: int) -> list[list[int]]:
    return [next(step).tolist() for _ in range(count)]


@every_memory
def test_texts_that_take_turns_and_one_that_is_abandoned(family: str, variant: str, files: Any) -> None:
    model, result = files(family, variant, "tflite", cache=True)
    runner = export.load(result.path)
    ids = prompts(model, 4)
    alone = [runner.generate(row, max_new_tokens=8, **FREE)[:, -8:].T.tolist() for row in ids]
    assert len({str(answer) for answer in alone}) > 2, "answers that are alike would hide a mix-up"
    steps = [stream(runner.decoder(), row, max_new_tokens=8, **FREE) for row in ids]
    begun = [taken(step, 3) for step in steps]
    abandoned = steps.pop()
    assert taken(stream(runner.decoder(), ids[3], max_new_tokens=8, **FREE), 8) == alone[3]
    del abandoned
    for number, step in enumerate(steps):
        assert begun[number] + taken(step, 5) == alone[number]


def test_prompts_are_taken_in_the_cheapest_calls() -> None:
    """Compare with an exhaustive search. Only the last call may exceed the remaining tokens, and it must fit."""

    def ways(count: int, sizes: tuple[int, ...], room: int) -> Iterator[list[int]]:
        if count <= 0:
            yield []
        for size in sizes if count > 0 else ():
            if size <= room:
                yield from ([size, *rest] for rest in ways(count - size, sizes, room - size))

    for sizes in ((), (4,), (30, 3, 7)):
        for count in range(14):
            for room in (count, count + 5, 100):
                best = min(sum(size + CALL for size in way) for way in ways(count, (1, *sizes), room))
                found = calls_for(count, sizes, room)
                assert sum(size + CALL for size in found) == best, (count, sizes, room)
                assert sum(found[:-1]) <= count <= sum(found) <= room
    assert calls_for(40, (32, 128), 1000) == [32, 32] and calls_for(100, (32, 128), 1000) == [128]


@every_memory
def test_rows_chosen_again_go_on_as_alone(family: str, variant: str, files: Any) -> None:
    """Check ``select`` with one row dropped and one tripled, and then steps of these rows, of which one has ended."""
    model, result = files(family, variant, "tflite", cache=True)
    runner = export.load(result.path)
    ids = prompts(model, 3)
    mask = np.ones_like(ids)
    mask[1, :2] = 0
    begun, after = np.array([[7, 8, 9], [11, 12, 13]]), np.array([[3, 4, 5, 6], [9, 8, 7, 6]])
    together, chosen = runner.decoder(), np.array([2, 0, 2, 2])
    together.prompt(ids, mask, 8)
    for tokens in begun:
        together.step(tokens)
    together.select(chosen)
    found = [together.step(after[0])]
    together.ended(np.array([False, True, False, False]))
    found.append(together.step(after[1]))
    assert not found[1][1].any(), "which nobody reads"
    for place, row in enumerate(chosen):
        decoder = runner.decoder()
        decoder.prompt(ids[row : row + 1], mask[row : row + 1], 8)
        for tokens in begun:
            decoder.step(tokens[row : row + 1])
        for number, tokens in enumerate(after[: 1 if place == 1 else 2]):
            np.testing.assert_array_equal(found[number][place], decoder.step(tokens[place : place + 1])[0])


@every_memory
def test_up_to_the_last_slot(family: str, variant: str, files: Any) -> None:
    model, result = files(family, variant, "tflite", cache=True)
    runner = export.load(result.path)
    ids = prompts(model, 2)
    begun = 1 if family != "gpt" else ids.shape[1]
    room = runner.decoder().max_length - begun
    assert runner.decoder().max_length == runner.signature.sizes.get("slots", model.config.max_length)
    expected = model.generate(ids, max_new_tokens=room, **FREE)
    np.testing.assert_array_equal(runner.generate(ids, max_new_tokens=room, **FREE), expected)
    with pytest.raises(ValueError, match=rf"max_new_tokens: got {room + 1} after {begun} tokens"):
        runner.generate(ids, max_new_tokens=room + 1, **FREE)


@pytest.mark.runs_with("gpt-llama")
def test_a_step_copies_no_cache(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that neither a prompt nor a step copies caches, for any number of rows.

    ``select`` copies nothing if it only reorders rows, and otherwise only the rows that occur more than once.
    """
    model, result = files("gpt", "llama", "tflite", cache=True)
    runner = export.load(result.path)
    caches = len(runner.signature.state)
    ((size, _),) = {
        (int(np.prod(runner.signature.shape(s))), s.dtype) for s in runner.signature.inputs if "kv" in s.name
    }
    moved: list[int] = []  # the number of values of every float array that is read or written
    write, read = TensorBuffer.write, TensorBuffer.read

    def reading(buffer: Any, number: int, dtype: Any) -> np.ndarray:
        moved.append(number)
        return read(buffer, number, dtype)

    def writing(buffer: Any, array: np.ndarray) -> None:
        moved.extend([array.size] * (array.dtype.kind == "f"))
        write(buffer, array)

    monkeypatch.setattr(TensorBuffer, "read", reading)
    monkeypatch.setattr(TensorBuffer, "write", writing)
    ids, decoder = prompts(model, 3, 20), runner.decoder()

    def copied(what: Any, *arguments: Any) -> int:
        moved.clear()
        what(*arguments)
        return sum(number == size for number in moved)

    assert copied(decoder.prompt, ids, np.ones_like(ids), 8) == 3 * caches, "zeros, to begin with"
    assert copied(decoder.step, ids[:, 0]) == 0 and moved
    assert copied(decoder.select, np.array([2, 0, 1])) == 0
    assert copied(decoder.select, np.array([1, 1, 0])) == 2 * caches, "one row read and written"
    assert copied(decoder.step, ids[:, 1]) == 0


@every_memory
def test_run_is_what_the_interpreter_gives(family: str, variant: str, files: Any) -> None:
    """Compare with the interpreter. A second call must not change the inputs or outputs of the first."""
    _, result = files(family, variant, "tflite", cache=True)
    runner = export.load(result.path)
    interpreter = Interpreter(model_path=str(result.path))
    rng = np.random.default_rng(0)
    for name, graph in runner.graphs.items():
        reference = interpreter.get_signature_runner(name)
        given: dict[str, np.ndarray] = {}
        for spec in graph.signature.inputs:
            shape = [int(n) for n in graph.signature.shape(spec)]
            below = spec.below if "pos" not in spec.name else 4
            made = rng.normal(size=shape) if spec.dtype == "float32" else rng.integers(0, below or 2, shape)
            given[spec.name] = made.astype(spec.dtype)
        if "input_pos" in given:
            given["input_pos"] = np.arange(given["input_pos"].size, dtype="int32") + 2
            visible = np.arange(given["mask"].shape[-1]) <= given["input_pos"][None, None, :, None]
            given["mask"] = np.where(visible, 0, -1e9).astype("float32")
        kept = {key: array.copy() for key, array in given.items()}
        first, expected = graph.run(given), reference(**given)
        assert list(first) == [spec.name for spec in graph.signature.outputs]
        first_copy = {key: array.copy() for key, array in first.items()}
        graph.run({key: array if array.dtype.kind != "f" else array + 1 for key, array in given.items()})
        for key, array in kept.items():
            np.testing.assert_array_equal(given[key], array)
        for key, array in first.items():
            np.testing.assert_array_equal(array, first_copy[key])
            np.testing.assert_allclose(array, expected[key], atol=2e-5, err_msg=f"{name}: {key}")


@every_memory
def test_only_what_is_replaced_as_a_whole_has_two_buffers(family: str, variant: str, files: Any) -> None:
    _, result = files(family, variant, "tflite", cache=True)
    memory = Memory(export.load(result.path).graphs["decode"], {})  # pyright: ignore[reportArgumentType]
    two = family == "seq2seq"
    assert memory.now and all((memory.later[name] is not buffer) == two for name, buffer in memory.now.items())


@pytest.mark.slow
def test_a_file_for_more_rows_than_one(tmp_path: Path) -> None:
    """Check encoder-decoders with a static batch of two, to which a smaller batch is filled up."""
    for family, variant in FURTHER:
        model = shared(family, variant)
        file = export.to_tflite(model, tmp_path / f"{family}.tflite", batch_size=2, max_length=12).path
        ids = prompts(model, 3)
        for options in ({}, {"num_beams": 2}):
            expected = model.generate(ids, max_new_tokens=8, **options, **FREE)
            found = export.load(file).generate(ids, max_new_tokens=8, **options, **FREE)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.runs_with("gpt-llama")
def test_the_terminal_stays_clean(files: Any, tmp_path: Path) -> None:
    """Check that LiteRT's messages about accelerators, and on the command line those at exit, are not printed."""
    _, result = files("gpt", "llama", "tflite", cache=True)
    code = """
import os, sys
from attention_zoo import export
kept = os.dup(2)
os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), 2)
export.load(sys.argv[1]).generate([[5, 6, 7]], max_new_tokens=4)
os.dup2(kept, 2)
"""
    python(code, result.path, tmp_path / "said")
    assert (tmp_path / "said").read_text() == ""
    command = [sys.executable, "-m", "attention_zoo.cli", "info", str(result.path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=300, check=True)
    assert "kv_cache_k_0" in done.stdout and done.stderr == ""
