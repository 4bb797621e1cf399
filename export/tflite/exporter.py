"""Keras to TFLite (LiteRT): static signatures, built-in operators only, with the check that belongs to it."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...needs import named_extras
from ...runtime.onnx.runner import OnnxRunner
from ...runtime.quiet import quiet
from ...runtime.runner import Runner
from ...runtime.tflite.flatbuffer import set_metadata, tflite_operators, write
from ...runtime.tflite.runner import TFLiteRunner
from ...runtime.tflite.suitability import stored_twice, suitability
from ...signature import Graph
from ..digests import seal, unsealed
from ..errors import ExportError
from ..frontend.inference import FileWeights, inference, one_at_a_time
from ..frontend.spec import Exportable
from ..frontend.spec import metadata as model_metadata
from ..onnx.exporter import export_onnx
from ..options import Precision
from ..precision.accuracy import measure
from ..precision.onnx.orders import Orders
from ..precision.samples import PADDINGS, calibration_of
from ..precision.tflite.files import by_inputs, import_packages, round_file
from ..precision.tflite.static import bound_masks, calls_of, check_loops
from ..request import ExportRequest
from ..result import ExportResult
from ..verification.quick import quick_check
from .conversion import convert
from .packing import Joint
from .signatures import static_graphs
from .tasks import attach, attached, set_task, task_of

FORBIDDEN = ("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "RANDOM", "MULTINOMIAL", "IF", "CALL")


@named_extras()
def to_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str | Precision = "fp32",
    input_signature: Any = None,
    batch_size: int = 1,
    sequence_length: int | str | Sequence[int] | Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    image_dtype: str | None = None,
    image_processor: Any = None,
    prefill: int | Sequence[int] | None = None,
    max_length: int | None = None,
    cache: bool | None = None,
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
    card: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write `model` as TFLite with static shapes and built-in operators, and check the file against Keras.

    One signature, ``serving_default``, with the names of ``model.signature``; ids and masks are int32. A GPT with
    `prefill` or `max_length` gets the signatures ``prefill_{n}`` and ``decode`` instead, whose key/value cache has
    `max_length` slots: ``tokens``, ``input_pos``, ``mask``, ``kv_cache_k_{i}``, ``kv_cache_v_{i}``. A Transformer or
    Seq2Seq gets ``encode`` and ``decode``. The model's tokenizer, its chat template and what ends a text are in the
    file too, which appears whole or not at all. ``export.load`` pads shorter sequences for it, and generates.

    In another precision than float32 the file is made from the one in float32, which is compared with Keras first; what
    the smaller numbers cost is measured, written into the result, and too much of it refused. Only weights become
    smaller: inputs, outputs and caches stay float32.

    Args:
        model: a model of attention_zoo, of any dtype policy.
        path: ends in ``.tflite``.
        precision: "fp32"; "fp16"; "int8", a scale for each output and activations as 8-bit integers with a range for
            each row; "int4", blocks of 32 (or `block_size`) weights, and int8 where those do not fill a row, for value
            projections, head and token table; or an ``export.Precision`` that says more. Its method "gptq" writes an
            ONNX file on the way, and rounds by what the products in it are given.
        batch_size: rows per call.
        sequence_length: of text models; of the source where there is an encoder. Default: 128 (a Seq2Seq's: 64), or
            the model's `max_length` if that is less. Several for a signature each, ``serving_default_{n}`` (of an
            encoder-decoder ``encode_{n}`` and ``decode_{n}``), which share the weights. "dynamic" for any length, of
            models without an encoder; a CPU takes that, few other accelerators do. A mapping where source and target
            have sizes of their own.
        image_size: pixels, a side or (height, width), of image models. Default: the size the model was made for.
        image_dtype: "uint8" for a file of a ViT that takes pixels from 0 to 255 and normalises them itself; it does not
            resize them. Default: floats, as the model takes them.
        image_processor: how, an ``ImageProcessor`` or what a preprocessor_config.json says, of which rescaling, mean
            and deviation count. Default: what the model was loaded with.
        prefill: of a GPT with a cache, how many tokens of a prompt are taken at once; several for several signatures.
            Default: 32 and 128, as far as they fit.
        max_length: slots of the cache: longest prompt and continuation together, or longest target. Default: the
            model's `max_length`, 512 at the most.
        cache: False for one signature without memory of a model that generates, True for a GPT with its cache.
        samples: what the accuracy of another precision is measured on: texts, or inputs by name, or several of either,
            of which static ranges and the method "gptq" take one half to round by.
            Default: built-in prose for a model with a tokenizer, else made-up inputs.
        metric: a figure of your own for the report: called with a runner in float32 and with the one in `precision`.
        least_cosine: accept a file whose outputs have this cosine with those in float32; 0 for whatever comes.
            Default: 0.999 in fp16, 0.97 in int8, 0.9 in int4, and of classes a divergence of 0.01, 0.2 and 0.6 nats.
        card: what readers of the file find about the model: texts by name, description, version, author, license.

    Raises:
        ValueError: another kind of model or suffix, an argument this model has no use for, a size it cannot take,
            a precision or samples that are not accepted, a tokenizer that does not fit the model, or another backend
            than TensorFlow.
        ExportError: the converter failed, or the file does not compute what the model computes, or not nearly enough
            in `precision`.
    """
    request = ExportRequest.of(
        "tflite",
        path,
        precision=precision,
        input_signature=input_signature,
        batch_size=batch_size,
        sequence_length=sequence_length,
        image_size=image_size,
        image_dtype=image_dtype,
        image_processor=image_processor,
        prefill=prefill,
        max_length=max_length,
        cache=cache,
        samples=samples,
        metric=metric,
        least_cosine=least_cosine,
        card=card,
    )
    return export_tflite(model, request)


@one_at_a_time
def export_tflite(model: Any, request: ExportRequest) -> ExportResult:
    """Write `model` as `request` asks; see ``to_tflite``."""
    start = time.perf_counter()
    target, precision = request.path, request.precision
    import_packages(precision)
    original, model = model, request.view_of(model)
    metadata = request.metadata_of(model)
    graphs = static_graphs(model, request)
    by_onnx = by_inputs(precision)
    request.check_calibration(model.graphs("dynamic" if model.generates else "plain") if by_onnx else graphs)
    share, accuracy = 0.0, None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        stored, joint, precise = _in_float32(model, graphs, metadata, request, Path(folder) / "fp32.tflite")
        difference = quick_check(model, precise)
        written = precise
        if precision.name != "fp32":
            calls = orders = None
            if precision.static:
                paddings = (precise.signature, precise.tokenizer, request.calibration_samples, PADDINGS)
                calls = calls_of(precise, calibration_of(*paddings))
            if by_onnx:
                in_onnx = export_onnx(original, _float32_onnx(request, Path(folder) / "inputs.onnx"))
                orders = Orders(OnnxRunner(in_onnx.path), request.calibration_samples)
            content = precise.path.read_bytes()
            rounded, share = round_file(content, precise.metadata, stored, joint, request, orders, calls)
            written = _opened(rounded, Path(folder) / f"{precision.name}.tflite", attached(precise.path))
            accuracy = measure(precise, written, request)
        operators, size = _operators(written.path), written.path.stat().st_size
        with quiet():
            suited = suitability(written.path)
        more = stored_twice(written.path, [math.prod(value.shape) for value in stored.variables.values()])
        written.path.replace(target)
    return ExportResult(
        path=target,
        format="tflite",
        bytes=size,
        weight_bytes=stored.bytes,
        seconds=time.perf_counter() - start,
        operators=operators,
        greatest_difference=difference,
        files=(target,),
        precision=precision.name,
        rounded=share,
        accuracy=accuracy,
        warnings=[more] if more else [],
        suitability=suited,
    )


def _in_float32(
    model: Exportable, graphs: Mapping[str, Graph], metadata: Mapping[str, str], request: ExportRequest, file: Path
) -> tuple[FileWeights, Joint, TFLiteRunner]:
    """Write the float32 file. Return the weights that are in it, which of them became one, and a runner of it."""
    precision = request.precision
    with inference(model) as stored:
        converted, joint = convert(stored, graphs, precision.alike)
        if precision.static:
            check_loops(converted, precision)
        if precision.integer_only:
            bound_masks(converted, precision)
        signatures = {name: graph.signature for name, graph in graphs.items()}
        set_metadata(converted, {**model_metadata(model, signatures, {}), **metadata, **unsealed(stored)})
    return stored, joint, _opened(converted, file, set_task(converted, task_of(model), request.card))


def _float32_onnx(request: ExportRequest, path: Path) -> ExportRequest:
    """Return the request for the ONNX file whose matrix multiplications show GPTQ their inputs."""
    view = {name: getattr(request, name) for name in ("input_signature", "image_dtype", "image_processor")}
    return ExportRequest.of("onnx", path, **view)


def _opened(model: Any, file: Path, beside: Mapping[str, str]) -> TFLiteRunner:
    """Write, seal and load a ``ModelT``, with texts behind it."""
    write(model, file)
    attach(file, beside)
    seal(file)
    _operators(file)
    return TFLiteRunner(file)


def _operators(file: Path) -> dict[str, int]:
    counts = Counter(tflite_operators(file))
    if bad := [name for name in counts if name.startswith(FORBIDDEN)]:
        raise ExportError(f"the file holds {bad}, which LiteRT's built-in operators do not cover")
    return dict(counts.most_common())
