"""Weights of an ONNX file written by ``torch.onnx.export``, under the names that they had in PyTorch.

The exporter keeps the name of a parameter where it can. It transposes the kernel of a Linear and names it, for example,
``onnx::MatMul_1966``, but the node that reads it is named after its module, ``/encoder/layer.0/mlp/fc1/MatMul``. This
gives the name ``encoder.layer.0.mlp.fc1.weight``, and the kernel is transposed back. The result of constant folding is
named after the node that reads it, such as ``embeddings.Concat_6``.
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
    """The tensors of a file, or of one module in it, for ``weights.fill.fill``::

        tensors = ONNXTensors("model.onnx", prefix="backbone")
        model = az.zoo.ViT(ViT.dialects["dinov2"].config(their_config, tensors.shapes))
        fill(model, ViT.dialects["dinov2"], tensors)

    The file is only parsed; its graph is not run.

    Args:
        file: the .onnx file; external data, if any, is in the same folder.
        prefix: path of the module to read, as in PyTorch ("backbone" or "model.encoder"). It is removed from the names.
        pieces: for tensors that the exporter has split: the name of each and the names of its parts, which are
            concatenated along axis 1.

    Raises:
        ValueError: `file` is not an ONNX file, has no weights under `prefix` or two of the same name, or lacks one of
            the `pieces`. ``read`` raises it for a tensor that is not floating-point.
    """

    def __init__(
        self, file: str | os.PathLike[str], *, prefix: str = "", pieces: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        with named_extras():
            import onnx
        self.where = str(file)
        try:
            self.graph: Any = onnx.load(os.fspath(file)).graph
        except Exception as error:  # from protobuf, onnx or the file system
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
        if turned[0].dtype.kind not in "fV":  # the kind of ml_dtypes such as bfloat16 is V
            raise ValueError(f"file: {self.where}: {name} is of {turned[0].dtype}; accepted: floating point")
        return turned[0] if len(turned) == 1 else np.concatenate(turned, axis=1)


def _named(graph: Any) -> list[tuple[str, Any, bool]]:
    """Return (name in PyTorch, initializer, whether it is transposed) for every initializer."""
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
