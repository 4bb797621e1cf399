"""Faults in the numbers, graphs and bundles of files of a GPT in every precision and format.

    python tests/rounded_faults.py [format [precision]]     # prints the second table of docs/verification.md

A fault of numbers is planted in a correct file: a weight is read as rows of numbers with their scales and zero points,
changed, and written back. A fault of the graph is planted in the exporter, as in ``faults.py``.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import keras
import numpy as np
import onnx
from faults import attribute, lowered, other_heads, rewrite

from attention_zoo import export
from attention_zoo.export.onnx import exporter as onnx_exporter
from attention_zoo.export.tflite import exporter as tflite_exporter
from attention_zoo.export.verification.stored import unpacked_nibbles
from attention_zoo.export.verification.verify import first_fault
from attention_zoo.runtime.tflite.flatbuffer import packed, unpacked
from helpers import tiny

ALL = ("onnx", "onnxruntime", "tflite")
FORMATS = {"ONNX": "onnx", "ONNX Runtime": "onnxruntime", "TFLite": "tflite"}
PRECISIONS = ("fp32", "fp16", "int8", "int4")
KERNEL, TABLE = "block_1/feedforward/down/kernel", "embedding/embeddings"


def model() -> Any:
    """Return a decoder whose table is large enough to be quantized, and whose heads ONNX Runtime's operator accepts."""
    return tiny("gpt", "llama", vocab_size=101, hidden_dim=64, head_dim=16, intermediate_dim=96, max_length=80)


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
PLACES = (", row ", "first layer that differs")  # in what a check says of the place of a fault


# ---- numbers of a file -----------------------------------------------------------------------------------------------


def nibbles(values: np.ndarray) -> np.ndarray:
    values = values.astype("uint8") & 15
    return values[..., ::2] | (values[..., 1::2] << 4)


def change_onnx(file: Path, name: str, change: Change) -> None:
    proto = onnx.load(str(file))
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    table = name == TABLE

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
            node = next(n for n in proto.graph.node if integers.name in n.input and n.op_type != "Reshape")
            bits = next(a.i for a in node.attribute if a.name == "bits") if node.op_type != "Gather" else 8
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
    rewrite(file, lambda _: None)


def change_tflite(file: Path, name: str, change: Change) -> None:
    made = unpacked(file.read_bytes())
    done = set()
    for graph in made.subgraphs:
        blocks = [getattr(tensor.quantization, "details", None) for tensor in graph.tensors]
        done |= {graph.tensors[int(of.scales)].buffer for of in blocks if of is not None}
        for tensor in graph.tensors:
            if tensor.name.decode().partition(";")[0] != name or tensor.buffer in done:
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
    rewrite(file, lambda _: None)


def change_numbers(file: Path, name: str, change: Change) -> None:
    (change_onnx if file.suffix == ".onnx" else change_tflite)(file, name, change)


# ---- faults of numbers -----------------------------------------------------------------------------------------------


def one_scale(numbers: Numbers) -> None:
    if numbers.scales is None:
        numbers.values[3] *= 2
    else:
        numbers.scales[3, -1] *= 2


def all_scales(numbers: Numbers) -> None:
    if numbers.scales is None:
        numbers.values *= 1.1
    else:
        numbers.scales = numbers.scales * 1.1


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


NUMBERS: dict[str, tuple[str, Change]] = {
    "the scale of a block or a row doubled": (KERNEL, one_scale),
    "all scales of a kernel × 1.1": (KERNEL, all_scales),
    "all scales of a kernel negative": (KERNEL, scales_negative),
    "a row of a kernel negated": (KERNEL, row_negated),
    "the halves of every byte exchanged": (KERNEL, neighbors),
    "zero points off by one": (KERNEL, zero_points),
    "two rows of a kernel exchanged": (KERNEL, exchanged(2, 9)),
    "a row of a kernel zero": (KERNEL, row_zero),
    "one number of a kernel off by a step": (KERNEL, one_number),
    "every second number one step too low": (KERNEL, truncated),
    "the last rows of a kernel repeat the first": (KERNEL, last_rows),
    "a kernel of zeros": (KERNEL, only_zero),
    "two words exchanged": (TABLE, exchanged(7, 11)),
    "a word of zeros": (TABLE, row_zero),
    "a word negated": (TABLE, row_negated),
    "words moved by one": (TABLE, moved),
    "the scale of a word doubled": (TABLE, one_scale),
    "one number of a word off by a step": (TABLE, one_number),
}


# ---- faults of graphs ------------------------------------------------------------------------------------------------


def of_prompts(plain: Any) -> Any:
    """Scale the queries of a call with several tokens only."""

    def attention(query: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        several = query.shape[2] is not None and query.shape[2] > 1
        return plain(query * 1.02 if several else query, key, value, **kwargs)

    return attention


def norm(plain: Any) -> Any:
    return lambda *args, **kwargs: plain(*args, **{**kwargs, "epsilon": 1e-2})


GRAPHS: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "another base of the rotary positions": (attribute("position_layer.theta", lambda base: 3 * base), ALL),
    "positions rotated backwards": (
        lowered("rotary", lambda plain: lambda x, cos, sin, **kwargs: plain(x, cos, -sin, **kwargs)),
        ALL,
    ),
    "features paired in the other way": (
        lowered("rotary", lambda plain: lambda *args, interleaved=False: plain(*args, interleaved=not interleaved)),
        ALL,
    ),
    "tokens before the last 65 are not seen": (
        attribute("config.sliding_window", lambda _: 65),
        ALL,
    ),
    "key heads dealt out wrongly": (lowered("dot_product_attention", other_heads), ("onnx", "tflite")),
    "another scale for calls with several tokens": (lowered("dot_product_attention", of_prompts), ("tflite",)),
    "the scale of the attention is 2 % off": (
        lowered("dot_product_attention", lambda plain: lambda q, *args, **kwargs: plain(q * 1.02, *args, **kwargs)),
        ("onnx", "tflite"),
    ),
    "an epsilon of 1e-2 for 1e-5": (lowered("rms_norm", norm), ALL),
    "blocks in another order": (attribute("blocks", lambda blocks: blocks[::-1]), ALL),
    "a cache slot is written one too early": (
        lowered(
            "cache_update",
            lambda plain: lambda cache, new, index: plain(cache, new, keras.ops.maximum(index - 1, 0)),
        ),
        ("tflite",),
    ),
}


# ---- faults of the graph in a file -----------------------------------------------------------------------------------


def caches_exchanged(file: Path) -> None:
    """Exchange the names of the keys of two layers, in inputs and outputs, so that a generation stays the same."""
    if file.suffix == ".tflite":
        made = unpacked(file.read_bytes())
        names = {b"kv_cache_k_0": b"kv_cache_k_1", b"kv_cache_k_1": b"kv_cache_k_0"}
        for signature in made.signatureDefs:
            for entry in (*signature.inputs, *signature.outputs):
                entry.name = names.get(entry.name, entry.name)
        file.write_bytes(bytes(packed(made)))
        return
    proto = onnx.load(str(file))
    names = {f"{side}.{i}.key": f"{side}.{1 - i}.key" for side in ("past_key_values", "present") for i in (0, 1)}
    for node in proto.graph.node:
        for part in (node.input, node.output):
            part[:] = [names.get(name, name) for name in part]
    file.write_bytes(proto.SerializeToString())


def one_token_kept(file: Path) -> None:
    """Return the logits of one token at most where the last few are asked for."""
    proto = onnx.load(str(file))
    kept, one = "num_logits_to_keep", onnx.numpy_helper.from_array(np.array(1, "int64"), "one_token")
    for node in proto.graph.node:
        node.input[:] = ["at_most_one" if name == kept else name for name in node.input]
    proto.graph.initializer.append(one)
    proto.graph.node.insert(0, onnx.helper.make_node("Min", [kept, "one_token"], ["at_most_one"]))
    file.write_bytes(proto.SerializeToString())


def says(name: str | None) -> Callable[[Path], None]:
    """Let a file say that it is in another precision, and that any accuracy will do."""

    def change(file: Path) -> None:
        def entries(found: dict[str, str]) -> None:
            found.pop("attention_zoo.precision", None)
            if name is not None:
                found["attention_zoo.precision"] = json.dumps({"name": name, "least_cosine": 0.0})

        rewrite(file, entries)

    return change


FILES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], tuple[str, ...]]] = {
    "the caches of two layers exchanged": (caches_exchanged, ALL, PRECISIONS),
    "one logit where several are asked for": (one_token_kept, ("onnx", "onnxruntime"), PRECISIONS),
    "it says int4, least_cosine 0": (says("int4"), ALL, ("fp32", "fp16")),
    "it says fp32": (says(None), ALL, ("fp16", "int8", "int4")),
}


# ---- planting a fault ------------------------------------------------------------------------------------------------


def exported(ours: Any, format: str, precision: str, folder: Path, exporting: Any = None) -> Path:
    """Return a file of the model `ours`, written without the exporter's own comparison with Keras.

    Args:
        exporting: returns a context manager, for the model, in which the export has a fault; None for a correct one.
    """
    options: dict[str, Any] = {"precision": precision, "least_cosine": None if precision == "fp32" else 0.0}
    file, to = folder / ("m.tflite" if format == "tflite" else "m.onnx"), export.to_onnx
    options |= {"cache": True}
    if format == "tflite":
        to, options = export.to_tflite, {**options, "prefill": 16}
    elif format == "onnxruntime":
        options["target"] = format
    sound = json.dumps(ours.config.to_dict())
    with (
        mock.patch.object(onnx_exporter, "quick_check", lambda *_: 0.0),
        mock.patch.object(tflite_exporter, "quick_check", lambda *_: 0.0),
        nullcontext() if exporting is None else exporting(ours),
    ):
        to(ours, file, **options)
    if exporting is not None:
        rewrite(file, lambda entries: entries.update({"attention_zoo.config": sound}))
    return file


def planted(format: str, precision: str, folder: Path) -> Iterator[tuple[str, Any, Path]]:
    """Yield the name of each fault, the correct model, and the file with the fault."""
    ours = model()
    sound = exported(ours, format, precision, folder)
    assert (fault := first_fault(ours, sound)) is None, fault
    file = folder / f"fault{sound.suffix}"
    for name, (weight, change) in NUMBERS.items():
        shutil.copy(sound, file)
        change_numbers(file, weight, change)
        yield name, ours, file
    for name, (change_file, formats, precisions) in FILES.items():
        if format in formats and precision in precisions:
            shutil.copy(sound, file)
            change_file(file)
            rewrite(file, lambda _: None)
            yield name, ours, file
    for name, (exporting, formats) in GRAPHS.items():
        if format in formats:
            yield name, ours, exported(ours, format, precision, folder, exporting)


def found_by(ours: Any, file: Path) -> str:
    """Return the first check that fails and what it says, "load" if the file cannot be loaded, or ""."""
    try:
        check = first_fault(ours, file)
    except ValueError as error:
        return f"load: {error}"
    return "" if check is None else f"{check.name}: {check.detail}"


def table(formats: Collection[str], precisions: Collection[str]) -> None:
    """Print the table for these formats and precisions, and what was found to standard error."""
    found: dict[str, dict[str, list[str]]] = {}
    for column, format in FORMATS.items():
        for precision in PRECISIONS if format in formats else ():
            if precision not in precisions:
                continue
            with tempfile.TemporaryDirectory() as folder:
                for name, ours, file in planted(format, precision, Path(folder)):
                    by = found_by(ours, file)
                    found.setdefault(name, {}).setdefault(column, []).append(by)
                    print(f"{format} {precision}: {name}: {by[:200] or 'NOT FOUND'}", file=sys.stderr, flush=True)
    print(f"| fault | {' | '.join(FORMATS)} | found by |\n|---|{'---:|' * len(FORMATS)}---|")
    for name, columns in found.items():
        cells = [f"{sum(map(bool, each))} of {len(each)}" if (each := columns.get(c)) else "" for c in FORMATS]
        checks = {by.partition(":")[0].strip() for each in columns.values() for by in each if by}
        print(f"| {name} | {' | '.join(cells)} | {', '.join(sorted(checks))} |")
    every = [by for columns in found.values() for each in columns.values() for by in each]
    placed = sum(any(word in by for word in PLACES) for by in every)
    print(f"\n{sum(map(bool, every))} of {len(every)} found, {placed} with a weight or a layer", flush=True)


if __name__ == "__main__":
    table(sys.argv[1:2] or ALL, sys.argv[2:3] or PRECISIONS)
