"""Conversion of a Keras model's graph to an ``onnx_ir.Model``: traced, converted by tf2onnx, cleaned up with onnx-ir.

Two things make this fast and the result small. The weights are arguments of the traced function, so that no tool folds,
copies or rewrites them; at the end they become initializers, one per variable. And the primitives of the layers put a
marker into the trace where ONNX has an equivalent operator, so that the graph contains LayerNormalization, Gelu and
Attention nodes instead of the operators that they are composed of.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...layers import functional as F
from ...signature import Graph, Signature
from ..errors import ExportError
from ..folding import fold_weights
from ..frontend.any_keras.layers import keras_lowered
from ..frontend.any_keras.model import Foreign
from ..frontend.diagnostics import captured_constants, captured_tables, unsupported
from ..frontend.inference import FileWeights, reading
from ..frontend.spec import Exportable, input_specs, metadata
from ..onnx_versions import FIRST, IR_VERSIONS, LaterOpsetError, needed
from .fused import counted
from .markers import replace_marker
from .primitives.table import lowerings
from .rewriting import failed, rewritten, where
from .shapes import infer_shapes, state_pads
from .tidying import tidied
from .transposes import cancel_transposes

Tensor = Any

LAST_OF_TF2ONNX = 18  # its operators mean the same in every later opset
LATER_OPERATIONS = ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Invert")  # it leaves them as they are in opset 17


@dataclass(frozen=True)
class Form:
    """How the graphs of a file are written.

    Attributes:
        opset: the opset. None: the lowest that has all operators of the graph.
        least: the lowest opset where `opset` is None.
        avoid: operators that are not written where they can be composed of others.
        half: whether the runtime computes in float16, whatever the dtypes in the file are.
        index_dtype: dtype of the ids and masks that the graph takes. None: int64 for models of this package, and that
            of the model for others.
    """

    opset: int | None = None
    least: int = FIRST
    avoid: tuple[str, ...] = ()
    half: bool = False
    index_dtype: str | None = None


def convert(
    model: Exportable, stored: FileWeights, name: str, function: Graph, beside: dict[str, str], form: Form
) -> Any:
    """Convert one graph of a model to an ``onnx_ir.Model``.

    Args:
        model: the model that the graph belongs to.
        stored: the weights of the file.
        name: the name of the graph in the file.
        function: the graph.
        beside: the names of other files that belong to this one, by the graph in each.
        form: the opset, and other choices about how the graph is written.

    Returns:
        The graph, with metadata. Its ``meta["calls"]`` counts the calls of primitives, see ``fused.counted``.

    Raises:
        ValueError: the opset of `form` does not have an operator of the graph.
        ExportError: the trace reads unknown variables, an operation has no ONNX operator, or the inputs or outputs of
            the graph are not those of its signature.
    """
    if form.opset is not None:
        return _in_opset(form.opset, model, stored, name, function, beside, form)
    opset = form.least
    while True:
        try:
            return _in_opset(opset, model, stored, name, function, beside, form)
        except LaterOpsetError as error:
            opset = error.least


def _in_opset(
    opset: int,
    model: Exportable,
    stored: FileWeights,
    name: str,
    function: Graph,
    beside: dict[str, str],
    form: Form,
) -> Any:
    import onnx_ir as ir
    import tensorflow as tf

    weights = stored.variables
    signature = function.signature
    ours = not isinstance(model, Foreign)
    inputs = input_specs(signature, form.index_dtype or ("int64" if ours else None))
    table, single = lowerings(opset, form.avoid, half=form.half)
    arguments = [
        tf.TensorSpec(v.shape, stored.dtype(n), name=f"weight_{i}") for i, (n, v) in enumerate(weights.items())
    ]
    given = [spec.name for spec in signature.inputs]
    calls: Counter[str] = Counter()

    def traceable(*tensors: Tensor) -> dict[str, Tensor]:
        values = dict(zip(weights, tensors[len(inputs) :], strict=True))
        foreign = nullcontext() if ours else _keras_as_ours(model)
        with F.lowering(counted(table, single, calls)), reading(values, stored), foreign:
            return function.function(dict(zip(given, tensors[: len(inputs)], strict=True)))

    traced = tf.function(traceable, autograph=False, jit_compile=False).get_concrete_function(*inputs, *arguments)
    tables = captured_tables(traced)
    constants = captured_constants(traced, tables)
    if constants and ours:
        raise ExportError(f"the trace holds {len(constants)} values that are not weights of the model")

    names = [*given, *weights, *constants]
    onnx_model = tidied(ir.from_proto(_proto(traced, names, [spec.name for spec in signature.outputs], tables, opset)))
    _check_opset(onnx_model, opset, traced)
    onnx_model.ir_version = IR_VERSIONS[opset]
    onnx_model.opset_imports[""] = opset
    onnx_model.producer_name, onnx_model.producer_version = "attention_zoo", None
    graph = onnx_model.graph
    graph.name = model.name
    for value in list(graph.inputs):
        if value.name in weights or value.name in constants:
            graph.inputs.remove(value)
            if not value.uses():
                continue  # not used, such as DINOv2's mask token, or an encoder's weight in the decoder
            array = stored.value(value.name) if value.name in weights else constants[value.name]
            value.const_value = ir.tensor(array, name=value.name)
            value.shape = ir.Shape(array.shape)
            graph.register_initializer(value)
    onnx_model.metadata_props.update(fold_weights(graph, set(weights)))
    onnx_model.metadata_props.update(metadata(model, {name: signature}, beside))
    _sign(graph, signature, form)
    infer_shapes(onnx_model)
    cancel_transposes(graph)
    infer_shapes(onnx_model)
    state_pads(graph)
    onnx_model.meta["calls"] = calls
    return onnx_model


def _sign(graph: Any, signature: Signature, form: Form) -> None:
    """Give the inputs and outputs of a graph the shapes and the defaults of its signature."""
    import onnx_ir as ir

    for side, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        found = {value.name: value for value in side}
        if set(found) != {spec.name for spec in specs}:
            raise ExportError(f"the graph has {sorted(map(str, found))} where {[s.name for s in specs]} belong")
        for spec in specs:
            found[spec.name].shape = ir.Shape(signature.shape(spec))
    for spec in signature.inputs:
        fixed = [dim for dim in spec.dims if isinstance(dim, int)]
        if spec.optional and len(fixed) == len(spec.dims):  # a default makes the input optional
            value = next(value for value in graph.inputs if value.name == spec.name)
            value.const_value = ir.tensor(np.full(fixed, spec.fill, form.index_dtype or "int64"), name=spec.name)
            graph.register_initializer(value)


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


def _check_opset(model: Any, opset: int, traced: Any) -> None:
    """Raise an error if an operator of a converted graph is not in the opset."""
    try:
        least, node = needed(model)
    except LookupError as error:
        (node,) = error.args
        raise ExportError(
            f"{node.op_type} is no ONNX operator as tf2onnx writes it: {where(node.name, node.op_type, traced.graph)}"
        ) from error
    if least > opset:
        raise LaterOpsetError(opset, least, node.op_type, where(node.name, node.op_type, traced.graph))


def _proto(traced: Any, inputs: list[str], outputs: list[str], tables: Mapping[str, Any], opset: int) -> Any:
    """Convert a traced function to an ONNX protobuf with these names of inputs and outputs.

    Args:
        traced: the function.
        inputs: names of its inputs, without those of tables.
        outputs: names of its outputs.
        tables: keys and values of the tables that it looks up in, by the name of their placeholder.
        opset: the opset of the graph.

    Raises:
        LaterOpsetError: an operation has no ONNX operator in this opset, but may have one in a later opset.
        ExportError: an operation has no ONNX operator, or cannot be converted.
    """
    placeholders = [tensor.name for tensor in traced.graph.inputs if tensor.op.name not in tables]
    results = [traced.structured_outputs[name].name for name in outputs]
    try:
        graph_def, results = rewritten(traced.graph.as_graph_def(add_shapes=True), placeholders, results, tables)
        names = dict(zip([*placeholders, *results], [*inputs, *outputs], strict=True))
        proto = _tf2onnx(graph_def, placeholders, results, names, opset)
    except Exception as error:  # of any class
        raise failed(error, traced) from error
    left = next((node for node in proto.graph.node if node.op_type in LATER_OPERATIONS), None)
    if left is not None and opset < LAST_OF_TF2ONNX:
        layer = where(left.name, left.op_type, traced.graph)
        raise LaterOpsetError(opset, LAST_OF_TF2ONNX, left.op_type, layer)
    unsupported(proto, traced)
    return proto


def _tf2onnx(graph_def: Any, inputs: list[str], outputs: list[str], names: dict[str, str], opset: int) -> Any:
    """Convert the frozen graph to an ONNX protobuf, whose weights are still inputs."""
    import tensorflow as tf
    from tf2onnx import logging as tf2onnx_logging
    from tf2onnx import optimizer, tfonnx

    tf2onnx_logging.set_level(logging.CRITICAL)  # ``unsupported`` reports what it cannot convert
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = tfonnx.process_tf_graph(
            graph,
            opset=min(opset, LAST_OF_TF2ONNX),
            custom_op_handlers={"PyFunc": (replace_marker, [])},
            extra_opset=[],
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=names,
        )
    # Each of its optimizers copies the whole graph; ONNX Runtime and the passes of `tidied` do the same much faster.
    converted = optimizer.optimize_graph(converted, catch_errors=False, optimizers={})
    return converted.make_model("attention_zoo")
