"""The weights that a file stores, and its float32 twin: the file's own graphs with the weights of the model.

Rounding changes the numbers of a file and the operators that read them, and nothing else. With the weights of the
model in place of its own, a file in any precision must therefore compute what Keras computes, as accurately as a file
in float32. What is left to check is that the stored numbers are those nearest to the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.metadata import PRECISION, SIGNATURES, stated
from ...runtime.onnx.runner import OnnxRunner
from ...runtime.runner import Runner
from ...runtime.tflite.flatbuffer import set_metadata, unpacked, write
from ...runtime.tflite.runner import TFLiteRunner
from ..digests import INTEGERS
from ..folding import moved
from ..frontend.inference import FileWeights
from ..precision.onnx.files import PACKED
from .stored import Stored

INLINE = 1_900_000_000  # bytes of weights in one protobuf message


@dataclass(frozen=True)
class Twin:
    """What a file stores.

    Attributes:
        stored: the weights.
        runner: of the float32 twin; None for a float32 file, and if there is none.
        reason: why there is no twin; "" if there is one, or none is needed.
        coarse: whether the twin has constants that are rounded to float16.
    """

    stored: list[Stored]
    runner: Runner | None = None
    reason: str = ""
    coarse: bool = False

    @property
    def rounded(self) -> list[Stored]:
        """The weights that are not in float32."""
        return [one for one in self.stored if one.scales is not None or one.values.dtype == "float16"]


def twin_of(runner: Runner, weights: FileWeights, folder: Path) -> Twin:
    """Return the weights that a file stores, and write its float32 twin to `folder` if it is in another precision.

    Raises:
        ValueError: the metadata that says how weights were moved cannot be read.
    """
    values = {name: weights.value(name) for name in weights.variables}
    return _onnx(runner, values, folder) if runner.format == "onnx" else _tflite(runner, values, folder)


def _onnx(runner: Runner, values: Mapping[str, np.ndarray], folder: Path) -> Twin:
    import onnx_ir as ir

    from .twin_onnx import to_float32

    stored: list[Stored] = []
    coarse = False
    for file, metadata in runner.files.items():
        model: Any = ir.load(file)
        known = {**values, **moved(metadata, values)}
        known |= _packed(known, model.graph.initializers)
        found, rounded = to_float32(model, known)
        stored += found
        coarse |= rounded
        if runner.precision == "fp32":
            continue
        if runner.precision != "fp16":  # whose constants, other than weights, stay rounded
            model.metadata_props.pop(PRECISION, None)
        said = model.metadata_props[SIGNATURES]  # of the caches
        model.metadata_props[SIGNATURES] = said.replace('"dtype": "float16"', '"dtype": "float32"')
        large = sum(value.const_value.nbytes for value in model.graph.initializers.values()) > INLINE
        ir.save(model, folder / file.name, external_data=f"{file.name}.data" if large else None)
    if runner.precision == "fp32":
        return Twin(stored)
    return Twin(stored, OnnxRunner(folder / runner.path.name), coarse=coarse)


def _packed(values: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the kernels and biases of queries, keys and values that a graph for ONNX Runtime joins."""
    found = {}
    for name in names:
        before, joined, after = name.partition(PACKED)
        after = after.partition("_")[0]
        parts = [values.get(f"{before}/{part}/{after}") for part in ("query", "key", "value")]
        if joined and all(part is not None for part in parts):
            found[f"{before}{PACKED}{after}"] = np.concatenate(parts, axis=-1)  # pyright: ignore[reportArgumentType,reportCallIssue]
    return found


def _tflite(runner: Runner, values: Mapping[str, np.ndarray], folder: Path) -> Twin:
    from .twin_tflite import Twin as Changed

    content = np.memmap(runner.path, "uint8", "r")
    changed = Changed(unpacked(content), values)
    if runner.precision == "fp32":
        return Twin(changed.stored)
    if changed.integers or changed.unknown:
        reason = "its activations are integers with measured ranges"
        if changed.unknown:
            reason = f"{changed.unknown[0]} is no weight of the model, such as one that a norm was folded into"
        return Twin(changed.stored, None, reason)
    metadata = dict(runner.metadata)
    if runner.precision != "fp16":
        metadata.pop(PRECISION, None)
    set_metadata(changed.model, metadata)
    write(changed.model, file := folder / runner.path.name)
    return Twin(changed.stored, TFLiteRunner(file))


def integers_of(runner: Runner) -> dict[str, str]:
    """Return the digests of the weights whose integers GPTQ chose, by name.

    Raises:
        ValueError: the metadata cannot be read.
    """
    found: dict[str, str] = {}
    for file, metadata in runner.files.items():
        found |= stated(file, metadata, INTEGERS, dict)
    return found
