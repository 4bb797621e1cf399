"""Inputs of runners: nested lists, incomplete caches, batches with rows that have ended, and execution providers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.runtime.tflite.decoder import LiteRTDecoder
from helpers import tiny


def test_rows_of_unequal_lengths_are_told(files: Any) -> None:
    runner = export.load(files("bert", "backbone", "onnx")[1].path)
    with pytest.raises(ValueError, match=r"^input_ids: got rows that make no array .*; accepted: rows of one length"):
        runner.run({"input_ids": [[1, 2], [3]]})
    with pytest.raises(ValueError, match=r"^attention_mask: got rows"):
        runner.run({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1], [1]]})


def test_a_cache_is_given_whole_or_not_at_all(files: Any) -> None:
    runner = export.load(files("gpt", "llama", "onnx", cache=True)[1].path)
    first = runner.run({"input_ids": [[5, 6, 7]]})
    state = {old: first[new] for old, new in runner.signature.state.items()}
    whole = runner.run({"input_ids": [[8]], **state})["logits"]
    again = runner.run({"input_ids": [[5, 6, 7, 8]]})["logits"][:, -1:]
    np.testing.assert_allclose(whole, again, atol=1e-5)
    for name in state:
        rest = {key: value for key, value in state.items() if key != name}
        with pytest.raises(ValueError, match=rf"^inputs: got .*, without \['{name}'\]; accepted: all of .* or none"):
            runner.run({"input_ids": [[8]], **rest})


def test_rows_that_ended_are_not_decoded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that ended rows do not change the tokens of the others.

    The graph runs once for the first token of the prompt, and once for each generated token of a row.
    """
    model = tiny("gpt", "gpt2")
    runner = export.load(export.to_tflite(model, tmp_path / "m.tflite", prefill=4, max_length=32).path)
    prompts, alone = np.array([[5, 6], [9, 8], [1, 2]]), []
    free = runner.generate(prompts, max_new_tokens=8, stop_tokens=[])
    stop = int(free[1, 4])  # ends the second row early
    for row in prompts:
        alone.append(runner.generate(row, max_new_tokens=8, stop_tokens=stop)[0, 2:].tolist())
    runs, run = [], LiteRTDecoder._run
    monkeypatch.setattr(
        LiteRTDecoder, "_run", lambda self, row, *rest: runs.append((row, rest[0])) or run(self, row, *rest)
    )
    together = runner.generate(prompts, max_new_tokens=8, stop_tokens=stop)[:, 2:].tolist()
    for row, tokens in enumerate(alone):
        assert together[row][: len(tokens)] == tokens
        assert sum(ran == (row, "decode") for ran in runs) == 1 + len(tokens), "one for each token of its own"
    assert len(alone[1]) < 8


def test_providers(files: Any) -> None:
    path = files("bert", "backbone", "onnx")[1].path
    runner = export.load(path, providers=["CPUExecutionProvider"])
    assert runner._main.session.get_providers() == ["CPUExecutionProvider"]  # pyright: ignore
    for wrong in (["MyExecutionProvider"], "CPUExecutionProvider", []):
        with pytest.raises(ValueError, match=r"providers: got .*accepted: some of \["):
            export.load(path, providers=wrong)
    with pytest.raises(ValueError, match=r"providers: got .*for a TFLite file; accepted: None"):
        export.load(files("bert", "backbone", "tflite")[1].path, providers=["CPUExecutionProvider"])
