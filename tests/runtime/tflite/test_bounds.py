"""Damaged TFLite files: refused in one line before LiteRT sees them, where it would end the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.runtime.tflite.bounds import check_content, check_model
from attention_zoo.runtime.tflite.flatbuffer import packed, unpacked
from helpers import shared

pytestmark = pytest.mark.runs_with("bert-backbone")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("whole") / "m.tflite"
    export.to_tflite(shared("bert", "backbone"), file, sequence_length=4, precision="int8")
    return file.read_bytes()


def node(model: Any, code: int) -> Any:
    """Return the first operator of a kind."""
    codes = [i for i, entry in enumerate(model.operatorCodes) if entry.builtinCode == code]
    return next(node for node in model.subgraphs[0].operators if node.opcodeIndex in codes)


def scaled(model: Any) -> Any:
    return next(
        t for t in model.subgraphs[0].tensors if t.quantization is not None and t.quantization.scale is not None
    )


def last_input(model: Any, value: int) -> None:
    model.subgraphs[0].operators[3].inputs[0] = value


def shape(model: Any, sizes: list[int]) -> None:
    model.subgraphs[0].tensors[int(model.subgraphs[0].operators[2].outputs[0])].shape = np.array(sizes, "int32")


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an operator's tensor": (lambda m: last_input(m, 10**6), "an operator has input 1000000 of "),
    "no tensor": (lambda m: last_input(m, -1), "an operator lacks an input"),
    "a later tensor": (
        lambda m: last_input(m, m.subgraphs[0].operators[9].outputs[0]),
        "is read before it is computed",
    ),
    "a product of one tensor": (lambda m: setattr(node(m, 126), "inputs", node(m, 126).inputs[:1]), "too few inputs"),
    "an operator's code": (
        lambda m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 99),
        "an operator has code 99",
    ),
    "a tensor's buffer": (lambda m: setattr(m.subgraphs[0].tensors[0], "buffer", 10**6), "a tensor has buffer 1000000"),
    "a tensor's dtype": (lambda m: setattr(m.subgraphs[0].tensors[0], "type", 77), "a tensor has dtype 77 of 23"),
    "a buffer that is too short": (
        lambda m: setattr(m.buffers[scaled(m).buffer], "data", np.zeros(3, "uint8")),
        "bytes has a buffer of 3 bytes",
    ),
    "a negative size": (lambda m: shape(m, [1, -4]), "a tensor has a negative dimension"),
    "a tensor of 16 TB": (lambda m: shape(m, [2**20, 2**22]), "accepted: at most 1073741824"),
    "a signature's tensor": (
        lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 10**6),
        "has tensor 1000000",
    ),
    "a signature's graph": (lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 4), "a signature has graph 4 of 1"),
    "a scale that is no number": (
        lambda m: scaled(m).quantization.scale.__setitem__(0, np.nan),
        "is not a positive number",
    ),
    "a zero point": (
        lambda m: scaled(m).quantization.zeroPoint.__setitem__(0, 999),
        "a zero point that its dtype has not",
    ),
    "an output that is a constant": (
        lambda m: m.subgraphs[0].operators[0].outputs.__setitem__(0, m.subgraphs[0].tensors.index(scaled(m))),
        "an operator writes what is a constant",
    ),
    "sizes that do not fit an operator": (lambda m: m.subgraphs[0].operators[0].inputs.resize(0), "has no inputs"),
    "metadata's buffer": (lambda m: setattr(m.metadata[0], "buffer", 10**6), "metadata has buffer 1000000"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_numbers_that_do_not_fit(change: str, content: bytes, tmp_path: Path) -> None:
    model = unpacked(bytearray(content))
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.inputs = operator.inputs.copy()
            operator.outputs = operator.outputs.copy()
        for tensor in graph.tensors:
            if tensor.quantization is not None and tensor.quantization.scale is not None:
                tensor.quantization.scale = tensor.quantization.scale.copy()
                tensor.quantization.zeroPoint = tensor.quantization.zeroPoint.copy()
    CHANGES[change][0](model)
    file = tmp_path / "m.tflite"
    file.write_bytes(packed(model))
    with pytest.raises(ValueError, match=r"^path: .*m\.tflite is damaged: .*; accepted: a TFLite model$") as raised:
        export.load(file)
    assert CHANGES[change][1] in str(raised.value) and "\n" not in str(raised.value)


def test_whole_and_cut_files(content: bytes, tmp_path: Path) -> None:
    check_content(np.frombuffer(content, "uint8"))
    file = tmp_path / "m.bin"
    file.write_bytes(b"before" + content + b"behind")
    check_model(file, 6, 6 + len(content))
    with pytest.raises(ValueError, match="does not begin as a TFLite file"):
        check_model(file)
    for size in (0, 7, 8, 60, len(content) // 2):
        with pytest.raises(ValueError, match="damaged"):
            check_model(file, 6, 6 + size)


def test_scales_of_blocks_are_stored(tmp_path: Path) -> None:
    """LiteRT reads the scales of blocks of 4-bit weights as constants, and as many as there are blocks."""
    file = tmp_path / "m.tflite"
    export.to_tflite(shared("bert", "backbone"), file, sequence_length=4, precision="int4", least_cosine=0.5)
    check_model(file)
    model = unpacked(file.read_bytes())
    tensors = model.subgraphs[0].tensors
    details = next(t.quantization.details for t in tensors if getattr(t.quantization, "detailsType", 0) == 2)
    (tensor,) = {int(i) for i in model.subgraphs[0].inputs[:1]}
    details.scales = tensor
    with pytest.raises(ValueError, match="a tensor has other scales than its blocks"):
        check_content(np.frombuffer(packed(model), "uint8"))


def test_every_damaged_offset_is_refused_or_harmless(content: bytes) -> None:
    """The check itself reads nothing outside the file, whatever the numbers: NumPy would raise an IndexError."""
    chance = np.random.default_rng(0)
    for _ in range(300):
        changed = np.frombuffer(content, "uint8").copy()
        places = chance.integers(0, len(changed) - 4, 3)
        for place in places:
            changed[place : place + 4] = chance.integers(0, 256, 4)
        try:
            check_content(changed)
        except ValueError:
            continue
