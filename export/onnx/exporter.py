"""Keras to ONNX, in any precision, with the check that belongs to it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...checks import choice
from ...needs import named_extras
from ...runtime.runner import Runner
from ...signature import Graph
from ..digests import unsealed
from ..frontend.any_keras.functions import AnyFunctions
from ..frontend.any_keras.model import Foreign
from ..frontend.card import as_card, own_metadata, set_onnx_card
from ..frontend.huggingface_view import in_format
from ..frontend.inference import FileWeights, inference, one_at_a_time
from ..frontend.pixels import with_pixels
from ..frontend.spec import Exportable, exportable, texts
from ..precision.onnx.files import check_onnx
from ..precision.options import Precision, accuracy_rules, as_precision
from ..precision.samples import check_samples
from ..result import ExportResult
from .conversion import convert
from .files import Written, for_runtime, in_precision, write
from .fused import fused

NOWHERE = ("Dropout", "Random", "PartitionedCall", "PyFunc")  # in no inference graph
FORBIDDEN = ("Dropout", "Random", "Einsum", "PartitionedCall", "PyFunc", "Loop", "If")


@named_extras()
@one_at_a_time
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
    from ..verification.verify import quick_check

    destination = Path(path)
    if destination.suffix != ".onnx":
        raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in .onnx")
    start = time.perf_counter()
    numbers = as_precision(precision)
    choice("target", target, (None, "standard", "onnxruntime"))
    rules = accuracy_rules(numbers, samples=samples, metric=metric, least_cosine=least_cosine)
    said = as_card(card)
    model = in_format(with_pixels(exportable(model, input_signature), image_dtype, image_processor), data_format)
    if cache and not model.generates:
        raise ValueError(f"cache: got True for a {model.family} that does not generate; accepted: None or False")
    graphs = model.graphs("dynamic" if cache is not False and model.generates else "plain")
    check_onnx(numbers, graphs, samples)
    names = dict.fromkeys(graphs, destination.name)
    if "encoder" in graphs and not isinstance(model, Foreign):
        names["encoder"] = f"{destination.stem}.encoder.onnx"
    elif isinstance(model, AnyFunctions):  # the first has the name that was given
        names |= {name: f"{destination.stem}.{name}.onnx" for name in list(graphs)[1:]}
        graphs = dict(reversed(graphs.items()))
    own = texts(model) | own_metadata(said)
    if samples is not None:
        check_samples(samples, model.tokenizer)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as folder:
        made = _standard(model, graphs, names, own, said, Path(folder) / "standard")
        difference = quick_check(model, made.runner)
        if target == "onnxruntime":
            made = for_runtime(standard := made, names, Path(folder) / "runtime", numbers)
            if made is not standard:
                difference = max(difference, quick_check(model, made.runner))
        if numbers.name != "fp32":
            where = Path(folder) / numbers.name
            made = in_precision(made, list(graphs), names, where, numbers, target or "onnxruntime", **rules)
        size = sum(file.stat().st_size for file in made.files)
        written = [file.name for file in made.files]
        for file in made.files:  # the data first: a graph never stands there without it
            file.replace(destination.parent / file.name)
        for file in {f"{name}.data" for name in names.values()} - set(written):  # an earlier, larger model's
            destination.with_name(file).unlink(missing_ok=True)
    return ExportResult(
        path=destination,
        format="onnx",
        bytes=size,
        weight_bytes=FileWeights(model).bytes,
        seconds=time.perf_counter() - start,
        operators=dict(made.operators.most_common()),
        fused=fused(made.calls, made.operators),
        greatest_difference=difference,
        files=tuple(destination.parent / name for name in sorted(written, key=lambda n: n != destination.name)),
        precision=numbers.name,
        rounded=made.share,
        accuracy=made.accuracy,
    )


def _standard(
    model: Exportable,
    graphs: Mapping[str, Graph],
    names: Mapping[str, str],
    own: Mapping[str, str],
    card: Mapping[str, str],
    folder: Path,
) -> Written:
    """The files in float32 and standard operators, the last of which is the one that was asked for and has metadata of
    its `own`; the `card` is in every one."""
    *_, last = graphs
    beside = {name: file for name, file in names.items() if name != last}

    def converted() -> Iterator[tuple[str, Any]]:
        for name, graph in graphs.items():
            with inference(model) as weights:
                part = convert(model, weights, name, graph, {} if name in beside else beside)
                part.metadata_props.update(unsealed(weights))
            if name == last:
                part.metadata_props.update(own)
            set_onnx_card(part, card)
            yield name, part

    return write(converted(), last, names, folder, NOWHERE if isinstance(model, Foreign) else FORBIDDEN)
