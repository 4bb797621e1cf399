"""Markers in a trace: nodes that stand for an ONNX operator, which a handler for tf2onnx puts in their place."""

from __future__ import annotations

import json
from typing import Any

Tensor = Any


def marker(
    operator: str, inputs: list[Tensor], shape: list[int | None] | None, *, dtype: Any = None, **attributes: Any
) -> Tensor:
    """Return the output of a node that `replace_marker` replaces by `operator`. The node itself cannot be run.

    Args:
        operator: the ONNX operator.
        inputs: its inputs.
        shape: the shape of the output; None if its rank is unknown.
        dtype: the dtype of the output. Default: that of the first input.
        attributes: the attributes of the operator.
    """
    return markers(operator, inputs, [shape], dtypes=[dtype] if dtype else None, **attributes)[0]


def markers(
    operator: str,
    inputs: list[Any],
    shapes: list[list[int | None] | None],
    *,
    dtypes: list[Any] | None = None,
    **attributes: Any,
) -> list[Tensor]:
    """Do the same as `marker`, with several outputs. An input is None if the operator omits it."""
    import tensorflow as tf

    given = [tf.convert_to_tensor(tensor) for tensor in inputs if tensor is not None]
    present = [tensor is not None for tensor in inputs]
    token = json.dumps({"operator": operator, "attributes": attributes, "present": present})
    outputs = tf.raw_ops.PyFunc(input=given, token=token, Tout=dtypes or [given[0].dtype] * len(shapes))
    for output, shape in zip(outputs, shapes, strict=True):
        output.set_shape(shape)
    return outputs


def replace_marker(graph: Any, node: Any, name: str, _: Any) -> None:
    meant = json.loads(node.get_attr("token").s)
    shapes = [graph.get_shape(output) for output in node.output]
    dtypes = [graph.get_dtype(output) for output in node.output]
    given, outputs = iter(list(node.input)), list(node.output)
    inputs = [next(given) if there else "" for there in meant["present"]]
    graph.remove_node(node.name)
    graph.make_node(
        meant["operator"],
        inputs,
        attr=meant["attributes"],
        outputs=outputs,
        shapes=shapes,
        dtypes=dtypes,
        name=name,
        skip_conversion=True,
    )
