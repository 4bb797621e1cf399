"""Loops over lists of tensors that tf2onnx cannot convert, and switches between branches."""

from __future__ import annotations

from typing import Any

from .base import LISTS, Call, Items, UnsupportedError, rule
from .selection import select

Tensor = Any

LOOPS = ("While", "StatelessWhile")


def is_irregular(op: Any, copier: Any) -> bool:
    """Return whether a loop does more with lists than tf2onnx converts.

    It converts loops that write each item of new lists and read lists made of a tensor, which come behind the new ones.
    """
    if op.type not in LOOPS:
        return False
    body = copier.function(op.get_attr("body").name)
    written, read = [], []
    for i, (tensor, inside) in enumerate(zip(op.inputs, body.inputs, strict=True)):
        if tensor.dtype.name != "variant":
            continue
        kinds = {reader.type for reader in inside.consumers()} - {"Identity"}
        behind = {reader.type for reader in op.outputs[i].consumers()} - {"Identity"}
        if tensor.op.type == "TensorListReserve" and kinds == {"TensorListSetItem"} and behind <= {"TensorListStack"}:
            written.append(i)
        elif tensor.op.type == "TensorListFromTensor" and kinds == {"TensorListGetItem"} and not behind:
            read.append(i)
        else:
            return True
    return bool(written and read) and max(written) > min(read)


@rule("TensorListReserve", table=LISTS)
def _reserve(call: Call) -> Any:
    import tensorflow as tf

    shape, size = call.inputs
    size, known = tf.reshape(size, []), tf.get_static_value(shape)
    if known is None or known.ndim != 1 or (known < 0).any():
        return Items(None, size)
    return Items(tf.zeros(tf.concat([[size], shape], 0), call.attr("element_dtype")), size)


@rule("TensorListFromTensor", table=LISTS)
def _from_tensor(call: Call) -> Any:
    import tensorflow as tf

    return Items(tf.identity(call.inputs[0]), tf.shape(call.inputs[0])[0])


@rule("TensorListGetItem", table=LISTS)
def _item(call: Call) -> Any:
    import tensorflow as tf

    items, index = call.inputs[:2]
    if items.tensor is None:
        raise UnsupportedError("TensorListGetItem of an empty list", call.op.name)
    return tf.gather(items.tensor, index)


@rule("TensorListSetItem", table=LISTS)
def _set_item(call: Call) -> Any:
    import tensorflow as tf

    items, index, item = call.inputs[:3]
    base = items.tensor
    if base is None:
        base = tf.zeros(tf.concat([[items.size], tf.shape(item)], 0), item.dtype)
    places = tf.reshape(tf.range(items.size), tf.concat([[-1], tf.ones(tf.rank(item), tf.int32)], 0))
    places.set_shape([None] + [1] * item.shape.rank)
    return Items(select(tf.equal(places, index), item[None], base), items.size)


@rule("TensorListStack", table=LISTS)
def _stack(call: Call) -> Any:
    import tensorflow as tf

    if call.inputs[0].tensor is None:
        raise UnsupportedError("TensorListStack of an empty list", call.op.name)
    return tf.identity(call.inputs[0].tensor)


@rule("TensorListLength", table=LISTS)
def _length(call: Call) -> Any:
    import tensorflow as tf

    return tf.identity(call.inputs[0].size)


@rule(*LOOPS, table=LISTS)
def _while(call: Call) -> Any:
    """Carry lists as tensors from step to step."""
    import tensorflow as tf

    given = list(call.inputs)
    if not any(isinstance(value, Items) for value in given):
        return None
    condition, body = call.attr("cond").name, call.attr("body").name
    if any(isinstance(value, Items) and value.tensor is None for value in given):
        once = call.inlined(body, given)  # shows the shape of the items
        for i, (value, after) in enumerate(zip(given, once, strict=True)):
            if isinstance(value, Items) and value.tensor is None:
                if after.tensor is None:
                    raise UnsupportedError("a list without items", call.op.name)
                given[i] = Items(tf.zeros_like(after.tensor), value.size)
    sizes = [value.size if isinstance(value, Items) else None for value in given]
    start = [value.tensor if isinstance(value, Items) else value for value in given]

    def lists(values: Any) -> list[Any]:
        return [value if size is None else Items(value, size) for value, size in zip(values, sizes, strict=True)]

    def step(*values: Tensor) -> list[Tensor]:
        after = call.inlined(body, lists(values))
        return [value.tensor if isinstance(value, Items) else value for value in after]

    shapes = [
        tf.TensorShape([None] * value.shape.rank) if size is not None else old.shape
        for value, size, old in zip(start, sizes, call.op.outputs, strict=True)
    ]
    results = tf.while_loop(
        lambda *values: call.inlined(condition, lists(values))[0], step, start, shape_invariants=shapes
    )
    return lists(results)


@rule("Case", "StatelessCase")
def _case(call: Call) -> Any:
    """Compute all branches, and select the results of one. Another index means the last branch."""
    import tensorflow as tf

    index, *arguments = call.inputs
    branches = [call.inlined(function.name, arguments) for function in call.attr("branches")]
    results = branches[-1]
    for i in range(len(branches) - 2, -1, -1):
        results = [select(tf.equal(index, i), new, old) for new, old in zip(branches[i], results, strict=True)]
    return results
