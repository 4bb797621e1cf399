"""Faults in the numbers of a file: a weight is read as rows of numbers with their scales and zero points, changed, and
written back, in every format and precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from attention_zoo.export.verification.stored import unpacked_nibbles
from attention_zoo.runtime.tflite.flatbuffer import packed, unpacked

from .fault import NOT_ROTARY, Fault, decoder, fresh_classifier, gpt2
from .files import rewrite

KERNEL, TABLE = "block_1/feedforward/down/kernel", "embedding/embeddings"


@dataclass
class Numbers:
    """A weight in a file, with one row for each output or token.

    Attributes:
        values: (rows, width) integers, or float32 for a weight without scales.
        scales: (rows, blocks), or None.
        zeros: (rows, blocks) as they are stored, or None.
        middle: the zero point where none is stored.
        limits: the smallest and the largest integer.
    """

    values: np.ndarray
    scales: np.ndarray | None
    zeros: np.ndarray | None = None
    middle: int = 0
    limits: tuple[int, int] = (-128, 127)

    def zero(self, row: int) -> np.ndarray:
        """Return the zero point of each number of a row."""
        width = self.values.shape[1]
        if self.zeros is None:
            return np.full(width, self.middle)
        return np.repeat(self.zeros[row], -(-width // self.zeros.shape[1]))[:width]

    def clip(self) -> None:
        if self.scales is not None:
            self.values = np.clip(self.values, *self.limits)


Change = Callable[[Numbers], None]


# ---- numbers of a file -----------------------------------------------------------------------------------------------


def nibbles(values: np.ndarray) -> np.ndarray:
    values = values.astype("uint8") & 15
    return values[..., ::2] | (values[..., 1::2] << 4)


def change_onnx(file: Path, name: str, change: Change) -> None:
    proto = onnx.load(str(file))
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    table = name.endswith("embeddings")

    def put(key: str, array: np.ndarray) -> None:
        held[key].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), key))

    integers = held.get(f"{name}_quantized")
    if integers is None:
        array = onnx.numpy_helper.to_array(held[name])
        numbers = Numbers(np.array(array if table else array.T, "float32"), None)
        change(numbers)
        put(name, (numbers.values if table else numbers.values.T).astype(array.dtype))
    else:
        raw = onnx.numpy_helper.to_array(integers)
        scale = next(key for key in (f"{name}_scales", f"{name}_scale") if key in held)
        scales = np.array(onnx.numpy_helper.to_array(held[scale]))
        zero = f"{name}_zero_points"
        zeros = onnx.numpy_helper.to_array(held[zero]) if zero in held else None
        if raw.ndim == 3:  # blocks of ONNX Runtime
            node = next((n for n in proto.graph.node if integers.name in n.input and n.op_type != "Reshape"), None)
            bits = 8 if node is None else next(a.i for a in node.attribute if a.name == "bits")  # 8 of a lookup
            rows = (unpacked_nibbles(raw) if bits == 4 else raw).reshape(len(raw), -1).astype(int)
            if zeros is not None:
                zeros = (unpacked_nibbles(zeros) if bits == 4 else zeros)[:, : scales.shape[1]].astype(int)
            numbers = Numbers(rows, scales, zeros, 2 ** (bits - 1), (0, 2**bits - 1))
            change(numbers)
            numbers.clip()
            values = nibbles(numbers.values) if bits == 4 else numbers.values.astype("uint8")
            put(integers.name, values.reshape(raw.shape))
            put(scale, numbers.scales)
            if numbers.zeros is not None:
                odd = np.pad(numbers.zeros, ((0, 0), (0, numbers.zeros.shape[1] % 2)))
                put(zero, nibbles(odd) if bits == 4 else numbers.zeros.astype("uint8"))
        else:
            rows = np.array(raw if table else raw.T).astype(int)
            numbers = Numbers(rows, scales.reshape(-1, 1))
            change(numbers)
            numbers.clip()
            put(integers.name, (numbers.values if table else numbers.values.T).astype("int8"))
            put(scale, numbers.scales.reshape(scales.shape).astype("float32"))
    file.write_bytes(proto.SerializeToString())
    rewrite(file, dict)


def change_tflite(file: Path, name: str, change: Change) -> None:
    made = unpacked(file.read_bytes())
    done = set()
    for graph in made.subgraphs:
        blocks = [getattr(tensor.quantization, "details", None) for tensor in graph.tensors]
        done |= {graph.tensors[int(of.scales)].buffer for of in blocks if of is not None}
        for tensor in graph.tensors:
            empty = made.buffers[tensor.buffer].data is None  # of what a float16 weight becomes when it is read
            if tensor.name.decode().partition(";")[0] != name or tensor.buffer in done or empty:
                continue
            done.add(tensor.buffer)
            shape, data = [int(n) for n in tensor.shape], np.asarray(made.buffers[tensor.buffer].data, "uint8")
            if tensor.type in (0, 1):
                array = data.view("float32" if tensor.type == 0 else "float16").reshape(shape)
                numbers = Numbers(np.array(array, "float32"), None)
                change(numbers)
                made.buffers[tensor.buffer].data = numbers.values.astype(array.dtype).reshape(-1).view("uint8")
                continue
            details = tensor.quantization.details
            four = tensor.type == 17
            values = (unpacked_nibbles(data).astype(int) ^ 8) - 8 if four else data.view("int8").astype(int)
            held = None if details is None else made.buffers[graph.tensors[int(details.scales)].buffer]
            scales = np.array(tensor.quantization.scale) if held is None else np.asarray(held.data).view("float16")
            limits = (-8, 7) if four else (-128, 127)
            numbers = Numbers(values.reshape(shape), scales.astype("float32").reshape(shape[0], -1), None, 0, limits)
            change(numbers)
            numbers.clip()
            flat = numbers.values.reshape(-1)
            made.buffers[tensor.buffer].data = nibbles(flat) if four else flat.astype("int8").view("uint8")
            flat = numbers.scales.reshape(-1)
            if held is None:
                for other in (t for g in made.subgraphs for t in g.tensors if t.buffer == tensor.buffer):
                    other.quantization.scale = flat.astype("float32")
            else:
                held.data = flat.astype("float16").view("uint8")
    file.write_bytes(bytes(packed(made)))
    rewrite(file, dict)


def change_numbers(file: Path, name: str, change: Change) -> None:
    (change_onnx if file.suffix == ".onnx" else change_tflite)(file, name, change)


# ---- faults of numbers -----------------------------------------------------------------------------------------------


def one_scale(numbers: Numbers) -> None:
    if numbers.scales is None:
        numbers.values[3] *= 2
    else:
        numbers.scales[3, -1] *= 2


def times(factor: float) -> Change:
    def change(numbers: Numbers) -> None:
        if numbers.scales is None:
            numbers.values *= factor
        else:
            numbers.scales = numbers.scales * factor

    return change


def row_negated(numbers: Numbers) -> None:
    zero = 0 if numbers.scales is None else numbers.zero(5)
    numbers.values[5] = 2 * zero - numbers.values[5]


def neighbors(numbers: Numbers) -> None:
    """Exchange the two halves of every byte of 4-bit integers, and neighbors in other precisions."""
    swapped = numbers.values.reshape(len(numbers.values), -1, 2)[..., ::-1]
    numbers.values = swapped.reshape(numbers.values.shape).copy()


def zero_points(numbers: Numbers) -> None:
    if numbers.zeros is not None:
        numbers.zeros = np.clip(numbers.zeros + 1, *numbers.limits)
    else:
        numbers.values = numbers.values + (1 if numbers.scales is not None else np.float32(1e-3))


def exchanged(one: int, other: int) -> Change:
    def change(numbers: Numbers) -> None:
        for part in (numbers.values, numbers.scales, numbers.zeros):
            if part is not None:
                part[[one, other]] = part[[other, one]]

    return change


def row_zero(numbers: Numbers) -> None:
    numbers.values[7] = 0 if numbers.scales is None else numbers.zero(7)


def one_number(numbers: Numbers) -> None:
    """Change one number by one step, or by 1 %."""
    if numbers.scales is None:
        numbers.values[2, 5] *= 1.01
    else:
        numbers.values[2, 5] += 1 if numbers.values[2, 5] < sum(numbers.limits) // 2 else -1


def moved(numbers: Numbers) -> None:
    for part in ("values", "scales", "zeros"):
        if (array := getattr(numbers, part)) is not None:
            setattr(numbers, part, np.roll(array, 1, 0))


def truncated(numbers: Numbers) -> None:
    """Take the next smaller number instead of the nearest one, for half of the numbers."""
    step = np.float32(2**-12) if numbers.scales is None else 1
    numbers.values[:, ::2] = numbers.values[:, ::2] - step


def last_rows(numbers: Numbers) -> None:
    numbers.values[-4:] = numbers.values[:4]


def only_zero(numbers: Numbers) -> None:
    for row in range(len(numbers.values)):
        numbers.values[row] = 0 if numbers.scales is None else numbers.zero(row)


def scales_negative(numbers: Numbers) -> None:
    if numbers.scales is None:
        numbers.values = -numbers.values
    else:
        numbers.scales = -numbers.scales


def positions_zero(numbers: Numbers) -> None:
    for row in range(40, len(numbers.values)):
        numbers.values[row] = 0 if numbers.scales is None else numbers.zero(row)


def weights_exchanged(_: Any, file: Path) -> None:
    """Exchange the kernels of queries and keys, which have the same shape."""
    names = [f"block_0/attention/{part}/kernel" for part in ("query", "key")]
    found: list[Numbers] = []
    for name in names:
        change_numbers(file, name, found.append)

    def put(numbers: Numbers) -> None:
        other = found.pop()
        numbers.values, numbers.scales, numbers.zeros = other.values, other.scales, other.zeros

    for name in names:
        change_numbers(file, name, put)


def of_numbers(weight: str, change: Change, model: Callable[[], Any] = decoder) -> Fault:
    return Fault(model, changing=lambda _, file: change_numbers(file, weight, change), place=(weight,))


NUMBERS: dict[str, Fault] = {
    "the scale of a block or a row doubled": of_numbers(KERNEL, one_scale),
    "all scales of a kernel × 1.1": of_numbers(KERNEL, times(1.1)),
    "all scales of a kernel negative": of_numbers(KERNEL, scales_negative),
    "a row of a kernel negated": of_numbers(KERNEL, row_negated),
    "the halves of every byte exchanged": of_numbers(KERNEL, neighbors),
    "zero points off by one": of_numbers(KERNEL, zero_points),
    "two rows of a kernel exchanged": of_numbers(KERNEL, exchanged(2, 9)),
    "a row of a kernel zero": of_numbers(KERNEL, row_zero),
    "one number of a kernel off by a step": of_numbers(KERNEL, one_number),
    "every second number one step too low": of_numbers(KERNEL, truncated),
    "the last rows of a kernel repeat the first": of_numbers(KERNEL, last_rows),
    "a kernel of zeros": of_numbers(KERNEL, only_zero),
    "two words exchanged": of_numbers(TABLE, exchanged(7, 11)),
    "a word of zeros": of_numbers(TABLE, row_zero),
    "a word negated": of_numbers(TABLE, row_negated),
    "words moved by one": of_numbers(TABLE, moved),
    "the scale of a word doubled": of_numbers(TABLE, one_scale),
    "one number of a word off by a step": of_numbers(TABLE, one_number),
    "a kernel × 1.01": of_numbers(KERNEL, times(1.01)),
    "positions from 40 on are zero": replace(
        of_numbers("positions/embeddings", positions_zero, gpt2), formats=NOT_ROTARY
    ),
    "query and key exchanged, logits below 0.04": Fault(
        fresh_classifier, changing=weights_exchanged, formats=("onnx",), cache=False, place=("block_0/attention",)
    ),
}
