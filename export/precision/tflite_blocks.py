"""Weights of a TFLite file in blocks of 4 bits: nearer numbers than those that the quantiser has put there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .blocks import to_blocks
from .tflite_weights import Weight

INT4 = 17  # of ``schema.TensorType``


def nearest_blocks(model: Any, weights: Iterable[Weight]) -> None:
    """Change `model`, a ``ModelT``: blocks get the scale, of several, that leaves the smallest squared error. Of real
    models that is 15 % less than what clips a block best by the formula for a whole row."""
    arrays = {name: weight.array for weight in weights for name in weight.names}
    made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.type != INT4 or (array := arrays.get(tensor.name.decode())) is None:
                continue
            details = tensor.quantization.details
            if id(array) not in made:
                made[id(array)] = _rounded(array, details.blockSize)
            values, scales = made[id(array)]
            model.buffers[tensor.buffer].data = values
            model.buffers[graph.tensors[details.scales].buffer].data = scales


def _rounded(array: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of the numbers, two in each and the first in the lower half, and of the scales in float16."""
    found = to_blocks(array, 4, block_size, symmetric=True, method="search", positive=True)
    scales = np.maximum(_as_bfloat16(found.scales), np.float32(2.0**-14))  # the least that is normal in float16
    blocks = array.reshape(len(array), -1, block_size)
    steps = np.clip(np.rint(blocks / scales[..., None]), -8, 7).astype("int8").reshape(-1) & 15
    return (steps[::2] | (steps[1::2] << 4)).view("uint8"), scales.astype("float16").view("uint8").reshape(-1)


def _as_bfloat16(scales: np.ndarray) -> np.ndarray:
    """Rounded to eight bits, as LiteRT's kernel reads them: the numbers are then made for that scale."""
    bits = np.ascontiguousarray(scales, "float32").view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype("uint32").view("float32")
