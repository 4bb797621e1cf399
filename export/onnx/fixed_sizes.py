"""Decoders whose sizes are all fixed, the number of cached tokens too, as runtimes without open dimensions need them.

The sizes are fixed in a finished file, so that its weights and operators are those that were compared with Keras and
measured. What then depends on sizes alone becomes a constant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.metadata import DIGEST, SIGNATURES
from ...signature import Signature
from ..digests import UNSEALED
from ..initializers import initializer
from .constants import fold_constants
from .files import Written, write
from .shapes import infer_shapes

ROUNDS = 8  # sizes of sizes; each round computes what the one before made constant


def with_fixed_sizes(written: Written, name: str, file: str, folder: Path, sizes: Mapping[str, int]) -> Written:
    """Write a decoder once more, with these sizes.

    Args:
        written: the decoder with open dimensions.
        name: the name of its graph.
        file: its file name.
        folder: the folder to write to.
        sizes: of all its open dimensions.
    """
    import onnx_ir as ir

    model: Any = ir.load(written.runner.path)
    signature = replace(written.runner.graphs[name].signature, sizes=dict(sizes))
    _fix(model, signature)
    model.metadata_props[SIGNATURES] = json.dumps({name: signature.to_dict()})
    model.metadata_props[DIGEST] = UNSEALED
    fixed = write([(name, model)], name, {name: file}, folder)
    return replace(fixed, calls=written.calls, share=written.share, accuracy=written.accuracy)


def _fix(model: Any, signature: Signature) -> None:
    import onnx_ir as ir

    graph = model.graph
    for side, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        for value in side:
            value.shape = ir.Shape(signature.shape(next(spec for spec in specs if spec.name == value.name)))
    for _ in range(ROUNDS):
        infer_shapes(model)
        before = len(graph)
        for node in [node for node in graph if node.op_type == "Shape" and not node.domain and not node.attributes]:
            shape = node.inputs[0].shape
            if shape is not None and all(isinstance(dim, int) for dim in shape):
                constant = initializer(graph, f"{node.name}_constant", np.array(list(shape), "int64"))
                ir.convenience.replace_all_uses_with(node.outputs[0], constant, replace_graph_outputs=True)
                graph.remove(node, safe=True)
        fold_constants(graph, model.opset_imports[""], of_integers=True)
        if len(graph) == before:
            break
    for unused in [name for name, value in graph.initializers.items() if not value.uses()]:
        if graph.initializers[unused] not in graph.inputs:
            del graph.initializers[unused]
