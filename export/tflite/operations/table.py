"""The table of replaced TensorFlow operations, and the context in which a trace replaces them.

A rule is registered under the name of an operation and has its arguments. It returns the outputs, composed of
operations that LiteRT has right, or None to keep the operation. Rules see every operation of a trace, whichever library
asked for it, because they intercept the function that adds operations to TensorFlow graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

Tensor = Any
Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these TensorFlow operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return register


@contextmanager
def replaced(kept: frozenset[str] = frozenset()) -> Iterator[None]:
    """Apply the rules to all operations that are added to a graph within the block, except to those named in `kept`.

    Exports hold a lock, so that no other thread traces at the same time.
    """
    import tensorflow as tf
    from tensorflow.python.eager import execute
    from tensorflow.python.framework import op_def_library

    add = op_def_library._apply_op_helper

    def adding(operation: str, name: str | None = None, **arguments: Any) -> Any:
        found = None if operation in kept else RULES.get(operation)
        if found is None or execute.must_record_gradient():
            return add(operation, name=name, **arguments)
        with tf.name_scope(name or operation):
            outputs = found(**arguments)
        if outputs is None:
            return add(operation, name=name, **arguments)
        if isinstance(outputs, tf.Operation):
            return None, None, outputs, []
        outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        return None, None, outputs[0].op, outputs

    adding.__wrapped__ = add  # pyright: ignore
    with mock.patch.object(op_def_library, "_apply_op_helper", adding):
        yield


def floating(*tensors: Any) -> bool:
    """Return whether all of these are float32, the only floating-point dtype that is computed in."""
    return all(getattr(tensor.dtype, "name", tensor.dtype) == "float32" for tensor in tensors)


def tensors(*values: Any) -> list[Tensor]:
    """Convert the operands of one operation, which have the same dtype, to tensors."""
    import tensorflow as tf

    dtype = next((value.dtype for value in values if tf.is_tensor(value)), None)
    return [tf.convert_to_tensor(value, dtype) for value in values]


def constant(value: Any) -> Any:
    """Return the value of a tensor as an array if it depends on no input and no weight, and None otherwise."""
    import tensorflow as tf

    x = tf.convert_to_tensor(value)
    found = tf.get_static_value(x)
    return _evaluated(x) if found is None else found


def _evaluated(x: Tensor) -> Any:
    """Run the operations that a tensor is computed by, if they are few and begin with constants."""
    import tensorflow as tf

    graph, waiting, seen = tf.compat.v1.GraphDef(), [x], set()
    while waiting:
        tensor = waiting.pop()
        if tensor.op.name in seen:
            continue
        seen.add(tensor.op.name)
        known = tf.get_static_value(tensor) if len(tensor.op.outputs) == 1 else None
        if known is not None:
            node = graph.node.add(name=tensor.op.name, op="Const")
            node.attr["dtype"].type = tensor.dtype.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(known, tensor.dtype))
        elif not tensor.op.inputs or tensor.op.op_def.is_stateful or tensor.op.control_inputs or len(seen) > 40:
            return None
        else:
            graph.node.add().CopyFrom(tensor.op.node_def)
            waiting += tensor.op.inputs
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph, name="")
        return session.run(x.name)


def emit(operation: str, **arguments: Any) -> list[Tensor]:
    """Add an operation with the arguments of its definition, subject to the rules, and return its outputs."""
    from tensorflow.python.framework import op_def_library

    return list(op_def_library._apply_op_helper(operation, **arguments)[3])


def emit_kept(operation: str, **arguments: Any) -> list[Tensor]:
    """Add an operation as ``emit`` does, without its rule."""
    from tensorflow.python.framework import op_def_library

    add: Any = op_def_library._apply_op_helper
    return list(getattr(add, "__wrapped__", add)(operation, **arguments)[3])
