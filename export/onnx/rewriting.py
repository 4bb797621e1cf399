"""Replacement of TensorFlow operations that tf2onnx converts wrongly or not at all, before the conversion.

A *rule* computes the outputs of one kind of operation from other TensorFlow operations, and from markers where ONNX has
an operator that TensorFlow does not have. The traced graph and the functions that it calls (bodies of loops, branches)
are copied operation by operation; where a rule applies, its result takes the place of the operation.

The runtimes have no complex numbers. A complex tensor becomes a pair of float tensors, the real and the imaginary part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ExportError
from ..frontend.diagnostics import one_line, place

Tensor = Any

PASSES = 8  # rules build on operations that other rules replace


class Unsupported(Exception):
    """An operation without an equivalent in ONNX: `kind`, and the `name` of the operation in the traced graph."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} ({name})")
        self.kind, self.name = kind, name


class Pair(NamedTuple):
    """A complex tensor as two float tensors."""

    real: Tensor
    imaginary: Tensor


@dataclass(frozen=True)
class Call:
    """An operation of the traced graph.

    Attributes:
        op: the operation; the shapes and dtypes of its outputs are those of the result.
        inputs: its inputs in the new graph, a ``Pair`` for a complex one.
    """

    op: Any
    inputs: list[Any]

    @property
    def dtype(self) -> Any:
        """The dtype of the first output."""
        return self.op.outputs[0].dtype

    @property
    def shape(self) -> list[int | None] | None:
        """The shape of the first output, or None if its rank is unknown."""
        shape = self.op.outputs[0].shape
        return None if shape.rank is None else shape.as_list()

    def attr(self, name: str) -> Any:
        value = self.op.get_attr(name)
        return value.decode() if isinstance(value, bytes) else value


# A rule returns the outputs, or None to keep the operation.
Rule = Callable[[Call], Any]
RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these kinds of operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


FINAL = "_final"  # attribute of operations that no rule replaces


def final(tensor: Tensor) -> Tensor:
    """Return `tensor`, whose operation no rule replaces any more; for a rule that uses an operation of its own kind."""
    from tensorflow.core.framework import attr_value_pb2

    tensor.op._set_attr(FINAL, attr_value_pb2.AttrValue(b=True))
    return tensor


def rewritten(graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Any, list[str]]:
    """Apply the rules to a graph and to its functions until none applies any more.

    Args:
        graph_def: the graph.
        inputs: names of the input tensors, which keep their names.
        outputs: names of the output tensors, some of which may be equal, constant, or inputs.

    Returns:
        The new graph, and the names of its output tensors, all different.

    Raises:
        Unsupported: an operation on complex numbers has no rule, or an output is complex.
    """
    import tensorflow as tf

    names = list(outputs)
    for _ in range(PASSES):
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
            library = [_rewritten_function(fdef, graph) for fdef in graph_def.library.function]
            copy = tf.Graph()
            given = [graph.get_tensor_by_name(name) for name in inputs]
            wanted = [graph.get_tensor_by_name(name) for name in names]
            copied, changed = _copied(given, wanted, copy, graph_def.library)
        names = [tensor.name for tensor in copied]
        graph_def = copy.as_graph_def(add_shapes=True)
        graph_def.library.Clear()
        graph_def.library.function.extend(fdef for fdef, _ in library)
        if not changed and not any(different for _, different in library):
            break
    return graph_def, names


def _rewritten_function(fdef: Any, outer: Any) -> tuple[Any, bool]:
    """Return a function of the graph's library after one application of the rules, and whether any applied."""
    from tensorflow.python.framework import func_graph, function_def_to_graph, graph_to_function_def

    with outer.as_default():
        graph = function_def_to_graph.function_def_to_graph(fdef)
    copy = func_graph.FuncGraph(fdef.signature.name)
    copied, changed = _copied(graph.inputs, graph.outputs, copy, None)
    if not changed:
        return fdef, False
    copy.inputs = [copy.get_tensor_by_name(tensor.name) for tensor in graph.inputs]
    names = [arg.name for arg in fdef.signature.output_arg]
    operations = [op for op in copy.get_operations() if op.type != "Placeholder"]
    new = graph_to_function_def.graph_to_function_def(copy, operations, copy.inputs, copied, out_names=names)
    new.signature.name = fdef.signature.name
    for node in new.node_def:  # markers have no shapes otherwise
        shapes = [tensor.shape.as_proto() for tensor in copy.get_operation_by_name(node.name).outputs]
        node.attr["_output_shapes"].list.shape.extend(shapes)
    return new, True


def _copied(inputs: Sequence[Tensor], outputs: Sequence[Tensor], graph: Any, library: Any) -> tuple[list[Tensor], bool]:
    """Copy what computes `outputs` to `graph`, and return the new outputs, and whether a rule applied."""
    import tensorflow as tf

    new: dict[Any, Any] = {}
    changed = False
    with graph.as_default():
        if library is not None and library.function:
            tf.import_graph_def(_only_functions(library), name="")
        for tensor in inputs:
            new[tensor.ref()] = _kept(tensor.op, [], graph)[0]
        for op in _needed(outputs):
            if op.outputs and op.outputs[0].ref() in new:
                continue
            given = [new[tensor.ref()] for tensor in op.inputs]
            results, applied = _result(op, given, graph)
            changed |= applied
            new.update({tensor.ref(): result for tensor, result in zip(op.outputs, results, strict=True)})
        found, seen = [], set()
        for tensor in outputs:
            result = new[tensor.ref()]
            if isinstance(result, Pair):
                raise Unsupported("a complex output", tensor.op.name)
            if result.ref() in seen or result.op.type in (
                "Placeholder",
                "Const",
            ):  # tf2onnx would lose one of the names
                result = tf.identity(result)
            seen.add(result.ref())
            found.append(result)
    return found, changed


def _only_functions(library: Any) -> Any:
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef()
    graph_def.library.CopyFrom(library)
    graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
    return graph_def


def _result(op: Any, given: list[Any], graph: Any) -> tuple[Iterable[Any], bool]:
    from .rules.complex_numbers import is_complex, of_complex

    if _constant(op, given):  # tf2onnx computes it
        return _kept(op, given, graph), False
    call = Call(op, given)
    with graph.name_scope(f"{op.name}/{op.type}/"):
        if is_complex(op):
            results = of_complex(call)
        else:
            results = RULES[op.type](call) if op.type in RULES and FINAL not in op.node_def.attr else None
    if results is None:
        return _kept(op, given, graph), False
    results = [results] if hasattr(results, "op") or isinstance(results, Pair) else list(results)
    for old, result in zip(op.outputs, results, strict=True):
        if not isinstance(result, Pair):
            result.set_shape(old.shape)
    return results, True


def _constant(op: Any, given: list[Any]) -> bool:
    """Return whether all inputs are constants, so that tf2onnx computes the result with TensorFlow."""
    if not given or len(op.outputs) != 1 or op.type == "PyFunc" or op.outputs[0].dtype.is_complex:
        return False
    return all(not isinstance(tensor, Pair) and _is_constant(tensor) for tensor in given)


def _is_constant(tensor: Any) -> bool:
    op = tensor.op
    if op.type == "Const":
        return True
    foldable = (
        op.inputs and len(op.outputs) == 1 and op.type not in ("PyFunc", "Placeholder", "While", "StatelessWhile")
    )
    return bool(foldable) and all(map(_is_constant, op.inputs))


def _kept(op: Any, given: list[Tensor], graph: Any) -> list[Tensor]:
    """Copy an operation as it is."""
    node = op.node_def
    attributes = {name: value for name, value in node.attr.items() if name != "_output_shapes"}
    dtypes = [tensor.dtype for tensor in op.outputs]
    try:
        copy = graph.create_op(op.type, given, dtypes, name=f"{op.name}/", attrs=attributes, op_def=op.op_def)
    except ValueError as error:  # the call of a function in the form of TensorFlow 1
        raise Unsupported("a call of a TensorFlow function", op.name) from error
    for old, tensor in zip(op.outputs, copy.outputs, strict=True):
        tensor.set_shape(old.shape)
    return list(copy.outputs)


def _needed(outputs: Sequence[Tensor]) -> list[Any]:
    """Return the operations that compute `outputs`, in an order in which each follows those that it depends on."""
    ordered, done = [], set()
    stack = [(tensor.op, False) for tensor in reversed(outputs)]
    while stack:
        op, ready = stack.pop()
        if ready:
            ordered.append(op)
        elif op not in done:
            done.add(op)
            stack.append((op, True))
            stack += [(tensor.op, False) for tensor in reversed(op.inputs)]
    return ordered


def failed(error: Exception, traced: Any) -> ExportError:
    """Return an error of a rule or of tf2onnx in one line, with the operation and the layer that it comes from."""
    if isinstance(error, ExportError):
        return error
    if isinstance(error, Unsupported):
        return ExportError(f"{error.kind} has no ONNX operator: {where(error.name, error.kind, traced.graph)}")
    node, frame = None, error.__traceback__
    while frame is not None:
        found = frame.tb_frame.f_locals.get("node") or frame.tb_frame.f_locals.get("op")
        node = found if hasattr(found, "type") and hasattr(found, "name") else node
        frame = frame.tb_next
    if node is None:
        return ExportError(f"tf2onnx cannot convert the model: {one_line(error)}")
    layer = where(node.name, node.type, traced.graph)
    return ExportError(f"{node.type} cannot be converted to ONNX: {layer}: {one_line(error, 120)}")


def where(name: str, kind: str, graph: Any) -> str:
    """Return the layer and the source line of an operation, or of the one that a rule made it from."""
    ops = {op.name: op for op in graph.get_operations()}
    parts = name.partition(":")[0].partition("__")[0].split("/")
    for end in range(len(parts), 0, -1):
        if (op := ops.get("/".join(parts[:end]))) is not None:
            return place(op)
    same = next((op for op in ops.values() if op.type == kind), None)
    return place(same) if same is not None else f"an unnamed layer ({name})"
