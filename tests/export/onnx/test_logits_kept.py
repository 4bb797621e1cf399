"""The optional input ``num_logits_to_keep`` of an ONNX decoder.

Without it, the logits of all tokens are computed. ``generate`` requests only those of the last token of a prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from attention_zoo import export
from attention_zoo.runtime.onnx.runner import OnnxGraph
from helpers import every_variant, run

NAME = "num_logits_to_keep"
MASK = np.array([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
IDS = np.array([[5, 3, 11, 40, 7], [1, 2, 3, 4, 5]])


@every_variant([("gpt", "gpt2"), ("gpt", "untied")], slow=[("gpt", "untied")])
def test_the_last_logits_alone(family: str, variant: str, files: Any) -> None:
    model, result = files(family, variant, "onnx", cache=True)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    expected = run(model, {name: value.astype("int32") for name, value in inputs.items()})["logits"]
    runner = export.load(result.path)
    for count, kept in ((None, 5), (0, 5), (1, 1), (3, 3), (5, 5), (9, 5)):
        found = runner.run({**inputs, NAME: None if count is None else np.array(count)})["logits"]
        assert found.shape == (2, kept, 97)
        np.testing.assert_allclose(found[1], expected[1, -kept:], atol=1e-5)
        np.testing.assert_allclose(found[0, -min(kept, 4) :], expected[0, -min(kept, 4) :], atol=1e-5)
    for wrong in (-1, 41):
        with pytest.raises(ValueError, match=rf"^{NAME}: got values from {wrong} to {wrong}; accepted: .* 0 to 40"):
            runner.run({**inputs, NAME: wrong})


def test_others_need_not_know_of_it(files: Any) -> None:
    path = files("gpt", "gpt2", "onnx", cache=True)[1].path
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    feeds = {"input_ids": IDS, "attention_mask": MASK}
    for node in session.get_inputs():
        assert node.name != NAME
        if node.name not in feeds:
            feeds[node.name] = np.zeros([2, node.shape[1], 0, node.shape[3]], "float32")
    alone = session.run(["logits"], feeds)[0]
    assert alone.shape == (2, 5, 97)
    np.testing.assert_array_equal(session.run(["logits"], {**feeds, NAME: np.array(1)})[0].shape, (2, 1, 97))


def test_generate_asks_for_one(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that only the last token of a prompt is multiplied by the output matrix."""
    runner = export.load(files("gpt", "gpt2", "onnx", cache=True)[1].path)
    shapes, call = [], OnnxGraph.run_values

    def watched(self: OnnxGraph, values: Any) -> dict[str, Any]:
        outputs = call(self, values)
        shapes.append(tuple(outputs["logits"].shape()))
        return outputs

    monkeypatch.setattr(OnnxGraph, "run_values", watched)
    runner.generate(IDS, MASK, max_new_tokens=3, stop_tokens=[])
    assert shapes == [(2, 1, 97)] * 3
