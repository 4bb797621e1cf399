"""Constants of ONNX graphs."""

from __future__ import annotations

from typing import Any

import numpy as np


def initializer(graph: Any, name: str, array: np.ndarray) -> Any:
    """Return the initializer `name` of an ``onnx_ir.Graph``, which is added with these values if there is none."""
    import onnx_ir as ir

    if name not in graph.initializers:
        array = np.asarray(array, order="C")
        tensor: Any = ir.tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        graph.register_initializer(ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=kind))
    return graph.initializers[name]
