"""Export of Keras models to TFLite (LiteRT) with built-in operators, and a comparison of the file and the model."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import put, room
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
from ..precision.rotation import rounding_errors
from ..precision.samples import PADDINGS, calibration_of
from ..precision.spread import placeholder, write_spread
from ..precision.tflite.files import DEFAULT_ROTATION, by_inputs, import_packages, rotates_by_default, round_file
from ..precision.tflite.static import bound_masks, calls_of, check_loops, check_products
from ..request import ExportRequest
from ..result import ExportResult
from ..verification.quick import quick_check
from .conversion import convert
from .packing import Joint
from .rows import with_own_rows
from .signatures import static_graphs
from .tasks import attach, attached, set_task, task_of

# Beginnings of the names of operators that a file must not contain.
FORBIDDEN = ("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "RANDOM", "MULTINOMIAL", "CALL")


@named_extras()
def to_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str | Precision = "fp32",
    input_signature: Any = None,
    batch_size: int | Mapping[str, int] = 1,
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
    """Write `model` as TFLite with static shapes and built-in operators only, and compare the file with Keras.

    The signatures depend on the model and the arguments:

    - ``serving_default`` has the inputs and outputs of ``model.signature``, or those of any other Keras model. A GPT
      also gets this signature, without a cache, unless one of the arguments below selects the cache.
    - ``prefill_{n}`` and ``decode`` of a GPT with a key/value cache, which `prefill`, `max_length` or ``cache=True``
      selects. The inputs are ``tokens``, ``input_pos`` and ``mask``. ``kv_cache_k_{i}`` and ``kv_cache_v_{i}``
      (1, kv_heads, slots, head_dim) are inputs and outputs. Only ``decode`` returns ``logits``.
    - ``encode`` and ``decode`` of a Transformer or Seq2Seq.
    - One signature for each of several functions, with its name.

    In models of this package, ids and masks are int32, everything else is float32. All signatures share the weights.
    The metadata of the file contains signatures, config, tokenizer, chat template and end tokens. The folder of `path`
    is created if necessary. The file appears there only when the export has succeeded. ``export.load`` pads shorter
    sequences, and generates.

    For a precision other than "fp32", the file is first written in float32 and compared with Keras, and then converted.
    Inputs, outputs and caches stay float32. The loss of accuracy is measured and is part of the result. A file that is
    too inaccurate is not written.

    Args:
        model: a model of attention_zoo, any built ``keras.Model`` or layer, or one or several functions of tensors. The
            dtype policy may be any.
        path: path of the file, which must end in ``.tflite``.
        precision: "fp32", "fp16", "int8" or "int4", or an ``export.Precision`` with further options. "int8" has a scale
            for each output, and 8-bit activations with a range for each row, measured at every call. "int4" has blocks
            of 32 weights, and int8 for value projections, output head, embedding tables, and weights whose rows are not
            a multiple of the block. The method "gptq" writes a temporary ONNX file. Default: "fp32".
        input_signature: the inputs with which the model is called: ``keras.InputSpec(shape, dtype)``, nested like the
            inputs, with None for an open size. With it, a model of attention_zoo is exported like any other Keras
            model. Default: the inputs that the model was built with.
        batch_size: rows per call. Default: 1, which is required for a GPT with a cache. A model that compares texts and
            images also takes numbers of both, as {"text_batch": 5, "image_batch": 1}.
        sequence_length: tokens per row; with an encoder, tokens of the source. A mapping by name of the dimension, for
            example "source" and "target", gives each its own length. Several lengths make one signature each, named
            ``serving_default_{n}``, or ``encode_{n}`` and ``decode_{n}``, if a mask lets the inputs be padded.
            "dynamic" makes one signature for any length, for models of attention_zoo without an encoder; it runs on
            CPUs, but few GPUs and NPUs support it. Default: 128 (Seq2Seq: 64), but at most the model's `max_length`.
            Required for other Keras models with open lengths. Not accepted for a GPT with a cache.
        image_size: side, or (height, width), of the images in pixels. Default: the size that the model was made for.
        image_dtype: "uint8" for an image model of attention_zoo, whose file then takes pixels from 0 to 255 and
            normalizes them. It does not resize them, unless the model does. Default: the model's own input, float32.
        image_processor: the normalization for "uint8" pixels: an ``ImageProcessor`` or the content of a
            preprocessor_config.json, of which only rescaling, mean and standard deviation are used. Default: the
            preprocessing that the model was loaded with.
        prefill: for a GPT with a cache, the number of prompt tokens that one call of ``prefill_{n}`` processes; several
            numbers make several signatures. Default: 32 and 128, as far as they do not exceed `max_length`.
        max_length: number of slots of the cache, for the tokens of prompt and continuation together; for an
            encoder-decoder, of the target. Default: the model's `max_length`, but at most 512.
        cache: True for a GPT with a cache, False for a single signature without one. Default: with a cache for an
            encoder-decoder, and for a GPT if `prefill` or `max_length` is given.
        samples: data on which the accuracy of another precision is measured: a text, inputs by name, or a list of
            either. Static ranges and the method "gptq" use one half of it for calibration and the other half for the
            measurement. Default: built-in prose for a model with a tokenizer, otherwise synthetic inputs. For any other
            Keras model, the float32 file is compared with Keras on these inputs, in place of synthetic ones.
        metric: a function that is called with a ``Runner`` of the float32 file and with one of the file in `precision`,
            and returns a number. Both numbers are part of the result.
        least_cosine: the lowest accepted mean cosine similarity between the outputs and those in float32; 0 accepts any
            file. Default: 0.999 for fp16, 0.97 for int8 and 0.9 for int4; and, if the outputs are classes, a KL
            divergence of at most 0.01, 0.2 and 0.6 nats.
        card: the model card: texts by "name", "description", "version", "author" and "license".

    Returns:
        The ``ExportResult``, with the suitability of the file for phones.

    Raises:
        ValueError: the model cannot be exported or its inputs are not known, Keras uses another backend than
            TensorFlow, the tokenizer does not fit the model, or an argument is not accepted, such as a `path` with
            another suffix, a size that the model cannot take, or an argument that does not apply to the model.
        ExportError: the conversion failed, or the file does not compute what the model computes.
        AccuracyError: the file is too inaccurate in `precision`. It is an ``ExportError``.
        ModuleNotFoundError: a required package is not installed.
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
    """Write `model` with the options of `request`; see ``to_tflite``."""
    start = time.perf_counter()
    target, precision = request.path, request.precision
    import_packages(precision)
    original, model = model, request.view_of(model)
    metadata = request.metadata_of(model)
    graphs = {name: with_own_rows(model, graph) for name, graph in static_graphs(model, request).items()}
    by_onnx = by_inputs(precision)
    request.check_calibration(model.graphs("dynamic" if model.generates else "plain") if by_onnx else graphs)
    share, accuracy = 0.0, None
    with room(target.parent, target) as folder:
        stored, joint, precise = _in_float32(model, graphs, metadata, request, folder / "fp32.tflite")
        difference = quick_check(model, precise, request.samples_of(model))
        written = precise
        if precision.name != "fp32":
            calls = orders = errors = None
            if rotates_by_default(precision) and precise.layout.kind == "litert":
                errors = rounding_errors(model, DEFAULT_ROTATION)
            if precision.static:
                paddings = (precise.signature, precise.tokenizer, request.calibration_samples, PADDINGS)
                calls = calls_of(precise, calibration_of(*paddings))
            if by_onnx:
                in_onnx = export_onnx(original, _float32_onnx(request, folder / "inputs.onnx"))
                orders = Orders(OnnxRunner(in_onnx.path), request.calibration_samples)
            content = precise.path.read_bytes()
            said = {**precise.metadata, **placeholder(precise)}
            rounded, share = round_file(content, said, stored, joint, request, orders, calls, errors)
            written = _opened(rounded, folder / f"{precision.name}.tflite", attached(precise.path))
            accuracy = measure(precise, written, request)
            write_spread(written, accuracy.spread)
        operators, size = _operators(written.path), written.path.stat().st_size
        with quiet():
            suited = suitability(written.path)
        more = stored_twice(written.path, [math.prod(value.shape) for value in stored.variables.values()])
        put([written.path.rename(folder / target.name)], folder)
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
        warnings=([more] if more else []) + ([] if accuracy is None else accuracy.warnings),
        suitability=suited,
    )


def _in_float32(
    model: Exportable, graphs: Mapping[str, Graph], metadata: Mapping[str, str], request: ExportRequest, file: Path
) -> tuple[FileWeights, Joint, TFLiteRunner]:
    """Write the float32 file. Return its weights, the names of weights that were joined into one, and its runner."""
    precision = request.precision
    if precision.static and not getattr(model, "static_ranges", True):
        raise ValueError(
            f"precision.activations: got {precision.activations!r} for this {model.family}, which is not computed well "
            "in integers; accepted: 'dynamic', 'float'"
        )
    with inference(model) as stored:
        converted, joint = convert(stored, graphs, precision.alike)
        if precision.static:
            check_loops(converted, precision)
            check_products(converted, precision)
        if precision.integer_only:
            bound_masks(converted, precision)
        signatures = {name: graph.signature for name, graph in graphs.items()}
        set_metadata(converted, {**model_metadata(model, signatures, {}), **metadata, **unsealed(stored)})
    return stored, joint, _opened(converted, file, set_task(converted, task_of(model), request.card))


def _float32_onnx(request: ExportRequest, path: Path) -> ExportRequest:
    """Return the request for the temporary ONNX file from which GPTQ reads the inputs of matrix multiplications."""
    view = {name: getattr(request, name) for name in ("input_signature", "image_dtype", "image_processor")}
    return ExportRequest.of("onnx", path, **view)


def _opened(model: Any, file: Path, beside: Mapping[str, str]) -> TFLiteRunner:
    """Write a ``ModelT`` with the texts `beside` appended, seal it with its digest, and return its runner."""
    write(model, file)
    attach(file, beside)
    seal(file)
    _operators(file)
    try:
        return TFLiteRunner(file)
    except ValueError as error:
        raise ExportError(_unable(model, str(error))) from error


def _unable(model: Any, reason: str) -> str:
    """Return why LiteRT does not load a file that the converter wrote, with the layer of the operator that it names."""
    found = re.search(r"(.*?)Node number (\d+) \((\w+)\) failed", reason, re.DOTALL)
    nodes = [node for graph in model.subgraphs for node in graph.operators]
    if found is None or int(found[2]) >= len(nodes):
        return f"LiteRT cannot load the file: {' '.join(reason.split())}"
    graph = next(graph for graph in model.subgraphs if len(graph.operators) > int(found[2]))
    name = graph.tensors[graph.operators[int(found[2])].outputs[0]].name.decode().partition(";")[0]
    why = found[1].rpartition(": ")[2].rpartition("tflite/kernels/")[2].strip()
    return f"LiteRT cannot run {found[3]}, of which the result is {name!r}: {why}"


def _operators(file: Path) -> dict[str, int]:
    counts = Counter(tflite_operators(file))
    if bad := [name for name in counts if name.startswith(FORBIDDEN)]:
        raise ExportError(f"the file holds {bad}, which LiteRT's built-in operators do not cover")
    return dict(counts.most_common())
