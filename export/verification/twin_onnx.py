"""The float32 twin of an ONNX graph in reduced precision: the same graph with the model's own weights.

Every operator that reads integers becomes the float32 operator that it stands for, found by the structure of the graph
and not by what the file says of itself. What the integers stand for is returned, to be compared with the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...runtime.metadata import CONSTANTS
from ..initializers import initializer
from ..precision.half import rounded
from ..precision.onnx.files import SMALL
from ..precision.onnx.graph import Editor
from .stored import Stored, unpacked_nibbles

Array = np.ndarray

PARTS = ("_quantized", "_scales", "_scale", "_zero_points", "_zero_point")  # after the name of a weight


def to_float32(model: Any, known: Mapping[str, Array]) -> tuple[list[Stored], bool]:
    """Make an ``onnx_ir.Model`` its own float32 twin, in place.

    Return its weights as they were stored, and whether it has other constants that stay rounded to float16.

    Args:
        model: a graph of this package, in any precision.
        known: the weights of the model in the layouts of the file, by name.
    """
    twin = _Twin(model, known)
    said = model.metadata_props.get(CONSTANTS)
    stored = twin.floats({} if said is None else json.loads(said), SMALL if said is not None else 0)
    for node in list(model.graph):
        form = FORMS.get(node.op_type)
        if form is not None and node.graph is not None:
            form(twin, node)
    twin.editor.finish()
    return [*stored, *twin.found.values()], twin.coarse


class _Twin:
    def __init__(self, model: Any, known: Mapping[str, Array]) -> None:
        self.editor, self.graph, self.known = Editor(model), model.graph, known
        self.found: dict[str, Stored] = {}
        self.coarse = False  # whether constants stay rounded

    def floats(self, constants: Mapping[str, list[float]], small: int) -> list[Stored]:
        """Return the weights that are stored in floating point, and make all numbers and casts float32.

        Args:
            constants: those in float32 that are not equal to what the file stores, as it says. One that does not round
                to what it stores does not count.
            small: up to how many numbers a constant has that the file would name here.
        """
        import onnx_ir as ir

        float16, float32 = ir.DataType.FLOAT16, ir.DataType.FLOAT
        stored = []
        for name, value in self.graph.initializers.items():
            if value.const_value is None:
                continue
            array, ours = value.const_value.numpy(), self.known.get(name)
            if ours is not None:
                same = ours if ours.shape == array.shape else None
                rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
                stored.append(Stored(name, rows, None if same is None else same.reshape(rows.shape)))
            if value.const_value.dtype == float16:
                exact = ours if ours is not None and ours.shape == array.shape else array.astype("float32")
                if ours is None and name in constants:
                    told = np.asarray(constants[name], "float32")
                    if told.size == array.size and np.array_equal(rounded(told).reshape(array.shape), array):
                        exact = told.reshape(array.shape)
                self.coarse |= ours is None and array.size > small
                value.const_value, value.dtype = ir.tensor(exact, name=name), float32
        half = [*self.graph.inputs, *self.graph.outputs, *(v for node in self.graph for v in node.outputs)]
        for value in half:
            if value.dtype == float16:
                value.dtype = float32
        for node in self.graph:
            to = node.attributes.get("to")
            if node.op_type == "Cast" and to is not None and to.as_int() == float16.value:
                node.attributes["to"] = ir.AttrInt64("to", float32.value)
        return stored

    def constant(self, value: Any) -> Array | None:
        """Return the values of an initializer, or None for another value."""
        if value is None or not value.is_initializer() or value.const_value is None:
            return None
        return value.const_value.numpy()

    def weight(self, integers: Any, array: Array, **said: Any) -> Array:
        """Return the model's own weight for `array`, the numbers that the initializer `integers` stands for.

        The model's is transposed if that fits better. If it has none of this shape, `array` is returned.

        Args:
            integers: the initializer.
            array: float32.
            said: `groups`, a function that arranges an array in groups, and the fields of ``Stored``.
        """
        name = next((integers.name.removesuffix(p) for p in PARTS if integers.name.endswith(p)), integers.name)
        ours = self.known.get(name)
        candidates = [] if ours is None else [side for side in (ours, ours.T) if side.shape == array.shape]
        best = min(candidates, key=lambda side: float(np.abs(side - array).mean()), default=None)
        arrange: Callable[[Array], Array] = said.pop("groups")
        if name not in self.found:
            expected = None if best is None else arrange(best)
            self.found[name] = Stored(name, expected=expected, **said)
        return np.ascontiguousarray(array if best is None else best)

    def float_constant(self, integers: Any, array: Array, turned: bool = False) -> Any:
        """Return the initializer of a float32 weight, transposed if it is `turned`: a table may be read both ways."""
        name = f"{integers.name}:{'turned' if turned else 'float32'}"
        return initializer(self.graph, name, np.ascontiguousarray(array.T) if turned else array)

    def replaced(self, node: Any, operator: str, inputs: list[Any], **attributes: Any) -> None:
        import onnx_ir as ir

        (output,) = self.editor.before(node, operator, inputs, (ir.DataType.FLOAT,), **attributes)
        self.editor.replace(node, output)

    def forwarded(self, node: Any, value: Any) -> None:
        """Let everything that reads `node` read `value`."""
        self.replaced(node, "Identity", [value])


# ---- blocks --------------------------------------------------------------------------------------------------------


def _blocks(twin: _Twin, node: Any, packed: Any, scales: Any, zeros: Any, width: int | None) -> Array:
    """Return (rows, width) float32: the model's weight for the blocks that a node of ONNX Runtime reads."""
    bits = node.attributes["bits"].as_int()
    size = node.attributes["block_size"].as_int()
    data = np.asarray(twin.constant(packed), "uint8")
    values = (unpacked_nibbles(data) if bits == 4 else data).reshape(-1, size)
    steps = np.asarray(twin.constant(scales), "float32")
    rows = steps.size // steps.shape[-1] if steps.ndim > 1 else len(data)
    blocks = len(values) // rows
    middle = np.full((rows, blocks), 2 ** (bits - 1), "float32")
    if zeros is not None:
        raw = np.asarray(twin.constant(zeros), "uint8").reshape(rows, -1)
        middle = (unpacked_nibbles(raw) if bits == 4 else raw)[:, :blocks].astype("float32")
    width = blocks * size if width is None else width

    def groups(array: Array) -> Array:
        array = array.reshape(rows, -1)
        return np.pad(array, ((0, 0), (0, blocks * size - array.shape[1]))).reshape(-1, size)

    flat = {"values": values, "scales": steps.reshape(-1), "zeros": middle.reshape(-1)}
    numbers = ((values.astype("float32") - flat["zeros"][:, None]) * flat["scales"][:, None]).reshape(rows, -1)
    told = {**flat, "bits": bits, "limits": (0, 2**bits - 1), "blocks": blocks, "groups": groups}
    name = packed.name.removesuffix(PARTS[0])
    ours = twin.known.get(name)
    if ours is not None and ours.ndim == 3:
        return twin.weight(packed, numbers[:, :width].reshape(*ours.shape[:2], -1)[..., : ours.shape[2]], **told)
    if ours is not None and width == blocks * size:  # of a lookup, whose nodes do not say where the padding begins
        width = next((n for n in reversed(ours.shape) if -(-n // size) == blocks and ours.size == rows * n), width)
    return twin.weight(packed, numbers[:, :width], **told)


def _matmul_nbits(twin: _Twin, node: Any) -> None:
    import onnx_ir as ir

    given = [*node.inputs, None, None, None][:6]
    table = _blocks(twin, node, given[1], given[2], given[3], node.attributes["K"].as_int())
    product = [given[0], twin.float_constant(given[1], table, turned=True)]
    if given[5] is not None:
        product = [twin.editor.before(node, "MatMul", product, (ir.DataType.FLOAT,))[0], given[5]]
    twin.replaced(node, "Add" if given[5] is not None else "MatMul", product)


def _gather_blocks(twin: _Twin, node: Any) -> None:
    data, ids, scales, *zeros = node.inputs
    before = data.producer()
    packed = data if before is None else before.inputs[0]
    table = _blocks(twin, node, packed, scales, zeros[0] if zeros else None, None)
    twin.replaced(node, "Gather", [twin.float_constant(packed, table), ids], axis=0)


# ---- one scale for each row ----------------------------------------------------------------------------------------


def _rows(twin: _Twin, values: Any, scales: Array, axis: int, zeros: Array | None = None, size: int = 0) -> Array:
    """Return the model's weight for integers with a scale for each index of `axis`, or for each block of it.

    The sizes of `scales` are those of `values`, or 1, or along `axis` the number of blocks of `size`.
    """
    array = np.asarray(twin.constant(values))
    integers = array.astype("int32")
    kind = np.dtype(array.dtype).name
    bits = 4 if "int4" in kind else 8 * array.dtype.itemsize
    limits = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    along, count = axis, scales.shape[axis]
    size = size or array.shape[axis] // count

    def spread(part: Array) -> Array:
        whole = np.repeat(part, size, along)[(slice(None),) * along + (slice(array.shape[along]),)]
        return np.broadcast_to(whole, array.shape)

    def groups(one: Array) -> Array:
        """Arrange an array so that each group has one scale."""
        others = [i for i in range(one.ndim) if i != along and scales.shape[i] > 1]
        rest = [i for i in range(one.ndim) if i != along and scales.shape[i] == 1]
        moved = np.transpose(one, [*others, along, *rest])
        lead = [one.shape[i] for i in others]
        wide = moved.reshape(int(np.prod(lead, initial=1)), one.shape[along], -1)
        wide = np.pad(wide, ((0, 0), (0, count * size - wide.shape[1]), (0, 0)))
        return wide.reshape(len(wide) * count, -1)

    def of_groups(part: Array) -> Array:
        others = [i for i in range(part.ndim) if i != along]
        return np.ascontiguousarray(np.transpose(part, [*others, along])).reshape(-1).astype("float32")

    middle = np.zeros(scales.shape, "float32") if zeros is None else zeros.astype("float32")
    numbers = (integers - spread(middle)) * spread(scales)
    zero = of_groups(middle)
    steps = groups(integers - spread(middle)) + zero[:, None]  # the padding of a last block is zero, as of the weight
    told = {"values": steps, "scales": of_groups(scales), "zeros": zero}
    told |= {"bits": bits, "limits": limits, "blocks": count if size > 1 else 1, "groups": groups}
    return twin.weight(values, numbers.astype("float32"), **told)


def _broadcast(scales: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Return one scale, or one for each index of `axis`, with as many dimensions as `shape`."""
    sizes = [1] * len(shape)
    sizes[axis] = scales.size
    return scales.reshape(sizes)


def _dynamic(twin: _Twin, node: Any) -> None:
    """Replace MatMulInteger, and the scaling of its sums, by MatMul."""
    quantized, values = node.inputs[:2]
    turned = values.producer()
    values = turned.inputs[0] if turned is not None else values
    array = twin.constant(values)
    cast = next((use.node for use in node.outputs[0].uses()), None)
    last = None if cast is None else next((use.node for use in cast.outputs[0].uses()), None)
    if array is None or last is None or last.op_type != "Mul":
        return
    factor = next((value.producer() for value in last.inputs if value.producer() is not cast), None)
    made = quantized.producer()
    if made is None or factor is None or made.op_type != "DynamicQuantizeLinear":
        return
    _check(node, node.inputs[2] is made.outputs[2] and any(value is made.outputs[1] for value in factor.inputs))
    scales = next(found for value in factor.inputs if (found := twin.constant(value)) is not None)
    axis = 0 if turned is not None else 1
    weight = _rows(twin, values, _broadcast(np.asarray(scales), array.shape, axis), axis)
    kernel = twin.float_constant(values, weight, turned is not None)
    twin.replaced(last, "MatMul", [made.inputs[0], kernel])


def _check(node: Any, right: bool) -> None:
    """Check that a node reads the scales and zero points that belong to its integers."""
    if not right:
        raise ValueError(f"{node.name} reads integers with the scale or the zero point of others")


def _scaled(twin: _Twin, node: Any) -> None:
    """Replace the product of integers, or of rows of them, with their scales."""
    casts = [v for v in node.inputs if v.producer() is not None and v.producer().op_type == "Cast"]
    for wide in casts:
        source = wide.producer().inputs[0]
        gather = source.producer()
        values = gather.inputs[0] if gather is not None and gather.op_type == "Gather" else source
        array = twin.constant(values)
        if array is None or np.dtype(array.dtype).name != "int8":
            continue
        other = next(value for value in node.inputs if value is not wide)
        while other.producer() is not None:  # the scales of the rows that are looked up
            before = other.producer()
            _check(node, before.op_type in ("Unsqueeze", "Gather"))
            _check(node, before.op_type != "Gather" or (gather is not None and before.inputs[1] is gather.inputs[1]))
            other = before.inputs[0]
        scales = np.asarray(twin.constant(other))
        whole = scales if scales.ndim == array.ndim else _broadcast(scales, array.shape, 0)
        axis = int(np.argmax([n > 1 for n in whole.shape]))
        constant = twin.float_constant(values, _rows(twin, values, whole, axis))
        if gather is not None:
            twin.replaced(node, "Gather", [constant, gather.inputs[1]], axis=0)
        else:
            twin.forwarded(node, constant)
        return


def _origin(value: Any) -> Any:
    """Return a value, or for one constant of several with the same numbers, these numbers."""
    constant = value.const_value if value.is_initializer() else None
    return value if constant is None else constant.numpy().tolist()


def _dequantized(twin: _Twin, node: Any) -> None:
    """Replace what DequantizeLinear makes of a weight, of rows of it, or of activations."""
    source, scale, *zero = node.inputs
    before = source.producer()
    if before is not None and before.op_type == "QuantizeLinear":
        sides = [[_origin(value) for value in one.inputs[1:]] for one in (before, node)]
        _check(node, sides[0] == sides[1])
        twin.forwarded(node, before.inputs[0])
        return
    gather = before if before is not None and before.op_type == "Gather" else None
    values, zeros = source, zero[0] if zero else None
    if gather is not None:
        _check(node, all(part.producer().inputs[1] is gather.inputs[1] for part in (scale, *zero)))
        values, scale = gather.inputs[0], scale.producer().inputs[0]
        zeros = None if zeros is None else zeros.producer().inputs[0]
    array, scales = twin.constant(values), twin.constant(scale)
    if array is None or scales is None:
        return
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    axis = axis % array.ndim if array.ndim else 0
    middle = None if zeros is None else np.asarray(twin.constant(zeros)).astype("float32")
    scales = np.asarray(scales)
    if scales.ndim != array.ndim or scales.size == 1:
        scales = _broadcast(scales, array.shape, axis)
        middle = None if middle is None else _broadcast(middle, array.shape, axis)
    size = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    constant = twin.float_constant(values, _rows(twin, values, scales, axis, middle, size))
    if gather is not None:
        twin.replaced(node, "Gather", [constant, gather.inputs[1]], axis=0)
    else:
        twin.forwarded(node, constant)


FORMS: Mapping[str, Callable[[_Twin, Any], None]] = {
    "MatMulNBits": _matmul_nbits,
    "GatherBlockQuantized": _gather_blocks,
    "MatMulInteger": _dynamic,
    "Mul": _scaled,
    "DequantizeLinear": _dequantized,
}
