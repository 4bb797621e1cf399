"""Export of Keras models to ONNX, with a comparison of the file and the model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...files import put, room
from ...needs import named_extras
from ...runtime.onnx.versions import least_runtime
from ...runtime.runner import Runner
from ...signature import Graph, Signature
from ..digests import unsealed
from ..frontend.any_keras.functions import AnyFunctions
from ..frontend.any_keras.model import Foreign
from ..frontend.card import set_onnx_card
from ..frontend.diagnostics import one_line
from ..frontend.inference import FileWeights, inference, one_at_a_time
from ..frontend.spec import Exportable
from ..onnx_versions import FIRST, IR_VERSIONS, LAST
from ..options import Precision
from ..precision.onnx.files import activations_of
from ..request import ExportRequest
from ..result import ExportResult
from ..targets.check import check
from ..targets.table import TARGETS
from ..verification.quick import quick_check
from .conversion import Form, convert
from .files import Written, for_runtime, in_precision, write
from .fixed_sizes import with_fixed_sizes
from .fused import fused

# Parts of the names of operators that a graph must not contain: one of a third-party model, and one of attention_zoo.
NOWHERE = ("Dropout", "Random", "PartitionedCall", "PyFunc")
CACHED = ("batch", "sequence", "past_sequence")  # open dimensions of a causal decoder, from which the others follow
WITH_BLOCKS = 21  # the first opset whose DequantizeLinear reads blocks
FORBIDDEN = ("Dropout", "Random", "Einsum", "PartitionedCall", "PyFunc", "Loop", "If")


@named_extras()
def to_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str | Precision = "fp32",
    cache: bool | None = None,
    input_signature: Any = None,
    image_dtype: str | None = None,
    image_processor: Any = None,
    data_format: str | None = None,
    target: str | None = None,
    opset: int | None = None,
    static_shapes: Mapping[str, int] | None = None,
    index_dtype: str | None = None,
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
    card: Mapping[str, str] | None = None,
    custom_metadata: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write `model` as ONNX with named dynamic dimensions, and compare the file with Keras.

    The graphs depend on the model:

    - A GPT becomes a decoder with a key/value cache. The inputs ``past_key_values.{i}.key`` and ``.value`` (batch,
      kv_heads, past_sequence, head_dim) are empty in the first call, and the outputs ``present.{i}.key`` and ``.value``
      replace them in the next one. `attention_mask` covers cached and new tokens. ``logits`` are those of all new
      tokens, or of the last `num_logits_to_keep`, an optional scalar input (default: 0, for all).
    - A Transformer or Seq2Seq becomes two files: `path` is one step of the decoder, and ``<stem>.encoder.onnx`` in the
      same folder is the encoder, which runs once.
    - Any other model of this package becomes one graph, with the inputs and outputs of ``model.signature``.
    - Any other Keras model or layer becomes one graph with the names, dtypes and open dimensions of its inputs. Outputs
      are named by the keys of a dict, by the last layers of a Functional model, or else ``output_{i}``.
    - Of several functions, the first becomes `path`, and each other one ``<stem>.<name>.onnx``.

    In models of this package, ids and masks are int64, everything else is float32 (float16 for the cache in "fp16").
    The metadata of the file contains signatures, config, tokenizer, chat template and end tokens. If the weights of a
    graph exceed 1.9 GB, they are stored as external data in ``<file name>.data``. The folder of `path` is created if
    necessary. Files appear there only when the export has succeeded.

    For a precision other than "fp32", the file is first written in float32 and compared with Keras, and then converted.
    The loss of accuracy is measured and is part of the result. A file that is too inaccurate is not written.

    Args:
        model: a model of attention_zoo, any built ``keras.Model`` or layer, or one or several functions of tensors. The
            dtype policy may be any.
        path: path of the file, which must end in ``.onnx``.
        precision: "fp32", "fp16", "int8" or "int4", or an ``export.Precision`` with further options. Default: "fp32".
        cache: False for a single graph without a key/value cache. Default: with a cache, if the model generates.
        input_signature: the inputs with which the model is called: ``keras.InputSpec(shape, dtype)``, nested like the
            inputs, with None for an open size. With it, a model of attention_zoo is exported like any other Keras
            model. Default: the inputs that the model was built with.
        image_dtype: "uint8" for an image model of attention_zoo, whose file then takes pixels from 0 to 255 and
            normalizes them. It does not resize them, unless the model does. Default: the model's own input, float32.
        image_processor: the normalization for "uint8" pixels: an ``ImageProcessor`` or the content of a
            preprocessor_config.json, of which only rescaling, mean and standard deviation are used. Default: the
            preprocessing that the model was loaded with.
        data_format: "channels_first" for images as (batch, channels, height, width). Default: "channels_last", (batch,
            height, width, channels).
        target: the runtime that the file is for: "standard", "onnxruntime", "onnxruntime-web", "openvino", "tensorrt",
            "coreml", "qnn", "rknn", "mnn" or "tract". It determines the opset, operators that are not written, and the
            dtype of ids. "standard" takes standard operators only, in every precision. "onnxruntime" takes ONNX
            Runtime's own operators, which are faster: the cache of a GPT with rotary positions becomes one buffer that
            no step copies, and rows may then be padded on the right only (``generate`` of ``export.load`` accepts
            either side). What the runtime would reject is a warning of the result. Default: standard operators, but
            ONNX Runtime's ``MatMulNBits`` and ``GatherBlockQuantized`` for block-wise quantized weights (int4, and int8
            with "float" activations).
        opset: the version of the standard operators, 17 to 23. The IR version is the lowest that it allows. Default:
            that of the `target`, or the lowest that has all operators of the graph, which is 17 for transformers. It is
            read by ONNX Runtime from 1.12 on and by most other runtimes.
        static_shapes: sizes of open dimensions by name, as {"batch": 1, "sequence": 128}, for runtimes that need fixed
            ones. The names are those of the file's inputs. A decoder with a key/value cache takes "batch", "sequence"
            (new tokens in a call) and "past_sequence" (cached tokens): the caller passes the newest slots of
            ``present.{i}`` as the next ``past_key_values.{i}``, and hides slots that hold no token yet by the mask.
        index_dtype: "int32" or "int64" for ids and masks. Default: that of the `target`, or int64 for models of
            attention_zoo and the dtype of the model for others.
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
        custom_metadata: texts by name, which are stored in the ``metadata_props`` of the file.

    Returns:
        The ``ExportResult``; its `files` are all files of the model.

    Raises:
        ValueError: the model cannot be exported or its inputs are not known, Keras uses another backend than
            TensorFlow, the tokenizer does not fit the model, or an argument is not accepted, such as a `path` with
            another suffix, ``cache=True`` for a model that does not generate, or an `opset` that lacks an operator of
            the model.
        ExportError: the conversion failed, or the file does not compute what the model computes.
        AccuracyError: the file is too inaccurate in `precision`. It is an ``ExportError``.
        ModuleNotFoundError: a required package is not installed.
    """
    request = ExportRequest.of(
        "onnx",
        path,
        precision=precision,
        cache=cache,
        input_signature=input_signature,
        image_dtype=image_dtype,
        image_processor=image_processor,
        data_format=data_format,
        target=target,
        opset=opset,
        static_shapes=static_shapes,
        index_dtype=index_dtype,
        samples=samples,
        metric=metric,
        least_cosine=least_cosine,
        card=card,
        custom_metadata=custom_metadata,
    )
    return export_onnx(model, request)


@one_at_a_time
def export_onnx(model: Any, request: ExportRequest) -> ExportResult:
    """Write `model` with the options of `request`; see ``to_onnx``."""
    start = time.perf_counter()
    model, target = request.view_of(model), request.path
    graphs = _graphs(model, request)
    request.check_calibration(graphs)
    names = _file_names(model, graphs, target)
    metadata, samples = request.metadata_of(model), request.samples_of(model)
    with room(target.parent, target) as folder:
        written = _in_float32(model, graphs, names, metadata, request, folder / "standard")
        difference = quick_check(model, written.runner, samples)
        if request.target == "onnxruntime":
            standard, written = written, for_runtime(written, names, folder / "runtime", request)
            if written is not standard:
                difference = max(difference, quick_check(model, written.runner, samples))
        precise = written
        if request.precision.name != "fp32":
            written = in_precision(written, list(graphs), names, folder / request.precision.name, request)
        if fixed := _fixed_cache(graphs, request) if "decoder" in graphs and request.static_shapes else {}:
            final = with_fixed_sizes(written, "decoder", target.name, folder / "fixed", fixed)
            checked = final
            if written is not precise:  # the same change of the float32 file is compared with Keras
                checked = with_fixed_sizes(precise, "decoder", target.name, folder / "fixed_fp32", fixed)
            difference = max(difference, quick_check(model, checked.runner))
            written = final
        refusals = _refusals(written, request)
        size = sum(file.stat().st_size for file in written.files)
        appeared = [file.name for file in written.files]
        left = {f"{name}.data" for name in names.values()} - set(appeared)  # by an earlier export
        put(sorted(written.files, key=lambda file: file.name == target.name), folder, sorted(left))
    return ExportResult(
        path=target,
        format="onnx",
        bytes=size,
        weight_bytes=FileWeights(model).bytes,
        seconds=time.perf_counter() - start,
        operators=dict(written.operators.most_common()),
        fused=fused(written.calls, written.operators),
        opset=written.opset,
        ir_version=IR_VERSIONS[written.opset],
        least_runtime=least_runtime(written.opset, written.operators),
        greatest_difference=difference,
        files=tuple(target.parent / name for name in sorted(appeared, key=lambda n: n != target.name)),
        precision=request.precision.name,
        rounded=written.share,
        accuracy=written.accuracy,
        warnings=[*([] if written.accuracy is None else written.accuracy.warnings), *refusals],
    )


def _refusals(written: Written, request: ExportRequest) -> list[str]:
    """Return what the target would reject or compute wrongly, by the list of its operators, a sentence each."""
    if request.target is None:
        return []
    reports = [check(file, request.target) for file in written.files if file.suffix == ".onnx"]
    return [
        f"{report.target} {'rejects' if finding in report.refused else 'computes wrongly'}: {finding}"
        for report in reports
        for finding in (*report.refused, *report.wrong)
    ]


def _graphs(model: Exportable, request: ExportRequest) -> dict[str, Graph]:
    """Return the graphs to write, by name. The last one goes to the requested file."""
    if request.cache and not model.generates:
        raise ValueError(f"cache: got True for a {model.family} that does not generate; accepted: None or False")
    cached = request.cache is not False and model.generates
    graphs = model.graphs("dynamic" if cached else "plain")
    graphs = dict(reversed(graphs.items())) if isinstance(model, AnyFunctions) else graphs
    if request.static_shapes is not None and not cached:
        graphs = {
            name: replace(graph, signature=_exported(graph.signature, request.static_shapes))
            for name, graph in graphs.items()
        }
    if cached:
        _fixed_cache(graphs, request)
        return graphs
    _check_sizes(graphs, request)
    return graphs


def _fixed_cache(graphs: Mapping[str, Graph], request: ExportRequest) -> dict[str, int]:
    """Return the sizes of a decoder with a key/value cache; none if they stay open.

    Raises:
        ValueError: the model has several graphs, a size is missing or not accepted, or the target has its own cache.
    """
    given = request.static_shapes
    if given is None:
        _check_sizes(graphs, request)
        return {}
    if set(graphs) != {"decoder"} or request.target == "onnxruntime":
        raise ValueError(
            "static_shapes: got sizes for a key/value cache that has an encoder or is ONNX Runtime's own; accepted: "
            "None, or cache=False"
        )
    signature = graphs["decoder"].signature
    asked = [dim for dim in CACHED if dim not in given]
    if asked or set(given) - {*CACHED}:
        raise ValueError(
            f"static_shapes: got {sorted(map(str, given))} for a decoder with a key/value cache; accepted: all of "
            f"{list(CACHED)}, where past_sequence is the number of cached tokens, or cache=False"
        )
    sizes = {**given, "total_sequence": given["past_sequence"] + given["sequence"]}
    return dict(_exported(signature, sizes).sizes)


def _check_sizes(graphs: Mapping[str, Graph], request: ExportRequest) -> None:
    """Raise an error if the target needs fixed sizes, and some are open."""
    needs_sizes = TARGETS[request.target or "standard"].shapes == "static"
    specs = [(graph.signature, spec) for graph in graphs.values() for spec in graph.signature.inputs]
    named = [dim for signature, spec in specs for dim in signature.shape(spec) if isinstance(dim, str)]
    if needs_sizes and named:
        raise ValueError(
            f"target: got {request.target!r}, which needs fixed sizes, for open {', '.join(dict.fromkeys(named))}; "
            "accepted: static_shapes with all of them"
        )


def _exported(signature: Signature, sizes: Mapping[str, int] | None) -> Signature:
    try:
        return signature.exported(sizes)
    except ValueError as error:
        raise ValueError(f"static_shapes: {one_line(error)}") from error


def _form(graphs: Mapping[str, Graph], request: ExportRequest) -> Form:
    """Return the opset and the other choices about how the graphs are written."""
    target, precision = TARGETS[request.target or "standard"], request.precision
    blocks = precision.name == "int4" or (
        precision.name == "int8"
        and any(activations_of(precision, graph.signature) == "float" for graph in graphs.values())
    )
    least = WITH_BLOCKS if blocks and request.blocks_for == "standard" else FIRST
    opset = request.opset if request.opset is not None else target.opset
    if request.target == "onnxruntime" and any(graph.signature.state for graph in graphs.values()):
        opset = LAST  # ``runtime_graph`` looks for its operators
        if request.opset not in (None, LAST):
            raise ValueError(
                f"opset: got {request.opset} for a decoder with target='onnxruntime', which is written in {LAST}; "
                f"accepted: {LAST}, None, or another target"
            )
    if opset is not None and opset < least:
        raise ValueError(
            f"opset: got {opset} for {precision.name!r} in standard operators, which read blocks of weights from "
            f"{least} on; accepted: {least} to {LAST}, None, or another target"
        )
    dtype = request.index_dtype or (target.index_dtype if target.index_dtype != "int64" else None)
    return Form(opset, least, target.avoid, target.half, dtype)


def _file_names(model: Exportable, graphs: Mapping[str, Graph], target: Path) -> dict[str, str]:
    """Return the file name of every graph. The last graph gets the name of `target`."""
    *beside, _ = graphs
    names = dict.fromkeys(graphs, target.name)
    if isinstance(model, AnyFunctions) or ("encoder" in beside and not isinstance(model, Foreign)):
        names |= {name: f"{target.stem}.{name}.onnx" for name in beside}
    return names


def _in_float32(
    model: Exportable,
    graphs: Mapping[str, Graph],
    names: Mapping[str, str],
    metadata: Mapping[str, str],
    request: ExportRequest,
    folder: Path,
) -> Written:
    """Write the graphs in float32 with standard operators. The last file also holds `metadata`, that of the model."""
    *_, last = graphs
    form = _form(graphs, request)
    beside = {name: file for name, file in names.items() if name != last}

    def converted() -> Iterator[tuple[str, Any]]:
        for name, graph in graphs.items():
            with inference(model) as weights:
                part = convert(model, weights, name, graph, {} if name in beside else beside, form)
                part.metadata_props.update(unsealed(weights))
            if name == last:
                part.metadata_props.update({**metadata, **(request.custom_metadata or {})})
            set_onnx_card(part, request.card)
            yield name, part

    return write(converted(), last, names, folder, NOWHERE if isinstance(model, Foreign) else FORBIDDEN)
