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
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ..layers import functional as F
from ..needs import named_extras
from ..signature import Graph
from .blame import captured_constants, unsupported
from .computing import FileWeights, inference, one_at_a_time, reading
from .contents import seal, unsealed
from .keras_layers import keras_lowered
from .result import ExportError, ExportResult
from .runtime import DIGESTS_BESIDE, OnnxRunner
from .spec import Exportable, exportable, input_specs, metadata, texts

Tensor = Any

OPSET, IR_VERSION = 23, 11  # the first opset with Attention, RMSNormalization and RotaryEmbedding
TRACED_OPSET = 18  # the last that tf2onnx writes; what it emits means the same at 23
NOWHERE = ("Dropout", "Random", "PartitionedCall", "PyFunc")  # in no inference graph
FORBIDDEN = ("Dropout", "Random", "Einsum", "PartitionedCall", "PyFunc", "Loop", "If")
GATES = {"lstm": (0, 3, 1, 2), "gru": (0, 1, 2), "rnn": (0,)}  # Keras' gates in the order of ONNX: i o f c, and z r h
PROTOBUF_LIMIT = 1_900_000_000  # bytes; a protobuf file ends at 2 GiB, larger weights go beside it


@named_extras()
@one_at_a_time
def to_onnx(
    model: Any, path: str | os.PathLike[str], *, cache: bool | None = None, input_signature: Any = None
) -> ExportResult:
    """Write `model` as ONNX (opset 23) with named dynamic dimensions, and check the file against Keras.

    Any Keras model or layer becomes one graph, with the names, dtypes and open dimensions of its inputs, and outputs
    named by the keys of a dict, by the layers that a Functional model ends in, or ``output_{i}``: see ``any_model.py``.

    A GPT becomes a decoder with a key/value cache: ``past_key_values.{i}.key/.value`` (batch, kv_heads, past_sequence,
    head_dim) in, ``present.{i}.key/.value`` out, empty for the first call; `attention_mask` spans past and new tokens.
    Its logits are those of all tokens, or of the last `num_logits_to_keep` (a scalar that may be left out: 0, for all).
    A Transformer or Seq2Seq becomes two graphs: `path` is the decoder's step and ``<stem>.encoder.onnx`` beside it what
    the encoder computes once. Everything else is one graph with the names of ``model.signature``. Ids and masks
    are int64, the rest float32. Weights over 1.9 GB go to ``<name>.data`` beside a file. The model's tokenizer, its
    chat template and what ends a text are in the file too. Files appear whole or not at all.

    Args:
        model: a model of attention_zoo, or any built ``keras.Model`` or layer, of any dtype policy. The file computes
            in float32.
        path: ends in ``.onnx``.
        cache: False for one graph without memory of a model that generates. Default: with, where there is one.
        input_signature: how any Keras model is called: ``keras.InputSpec(shape, dtype)``, nested as its inputs are,
            None for an open size. Default: what the model was built with.

    Raises:
        ValueError: not a Keras model, one that does not tell its inputs or cannot be exported, another suffix, a cache
            for a model that has none, a tokenizer that does not fit the model, or another backend than TensorFlow.
        ExportError: the converted graph does not compute what the model computes.
    """
    from .verification import quick_check

    target = Path(path)
    if target.suffix != ".onnx":
        raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in .onnx")
    start = time.perf_counter()
    model = exportable(model, input_signature)
    if cache and not model.generates:
        raise ValueError(f"cache: got True for a {model.family} that does not generate; accepted: None or False")
    graphs = model.graphs("dynamic" if cache is not False and model.generates else "plain")
    names = dict.fromkeys(graphs, target.name)
    if "encoder" in graphs:
        names["encoder"] = f"{target.stem}.encoder.onnx"
    beside = {name: file for name, file in names.items() if file != target.name}

    ours, own = model.family != "keras", texts(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    operators: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        files: list[Path] = []
        digests: dict[str, str] = {}
        for name, graph in graphs.items():  # the one that was asked for comes last, as the others belong to it
            with inference(model) as weights:
                converted = _convert(model, weights, name, graph, {} if names[name] != target.name else beside)
                converted.metadata_props.update(unsealed(weights))
            if names[name] == target.name:
                converted.metadata_props.update(own | ({DIGESTS_BESIDE: json.dumps(digests)} if digests else {}))
            operators.update(_operators(converted, FORBIDDEN if ours else NOWHERE))
            data, file = _write(converted, Path(folder) / names[name])
            digests[name] = seal(file, data)
            files += [file] if data is None else [data, file]
        size = sum(file.stat().st_size for file in files)
        difference = quick_check(model, OnnxRunner(Path(folder) / target.name))
        for file in files:  # the data first: a graph never stands there without it
            file.replace(target.parent / file.name)
        for file in set(names.values()) - {f"{f.name.removesuffix('.data')}" for f in files if f.suffix == ".data"}:
            target.with_name(f"{file}.data").unlink(missing_ok=True)  # an earlier, larger model's
    return ExportResult(
        path=target,
        format="onnx",
        bytes=size,
        weight_bytes=FileWeights(model).bytes,
        seconds=time.perf_counter() - start,
        operators=dict(operators.most_common()),
        greatest_difference=difference,
        files=tuple(target.parent / name for name in sorted((f.name for f in files), key=lambda n: n != target.name)),
    )


def _convert(model: Exportable, stored: FileWeights, name: str, function: Graph, beside: dict[str, str]) -> Any:
    """One graph of the model as an ``onnx_ir.Model``."""
    import onnx_ir as ir
    import tensorflow as tf

    weights = stored.variables
    signature = function.signature
    ours = model.family != "keras"
    inputs = input_specs(signature, "int64" if ours else None)
    arguments = [
        tf.TensorSpec(v.shape, stored.dtype(n), name=f"weight_{i}") for i, (n, v) in enumerate(weights.items())
    ]
    given = [spec.name for spec in signature.inputs]

    def traceable(*tensors: Tensor) -> dict[str, Tensor]:
        values = dict(zip(weights, tensors[len(inputs) :], strict=True))
        with F.lowering(LOWERINGS), reading(values, stored), keras_lowered([] if ours else model._flatten_layers()):
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


def _tf2onnx(graph_def: Any, inputs: list[str], outputs: list[str], names: dict[str, str]) -> Any:
    """The frozen graph as an ONNX protobuf, its weights still inputs."""
    import tensorflow as tf
    from tf2onnx import logging as tf2onnx_logging
    from tf2onnx import optimizer, tfonnx

    tf2onnx_logging.set_level(logging.ERROR)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = tfonnx.process_tf_graph(
            graph,
            opset=TRACED_OPSET,
            custom_op_handlers={"PyFunc": (_replace_marker, []), "Erfc": (_complement, [])},
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
            almost.shape, almost.dtype = tensor.shape, tensor.dtype
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


# ---- the operators that primitives become -------------------------------------------------------------------------


def _marker(operator: str, inputs: list[Tensor], shape: list[int | None], **attributes: Any) -> Tensor:
    """A node that tf2onnx hands to `_replace_marker`. It cannot be run."""
    return _markers(operator, inputs, [shape], **attributes)[0]


def _markers(operator: str, inputs: list[Any], shapes: list[list[int | None]], **attributes: Any) -> list[Tensor]:
    """As `_marker`, with several outputs. An input may be None, where the operator leaves one out."""
    import tensorflow as tf

    given = [tf.convert_to_tensor(tensor) for tensor in inputs if tensor is not None]
    present = [tensor is not None for tensor in inputs]
    token = json.dumps({"operator": operator, "attributes": attributes, "present": present})
    outputs = tf.raw_ops.PyFunc(input=given, token=token, Tout=[given[0].dtype] * len(shapes))
    for output, shape in zip(outputs, shapes, strict=True):
        output.set_shape(shape)
    return outputs


def _replace_marker(graph: Any, node: Any, name: str, _: Any) -> None:
    meant = json.loads(node.get_attr("token").s)
    shapes = [graph.get_shape(output) for output in node.output]
    dtypes = [graph.get_dtype(output) for output in node.output]
    given, outputs = iter(list(node.input)), list(node.output)
    inputs = [next(given) if there else "" for there in meant["present"]]
    graph.remove_node(node.name)
    graph.make_node(
        meant["operator"],
        inputs,
        attr=meant["attributes"],
        outputs=outputs,
        shapes=shapes,
        dtypes=dtypes,
        name=name,
        skip_conversion=True,
    )


def _complement(graph: Any, node: Any, name: str, _: Any) -> None:
    """erfc(x) = 1 - erf(x), which ONNX has no operator for."""
    shapes, dtypes = [graph.get_shape(node.output[0])], [graph.get_dtype(node.output[0])]
    given, outputs = list(node.input), list(node.output)
    graph.remove_node(node.name)
    erf = graph.make_node("Erf", given, shapes=shapes, dtypes=dtypes)
    one = graph.make_const(f"{name}_one", np.array(1, "float32"))
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=outputs, shapes=shapes, dtypes=dtypes, name=name)


def _dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    if transpose_kernel:
        kernel = tf.transpose(kernel)
    output = _marker("MatMul", [inputs, kernel], [*inputs.shape[:-1], kernel.shape[-1]])
    return output if bias is None else tf.add(output, tf.convert_to_tensor(bias))


def _embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    return _marker("Gather", [table, ids], [*ids.shape, table.shape[-1]], axis=0)


def _layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float) -> Tensor:
    return _marker("LayerNormalization", [inputs, gamma, beta], inputs.shape.as_list(), axis=-1, epsilon=epsilon)


def _rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    return _marker("RMSNormalization", [inputs, scale], inputs.shape.as_list(), axis=-1, epsilon=epsilon)


def _gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    return _marker("Gelu", [inputs], inputs.shape.as_list(), approximate="tanh" if approximate else "none")


def _split_heads(inputs: Tensor, heads: int) -> Tensor:
    import tensorflow as tf

    width = inputs.shape[-1] // heads
    shape = [*inputs.shape[:2], heads, width]
    split = _marker("Reshape", [inputs, np.array([0, 0, heads, width], "int64")], shape)  # 0: as it was
    return tf.transpose(split, (0, 2, 1, 3))


def _merge_heads(inputs: Tensor) -> Tensor:
    import tensorflow as tf

    batch, heads, length, width = inputs.shape
    merged = tf.transpose(inputs, (0, 2, 1, 3))
    return _marker("Reshape", [merged, np.array([0, 0, heads * width], "int64")], [batch, length, heads * width])


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    return_scores: bool = False,
    dropout: Any = None,
) -> Any:
    import tensorflow as tf

    if return_scores:
        reference = F.PRIMITIVES["dot_product_attention"]
        return reference(query, key, value, mask=mask, bias=bias, scale=scale, causal=causal, return_scores=True)
    length, source = tf.shape(query)[2], tf.shape(key)[2]
    any_key = None
    mask = F.combine_masks(F.causal_mask(length, source) if causal else None, mask)
    if mask is not None:
        any_key = tf.cast(tf.reduce_any(mask, axis=-1, keepdims=True), query.dtype)  # (·, ·, T, 1)
        added = tf.cast(tf.logical_not(mask), tf.float32) * F.MASKED
        bias = added if bias is None else added + bias
    inputs = [query, key, value]
    if bias is not None:
        # ONNX Runtime's CPU kernel broadcasts the mask over heads and batch, but not over queries.
        rows = tf.ones((1, 1, length, 1), bias.dtype) if bias.shape[2] == 1 else None
        inputs.append(bias if rows is None else bias * rows)
    shape = [query.shape[0], query.shape[1], query.shape[2], value.shape[3]]
    output = _marker("Attention", inputs, shape, scale=float(scale or query.shape[-1] ** -0.5))
    return output if any_key is None else output * any_key


def _reshape_behind(x: Tensor, kept: int, last: list[int]) -> Tensor:
    shape = np.array([0] * kept + list(last), "int64")  # 0: as it was
    return _marker("Reshape", [x, shape], [*x.shape[:kept], *last])


def _rotary(inputs: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    import tensorflow as tf

    caches = [tf.squeeze(cache, axis=1) for cache in (cos, sin)]  # (B or 1, T, D/2)
    if cos.shape[0] == 1:  # the operator wants a row for each of the batch
        caches = [tf.tile(cache, tf.stack([tf.shape(inputs)[0], 1, 1])) for cache in caches]
    return _marker("RotaryEmbedding", [inputs, *caches], inputs.shape.as_list(), interleaved=int(interleaved))


def _recurrent(layer: Any, inputs: Tensor, state: Any, mask: Tensor | None, training: Any) -> tuple[Tensor, ...]:
    """ONNX's LSTM or GRU. Its sequences end but have no gaps, so the kept tokens are moved to the front first."""
    import tensorflow as tf

    if not layer.textbook:
        return F.PRIMITIVES["recurrent"](layer, inputs, state, mask, training)
    if layer.go_backwards:
        inputs = tf.reverse(inputs, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    batch, width = tf.shape(inputs)[0], layer.units
    lengths = order = None
    if mask is not None:
        order = _kept_first(mask)  # (B, T, T)
        inputs = tf.matmul(order, inputs)
        lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # (B,)

    def gates(weight: Any) -> Tensor:  # (·, gates · units) to (1, gates · units, ·), in ONNX's order
        parts = tf.split(tf.convert_to_tensor(weight), layer.cell_gates, axis=-1)
        return tf.expand_dims(tf.transpose(tf.concat([parts[i] for i in GATES[layer.cell_kind]], -1)), 0)

    cell = layer.cell
    if layer.cell_kind != "gru":  # one bias in Keras, a second of zeros here
        bias = tf.concat([gates(cell.bias[None])[..., 0], tf.zeros((1, layer.cell_gates * width))], axis=-1)
        attributes: dict[str, Any] = {"hidden_size": width}
    else:
        bias = tf.concat([gates(cell.bias[i : i + 1])[..., 0] for i in range(2)], axis=-1)
        attributes = {"hidden_size": width, "linear_before_reset": 1}
    states = [tf.expand_dims(part, 0) for part in state] if state is not None else []
    one = [1, inputs.shape[0], width]
    shapes = [[inputs.shape[1], 1, inputs.shape[0], width], *([one] * (2 if layer.cell_kind == "lstm" else 1))]
    outputs, *last = _markers(
        layer.cell_kind.upper(),
        [tf.transpose(inputs, (1, 0, 2)), gates(cell.kernel), gates(cell.recurrent_kernel), bias, lengths, *states],
        shapes,
        **attributes,
    )
    outputs = tf.transpose(tf.squeeze(outputs, 1), (1, 0, 2))  # (B, T, units)
    if order is not None:
        outputs = tf.matmul(order, outputs, transpose_a=True)
    return outputs, *(tf.reshape(part, tf.stack([batch, width])) for part in last)


def _kept_first(mask: Tensor) -> Tensor:
    """(batch, T, T): the permutation that moves kept tokens to the front and leaves both kinds in their order."""
    import tensorflow as tf

    kept = tf.cast(mask, tf.int32)
    place = tf.where(mask, tf.cumsum(kept, 1) - 1, tf.reduce_sum(kept, 1, keepdims=True) + tf.cumsum(1 - kept, 1) - 1)
    rows = tf.range(tf.shape(mask)[1])[None, :, None]  # (1, T, 1)
    return tf.cast(tf.equal(place[:, None, :], rows), tf.float32)


LOWERINGS = {
    "dense": _dense,
    "embedding_lookup": _embedding_lookup,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "gelu": _gelu,
    "split_heads": _split_heads,
    "merge_heads": _merge_heads,
    "dot_product_attention": _attention,
    "rotary": _rotary,
    "reshape_behind": _reshape_behind,
    "recurrent": _recurrent,
    "unrolled": lambda: None,
}
