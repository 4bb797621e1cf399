"""Keras to ONNX: traced with every weight as an argument, converted by tf2onnx, finished with onnx-ir.

Two things make this fast and the result small. The weights are arguments of the traced function, so no tool folds,
copies or rewrites them; they become initializers at the end, one per variable. And the layers' primitives put a
marker into the trace where an ONNX operator means the same thing, so that the graph holds LayerNormalization, Gelu
and Attention nodes instead of the arithmetic they are made of.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import choice, fraction
from ..layers import functional as F
from ..needs import named_extras
from ..signature import Graph
from .any_keras.functions import AnyFunctions
from .any_keras.layers import keras_lowered
from .any_keras.model import Foreign
from .blame import captured_constants, one_line, unsupported
from .computing import FileWeights, inference, one_at_a_time, reading
from .contents import seal, unsealed
from .onnx_operators import LOWERINGS, complement, replace_marker
from .precision.accuracy import measure
from .precision.onnx_files import round_graphs
from .precision.options import LEAST_COSINE, Precision, as_precision
from .result import ExportError, ExportResult
from .runtime import DIGESTS_BESIDE, OnnxRunner, Runner
from .spec import Exportable, exportable, input_specs, metadata, texts

Tensor = Any

OPSET, IR_VERSION = 23, 11  # the first opset with Attention, RMSNormalization and RotaryEmbedding
TRACED_OPSET = 18  # the last that tf2onnx writes; what it emits means the same at 23
NOWHERE = ("Dropout", "Random", "PartitionedCall", "PyFunc")  # in no inference graph
FORBIDDEN = ("Dropout", "Random", "Einsum", "PartitionedCall", "PyFunc", "Loop", "If")
TARGETS = ("standard", "onnxruntime")
PROTOBUF_LIMIT = 1_900_000_000  # bytes; a protobuf file ends at 2 GiB, larger weights go beside it


@named_extras()
@one_at_a_time
def to_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str | Precision = "fp32",
    cache: bool | None = None,
    input_signature: Any = None,
    target: str | None = None,
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
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
        target: whose operators blocks of weights are read by (int4, and int8 with activations "float"): "onnxruntime"
            (``MatMulNBits`` and ``GatherBlockQuantized``, fast on every processor) or "standard" (``DequantizeLinear``
            of opset 21, for other runtimes). Default: "onnxruntime".
        samples: what the accuracy of another precision is measured on, and static ranges: texts, or inputs by name, or
            several of either. Default: built-in prose for a model with a tokenizer, else made-up inputs.
        metric: a figure of your own for the report: called with a runner in float32 and with the one in `precision`.
        least_cosine: accept a file whose outputs have this cosine with those in float32; 0 for whatever comes.
            Default: 0.999 in fp16, 0.97 in int8, 0.9 in int4, and of classes a divergence of 0.01, 0.2 and 0.6 nats.

    Raises:
        ValueError: not a Keras model, one that does not tell its inputs or cannot be exported, another suffix, a cache
            for a model that has none, a tokenizer that does not fit the model, a precision, target or samples that
            are not accepted, or another backend than TensorFlow.
        ExportError: the converted graph does not compute what the model computes, or not nearly enough in `precision`.
    """
    from .verification import quick_check

    destination = Path(path)
    if destination.suffix != ".onnx":
        raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in .onnx")
    start = time.perf_counter()
    numbers = as_precision(precision)
    operators_of = "onnxruntime" if target is None else choice("target", target, TARGETS)
    if numbers.name == "fp32" and (asked := _asked(samples=samples, metric=metric, least_cosine=least_cosine)):
        raise ValueError(f"{asked}: got one for 'fp32', whose proof is `verify`; accepted: None, or another precision")
    if least_cosine is not None:
        least_cosine = fraction("least_cosine", least_cosine)
    model = exportable(model, input_signature)
    if cache and not model.generates:
        raise ValueError(f"cache: got True for a {model.family} that does not generate; accepted: None or False")
    graphs = model.graphs("dynamic" if cache is not False and model.generates else "plain")
    names = dict.fromkeys(graphs, destination.name)
    if "encoder" in graphs and not isinstance(model, Foreign):
        names["encoder"] = f"{destination.stem}.encoder.onnx"
    elif isinstance(model, AnyFunctions):  # the first has the name that was given
        names |= {name: f"{destination.stem}.{name}.onnx" for name in list(graphs)[1:]}
        graphs = dict(reversed(graphs.items()))
    beside = {name: file for name, file in names.items() if file != destination.name}

    ours, own = not isinstance(model, Foreign), texts(model)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as folder:
        parts = {}
        for name, graph in graphs.items():
            with inference(model) as weights:
                converted = _convert(model, weights, name, graph, {} if names[name] != destination.name else beside)
                converted.metadata_props.update(unsealed(weights))
            if names[name] == destination.name:
                converted.metadata_props.update(own)
            parts[name] = converted
        files, operators = _written(parts, names, Path(folder), FORBIDDEN if ours else NOWHERE)
        precise = _opened(Path(folder) / destination.name)
        difference = quick_check(model, precise)
        accuracy, share = None, 0.0
        if numbers.name != "fp32":
            least = LEAST_COSINE[numbers.name] if least_cosine is None else least_cosine
            rounded = round_graphs(precise, list(graphs), numbers, operators_of, samples, least)
            other = Path(folder) / numbers.name
            other.mkdir()
            files, operators = _written({name: part.model for name, part in rounded.items()}, names, other, ())
            opened = _opened(other / destination.name)
            accuracy = measure(precise, opened, numbers.name, samples=samples, metric=metric, least_cosine=least_cosine)
            share = float(np.mean([part.share for part in rounded.values()]))
        size = sum(file.stat().st_size for file in files)
        for file in files:  # the data first: a graph never stands there without it
            file.replace(destination.parent / file.name)
        for file in set(names.values()) - {f"{f.name.removesuffix('.data')}" for f in files if f.suffix == ".data"}:
            destination.with_name(f"{file}.data").unlink(missing_ok=True)  # an earlier, larger model's
    return ExportResult(
        path=destination,
        format="onnx",
        bytes=size,
        weight_bytes=FileWeights(model).bytes,
        seconds=time.perf_counter() - start,
        operators=dict(operators.most_common()),
        greatest_difference=difference,
        files=tuple(
            destination.parent / name for name in sorted((f.name for f in files), key=lambda n: n != destination.name)
        ),
        precision=numbers.name,
        rounded=share,
        accuracy=accuracy,
    )


def _asked(**given: Any) -> str:
    return next((name for name, value in given.items() if value is not None), "")


def _written(
    parts: Mapping[str, Any], names: Mapping[str, str], folder: Path, forbidden: Collection[str]
) -> tuple[list[Path], Counter[str]]:
    """The files of the graphs, in the order in which they may appear, and their operators. The last of `parts` is the
    one that was asked for: it knows the digests of the others, which belong to it."""
    operators: Counter[str] = Counter()
    files: list[Path] = []
    digests: dict[str, str] = {}
    *_, last = parts
    for name, part in parts.items():
        if digests and name == last:
            part.metadata_props[DIGESTS_BESIDE] = json.dumps(digests)
        operators.update(_operators(part, forbidden))
        data, file = _write(part, folder / names[name])
        digests[name] = seal(file, data)
        files += [file] if data is None else [data, file]
    return files, operators


def _convert(model: Exportable, stored: FileWeights, name: str, function: Graph, beside: dict[str, str]) -> Any:
    """One graph of the model as an ``onnx_ir.Model``."""
    import onnx_ir as ir
    import tensorflow as tf

    weights = stored.variables
    signature = function.signature
    ours = not isinstance(model, Foreign)
    inputs = input_specs(signature, "int64" if ours else None)
    arguments = [
        tf.TensorSpec(v.shape, stored.dtype(n), name=f"weight_{i}") for i, (n, v) in enumerate(weights.items())
    ]
    given = [spec.name for spec in signature.inputs]

    def traceable(*tensors: Tensor) -> dict[str, Tensor]:
        values = dict(zip(weights, tensors[len(inputs) :], strict=True))
        foreign = nullcontext() if ours else _keras_as_ours(model)
        with F.lowering(LOWERINGS), reading(values, stored), foreign:
            return function.function(dict(zip(given, tensors[: len(inputs)], strict=True)))

    traced = tf.function(traceable, autograph=False, jit_compile=False).get_concrete_function(*inputs, *arguments)
    constants = captured_constants(traced)
    if constants and ours:
        raise ExportError(f"the trace holds {len(constants)} values that are not weights of the model")

    placeholders = [tensor.name for tensor in traced.graph.inputs]
    outputs = {traced.structured_outputs[spec.name].name: spec.name for spec in signature.outputs}
    names = dict(zip(placeholders, [*given, *weights, *constants], strict=True))
    proto = _tf2onnx(traced.graph.as_graph_def(add_shapes=True), placeholders, list(outputs), {**names, **outputs})
    unsupported(proto, traced)

    onnx_model = _tidy(ir.from_proto(proto))
    onnx_model.ir_version = IR_VERSION
    onnx_model.opset_imports[""] = OPSET
    onnx_model.producer_name, onnx_model.producer_version = "attention_zoo", None
    graph = onnx_model.graph
    graph.name = model.name
    for node in graph:
        for value in node.outputs:
            value.shape = None  # tf2onnx's shapes name their open dimensions at random
    for value in list(graph.inputs):
        if value.name in weights or value.name in constants:
            graph.inputs.remove(value)
            if not value.uses():
                continue  # such as DINOv2's mask token, or an encoder's weight in the decoder
            array = stored.value(value.name) if value.name in weights else constants[value.name]
            value.const_value = ir.tensor(array, name=value.name)
            value.shape = ir.Shape(array.shape)
            graph.register_initializer(value)
    for side, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        found = {value.name: value for value in side}
        if set(found) != {spec.name for spec in specs}:
            raise ExportError(f"the graph has {sorted(map(str, found))} where {[s.name for s in specs]} belong")
        for spec in specs:
            found[spec.name].shape = ir.Shape(spec.dims)
    for spec in signature.inputs:
        fixed = [dim for dim in spec.dims if isinstance(dim, int)]
        if spec.optional and len(fixed) == len(spec.dims):  # a default, for who leaves it out
            value = next(value for value in graph.inputs if value.name == spec.name)
            value.const_value = ir.tensor(np.full(fixed, spec.fill, "int64"), name=spec.name)
            graph.register_initializer(value)
    onnx_model.metadata_props.update(metadata(model, {name: signature}, beside))
    return onnx_model


@contextmanager
def _keras_as_ours(model: Exportable) -> Iterator[None]:
    """Keras' layers through our primitives. What is a tf.function of its own, such as Keras' grouped convolutions,
    becomes part of the trace: ONNX has no calls."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with keras_lowered(model._flatten_layers()):
            yield
    finally:
        tf.config.run_functions_eagerly(before)


def _tf2onnx(graph_def: Any, inputs: list[str], outputs: list[str], names: dict[str, str]) -> Any:
    """The frozen graph as an ONNX protobuf, its weights still inputs."""
    import tensorflow as tf
    from tf2onnx import logging as tf2onnx_logging
    from tf2onnx import optimizer, tfonnx

    tf2onnx_logging.set_level(logging.CRITICAL)  # what it cannot convert becomes one error of ours
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = tfonnx.process_tf_graph(
            graph,
            opset=TRACED_OPSET,
            custom_op_handlers={"PyFunc": (replace_marker, []), "Erfc": (complement, [])},
            extra_opset=[],
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=names,
        )
    # Its optimizers copy the whole graph once each; ONNX Runtime and the passes of `_tidy` do the same in no time.
    converted = optimizer.optimize_graph(converted, catch_errors=False, optimizers={})
    return converted.make_model("attention_zoo")


def _tidy(model: Any) -> Any:
    """Merge what is computed twice, such as the mask of every block, and drop what is not read."""
    from onnx_ir.passes import common

    _sort(model.graph)  # the passes keep the order, and which of two equal nodes stays depends on it
    for step in (
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=1024),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        model = step(model).model
    _keep_padding(model.graph)
    _rename(model.graph)
    return model


def _keep_padding(graph: Any) -> None:
    """ONNX Runtime moves zeros around an image into the max-pooling behind it, where they count as none: wrong where
    all else is negative. It leaves alone what is not zero, as the smallest number is not."""
    import onnx_ir as ir

    def pools(node: Any) -> bool:
        behind = [use.node for output in node.outputs for use in output.uses()]
        return any(other.op_type == "MaxPool" or (other.op_type == "Transpose" and pools(other)) for other in behind)

    for node in list(graph):
        value = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
        zero = value is None or (value.const_value is not None and not value.const_value.numpy().any())
        if node.op_type == "Pad" and zero and pools(node):
            tensor = ir.tensor(np.array(np.finfo("float32").tiny), name=f"{node.name}_almost_zero")
            almost = ir.Value(name=tensor.name, const_value=tensor)
            almost.shape, almost.dtype = ir.Shape(()), tensor.dtype
            graph.register_initializer(almost)
            node.resize_inputs(3)
            node.replace_input_with(2, almost)


def _sort(graph: Any) -> None:
    """Order nodes by a walk from the outputs back. tf2onnx's own order depends on its names, which differ per run."""
    ordered, done = [], set()
    stack = [(output.producer(), False) for output in reversed(graph.outputs)]
    while stack:
        node, ready = stack.pop()
        if node is None or node in done:
            continue
        if ready:
            done.add(node)
            ordered.append(node)
            continue
        stack.append((node, True))
        stack += [(value.producer(), False) for value in reversed(node.inputs) if value is not None]
    graph.remove(list(graph))
    graph.extend(ordered)


def _rename(graph: Any) -> None:
    """Names without process-wide counters, so that the same model gives the same bytes every time."""
    seen: Counter[str] = Counter()

    def plain(name: str, operator: str = "") -> str:
        name = re.sub(r"__\d+|_1(?=/)|:0$", "", name)  # "bert_1/block_0_1/add:0" is "bert/block_0/add"
        name = re.sub(r"PyFunc(_\d+)?$", operator, name)
        seen[name] += 1
        return name if seen[name] == 1 else f"{name}.{seen[name]}"

    kept = {*graph.inputs, *graph.outputs}
    initializers = {}
    for node in graph:
        node.name = plain(node.name or node.op_type, node.op_type)
        for value in node.inputs:
            if value is not None and value.is_initializer():
                initializers[value.name] = value
        for i, value in enumerate(node.outputs):
            if value not in kept:
                value.name = f"{node.name}:{i}"
    graph.initializers.clear()
    for value in initializers.values():  # in the order of their first use
        value.name = value.const_value.name = plain(value.name)
        graph.register_initializer(value)


def _opened(file: Path) -> OnnxRunner:
    try:
        return OnnxRunner(file)
    except ValueError as error:
        said = one_line(error.__cause__ or error, 1000).replace(str(file), file.name)[:300]
        loop = (
            ". A loop over an open length has no counterpart: state it in input_signature" if ", Loop," in said else ""
        )
        raise ExportError(f"ONNX Runtime refuses the graph{loop}: {said}") from error


def _operators(model: Any, forbidden: Collection[str]) -> dict[str, int]:
    counts = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph)
    if bad := [name for name in counts if any(word in name for word in forbidden)]:
        raise ExportError(f"the graph holds {bad}, which do not belong into an inference graph")
    return dict(counts.most_common())


def _write(model: Any, file: Path) -> tuple[Path | None, Path]:
    """The files written, in the order in which they may appear: that of the weights, if they have one, and `file`."""
    import onnx_ir as ir

    if sum(value.const_value.nbytes for value in model.graph.initializers.values()) <= PROTOBUF_LIMIT:
        ir.save(model, file)
        return None, file
    data = file.with_name(f"{file.name}.data")
    ir.save(model, file, external_data=data.name)
    return data, file
