"""What stands in a TFLite file's way on a phone: its size, XNNPACK's pieces, and what a GPU or NPU will not take.

Rules of our own, for want of a better judge: TensorFlow's analyser calls every file compatible. Operators and dtypes
are those of ``gpu_operators.py``, after LiteRT's source. An open size is what neither a GPU nor the compiler of an NPU
makes its buffers for, and several rows are what they are not tuned for. Needs ``ai_edge_litert``, and no TensorFlow.
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

LARGEST = 1 << 30  # bytes of a file that is loaded to be asked
SMALL = 1024  # bytes: what is below may be there twice
SPARE, SPARE_SHARE = 16384, 0.02  # numbers that a file may have more than its model: tables of positions, scales
GPU, OLDER = "GPU", "older GPU delegate"


@dataclass(frozen=True)
class Finding:
    """Something that an accelerator leaves to the CPU, or refuses.

    Attributes:
        rule: "operator", "rank", "dtype", "int64", "bool", "broadcast", "batch" or "open size".
        on: "GPU", which the older delegate has in common, or "older GPU delegate".
        operator: "" of an input.
        layer: that the operator came from, as the file names it; or the input.
        detail: sizes, dtypes.
    """

    rule: str
    on: str
    signature: str
    operator: str
    layer: str
    detail: str


@dataclass(frozen=True)
class Suitability:
    """Of one file.

    Attributes:
        constant_bytes: of all constants.
        repeated: bytes of those that are equal to an earlier one, by name.
        partitions: of every signature, by XNNPACK.
        findings: in the order of the file.
        operators: in all its graphs.
    """

    constant_bytes: int
    repeated: dict[str, int]
    partitions: tuple[Partitions, ...]
    findings: tuple[Finding, ...]
    operators: int

    def rows(self) -> list[tuple[str, str]]:
        """XNNPACK and the GPU, in a line each, and what is stored twice."""
        found = [("XNNPACK", "; ".join(map(_pieces, self.partitions)))] if self.partitions else []
        found += [(on, self._line(on)) for on in (GPU, OLDER)]
        if self.repeated:
            names = ", ".join(list(self.repeated)[:3])
            found.append(("stored twice", f"{sum(self.repeated.values()) / 1e6:.1f} MB: {names}"))
        return found

    def details(self) -> list[tuple[str, str]]:
        """Every kind of finding, with how many there are and where the first ones are."""
        found = []
        for part in self.partitions:
            for operator, layers in _grouped(part.outside):
                found.append((f"{part.signature}: outside XNNPACK", f"{operator} {len(layers)}: {_first(layers)}"))
        kinds = [((one.on, one.rule, one.operator, one.detail), one.layer) for one in self.findings]
        for (on, rule, operator, detail), layers in _grouped(kinds):
            what = f"{operator} {len(layers)}" if operator else "input"
            found.append((f"{on}: {rule}", f"{what}, {detail}: {_first(layers)}"))
        return found

    def _line(self, on: str) -> str:
        own = [one for one in self.findings if one.on in (GPU, on)]
        count = sum(1 for one in own if one.operator)  # no node is found twice
        if not own:
            return "takes all"
        kinds = Counter(one.operator or f"{one.rule} of {one.layer}" for one in own)
        listed = ", ".join(f"{name} {n}" for name, n in kinds.most_common(4))
        return f"{count} of {self.operators} operators stay outside: {listed}"


def suitability(source: Path | bytes | memoryview, *, pieces: bool = True) -> Suitability:
    """Of a file, or of its content.

    Args:
        pieces: count XNNPACK's, for which every signature of a file up to 1 GB is loaded once.

    Raises:
        ValueError: no TFLite file.
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
    """Of what ``dataclasses.asdict`` makes of it, JSON between them or not."""
    parts = [{**part, "outside": tuple(map(tuple, part["outside"]))} for part in values["partitions"]]
    findings = tuple(Finding(**one) for one in values["findings"])
    return Suitability(**{**values, "partitions": tuple(Partitions(**part) for part in parts), "findings": findings})


def stored_twice(source: Path | bytes | memoryview, sizes: Iterable[int]) -> str | None:
    """What to tell of a file with clearly more numbers than its model; None where there is nothing to tell.

    Precision does not matter: a weight that is there twice is so many numbers more. Equal bytes alone do not show it,
    as a factor may have been multiplied into one of the two.

    Args:
        sizes: how many numbers each of the model's weights has.
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
                yield Finding("open size", GPU, *place)
            if len(shape) > 1 and shape[0] > 1:
                yield Finding("batch", GPU, *place)
    for graph, node, operator in operators(model):
        place = (graphs[id(graph)], operator, layer_of(graph, node.inputs, node.outputs))
        yield from (Finding(rule, on, *place, detail) for rule, on, detail in _of_node(model, graph, node, operator))


def _of_node(model: Any, graph: Any, node: Any, operator: str) -> Iterator[tuple[str, str, str]]:
    """Rule, runtime and detail: at most one of each runtime's, and of the older one only its own."""
    kinds = dtype_names()
    taken, given = ([graph.tensors[i] for i in side if i >= 0] for side in (node.inputs, node.outputs))
    if deep := [shape_of(tensor) for tensor in (*taken, *given) if len(shape_of(tensor)) > MOST_DIMENSIONS]:
        yield "rank", GPU, f"{tuple(deep[0])}"
        return
    # Constants are not passed between operators, and may be of any dtype.
    moving = [kinds[tensor.type] for tensor in taken if not _constant(model, tensor)], [kinds[t.type] for t in given]
    for on, known, dtypes in ((GPU, ACCELERATOR, accelerator_dtypes), (OLDER, DELEGATE, delegate_dtypes)):
        if operator not in known:
            yield "operator", on, "not there"
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
    outside = f", {len(part.outside)} of {part.operators} operators outside ({kinds})" if part.outside else ""
    return f"{part.signature} in {part.pieces} piece{'' if part.pieces == 1 else 's'}{outside}"


def _grouped(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, list[str]]]:
    found: dict[Any, list[str]] = {}
    for key, layer in pairs:
        found.setdefault(key, []).append(layer)
    return list(found.items())


def _first(layers: list[str]) -> str:
    different = list(dict.fromkeys(layer or "?" for layer in layers))
    return ", ".join(different[:3]) + (", …" if len(different) > 3 else "")
