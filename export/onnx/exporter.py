"""Keras to ONNX, in any precision, with the check that belongs to it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...needs import named_extras
from ...runtime.runner import Runner
from ...signature import Graph
from ..digests import unsealed
from ..frontend.any_keras.functions import AnyFunctions
from ..frontend.any_keras.model import Foreign
from ..frontend.card import set_onnx_card
from ..frontend.inference import FileWeights, inference, one_at_a_time
from ..frontend.spec import Exportable
from ..options import Precision
from ..request import ExportRequest
from ..result import ExportResult
from ..verification.quick import quick_check
from .conversion import convert
from .files import Written, for_runtime, in_precision, write
from .fused import fused

NOWHERE = ("Dropout", "Random", "PartitionedCall", "PyFunc")  # in no inference graph
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
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
    card: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write `model` as ONNX (opset 23) with named dynamic dimensions, and check the file against Keras.

    Any Keras model or layer becomes one graph, with the names, dtypes and open dimensions of its inputs, and outputs
    named by the keys of a dict, by the layers that a Functional model ends in, or ``output_{i}``: see ``any_keras``.

    A GPT becomes a decoder with a key/value cache: ``past_key_values.{i}.key/.value`` (batch, kv_heads, past_sequence,
    head_dim) in, ``present.{i}.key/.value`` out, empty for the first call; `attention_mask` spans past and new tokens.
    Its logits are those of all tokens, or of the last `num_logits_to_keep` (a scalar that may be left out: 0, for all).
    A Transformer or Seq2Seq becomes two graphs: `path` is the decoder's step and ``<stem>.encoder.onnx`` beside it what
    the encoder computes once. Everything else is one graph with the names of ``model.signature``. Ids and masks
    are int64, the rest float32. Weights over 1.9 GB go to ``<name>.data`` beside a file. The model's tokenizer, its
    chat template and what ends a text are in the file too. Files appear whole or not at all.

    In another precision than float32 the file is made from the one in float32, which is compared with Keras first; what
    the smaller numbers cost is measured, written into the result, and too much of it refused.

    Args:
        model: a model of attention_zoo, or any built ``keras.Model`` or layer, of any dtype policy.
        path: ends in ``.onnx``.
        precision: "fp32", "fp16", "int8" or "int4", or an ``export.Precision`` that says more.
        cache: False for one graph without memory of a model that generates. Default: with, where there is one.
        input_signature: how any Keras model is called: ``keras.InputSpec(shape, dtype)``, nested as its inputs are,
            None for an open size. Default: what the model was built with.
        image_dtype: "uint8" for a file of a ViT that takes pixels from 0 to 255 and normalises them itself; it does not
            resize them. Default: floats, as the model takes them.
        image_processor: how, an ``ImageProcessor`` or what a preprocessor_config.json says, of which rescaling, mean
            and deviation count. Default: what the model was loaded with.
        data_format: "channels_first" for images as (batch, channels, height, width). Default: "channels_last".
        target: "standard" for operators of ONNX alone, in every precision. "onnxruntime" for what is fastest there: a
            GPT's cache is one buffer that no step copies, and rows may be padded on the right only (``export.load``
            turns others round by itself). Default: standard operators that take every padding, and for blocks of
            weights (int4, int8 with activations "float") ONNX Runtime's ``MatMulNBits``.
        samples: what the accuracy of another precision is measured on: texts, or inputs by name, or several of either,
            of which static ranges and the method "gptq" take one half to round by. Default: built-in prose for a model
            with a tokenizer, else made-up inputs.
        metric: a figure of your own for the report: called with a runner in float32 and with the one in `precision`.
        least_cosine: accept a file whose outputs have this cosine with those in float32; 0 for whatever comes.
            Default: 0.999 in fp16, 0.97 in int8, 0.9 in int4, and of classes a divergence of 0.01, 0.2 and 0.6 nats.
        card: what readers of the file find about the model: texts by name, description, version, author, license.

    Raises:
        ValueError: not a Keras model, one that does not tell its inputs or cannot be exported, another suffix, a cache
            for a model that has none, a tokenizer that does not fit the model, a precision, target or samples that
            are not accepted, or another backend than TensorFlow.
        ExportError: the converted graph does not compute what the model computes, or not nearly enough in `precision`.
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
        samples=samples,
        metric=metric,
        least_cosine=least_cosine,
        card=card,
    )
    return export_onnx(model, request)


@one_at_a_time
def export_onnx(model: Any, request: ExportRequest) -> ExportResult:
    """Write `model` as `request` asks; see ``to_onnx``."""
    start = time.perf_counter()
    model, target = request.view_of(model), request.path
    graphs = _graphs(model, request)
    request.check_calibration(graphs)
    names = _file_names(model, graphs, target)
    metadata = request.metadata_of(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = _in_float32(model, graphs, names, metadata, request, Path(folder) / "standard")
        difference = quick_check(model, written.runner)
        if request.target == "onnxruntime":
            standard, written = written, for_runtime(written, names, Path(folder) / "runtime", request)
            if written is not standard:
                difference = max(difference, quick_check(model, written.runner))
        if request.precision.name != "fp32":
            written = in_precision(written, list(graphs), names, Path(folder) / request.precision.name, request)
        size = sum(file.stat().st_size for file in written.files)
        appeared = [file.name for file in written.files]
        for file in written.files:  # external data first, so that a graph never appears without its weights
            file.replace(target.parent / file.name)
        for file in {f"{name}.data" for name in names.values()} - set(appeared):  # left by an earlier, larger model
            target.with_name(file).unlink(missing_ok=True)
    return ExportResult(
        path=target,
        format="onnx",
        bytes=size,
        weight_bytes=FileWeights(model).bytes,
        seconds=time.perf_counter() - start,
        operators=dict(written.operators.most_common()),
        fused=fused(written.calls, written.operators),
        greatest_difference=difference,
        files=tuple(target.parent / name for name in sorted(appeared, key=lambda n: n != target.name)),
        precision=request.precision.name,
        rounded=written.share,
        accuracy=written.accuracy,
    )


def _graphs(model: Exportable, request: ExportRequest) -> dict[str, Graph]:
    """Return the graphs to write by name; the last one goes to the file that was asked for."""
    if request.cache and not model.generates:
        raise ValueError(f"cache: got True for a {model.family} that does not generate; accepted: None or False")
    graphs = model.graphs("dynamic" if request.cache is not False and model.generates else "plain")
    return dict(reversed(graphs.items())) if isinstance(model, AnyFunctions) else graphs


def _file_names(model: Exportable, graphs: Mapping[str, Graph], target: Path) -> dict[str, str]:
    """Return the file name of every graph. The last graph has the name that the caller gave."""
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
    """Write the graphs in float32 and standard operators. The last file holds the model's `metadata`."""
    *_, last = graphs
    beside = {name: file for name, file in names.items() if name != last}

    def converted() -> Iterator[tuple[str, Any]]:
        for name, graph in graphs.items():
            with inference(model) as weights:
                part = convert(model, weights, name, graph, {} if name in beside else beside)
                part.metadata_props.update(unsealed(weights))
            if name == last:
                part.metadata_props.update(metadata)
            set_onnx_card(part, request.card)
            yield name, part

    return write(converted(), last, names, folder, NOWHERE if isinstance(model, Foreign) else FORBIDDEN)
