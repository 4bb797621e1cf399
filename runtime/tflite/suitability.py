"""Suitability of a TFLite file for phones: duplicate constants, XNNPACK partitions, and what a GPU or NPU cannot run.

The rules are those of this package, because TensorFlow's analyzer reports every file as compatible. The operators and
dtypes are in ``gpu_operators.py`` and come from LiteRT's source. Neither a GPU nor the compiler of an NPU allocates
buffers for a dynamic shape, and neither is tuned for a batch of several rows. Requires ``ai_edge_litert``, but not
TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .flatbuffer import constants, dtype_names, layer_of, operators, shape_of, unpacked
from .gpu_operators import (
    ACCELERATOR,
    DELEGATE,
    MOST_DIMENSIONS,
    accelerator_dtypes,
    delegate_broadcasts,
    delegate_dtypes,
)
from .partitions import Partitions, partitions

LARGEST = 1 << 30  # bytes; larger files are not loaded to count their partitions
SMALL = 1024  # bytes; smaller constants are not reported as duplicates
SPARE, SPARE_SHARE = 16384, 0.02  # additional values that a file may have, such as position tables and scales
GPU, OLDER = "GPU", "older GPU delegate"


@dataclass(frozen=True)
class Finding:
    """An operator or an input that an accelerator does not support, or that it leaves to the CPU.

    Attributes:
        rule: "operator", "rank", "dtype", "int64", "bool", "broadcast", "batch" or "dynamic shape".
        on: "GPU" if it applies to both GPU runtimes, or "older GPU delegate" if it applies to that one only.
        signature: The name of the signature.
        operator: The name of the operator; "" for an input.
        layer: The layer of the operator, as named in the file; or the name of the input.
        detail: The shape or dtype that is the cause.
    """

    rule: str
    on: str
    signature: str
    operator: str
    layer: str
    detail: str


@dataclass(frozen=True)
class Suitability:
    """The suitability of one TFLite file for phones.

    Attributes:
        constant_bytes: The size of all constants.
        repeated: The size in bytes of every constant that is equal to an earlier one, by name.
        partitions: The XNNPACK partitions of every signature.
        findings: What a GPU does not support, in the order of the file.
        operators: The number of nodes of all graphs.
    """

    constant_bytes: int
    repeated: dict[str, int]
    partitions: tuple[Partitions, ...]
    findings: tuple[Finding, ...]
    operators: int

    def rows(self) -> list[tuple[str, str]]:
        """Return table rows for XNNPACK, for each GPU runtime, and for duplicate constants if there are any."""
        found = [("XNNPACK", "; ".join(map(_pieces, self.partitions)))] if self.partitions else []
        found += [(on, self._line(on)) for on in (GPU, OLDER)]
        if self.repeated:
            names = ", ".join(list(self.repeated)[:3])
            found.append(("stored twice", f"{sum(self.repeated.values()) / 1e6:.1f} MB: {names}"))
        return found

    def details(self) -> list[tuple[str, str]]:
        """Return a table row for each kind of finding, with the number of findings and the first layers."""
        found = []
        for part in self.partitions:
            for operator, layers in _grouped(part.outside):
                found.append((f"{part.signature}: not run by XNNPACK", f"{operator} {len(layers)}: {_first(layers)}"))
        kinds = [((one.on, one.rule, one.operator, one.detail), one.layer) for one in self.findings]
        for (on, rule, operator, detail), layers in _grouped(kinds):
            what = f"{operator} {len(layers)}" if operator else "input"
            found.append((f"{on}: {rule}", f"{what}, {detail}: {_first(layers)}"))
        return found

    def _line(self, on: str) -> str:
        own = [one for one in self.findings if one.on in (GPU, on)]
        count = sum(1 for one in own if one.operator)  # a node has at most one finding
        if not own:
            return "supports all operators"
        kinds = Counter(one.operator or f"{one.rule} of {one.layer}" for one in own)
        listed = ", ".join(f"{name} {n}" for name, n in kinds.most_common(4))
        return f"{count} of {self.operators} operators not supported: {listed}"


def suitability(source: Path | bytes | memoryview, *, pieces: bool = True) -> Suitability:
    """Return the suitability of a TFLite file.

    Args:
        source: The path or the contents of the file.
        pieces: Whether to count the XNNPACK partitions, for which every signature is loaded once. Files above 1 GB are
            not loaded.

    Raises:
        ValueError: If `source` is not a TFLite file that LiteRT can read.
    """
    content = _content(source)
    model = unpacked(content)
    own = constants(model)
    return Suitability(
        constant_bytes=sum(len(data) for _, data, _ in own),
        repeated=_repeated(own),
        partitions=tuple(partitions(content, model)) if pieces and len(content) <= LARGEST else (),
        findings=tuple(_findings(model)),
        operators=sum(len(graph.operators or []) for graph in model.subgraphs),
    )


def from_dict(values: Mapping[str, Any]) -> Suitability:
    """Return the ``Suitability`` of its ``dataclasses.asdict``, which may have been stored as JSON."""
    parts = [{**part, "outside": tuple(map(tuple, part["outside"]))} for part in values["partitions"]]
    findings = tuple(Finding(**one) for one in values["findings"])
    return Suitability(**{**values, "partitions": tuple(Partitions(**part) for part in parts), "findings": findings})


def stored_twice(source: Path | bytes | memoryview, sizes: Iterable[int]) -> str | None:
    """Return a warning if a file stores clearly more values than its model has, or None.

    The values are counted independently of their precision: a weight that is stored twice doubles its count. Comparing
    bytes alone would not find it if one of the copies was multiplied by a factor.

    Args:
        source: The path or the contents of the file.
        sizes: The number of elements of each of the model's weights.
    """
    expected = Counter(int(size) for size in sizes)
    weights = [(name, count) for name, _, count in constants(unpacked(_content(source))) if count]
    more = sum(count for _, count in weights) - sum(size * n for size, n in expected.items())
    if more <= SPARE + SPARE_SHARE * sum(size * n for size, n in expected.items()):
        return None
    left = Counter(expected)
    names = []
    for name, count in sorted(weights, key=lambda weight: -weight[1]):
        left[count] -= 1
        if left[count] < 0 and count > SPARE:
            names.append(f"{name} ({count:,})")
    return f"the file has {more:,} numbers more than the model: {', '.join(names[:4]) or 'many small ones'}"


def _content(source: Path | bytes | memoryview) -> Any:
    return np.memmap(source, "uint8", "r") if isinstance(source, Path) else source


def _repeated(own: list[tuple[str, Any, int]]) -> dict[str, int]:
    seen: set[bytes] = set()
    found = {}
    for name, data, _ in own:
        if len(data) < SMALL:
            continue
        digest = hashlib.sha256(memoryview(data)).digest()
        if digest in seen:
            found[name] = len(data)
        seen.add(digest)
    return found


def _findings(model: Any) -> Iterator[Finding]:
    names = {signature.subgraphIndex: signature.signatureKey.decode() for signature in model.signatureDefs or []}
    graphs = {id(graph): names.get(index, f"graph {index}") for index, graph in enumerate(model.subgraphs)}
    for signature in model.signatureDefs or []:
        for entry in signature.inputs:
            shape = shape_of(model.subgraphs[signature.subgraphIndex].tensors[entry.tensorIndex])
            place = (signature.signatureKey.decode(), "", entry.name.decode(), f"{tuple(shape)}")
            if any(size < 0 for size in shape):
                yield Finding("dynamic shape", GPU, *place)
            if len(shape) > 1 and shape[0] > 1:
                yield Finding("batch", GPU, *place)
    for graph, node, operator in operators(model):
        place = (graphs[id(graph)], operator, layer_of(graph, node.inputs, node.outputs))
        yield from (Finding(rule, on, *place, detail) for rule, on, detail in _of_node(model, graph, node, operator))


def _of_node(model: Any, graph: Any, node: Any, operator: str) -> Iterator[tuple[str, str, str]]:
    """Yield rule, runtime and detail of the finding of a node, if any. One for "GPU" applies to both GPU runtimes."""
    kinds = dtype_names()
    taken, given = ([graph.tensors[i] for i in side if i >= 0] for side in (node.inputs, node.outputs))
    if deep := [shape_of(tensor) for tensor in (*taken, *given) if len(shape_of(tensor)) > MOST_DIMENSIONS]:
        yield "rank", GPU, f"{tuple(deep[0])}"
        return
    # Constants may have any dtype, as they are not passed between operators.
    moving = [kinds[tensor.type] for tensor in taken if not _constant(model, tensor)], [kinds[t.type] for t in given]
    for on, known, dtypes in ((GPU, ACCELERATOR, accelerator_dtypes), (OLDER, DELEGATE, delegate_dtypes)):
        if operator not in known:
            yield "operator", on, "not supported"
            return
        wrong = [
            kind for side, allowed in zip(moving, dtypes(operator), strict=True) for kind in side if kind not in allowed
        ]
        if wrong:
            yield wrong[0] if wrong[0] in ("int64", "bool") else "dtype", on, wrong[0]
            return
    if operator in ("ADD", "MUL") and len(taken) == 2:
        one, other = map(shape_of, taken)
        if not delegate_broadcasts(one, other):
            yield "broadcast", OLDER, f"{tuple(one)} and {tuple(other)}"


def _constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _pieces(part: Partitions) -> str:
    kinds = ", ".join(f"{name} {n}" for name, n in Counter(name for name, _ in part.outside).most_common(3))
    outside = f", {len(part.outside)} of {part.operators} operators not run by it ({kinds})" if part.outside else ""
    return f"{part.signature} in {part.pieces} partition{'' if part.pieces == 1 else 's'}{outside}"


def _grouped(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, list[str]]]:
    found: dict[Any, list[str]] = {}
    for key, layer in pairs:
        found.setdefault(key, []).append(layer)
    return list(found.items())


def _first(layers: list[str]) -> str:
    different = list(dict.fromkeys(layer or "?" for layer in layers))
    return ", ".join(different[:3]) + (", …" if len(different) > 3 else "")
