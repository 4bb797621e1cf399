"""Conversion of a Keras model's graph to an ``onnx_ir.Model``: traced, converted by tf2onnx, cleaned up with onnx-ir.

Two things make this fast and the result small. The weights are arguments of the traced function, so that no tool folds,
copies or rewrites them; at the end they become initializers, one per variable. And the primitives of the layers put a
marker into the trace where ONNX has an equivalent operator, so that the graph contains LayerNormalization, Gelu and
Attention nodes instead of the operators that they are composed of.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from ...layers import functional as F
from ...signature import Graph
from ..errors import ExportError
from ..frontend.any_keras.layers import keras_lowered
from ..frontend.any_keras.model import Foreign
from ..frontend.diagnostics import captured_constants, unsupported
from ..frontend.inference import FileWeights, reading
from ..frontend.spec import Exportable, input_specs, metadata
from .fused import counted
from . import rules as _rules  # noqa: F401  (fills the table of rules)
from .operators import LOWERINGS, replace_marker
from .rewriting import failed, rewritten

Tensor = Any

OPSET, IR_VERSION = 23, 11  # the first opset with Attention, RMSNormalization and RotaryEmbedding
TRACED_OPSET = 18  # the last that tf2onnx writes; its operators mean the same in 23


def convert(model: Exportable, stored: FileWeights, name: str, function: Graph, beside: dict[str, str]) -> Any:
    """Convert one graph of a model to an ``onnx_ir.Model``.

    Args:
        model: the model that the graph belongs to.
        stored: the weights of the file.
        name: the name of the graph in the file.
        function: the graph.
        beside: the names of other files that belong to this one, by the graph in each.

    Returns:
        The graph, with metadata. Its ``meta["calls"]`` counts the calls of primitives, see ``fused.counted``.

    Raises:
        ExportError: the trace reads unknown variables, an operation has no ONNX operator, or the inputs or outputs of
            the graph are not those of its signature.
    """
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
    calls: Counter[str] = Counter()

    def traceable(*tensors: Tensor) -> dict[str, Tensor]:
        values = dict(zip(weights, tensors[len(inputs) :], strict=True))
        foreign = nullcontext() if ours else _keras_as_ours(model)
        with F.lowering(counted(LOWERINGS, calls)), reading(values, stored), foreign:
            return function.function(dict(zip(given, tensors[: len(inputs)], strict=True)))

    traced = tf.function(traceable, autograph=False, jit_compile=False).get_concrete_function(*inputs, *arguments)
    constants = captured_constants(traced)
    if constants and ours:
        raise ExportError(f"the trace holds {len(constants)} values that are not weights of the model")

    placeholders = [tensor.name for tensor in traced.graph.inputs]
    results = [traced.structured_outputs[spec.name].name for spec in signature.outputs]
    given_names = [*given, *weights, *constants]
    try:
        graph_def, results = rewritten(traced.graph.as_graph_def(add_shapes=True), placeholders, results)
        names = dict(zip([*placeholders, *results], [*given_names, *(s.name for s in signature.outputs)], strict=True))
        proto = _tf2onnx(graph_def, placeholders, results, names)
    except Exception as error:  # of any class
        raise failed(error, traced) from error
    unsupported(proto, traced)

    onnx_model = _tidy(ir.from_proto(proto))
    onnx_model.ir_version = IR_VERSION
    onnx_model.opset_imports[""] = OPSET
    onnx_model.producer_name, onnx_model.producer_version = "attention_zoo", None
    graph = onnx_model.graph
    graph.name = model.name
    for node in graph:
        for value in node.outputs:
            value.shape = None  # tf2onnx gives open dimensions random names
    for value in list(graph.inputs):
        if value.name in weights or value.name in constants:
            graph.inputs.remove(value)
            if not value.uses():
                continue  # not used, such as DINOv2's mask token, or an encoder's weight in the decoder
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
        if spec.optional and len(fixed) == len(spec.dims):  # a default makes the input optional
            value = next(value for value in graph.inputs if value.name == spec.name)
            value.const_value = ir.tensor(np.full(fixed, spec.fill, "int64"), name=spec.name)
            graph.register_initializer(value)
    onnx_model.metadata_props.update(metadata(model, {name: signature}, beside))
    onnx_model.meta["calls"] = calls
    return onnx_model


@contextmanager
def _keras_as_ours(model: Exportable) -> Iterator[None]:
    """Within the block, lower Keras' layers to the primitives of this package.

    Nested tf.functions, such as Keras' grouped convolutions, run eagerly and become part of the trace, since the ONNX
    graph cannot contain calls.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with keras_lowered(model._flatten_layers()):
            yield
    finally:
        tf.config.run_functions_eagerly(before)


def _tf2onnx(graph_def: Any, inputs: list[str], outputs: list[str], names: dict[str, str]) -> Any:
    """Convert the frozen graph to an ONNX protobuf, whose weights are still inputs."""
    import tensorflow as tf
    from tf2onnx import logging as tf2onnx_logging
    from tf2onnx import optimizer, tfonnx

    tf2onnx_logging.set_level(logging.CRITICAL)  # ``unsupported`` reports what it cannot convert
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = tfonnx.process_tf_graph(
            graph,
            opset=TRACED_OPSET,
            custom_op_handlers={"PyFunc": (replace_marker, [])},
            extra_opset=[],
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=names,
        )
    # Each of its optimizers copies the whole graph; ONNX Runtime and the passes of `_tidy` do the same much faster.
    converted = optimizer.optimize_graph(converted, catch_errors=False, optimizers={})
    return converted.make_model("attention_zoo")


def _tidy(model: Any) -> Any:
    """Merge equal nodes, such as those that compute the mask in every block, and remove unused ones."""
    from onnx_ir.passes import common

    outputs = [value.name for value in model.graph.outputs]
    for node in model.graph:
        if node.op_type == "Identity":  # tf2onnx leaves the shape of the elements as an input of a list of tensors
            node.resize_inputs(1)
    _sort(model.graph)  # the passes keep the order, which determines which of two equal nodes stays
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
    _own_outputs(model.graph)
    _distinct_outputs(model.graph, outputs)
    _rename(model.graph)
    return model


def _keep_padding(graph: Any) -> None:
    """Replace zeros around an image by the smallest positive normal number where max pooling follows.

    ONNX Runtime fuses padding with zeros into max pooling, where the padding does not count. That is wrong where all
    values are negative. Padding with any other value is not fused.
    """
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


def _read(node: Any) -> list[Any]:
    """Return the values that a node reads, and those that the graphs in it (the body of a loop, branches) capture."""
    found = [value for value in node.inputs if value is not None]
    for graph in _inside(node):
        found += [value for inner in graph for value in _read(inner)]
        found += list(graph.outputs)
    return found


def _inside(node: Any) -> list[Any]:
    """Return the graphs that a node contains."""
    import onnx_ir as ir

    return [attribute.value for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]


def _distinct_outputs(graph: Any, names: list[str]) -> None:
    """Give every output a value of its own. The passes merge outputs that are equal, or equal to an input."""
    import onnx_ir as ir

    seen = set(graph.inputs)
    for i, name in enumerate(names):
        value = graph.outputs[i]
        if value in seen or value.is_initializer():
            copy = ir.node("Identity", [value])
            copy.outputs[0].dtype, copy.outputs[0].shape = value.dtype, value.shape
            graph.append(copy)
            graph.outputs[i] = value = copy.outputs[0]
        seen.add(value)
        value.name = name


def _own_outputs(graph: Any) -> None:
    """Let the graphs inside of nodes return values of their own, where one would return a value that it captures."""
    import onnx_ir as ir

    for node in graph:
        for inner in _inside(node):
            _own_outputs(inner)
            for i, value in enumerate(inner.outputs):
                if value.producer() not in set(inner) and value not in inner.inputs:
                    copy = ir.node("Identity", [value])
                    inner.append(copy)
                    inner.outputs[i] = copy.outputs[0]


def _sort(graph: Any) -> None:
    """Sort nodes by a walk from the outputs back. tf2onnx's own order depends on its names, which differ from run to
    run."""
    own, ordered, done = set(graph), [], set()
    stack = [(output.producer(), False) for output in reversed(graph.outputs)]
    while stack:
        node, ready = stack.pop()
        if node not in own or node in done:
            continue
        if ready:
            done.add(node)
            ordered.append(node)
            continue
        stack.append((node, True))
        stack += [(value.producer(), False) for value in reversed(_read(node))]
    graph.remove(list(graph))
    graph.extend(ordered)
    for node in ordered:
        for inner in _inside(node):
            _sort(inner)


def _rename(graph: Any) -> None:
    """Remove process-wide counters from names, so that the same model always gives the same bytes."""
    seen: Counter[str] = Counter()

    def plain(name: str, operator: str = "") -> str:
        name = re.sub(r"__\d+|_1(?=/)|:0$", "", name)  # "bert_1/block_0_1/add:0" is "bert/block_0/add"
        name = re.sub(r"_(cond|body|true|false)_\d+", r"_\1", name)  # of functions
        name = re.sub(r"PyFunc(_\d+)?$", operator, name)
        seen[name] += 1
        return name if seen[name] == 1 else f"{name}.{seen[name]}"

    kept = {*graph.inputs, *graph.outputs}
    initializers = {}

    def rename(nodes: Any) -> None:
        for node in nodes:
            node.name = plain(node.name or node.op_type, node.op_type)
            for value in node.inputs:
                if value is not None and value.is_initializer():
                    initializers[value.name] = value
            for i, value in enumerate(node.outputs):
                if value not in kept:
                    value.name = f"{node.name}:{i}"
            for inner in _inside(node):
                for i, value in enumerate(inner.inputs):
                    value.name = f"{node.name}.in:{i}"
                rename(inner)
                initializers.update({value.name: value for value in inner.outputs if value.is_initializer()})
                inner.initializers.clear()

    rename(graph)
    graph.initializers.clear()
    for value in initializers.values():  # in the order of their first use
        value.name = value.const_value.name = plain(value.name)
        graph.register_initializer(value)
