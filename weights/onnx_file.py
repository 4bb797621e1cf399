"""Weights out of an ONNX file that ``torch.onnx.export`` wrote, under the names that they had in torch.

The exporter keeps a parameter's name where it can. It turns the kernel of a Linear around and calls it
``onnx::MatMul_1966``, but the node that reads it is named after its module, ``/encoder/layer.0/mlp/fc1/MatMul``: from
that comes ``encoder.layer.0.mlp.fc1.weight``, turned back. What it has computed beforehand is known by the node that
reads it alone, such as ``embeddings.Concat_6``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..needs import named_extras

if TYPE_CHECKING:
    from .tensors import Shape


class ONNXTensors:
    """The tensors of a file, or of one module in it, for ``weights.fill.fill``.

    ::

        tensors = ONNXTensors("model.onnx", prefix="backbone")
        model = az.zoo.ViT(ViT.dialects["dinov2"].config(their_config, tensors.shapes))
        fill(model, ViT.dialects["dinov2"], tensors)

    The file is read as data; nothing of its graph is run.

    Args:
        file: the .onnx file, with its weights inside or beside it in the same folder.
        prefix: the module whose weights are wanted, as torch writes it ("backbone" or "model.encoder"); names are
            without it.
        pieces: tensors that the exporter has cut, name to the names of their parts, joined along axis 1.

    Raises:
        ValueError: not an ONNX file, no weights under `prefix`, two of one name, or parts that are not there.
    """

    def __init__(
        self, file: str | os.PathLike[str], *, prefix: str = "", pieces: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        with named_extras():
            import onnx
        self.where = str(file)
        try:
            self.graph: Any = onnx.load(os.fspath(file)).graph
        except Exception as error:  # of protobuf, of onnx and of the file system
            raise ValueError(f"file: {file} cannot be read: {error}; accepted: a whole ONNX file") from error
        self.folder = str(Path(file).parent)
        start = f"{prefix.strip('./').replace('/', '.')}." if prefix else ""
        found: dict[str, list[tuple[Any, bool]]] = {}
        for name, tensor, turned in _named(self.graph):
            if name.startswith(start):
                if (short := name.removeprefix(start)) in found:
                    raise ValueError(f"file: {file} has two tensors for {name}; accepted: one")
                found[short] = [(tensor, turned)]
        if not found:
            modules = sorted({name.partition(".")[0] for name, _, _ in _named(self.graph)})
            raise ValueError(f"prefix: got {prefix!r}, under which {file} has no weights; accepted: within {modules}")
        for name, parts in (pieces or {}).items():
            if missing := [part for part in parts if part not in found]:
                raise ValueError(f"pieces: got {missing} for {name}, not in {file}; accepted: {sorted(found)[:8]}, …")
            found[name] = [found.pop(part)[0] for part in parts]
        self.found = found
        self.shapes: Mapping[str, Shape] = {name: _shape(parts) for name, parts in found.items()}

    def read(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        arrays = [numpy_helper.to_array(tensor, self.folder) for tensor, _ in self.found[name]]
        turned = [array.T if turn else array for array, (_, turn) in zip(arrays, self.found[name], strict=True)]
        if turned[0].dtype.kind not in "fV":  # ml_dtypes are of kind V
            raise ValueError(f"file: {self.where}: {name} is of {turned[0].dtype}; accepted: floating point")
        return turned[0] if len(turned) == 1 else np.concatenate(turned, axis=1)


def _named(graph: Any) -> list[tuple[str, Any, bool]]:
    """Every initializer with its name in torch, and whether it stands transposed."""
    readers: dict[str, Any] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, node)
    named = []
    for tensor in graph.initializer:
        node = readers.get(tensor.name)
        if not tensor.name.startswith("onnx::") or node is None:
            named.append((tensor.name, tensor, False))
            continue
        path, _, operator = node.name.strip("/").replace("/", ".").rpartition(".")
        kernel = node.op_type == "MatMul"
        named.append((f"{path}.{'weight' if kernel else operator}", tensor, kernel))
    return named


def _shape(parts: Sequence[tuple[Any, bool]]) -> Shape:
    shapes = [tuple(tensor.dims)[:: -1 if turned else 1] for tensor, turned in parts]
    if len(shapes) == 1:
        return shapes[0]
    return (shapes[0][0], sum(shape[1] for shape in shapes), *shapes[0][2:])
