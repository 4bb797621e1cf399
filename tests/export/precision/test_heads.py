"""The options `head` and `embedding` of int8 files in ONNX: what they keep in float32, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attention_zoo import export
from helpers import shared


def floats(file: Path) -> list[np.ndarray]:
    """Return the float32 matrices of a file."""
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]
    return [array for array in arrays if array.ndim == 2 and array.dtype == np.float32]


def has(file: Path, matrix: np.ndarray) -> bool:
    return any(any(a.shape == m.shape and np.array_equal(a, m) for m in (matrix, matrix.T)) for a in floats(file))


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["dynamic", "static", "float"])
def test_an_untied_head_stays_in_float32(activations: str, tmp_path: Path) -> None:
    model, file = shared("gpt", "untied"), tmp_path / "m.onnx"
    kernel = np.asarray(model.lm_head.kernel)
    others = np.asarray(model.blocks[0].feedforward.up.kernel)
    for head in ("fp32", "int8"):
        precision = export.Precision("int8", activations=activations, head=head)
        export.to_onnx(model, file, precision=precision, cache=False, least_cosine=0.0)
        assert has(file, kernel) == (head == "fp32") and not has(file, others)


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    model, file = shared("gpt", "gpt2"), tmp_path / "m.onnx"
    table = np.asarray(model.embedding.embeddings)
    precision = export.Precision("int8", activations="dynamic", head="fp32")
    export.to_onnx(model, file, precision=precision, cache=False, least_cosine=0.0)
    stored = [numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]
    assert has(file, table) and sum(array.shape in (table.shape, table.T.shape) for array in stored) == 1


@pytest.mark.parametrize("options", [{"head": "int4"}, {"embedding": "int4"}])
def test_integer_activations_take_no_4_bits(options: dict[str, Any], tmp_path: Path) -> None:
    """Without a cache int8 has dynamic activations by default, and such files have no 4-bit weights."""
    with pytest.raises(ValueError, match=f"precision.{next(iter(options))}: got 'int4' with 'dynamic' activations"):
        export.to_onnx(
            shared("gpt", "gpt2"), tmp_path / "m.onnx", cache=False, precision=export.Precision("int8", **options)
        )
    assert not list(tmp_path.iterdir())
