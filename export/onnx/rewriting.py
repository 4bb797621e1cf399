"""Replacement of TensorFlow operations that tf2onnx converts wrongly or not at all, before the conversion.

A *rule* computes the outputs of one kind of operation from other TensorFlow operations, and from markers where ONNX has
an operator that TensorFlow does not have. The traced graph and the functions that it calls (bodies of loops, branches)
are copied operation by operation; where a rule applies, its result takes the place of the operation.

The runtimes have no complex numbers. A complex tensor becomes a pair of float tensors, the real and the imaginary part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ExportError
from ..frontend.diagnostics import one_line, place
from .rules.base import FINAL, LISTS, RULES, Call, Items, Pair, UnsupportedError
from .rules.complex_numbers import is_complex, of_complex
from .rules.loops import is_irregular

Tensor = Any

PASSES = 8  # rules build on operations that other rules replace


def rewritten(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], tables: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """Apply the rules to a graph and to its functions until none applies any more.

    Args:
        graph_def: the graph.
        inputs: names of the input tensors, which keep their names.
        outputs: names of the output tensors, some of which may be equal, constant, or inputs.
        tables: keys and values of the tables that operations look up in, by the name of their placeholder.

    Returns:
        The new graph, and the names of its output tensors, all different.

    Raises:
        UnsupportedError: an operation on complex numbers has no rule, or an output is complex.
    """
    import tensorflow as tf

    names = list(outputs)
    graph_def = _pruned(graph_def, [*inputs, *outputs])
    for _ in range(PASSES):
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
        known = {fdef.signature.name: fdef for fdef in graph_def.library.function}
        lists = any_irregular(graph, known)
        library, changed = [], False
        for function in known.values():
            fdef, different = _rewritten_function(function, Copier(graph, known, lists))
            library.append(fdef)
            changed |= different
        copier, copy = Copier(graph, known, lists, tables), tf.Graph()
        with copy.as_default():
            if known:
                tf.import_graph_def(_only_functions(graph_def.library), name="")
            given = [graph.get_tensor_by_name(name) for name in inputs]
            wanted = [graph.get_tensor_by_name(name) for name in names]
            made = copier.copy(given, wanted, None)
            names = [tensor.name for tensor in _distinct(wanted, made)]
        graph_def = copy.as_graph_def(add_shapes=True)
        new = [fdef for fdef in graph_def.library.function if fdef.signature.name not in known]
        graph_def.library.Clear()
        graph_def.library.function.extend(_called(graph_def, [*library, *new]))
        if not (changed or copier.changed):
            break
    return graph_def, names


def _pruned(graph_def: Any, tensors: Sequence[str]) -> Any:
    """Return a graph without the operations and functions that no tensor needs, such as those of a loss."""
    import tensorflow as tf

    nodes = {node.name: node for node in graph_def.node}
    waiting, found = [name.partition(":")[0] for name in tensors], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [source.partition(":")[0] for source in _values(nodes[name])]
    pruned = tf.compat.v1.GraphDef(versions=graph_def.versions)
    for node in (node for node in graph_def.node if node.name in found):
        pruned.node.add().CopyFrom(node)
        del pruned.node[-1].input[:]
        pruned.node[-1].input.extend(_values(node))
    pruned.library.function.extend(_called(pruned, list(graph_def.library.function)))
    return pruned


def _values(node: Any) -> list[str]:
    """Return the inputs of a node without those that only order operations: what they order has no part in a file."""
    return [name for name in node.input if not name.startswith("^")]


def any_irregular(graph: Any, known: dict[str, Any]) -> bool:
    """Return whether a loop uses lists of tensors in a way that tf2onnx cannot convert."""
    copier = Copier(graph, known, False)
    graphs = [graph, *(copier.function(name) for name in known)]
    return any(is_irregular(op, copier) for each in graphs for op in each.get_operations())


def _rewritten_function(fdef: Any, copier: Copier) -> tuple[Any, bool]:
    """Return a function of the graph's library after one application of the rules, and whether any applied."""
    from tensorflow.python.framework import func_graph, graph_to_function_def

    graph = copier.function(fdef.signature.name)
    if any(tensor.dtype.name == "variant" for tensor in (*graph.inputs, *graph.outputs)) and copier.lists:
        return fdef, False  # the body of a loop, which the rule of the loop copies
    copy = func_graph.FuncGraph(fdef.signature.name)
    with copy.as_default():
        outputs = _distinct(graph.outputs, copier.copy(graph.inputs, graph.outputs, None))
    if not copier.changed:
        return fdef, False
    copy.inputs = [copy.get_tensor_by_name(tensor.name) for tensor in graph.inputs]
    names = [arg.name for arg in fdef.signature.output_arg]
    operations = [op for op in copy.get_operations() if op.type != "Placeholder"]
    new = graph_to_function_def.graph_to_function_def(copy, operations, copy.inputs, outputs, out_names=names)
    new.signature.name = fdef.signature.name
    for node in new.node_def:  # markers have no shapes otherwise
        shapes = [tensor.shape.as_proto() for tensor in copy.get_operation_by_name(node.name).outputs]
        node.attr["_output_shapes"].list.shape.extend(shapes)
    return new, True


def _distinct(wanted: Sequence[Tensor], results: Sequence[Any]) -> list[Tensor]:
    """Return the results as tensors that differ from each other, from inputs and from constants: tf2onnx would lose one
    of the names."""
    import tensorflow as tf

    found, seen = [], set()
    for old, result in zip(wanted, results, strict=True):
        if isinstance(result, Pair | Items):
            raise UnsupportedError(
                "a complex output" if isinstance(result, Pair) else "a list as an output", old.op.name
            )
        merged = result.ref() in seen or result.op.type in ("Placeholder", "Const")
        found.append(tf.identity(result) if merged else result)
        seen.add(result.ref())
    return found


def _called(graph_def: Any, library: list[Any]) -> list[Any]:
    """Return the functions that the graph calls, directly or through others."""
    by_name = {fdef.signature.name: fdef for fdef in library}
    found: dict[str, Any] = {}
    pending = [graph_def.node]
    while pending:
        for node in pending.pop():
            functions = [value.func.name for value in node.attr.values()]
            functions += [function.name for value in node.attr.values() for function in value.list.func]
            for name in [node.op, *functions]:  # a function may also be an operation of its name
                if name in by_name and name not in found:
                    found[name] = by_name[name]
                    pending.append(by_name[name].node_def)
    return list(found.values())


def _only_functions(library: Any) -> Any:
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef()
    graph_def.library.CopyFrom(library)
    graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
    return graph_def


class Copier:
    """Copies operations to the current graph, and applies a rule to each.

    Args:
        outer: the graph that contains the library of functions.
        known: the functions by name.
        lists: whether lists of tensors become tensors.
        tables: keys and values of lookup tables, by the name of their placeholder.
    """

    def __init__(self, outer: Any, known: dict[str, Any], lists: bool, tables: Mapping[str, Any] | None = None) -> None:
        self.outer, self.known, self.lists, self.tables = outer, known, lists, tables or {}
        self.changed = False
        self.constants: set[Any] = set()  # results that tf2onnx computes with TensorFlow
        self.graphs: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        """Return the graph of a function."""
        from tensorflow.python.framework import function_def_to_graph

        if name not in self.graphs:
            with self.outer.as_default():
                self.graphs[name] = function_def_to_graph.function_def_to_graph(self.known[name])
        return self.graphs[name]

    def copy(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], arguments: list[Any] | None) -> list[Any]:
        """Copy what computes `outputs`, and return them.

        Args:
            inputs: the inputs of the old graph.
            outputs: the outputs of the old graph.
            arguments: what the inputs are in the new graph. None: placeholders of the same names.
        """
        new: dict[Any, Any] = {}
        for i, tensor in enumerate(inputs):
            new[tensor.ref()] = arguments[i] if arguments is not None else self._kept(tensor.op, [], True)[0]
        for op in _needed(outputs):
            if not (op.outputs and op.outputs[0].ref() in new):
                results = self._result(op, [new[tensor.ref()] for tensor in op.inputs], arguments is None)
                new.update({tensor.ref(): result for tensor, result in zip(op.outputs, results, strict=True)})
        return [new[tensor.ref()] for tensor in outputs]

    def _result(self, op: Any, given: list[Any], exact: bool) -> list[Any]:
        import tensorflow as tf

        if self._constant(op, given):  # tf2onnx computes it
            results = self._kept(op, given, exact)
            self.constants.add(results[0].ref())
            return results
        call = Call(op, given, self)
        rules = {**RULES, **LISTS} if self.lists else RULES
        results: Any
        with tf.compat.v1.get_default_graph().name_scope(f"{op.name}/{op.type}/"):
            if is_complex(op):
                results = of_complex(call)
            elif op.type == "Identity" and isinstance(given[0], Items):
                results = list(given)
            else:
                results = rules[op.type](call) if op.type in rules and FINAL not in op.node_def.attr else None
        if results is None:
            return self._kept(op, given, exact)
        self.changed = True
        results = [results] if hasattr(results, "op") or isinstance(results, Pair | Items) else list(results)
        for old, result in zip(op.outputs, results, strict=True):
            if not isinstance(result, Pair | Items):
                result.set_shape(old.shape)
        return results

    def _constant(self, op: Any, given: list[Any]) -> bool:
        """Return whether tf2onnx computes the operation with TensorFlow, since all inputs are constants."""
        if len(op.outputs) != 1 or op.type in ("PyFunc", "Placeholder", "While", "StatelessWhile"):
            return False
        if op.outputs[0].dtype.is_complex or op.outputs[0].dtype.name == "variant":
            return False
        if not given:
            return op.type == "Const"
        return all(not isinstance(x, Pair | Items) and x.ref() in self.constants for x in given)

    def _kept(self, op: Any, given: list[Tensor], exact: bool) -> list[Tensor]:
        """Copy an operation as it is, under its own name if that must be kept."""
        import tensorflow as tf

        if any(isinstance(tensor, Items) for tensor in given):
            raise UnsupportedError(op.type, op.name)
        graph = tf.compat.v1.get_default_graph()
        attributes = {name: value for name, value in op.node_def.attr.items() if name != "_output_shapes"}
        dtypes = [tensor.dtype for tensor in op.outputs]
        name = f"{op.name}/" if exact else op.name
        try:
            copy = graph.create_op(op.type, given, dtypes, name=name, attrs=attributes, op_def=op.op_def)
        except ValueError as error:  # the call of a function in the form of TensorFlow 1
            raise UnsupportedError("a call of a TensorFlow function", op.name) from error
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
    if isinstance(error, UnsupportedError):
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
