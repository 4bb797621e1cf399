"""A decoder with ONNX Runtime's own attention operator, whose cache is one buffer that every step writes into.

``GroupQueryAttention`` takes the output of one matrix multiplication for queries, keys and values, rotates it, writes
keys and values into the cache, and computes attention: one node instead of fifteen standard ones, and no copy of the
cache. A residual sum and the norm after it also become one node. Padding on the left and biases on the scores are not
supported: a row's tokens start in the first column, and the mask gives their number.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.metadata import DIGEST, PADDING
from ...signature import Signature
from ...zoo.layer_kinds import SLIDING
from ..digests import UNSEALED
from ..precision.onnx.graph import Editor

MICROSOFT = "com.microsoft"


def to_runtime_graph(
    model: Any, file: Path, signature: Signature, config: Mapping[str, Any], alike: Callable[[Iterable[str]], bool]
) -> int:
    """Change the decoder `model`, an ``onnx_ir.Model`` in float32, in place, and return the number of attentions.

    Args:
        file: the file that `model` was loaded from.
        signature: of the decoder.
        config: of the model, as a dict.
        alike: returns whether the weights of these names may be joined into one.

    Raises:
        ValueError: the operator cannot compute the decoder's attention, such as one with a bias on its scores, with
            positions that are not rotary, or with an encoder.
    """
    editor = Editor(model)
    attentions = [node for node in model.graph if node.op_type == "Attention"]
    if not attentions:
        raise _refused("whose attention is no single operator, such as one with sinks or a soft cap")
    found = [_Attention(node, signature) for node in attentions]
    tables: dict[tuple[str, str], list[Any]] = {}  # by the names of the angles, which may differ between layers
    for angles in dict.fromkeys(attention.angles for attention in found):
        parts = _tables(file, angles, signature.limits["total_sequence"])
        last = f"_{len(tables)}" if tables else ""
        names = (f"cos_cache{last}", f"sin_cache{last}")
        tables[_names(angles)] = [editor.constant(name, part) for name, part in zip(names, parts, strict=True)]
    lengths = _lengths(editor, attentions[0])
    kinds = config.get("layer_types")
    for attention in found:
        near = kinds is None or kinds[attention.layer] == SLIDING
        window = (config.get("sliding_window") or -1) if near else -1
        _replace(editor, attention, [*lengths, *tables[_names(attention.angles)]], window, alike)
    _skip_norms(editor)
    editor.finish()
    model.metadata_props[PADDING] = json.dumps("right")
    model.metadata_props[DIGEST] = UNSEALED
    return len(found)


def _names(angles: tuple[Any, Any]) -> tuple[str, str]:
    return angles[0].name, angles[1].name


def _refused(reason: str) -> ValueError:
    return ValueError(f"target: got 'onnxruntime' for a decoder {reason}; accepted: None or 'standard'")


class _Attention:
    """An Attention node with its projections, rotation, cache and output.

    Attributes:
        layer: the index of its layer.
        query, key, value: (batch, sequence, heads · head_dim), or with separate heads: see ``_flat``.
        angles: the cosines and sines of its rotation, (batch, sequence, head_dim / 2).
        output: (batch, sequence, heads · head_dim).
    """

    def __init__(self, node: Any, signature: Signature) -> None:
        self.node = node
        query, (past_key, key), (past_value, value) = node.inputs[0], *map(self._joined, node.inputs[1:3])
        if not {past_key.name, past_value.name} <= set(signature.state):
            raise _refused("whose attention does not read its own cache")
        self.past, self.present = [past_key, past_value], [node.inputs[1], node.inputs[2]]
        self.layer = [*signature.state].index(past_key.name) // 2
        spec = next(spec for spec in signature.inputs if spec.name == past_key.name)
        self.kv_heads, self.head_dim = int(spec.dims[1]), int(spec.dims[3])
        (query, self.angles, self.interleaved), (key, key_angles, _) = self._rotated(query), self._rotated(key)
        if self.angles != key_angles:
            raise _refused("that rotates queries and keys by different angles")
        if self.head_dim % 16:
            raise _refused(f"with a head_dim of {self.head_dim}, which is no multiple of 16")
        self.scale = node.attributes["scale"].as_float()
        self.query, self.key, self.value = self._flat(query), self._flat(key), self._flat(value)
        self.output = self._merged(node.outputs[0])

    def _joined(self, value: Any) -> tuple[Any, Any]:
        """Return the cache, and the new keys or values that are appended to it."""
        node = value.producer()
        if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
            raise _refused("whose attention does not read its own cache")
        return node.inputs[0], node.inputs[1]

    def _rotated(self, value: Any) -> tuple[Any, tuple[Any, Any], int]:
        node = value.producer()
        if node is None or node.op_type != "RotaryEmbedding":
            raise _refused("whose positions are not rotary, over whole heads")
        return node.inputs[0], (node.inputs[1], node.inputs[2]), node.attributes["interleaved"].as_int()

    def _flat(self, value: Any) -> Any:
        """Return the projection as (batch, sequence, heads · head_dim), or as (batch, heads, sequence, head_dim) if
        other nodes such as a norm of each head come after the split into heads."""
        node = value.producer()
        before = node.inputs[0].producer() if node is not None and node.op_type == "Transpose" else None
        return before.inputs[0] if before is not None and before.op_type == "Reshape" else value

    def _merged(self, value: Any) -> Any:
        """Return the value in which the heads are merged again, after the zeroing of rows without any key."""
        for operator in ("Mul", "Transpose", "Reshape"):
            uses = [use.node for use in value.uses()]
            if len(uses) == 1 and uses[0].op_type == operator:
                value = uses[0].outputs[0]
            elif operator != "Mul":
                raise _refused("that does something with its attention's output")
        return value


def _tables(file: Path, angles: tuple[Any, Any], length: int) -> list[np.ndarray]:
    """Return the cosines and sines (length, head_dim / 2) of all positions, computed by the graph itself."""
    import onnx_ir as ir
    import onnxruntime

    model = ir.load(file)
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    for angle in angles:
        value = values[angle.name]
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([None, None, None])
        model.graph.outputs.append(value)
    Editor(model).finish()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        ir.save(model, Path(folder) / "angles.onnx")
        session = onnxruntime.InferenceSession(
            str(Path(folder) / "angles.onnx"), options, providers=["CPUExecutionProvider"]
        )
    feeds = {}
    for node in session.get_inputs():
        heads = [size if isinstance(size, int) else 0 for size in node.shape]
        ones = np.ones((1, length), "int64")
        feeds[node.name] = ones if len(heads) == 2 else np.zeros([1, heads[1], 0, heads[3]], "float32")
    return [np.asarray(table)[0] for table in session.run(None, feeds)]


def _lengths(editor: Editor, first: Any) -> list[Any]:
    """Return int32 (batch,): the last position of each row, and int32 (): the length of the longest row including the
    cache."""
    import onnx_ir as ir

    int32, int64 = ir.DataType.INT32, ir.DataType.INT64
    mask = next(value for value in editor.graph.inputs if value.name == "attention_mask")
    axis, one = editor.constant("axis_1", np.array([1], "int64")), editor.constant("one", np.array(1, "int64"))
    (count,) = editor.before(first, "ReduceSum", [mask, axis], (int64,), keepdims=0)
    (last,) = editor.before(first, "Sub", [count, one], (int64,))
    (last,) = editor.before(first, "Cast", [last], (int32,), to=int32.value)
    (shape,) = editor.before(first, "Shape", [mask], (int64,))
    (total,) = editor.before(first, "Gather", [shape, one], (int64,), axis=0)
    (total,) = editor.before(first, "Cast", [total], (int32,), to=int32.value)
    return [last, total]


def _replace(
    editor: Editor, attention: _Attention, rest: list[Any], window: int, alike: Callable[[Iterable[str]], bool]
) -> None:
    import onnx_ir as ir

    float32, node = ir.DataType.FLOAT, attention.node
    projections = [attention.query, attention.key, attention.value]
    packed = _packed(editor, node, projections, alike)
    if packed is not None:
        projections = [packed, None, None]
    else:
        projections = [_side_by_side(editor, node, value) for value in projections]
    heads = _heads(attention)
    (output, *present) = editor.before(
        node,
        "GroupQueryAttention",
        [*projections, *attention.past, *rest],
        (float32, float32, float32),
        domain=MICROSOFT,
        num_heads=heads,
        kv_num_heads=attention.kv_heads,
        scale=attention.scale,
        do_rotary=1,
        rotary_interleaved=attention.interleaved,
        local_window_size=window,
    )
    for old, new in zip(attention.present, present, strict=True):
        editor.replace(old.producer(), new)
    editor.replace(attention.output.producer(), output)


def _skip_norms(editor: Editor) -> None:
    """Fuse each residual sum and the norm after it into one node, which outputs both."""
    import onnx_ir as ir

    for norm in [node for node in editor.graph if node.op_type == "RMSNormalization"]:
        add = norm.inputs[0].producer()
        if add is None or add.op_type != "Add" or any(value.is_initializer() for value in add.inputs):
            continue
        outputs = editor.before(
            norm,
            "SkipSimplifiedLayerNormalization",
            [*add.inputs, norm.inputs[1]],
            (ir.DataType.FLOAT,) * 4,
            domain=MICROSOFT,
            epsilon=norm.attributes["epsilon"].as_float(),
        )
        outputs[1].name = outputs[2].name = ""  # mean and deviation, which are not used
        editor.replace(norm, outputs[0])
        editor.replace(add, outputs[3])
    editor.graph.sort()  # a node that reads a sum may come before the fused node


def _heads(attention: _Attention) -> int:
    """Return the number of query heads, as in the node that splits them."""
    node = attention.node.inputs[0].producer()
    while node is not None and node.op_type != "Reshape":  # skips rotation, norm and transpose
        node = node.inputs[0].producer()
    if node is None:
        raise _refused("whose attention has heads of another kind")
    return int(node.inputs[1].const_value.numpy()[2])


def _side_by_side(editor: Editor, node: Any, value: Any) -> Any:
    """Return the value as (batch, sequence, heads · head_dim), with its heads merged if they are separate."""
    import onnx_ir as ir

    if len(value.shape or ()) == 3 or (value.producer() is not None and value.producer().op_type in ("MatMul", "Add")):
        return value
    flat = editor.constant("heads_side_by_side", np.array([0, 0, -1], "int64"))
    (turned,) = editor.before(node, "Transpose", [value], (ir.DataType.FLOAT,), perm=[0, 2, 1, 3])
    return editor.before(node, "Reshape", [turned, flat], (ir.DataType.FLOAT,))[0]


def _packed(editor: Editor, node: Any, projections: list[Any], alike: Callable[[Iterable[str]], bool]) -> Any:
    """Return the output of one matrix multiplication in place of three with the same input, or None if they cannot be
    joined."""
    import onnx_ir as ir

    parts = [_Projection(value) for value in projections]
    if not all(part.plain for part in parts) or len({id(part.inputs) for part in parts}) > 1:
        return None
    if not alike(part.kernel.name for part in parts):
        return None
    biases = [part.bias for part in parts]
    if any(bias is None for bias in biases) and not all(bias is None for bias in biases):
        return None
    prefix = parts[0].kernel.name.rpartition("/query/")[0] or node.name
    kernel = np.concatenate([part.kernel.const_value.numpy() for part in parts], axis=1)
    stored = editor.constant(f"{prefix}/query_key_value/kernel", kernel)
    (output,) = editor.before(node, "MatMul", [parts[0].inputs, stored], (ir.DataType.FLOAT,))
    if biases[0] is not None:
        bias = np.concatenate([value.const_value.numpy() for value in biases])
        stored = editor.constant(f"{prefix}/query_key_value/bias", bias)
        (output,) = editor.before(node, "Add", [output, stored], (ir.DataType.FLOAT,))
    return output


class _Projection:
    """The ``inputs @ kernel + bias`` that computes a value; not `plain` if something else computes it."""

    def __init__(self, value: Any) -> None:
        self.bias: Any = None
        self.kernel: Any = None
        self.inputs: Any = None
        node: Any = value.producer()
        if node is not None and node.op_type == "Add" and node.inputs[1].is_initializer():
            self.bias = node.inputs[1]
            node = node.inputs[0].producer()
        self.plain = False
        if node is not None and node.op_type == "MatMul" and node.inputs[1].is_initializer():
            self.plain = True
            self.inputs, self.kernel = node.inputs
