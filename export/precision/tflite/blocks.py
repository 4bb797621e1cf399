"""More accurate 4-bit blocks for a TFLite file than those that the AI Edge Quantizer wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...digests import integers_digest
from ..blocks import to_blocks
from ..gptq import Order, with_feedback
from ..onnx.orders import Orders
from .weights import Weight

INT4 = 17  # of ``schema.TensorType``


def nearest_blocks(
    model: Any, weights: Iterable[Weight], names: Mapping[int, str], orders: Orders | None
) -> dict[str, str]:
    """Replace the 4-bit blocks of `model`, a ``ModelT``, by blocks with the scale, of several, that leaves the smallest
    squared error.

    For real models, the error is 15 % smaller than with the best clipping of a block by the formula for a whole row.

    Args:
        names: Keras names, by the ``id`` of a weight.
        orders: GPTQ orders; if given, GPTQ chooses the values for these scales.

    Returns:
        The digests of the weights whose values GPTQ chose, by the names of their tensors without the graph.
    """
    chosen = {}
    by_name = {name: weight for weight in weights for name in weight.names}
    found: dict[int, tuple[Weight, list[Any]]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            weight = by_name.get(tensor.name.decode()) if tensor.type == INT4 else None
            if weight is not None:
                found.setdefault(id(weight), (weight, []))[1].append((graph, tensor))
    known = {} if orders is None else {name: place for place, name in enumerate(orders)}
    for weight, tensors in sorted(found.values(), key=lambda pair: known.get(names[id(pair[0])], -1)):
        name = names[id(weight)]
        order = orders.of(name) if orders is not None and name in known else None
        steps, scales = _rounded(weight.array, tensors[0][1].quantization.details.blockSize, order)
        if order is not None:
            label = tensors[0][1].name.decode().partition(";")[0]
            chosen[label] = integers_digest(steps.reshape(scales.size, -1), scales.reshape(-1))
        flat = steps.reshape(-1) & 15
        values = (flat[::2] | (flat[1::2] << 4)).view("uint8")
        for graph, tensor in tensors:
            model.buffers[tensor.buffer].data = values
            held = graph.tensors[tensor.quantization.details.scales].buffer
            model.buffers[held].data = scales.view("uint8").reshape(-1)
    return chosen


def _rounded(array: np.ndarray, block_size: int, order: Order | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, blocks, block_size) int8 values, and (rows, blocks) scales in float16."""
    found = to_blocks(array, 4, block_size, symmetric=True, method="search", positive=True)
    scales = np.maximum(_as_bfloat16(found.scales), np.float32(2.0**-14))  # the smallest normal float16
    blocks = array.reshape(len(array), -1, block_size)
    steps = np.clip(np.rint(blocks / scales[..., None]), -8, 7).astype("int8")
    if order is not None:
        nearest = found._replace(values=(steps + 8).view("uint8"), scales=scales)
        steps = with_feedback(array, nearest, order).values.view("int8") - 8
    return steps, scales.astype("float16")


def _as_bfloat16(scales: np.ndarray) -> np.ndarray:
    """Round scales to eight significant bits, as LiteRT's kernel reads them, so that the values fit the scale that is
    used."""
    bits = np.ascontiguousarray(scales, "float32").view("uint32")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype("uint32").view("float32")
