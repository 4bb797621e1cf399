"""The ONNX files of a model, in three stages: float32, ONNX Runtime's own operators, and reduced precision."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.metadata import CONFIG, DIGESTS_BESIDE
from ...runtime.onnx.runner import OnnxRunner
from ..digests import seal
from ..errors import ExportError
from ..frontend.diagnostics import one_line
from ..precision.accuracy import measure
from ..precision.onnx.files import round_graphs
from ..precision.report import Accuracy
from ..precision.spread import placeholder, write_spread
from ..request import ExportRequest
from .runtime_graph import to_runtime_graph
from .shapes import infer_shapes

LARGE = 100_000_000  # bytes; below this size, freeing memory early makes no noticeable difference
PROTOBUF_LIMIT = 1_900_000_000  # bytes; protobuf is limited to 2 GiB, so larger weights are stored as external data


@dataclass(frozen=True)
class Written:
    """The files of a model in a temporary folder.

    Attributes:
        files: paths, in the order in which the files are to be moved to their final folder.
        operators: number of nodes of each operator, in all files together.
        runner: runner of the main file, which is the last one.
        calls: how often the model calls each kind of primitive; see ``fused.py``.
        opset: the highest opset of the files.
        share: share of the weights' values that are in reduced precision.
        accuracy: accuracy relative to the float32 files; None for these.
    """

    files: list[Path]
    operators: Counter[str]
    runner: OnnxRunner
    calls: Counter[str]
    opset: int
    share: float = 0.0
    accuracy: Accuracy | None = None


def write(
    parts: Iterable[tuple[str, Any]], main: str, names: Mapping[str, str], folder: Path, forbidden: Collection[str] = ()
) -> Written:
    """Write graphs to files, load the main file in ONNX Runtime, and return the result.

    Each graph is released as soon as it has been written.

    Args:
        parts: the graphs by name, as ``onnx_ir`` models. The last one must be `main`.
        main: name of the graph of the requested file, whose metadata gets the digests of the other files.
        names: file names by graph.
        folder: the folder to write to, which is created if necessary.
        forbidden: parts of the names of operators that no graph may contain.

    Raises:
        ExportError: a graph contains a forbidden operator, or ONNX Runtime cannot load the main file.
    """
    folder.mkdir(exist_ok=True)
    operators: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    files: list[Path] = []
    digests: dict[str, str] = {}
    opset = 0
    for name, part in parts:
        if digests and name == main:
            part.metadata_props[DIGESTS_BESIDE] = json.dumps(digests)
        operators.update(_operators(part, forbidden))
        infer_shapes(part)
        calls.update(part.meta.get("calls", {}))
        opset = max(opset, part.opset_imports[""])
        data, file = _write(part, folder / names[name])
        digests[name] = seal(file, data)
        files += [file] if data is None else [data, file]
        del part
    if sum(file.stat().st_size for file in files) > LARGE:
        gc.collect()  # nodes of a graph are in reference cycles; frees its weights before the runtime loads them again
    return Written(files, operators, _opened(folder / names[main]), calls, opset)


def for_runtime(standard: Written, names: Mapping[str, str], folder: Path, request: ExportRequest) -> Written:
    """Write a float32 decoder with ONNX Runtime's own operators. Return `standard` unchanged if it has no cache.

    Args:
        standard: the files with standard operators.
        names: file names by graph.
        folder: the folder to write to.
        request: the request, with the precision that determines which weights may be joined.

    Raises:
        ValueError: the decoder has an encoder, or its attention cannot be computed by ONNX Runtime's operator.
    """
    import onnx_ir as ir

    runner = standard.runner
    if "decoder" not in runner.graphs:
        return standard
    if len(runner.graphs) > 1:
        raise ValueError("target: got 'onnxruntime' for a decoder with an encoder; accepted: None or 'standard'")
    model = ir.load(runner.path)
    config = json.loads(runner.metadata[CONFIG])
    to_runtime_graph(model, runner.path, runner.signature, config, request.precision.alike)
    return replace(write([("decoder", model)], "decoder", names, folder), calls=standard.calls)


def in_precision(
    precise: Written, graphs: Collection[str], names: Mapping[str, str], folder: Path, request: ExportRequest
) -> Written:
    """Convert float32 files to the requested precision, and measure the accuracy.

    Args:
        precise: the float32 files.
        graphs: names of the graphs; the last one is in the main file.
        names: file names by graph.
        folder: the folder to write to.
        request: the request, with the precision, the samples and the accepted accuracy.

    Raises:
        AccuracyError: the files are less accurate than the request accepts.
    """
    *_, main = graphs
    shares = []

    def rounded() -> Iterator[tuple[str, Any]]:
        for name, part in round_graphs(precise.runner, graphs, request):
            shares.append(part.share)
            if name == main:
                part.model.metadata_props.update(placeholder(precise.runner))
            yield name, part.model

    found = write(rounded(), main, names, folder)
    accuracy = measure(precise.runner, found.runner, request)
    write_spread(found.runner, accuracy.spread)
    return replace(found, calls=precise.calls, share=float(np.mean(shares)), accuracy=accuracy)


def _opened(file: Path) -> OnnxRunner:
    try:
        return OnnxRunner(file)
    except ValueError as error:
        said = one_line(error.__cause__ or error, 1000).replace(str(file), file.name)[:300]
        raise ExportError(f"ONNX Runtime refuses the graph: {said}") from error


def _operators(model: Any, forbidden: Collection[str]) -> dict[str, int]:
    counts = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph)
    if bad := [name for name in counts if any(word in name for word in forbidden)]:
        raise ExportError(f"the graph holds {bad}, which do not belong into an inference graph")
    return dict(counts.most_common())


def _write(model: Any, file: Path) -> tuple[Path | None, Path]:
    """Write a graph to `file`, and return the path of its external data, or None if it has none, and `file`."""
    import onnx_ir as ir

    if sum(value.const_value.nbytes for value in model.graph.initializers.values()) <= PROTOBUF_LIMIT:
        ir.save(model, file)
        return None, file
    data = file.with_name(f"{file.name}.data")
    ir.save(model, file, external_data=data.name)
    return data, file
