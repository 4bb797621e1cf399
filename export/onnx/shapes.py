"""The shapes of all values of a graph, as far as they are known, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...runtime.metadata import SIGNATURES
from .known_sizes import name_dimensions

POOLS = ("AveragePool", "LpPool", "MaxPool")


def infer_shapes(model: Any) -> None:
    """Set dtype and shape of every value of `model`, an ``onnx_ir.Model``, in place.

    An open dimension keeps the name that an input gives it; a size that no input names has no name.
    """
    from onnx_ir.passes import common

    stated = {value: value.shape for value in model.graph.outputs}
    infer = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer(model)
    _without_numbered(model)
    if name_dimensions(model.graph, _of_signatures(model, "limits")):
        infer(model)
        _without_numbered(model)
    for value, shape in stated.items():
        value.shape = shape


def _without_numbered(model: Any) -> None:
    """Remove the names that the inference gave to unknown sizes."""
    import onnx_ir as ir

    sums = _of_signatures(model, "sums")  # tract computes these from the parts
    names = {dim.value for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    names -= {*sums}
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None:
                known = (dim if isinstance(dim, int) or dim.value in names else None for dim in value.shape)
                value.shape = ir.Shape(known)


def _of_signatures(model: Any, entry: str) -> dict[str, Any]:
    """Return an entry of the signatures in the metadata of a model, by dimension."""
    stated = json.loads(model.metadata_props.get(SIGNATURES, "{}")).values()
    return {dim: value for signature in stated for dim, value in signature.get(entry, {}).items()}


def state_pads(graph: Any) -> None:
    """Write the padding of convolutions and pools as numbers where they are known, in place.

    ``SAME_UPPER`` computes them from the sizes of the image; OpenCV computes others.
    """
    import onnx_ir as ir

    for node in graph:
        auto = node.attributes.get("auto_pad")
        if node.domain or auto is None or node.op_type not in ("Conv", *POOLS):
            continue
        kind = auto.as_string()
        kernel = _kernel(node)
        if kernel is None or kind not in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            continue
        pads = [0] * (2 * len(kernel)) if kind == "VALID" else _same(node, kernel, kind)
        if pads is not None:
            del node.attributes["auto_pad"]
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _kernel(node: Any) -> list[int] | None:
    """Return the sizes of the window, or None if they are not known."""
    stated = node.attributes.get("kernel_shape")
    if stated is not None:
        return list(stated.as_ints())
    shape = node.inputs[1].shape if len(node.inputs) > 1 else None
    return list(shape[2:]) if shape is not None and all(isinstance(dim, int) for dim in shape) else None


def _same(node: Any, kernel: Sequence[int], kind: str) -> list[int] | None:
    """Return the numbers of zeros before and after each dimension, or None if they depend on an open size."""

    def values(name: str) -> list[int]:
        attribute = node.attributes.get(name)
        return [1] * len(kernel) if attribute is None else list(attribute.as_ints())

    shape = node.inputs[0].shape
    sizes: list[Any] = [None] * len(kernel) if shape is None else list(shape[2:])
    begin, end = [], []
    for size, window, stride, dilation in zip(sizes, kernel, values("strides"), values("dilations"), strict=True):
        reach = (window - 1) * dilation + 1
        if stride == 1:
            total = reach - 1
        elif isinstance(size, int):
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        else:
            return None
        less, more = total // 2, total - total // 2
        begin.append(less if kind == "SAME_UPPER" else more)
        end.append(more if kind == "SAME_UPPER" else less)
    return [*begin, *end]
