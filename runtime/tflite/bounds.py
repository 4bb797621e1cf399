"""Check of a TFLite file before LiteRT reads it, because LiteRT ends the process at some damaged files.

LiteRT checks the offsets of a file, but trusts most numbers in it: indices of tensors, buffers and graphs, shapes, and
the order of the operators. Here they are checked against each other. Only the tables are read, not the weights, and
all tables of one kind at once in NumPy: 3 ms for a small file, 30 ms for one with 13,000 operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .tables import Flatbuffer, Tables

Array = np.ndarray
# Bits of an element, by the number of the dtype in LiteRT's schema; 0 for strings, resources and variants.
BITS = np.array([32, 16, 32, 8, 64, 0, 8, 16, 64, 8, 64, 128, 64, 0, 0, 32, 16, 4, 16, 2, 4, 8, 8])
# The lowest and the highest zero point by the number of the dtype; (0, 0) for dtypes that have none.
RANGES = np.zeros((len(BITS), 2), "int64")
RANGES[[3, 7, 9, 16, 17, 19, 20]] = [(0, 255), (-32768, 32767), (-128, 127), (0, 65535), (-8, 7), (-2, 1), (0, 15)]
CUSTOM, IF, WHILE, CALL_ONCE, COMPOSITE = 32, 118, 119, 129, 206
# Fields of operators' options that are the number of a graph: by operator, the table of options and the field's number.
GRAPHS = {IF: (0, 1), WHILE: (0, 1), CALL_ONCE: (0,)}
# Inputs that an operator may lack (index -1), by the index of the first of them; other operators need all. LSTMs and
# custom operators check their inputs themselves.
OPTIONAL = {
    **{3: 2, 4: 2, 9: 2, 132: 2},  # bias: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, CONV_3D
    **{67: 3, 141: 3},  # bias: TRANSPOSE_CONV, CONV_3D_TRANSPOSE
    **{16: 1, 44: 1, 52: 1, 27: 3, 35: 5, 46: 5, CUSTOM: 0},  # LSTM, …, SVDF, RNN, …
}
# The fewest inputs of operators that need several: kernels and XNNPACK read them without counting.
LEAST_INPUTS = {
    **dict.fromkeys((0, 18, 41, 42, 54, 55, 57, 78, 90, 95, 99, 156, 160, 161), 2),  # arithmetic of two tensors
    **dict.fromkeys((58, 61, 62, 63, 71, 72, 84, 86), 2),  # comparisons and logic
    **dict.fromkeys((3, 4, 7, 9, 15, 126, 131, 132), 2),  # products, lookups and transforms
    **dict.fromkeys((40, 48, 56, 74, 79, 81, 82, 89, 91, 128), 2),  # reductions and searches
    **dict.fromkeys((23, 34, 36, 39, 49, 69, 70, 94, 97, 100, 105, 107, 112, 115, 130, 140, 145), 2),  # other shapes
    **dict.fromkeys((37, 38, 60, 64, 65, 67, 96, 102, 122, 123, 137, 138, 141, 151, 153, 154, 155, 157), 3),
    **dict.fromkeys((45, 68, 85), 4),  # STRIDED_SLICE, SPARSE_TO_DENSE, ONE_HOT
}
# Vectors and texts in operators' options, as {number of the field: bytes of an item} by the type of the options.
VECTORS = {3: {1: 4}, 17: {0: 4}, 30: {0: 4}, 111: {0: 1, 1: 1}, 115: {0: 4}}
VECTORS_2 = {
    **{2: {0: 8}, 3: {0: 8, 1: 8, 2: 8}, 4: {0: 8, 1: 8, 2: 8, 3: 8, 4: 1, 7: 8, 10: 8, 13: 8, 16: 4}},
    **{5: {0: 1, 2: 1, 4: 4, 5: 1}, 6: {0: 8}, 7: {1: 8, 2: 8, 3: 8}, 9: {0: 8}, 10: {0: 8, 1: 8, 2: 8}},
    **{12: {0: 8, 1: 8, 2: 8, 3: 8, 4: 4}, 13: {0: 8, 1: 8, 2: 8, 3: 8, 4: 8}, 16: {0: 8, 1: 8, 4: 8}, 17: {0: 8}},
    **{21: {0: 1, 2: 1}, 23: {0: 4}},
}
# Operators that may be without inputs, and without outputs: those that keep state or call graphs, and custom ones.
WITHOUT_INPUTS = {CUSTOM, WHILE, CALL_ONCE, 136, 142, COMPOSITE}
WITHOUT_OUTPUTS = {CUSTOM, IF, WHILE, CALL_ONCE, 138, 144, COMPOSITE}
# Operators with the number of their inputs (1) or outputs (2) as first option: SPLIT, SPLIT_V, UNPACK, PACK.
COUNTED = {49: 2, 102: 2, 88: 2, 83: 1}
# Options above 0 with their defaults: strides, sizes, dilations and blocks of convolutions, pooling and DEPTH_TO_SPACE.
POSITIVE = {
    **{3: {1: 0, 2: 0, 4: 1, 5: 1}, 4: {1: 0, 2: 0, 5: 1, 6: 1}, 67: {1: 0, 2: 0}, 5: {0: 0}, 26: {0: 0}},
    **{kind: {1: 0, 2: 0, 3: 0, 4: 0} for kind in (1, 12, 17)},
}
# The type of the options of these operators.
TYPES = {49: 35, 102: 79, 88: 64, 83: 59, 3: 1, 4: 2, 1: 5, 12: 5, 17: 5, 67: 49, 5: 94, 26: 19}
PRODUCTS = (3, 4, 9, 67, 126)  # CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV, BATCH_MATMUL
LARGEST, SHARE = 2**30, 16  # bytes of a tensor that is computed, and how many times the size of the file
MOST_DIMENSIONS = 8
OURS = "accepted: a TFLite model"


def check_model(path: Path, begin: int = 0, end: int | None = None) -> None:
    """Check a TFLite file, or the part from byte `begin` to byte `end` of another file.

    Raises:
        ValueError: If a number in it does not fit the rest of the file, or it asks for a tensor above 1 GiB and 16
            times its own size.
    """
    size = (path.stat().st_size if end is None else end) - begin
    try:
        if size < 8:
            raise ValueError(f"it has {size} bytes")
        check_content(np.memmap(path, "uint8", "r", begin, (size,)))
    except ValueError as error:
        raise ValueError(f"path: {path} is damaged: {error}; {OURS}") from error


def check_content(content: Array) -> None:
    """Check the contents of a TFLite file; see ``check_model``. The message only says what is wrong."""
    if bytes(content[4:8]) != b"TFL3":
        raise ValueError("it does not begin as a TFLite file")
    file = Flatbuffer(content)
    model = file.root("the model")
    if model.values(0, "<u4")[0] != 3:
        raise ValueError(f"it has version {model.values(0, '<u4')[0]} of the format, not 3")
    if model.vectors(8, 4).counts[0] or model.vectors(9, 4).counts[0]:
        raise ValueError("it has weights in other files")
    stored = _buffers(file, model)
    codes, _ = model.children(1, "an operator code")
    kinds = np.maximum(codes.values(0, "i1"), codes.values(3, "<i4"))
    if (kinds < 0).any():
        raise ValueError("an operator code is negative")
    codes.vectors(1, 1)
    graphs, _ = model.children(2, "a graph")
    if not len(graphs):
        raise ValueError("it has no graph")
    graphs.vectors(4, 1)
    tensors = _tensors(file, graphs, stored)
    _graphs(graphs, tensors, kinds)
    _signatures(model, graphs, tensors)
    metadata, _ = model.children(6, "metadata")
    metadata.vectors(0, 1)
    _below("metadata has buffer", metadata.values(1, "<u4"), len(stored))


@dataclass(frozen=True)
class Tensors:
    """The tensors of all graphs, graph by graph.

    Attributes:
        tables: Their tables.
        first: The index of the first tensor of each graph.
        counts: The number of tensors of each graph.
        constant: Whether the file has the values of a tensor.
        empty: Whether a tensor has no elements. A constant may be.
        variable: Whether a tensor keeps its values between calls.
        scales: The lowest and the highest scale of each tensor; NaN without scales.
    """

    tables: Tables
    first: Array
    counts: Array
    constant: Array
    empty: Array
    variable: Array
    scales: Array


def _buffers(file: Flatbuffer, model: Tables) -> Array:
    """Return the size of each buffer in bytes."""
    buffers, _ = model.children(4, "a buffer")
    inside = buffers.vectors(0, 1).counts
    offsets, sizes = buffers.values(1, "<u8"), buffers.values(2, "<u8")
    limit = np.uint64(file.size)
    apart = offsets > 1  # after the tables, as in files above 2 GB
    if (apart & ((offsets > limit) | (sizes > limit - np.minimum(offsets, limit)))).any():
        raise ValueError("a buffer reaches beyond the end")
    return np.where(apart, sizes.astype("int64"), inside)


def _tensors(file: Flatbuffer, graphs: Tables, stored: Array) -> Tensors:
    tables, owners = graphs.children(0, "a tensor")
    tables.vectors(3, 1)
    counts = np.bincount(owners, minlength=len(graphs))
    kinds, buffers = tables.values(1, "i1"), tables.values(2, "<u4")
    _below("a tensor has dtype", kinds, len(BITS))
    _below("a tensor has buffer", buffers, len(stored))
    shapes, static = tables.vectors(0, 4), tables.vectors(7, 4)
    elements = _elements(tables, shapes)
    for name, vectors in (("shape", shapes), ("shape signature", static)):
        if (vectors.counts > MOST_DIMENSIONS).any():
            raise ValueError(f"a tensor has a {name} of {vectors.counts.max()} dimensions")
    if ((static.counts > 0) & (static.counts != shapes.counts)).any():
        raise ValueError("a tensor has two shapes")
    if (static.items("<i4")[0] < -1).any():
        raise ValueError("a tensor has a negative dimension")
    bits, constant = BITS[kinds], stored[buffers] > 0
    needed = (elements * bits + 7) // 8
    wrong = constant & (bits > 0) & (needed != stored[buffers])
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"tensor {tables.text(index, 3)!r} of {needed[index]:.0f} bytes has a buffer of "
            f"{stored[buffers[index]]} bytes"
        )
    limit = max(LARGEST, SHARE * file.size)
    if (needed[~constant] > limit).any():
        index = int(np.argmax(np.where(constant, 0, needed)))
        raise ValueError(
            f"tensor {tables.text(index, 3)!r} needs {needed[index]:.4g} bytes; accepted: at most {limit}, the larger "
            f"of 1 GiB and {SHARE} times the file"
        )
    first = np.cumsum(counts) - counts
    sizes = np.where(constant, elements, np.nan)
    scales = _quantization(tables, shapes.counts, counts[owners], first[owners], sizes)
    if (tables.targets(6) > 0).any():
        raise ValueError("it has sparse tensors")
    return Tensors(tables, first, counts, constant, elements == 0, tables.values(5, "u1") > 0, scales)


def _elements(tables: Tables, shapes: object) -> Array:
    """Return the number of elements of each tensor, as float64, which does not overflow."""
    sizes, owners = shapes.items("<i4")  # pyright: ignore[reportAttributeAccessIssue]
    if (sizes < 0).any():
        raise ValueError("a tensor has a negative dimension")
    found = np.ones(len(tables))
    np.multiply.at(found, owners, sizes.astype("float64"))
    return found


def _quantization(tables: Tables, ranks: Array, others: Array, first: Array, stored: Array) -> Array:
    """Check the scales of each tensor, and return the lowest and the highest.

    Args:
        tables: The tensors.
        ranks: The number of dimensions of each.
        others: The number of tensors of the graph of each.
        first: The index of the first tensor of this graph.
        stored: The number of elements of each constant, and NaN for other tensors.
    """
    own, owners = tables.inner(4, "quantization")
    scales, zeros = own.vectors(2, 4), own.vectors(3, 8)
    own.vectors(0, 4)
    own.vectors(1, 4)
    several = scales.counts > 1
    if ((zeros.counts > 1) & (zeros.counts != scales.counts)).any():
        raise ValueError("a tensor has other numbers of scales and zero points")
    axes, shapes = own.values(6, "<i4"), tables.at(owners).vectors(0, 4)
    if (several & ((axes < 0) | (axes >= ranks[owners]))).any():
        raise ValueError("a tensor has scales along a dimension that it has not")
    chosen = np.flatnonzero(several)
    sizes = own.file.read(shapes.starts[chosen] + 4 * axes[chosen], "<i4")
    if (sizes != scales.counts[chosen]).any():
        raise ValueError("a tensor has another number of scales than its dimension")
    found, belong = scales.items("<u4")
    found = found.astype("uint32").view("float32")
    if not (np.isfinite(found) & (found >= np.finfo("float32").tiny)).all():
        raise ValueError("a tensor has a scale that is not a positive number")
    extent = np.full((2, len(tables)), np.nan)
    np.fmin.at(extent[0], owners[belong], found)
    np.fmax.at(extent[1], owners[belong], found)
    points, belong = zeros.items("<i8")
    lowest, highest = RANGES[tables.at(owners).values(1, "i1")[belong]].T
    if ((points < lowest) | (points > highest)).any():
        raise ValueError("a tensor has a zero point that its dtype has not")
    details = own.values(4, "u1")
    for kind in (2, 3):  # block-wise, several axes
        chosen = np.flatnonzero(details == kind)
        table, inside = own.at(chosen).inner(5, "quantization")
        if len(inside) != len(chosen):
            raise ValueError("a tensor has no details of its quantization")
        limits = others[owners[chosen]]
        _indices("quantization has tensor", table.values(0, "<i4"), limits, least=0)
        _indices("quantization has tensor", table.values(1, "<i4"), limits, least=-1)
        blocks = table.values(2, "<i4")
        if (blocks < 1).any():
            raise ValueError("a tensor is quantized in blocks without elements")
        found = stored[first[owners[chosen]] + table.values(0, "<i4")]
        if kind == 2 and (found * blocks != stored[owners[chosen]]).any():
            raise ValueError("a tensor has other scales than its blocks")
    return extent


def _graphs(graphs: Tables, tensors: Tensors, kinds: Array) -> None:
    """Check the operators of all graphs, and that each tensor is written once and before it is read."""
    first, counts = tensors.first, tensors.counts
    nodes, owners = graphs.children(3, "an operator")
    codes = nodes.values(0, "<u4")
    _below("an operator has code", codes, len(kinds))
    nodes.vectors(5, 1)
    nodes.vectors(7, 1)
    written = np.full(len(tensors.constant), len(nodes) + 1)  # by which operator
    written[tensors.constant | tensors.variable] = -1
    fed, belong = graphs.vectors(1, 4).items("<i4")
    _indices("a graph has input", fed, counts[belong], least=0)
    fed += first[belong]
    if tensors.constant[fed].any():
        raise ValueError("a graph has an input that is a constant")
    written[fed] = -1
    made, makers = nodes.vectors(2, 4).items("<i4")
    limits, starts = counts[owners], first[owners]
    _indices("an operator has output", made, limits[makers], least=0)
    made += starts[makers]
    if len(np.unique(made)) != len(made) or (written[made] == -1).any():
        raise ValueError("an operator writes what is a constant, an input or another operator's output")
    written[made] = makers
    for number, what in ((1, "input"), (8, "intermediate tensor")):
        taken, takers = nodes.vectors(number, 4).items("<i4")
        _indices(f"an operator has {what}", taken, limits[takers], least=-1)
        real = taken >= 0
        if number == 1 and not real.all():
            _optional(taken, takers, kinds[codes])
        taken, takers = taken[real] + starts[takers[real]], takers[real]
        early = (written[taken] >= takers) & ~tensors.empty[taken]
        if number == 1 and early.any():
            index = int(taken[np.flatnonzero(early)[0]])
            raise ValueError(f"tensor {tensors.tables.text(index, 3)!r} is read before it is computed")
    given, belong = graphs.vectors(2, 4).items("<i4")
    _indices("a graph has output", given, counts[belong], least=0)
    given += first[belong]
    if ((written[given] > len(nodes)) & ~tensors.empty[given]).any():
        raise ValueError("a graph has an output that is not computed")
    for number, may in ((1, WITHOUT_INPUTS), (2, WITHOUT_OUTPUTS)):
        if set(kinds[codes[nodes.vectors(number, 4).counts == 0]].tolist()) - may:
            raise ValueError(f"an operator has no {'input' if number == 1 else 'output'}s")
    _ratios(nodes, np.isin(kinds[codes], PRODUCTS), tensors.scales, starts)
    _settings(nodes, kinds[codes])
    _options(nodes, 3, VECTORS)
    _options(nodes, 11, VECTORS_2)
    offsets, sizes = nodes.values(9, "<u8"), nodes.values(10, "<u8")
    limit = np.uint64(nodes.file.size)
    if ((offsets > limit) | (sizes > limit - np.minimum(offsets, limit))).any():
        raise ValueError("an operator has options beyond the end")
    _calls(nodes, owners, kinds[codes], len(graphs))


def _optional(taken: Array, takers: Array, kinds: Array) -> None:
    """Check that the inputs without a tensor are those that their operators may lack."""
    missing = np.flatnonzero(taken < 0)
    places = missing - np.searchsorted(takers, takers[missing])
    least = np.array([OPTIONAL.get(kind, len(taken)) for kind in kinds[takers[missing]].tolist()])
    if (places < least).any():
        raise ValueError("an operator lacks an input")


def _ratios(nodes: Tables, chosen: Array, scales: Array, starts: Array) -> None:
    """Check the factor by which products of integers become the integers of the output.

    XNNPACK refuses others than these, and then frees memory twice.
    """
    taken, given = nodes.vectors(1, 4), nodes.vectors(2, 4)
    chosen = np.flatnonzero(chosen & (taken.counts > 1) & (given.counts > 0))
    places = taken.starts[chosen], taken.starts[chosen] + 4, given.starts[chosen]
    one, other, out = (scales[:, nodes.file.read(place, "<i4") + starts[chosen]] for place in places)
    low, high = one[0] * other[0] / out[1], one[1] * other[1] / out[0]
    if ((low < 2.0**-32) | (high >= 256)).any():
        raise ValueError("an operator has scales that do not fit each other")


def _settings(nodes: Tables, kinds: Array) -> None:
    """Check the number of inputs, and the numbers in options that LiteRT divides by or takes for that of tensors."""
    least = np.array([LEAST_INPUTS.get(kind, 0) for kind in kinds.tolist()], "int64")
    if (nodes.vectors(1, 4).counts < least).any():
        raise ValueError("an operator has too few inputs")
    for kind in set(kinds.tolist()) & (COUNTED.keys() | POSITIVE.keys()):
        own = nodes.at(kinds == kind)
        options, inside = own.inner(4, "an operator's options")
        if len(inside) != len(own) or (own.values(3, "u1") != TYPES[kind]).any():
            raise ValueError("an operator has the options of another")
        if kind in COUNTED:
            counts = own.vectors(COUNTED[kind], 4).counts[inside]
            if (options.values(0, "<i4") != counts).any():
                raise ValueError("an operator has another number of tensors than its options")
        for number, default in POSITIVE.get(kind, {}).items():
            found = options.values(number, "<i4", default)
            if ((found < 1) | (found >= 2**16)).any():
                raise ValueError(f"an operator has a stride, dilation or block of {found.min()}")


def _options(nodes: Tables, number: int, vectors: Mapping[int, Mapping[int, int]]) -> None:
    """Check the tables of options whose type is field `number` of an operator, and which are its next field."""
    table, owners = nodes.inner(number + 1, "an operator's options")
    table.check_fields()
    kinds = nodes.values(number, "u1")[owners]
    for kind in set(kinds.tolist()) & vectors.keys():
        own = table.at(kinds == kind)
        for field, width in vectors[kind].items():
            own.vectors(field, width)


def _calls(nodes: Tables, owners: Array, kinds: Array, graphs: int) -> None:
    """Check that the graphs that operators call exist, and that none calls itself."""
    called: dict[int, set[int]] = {}
    for kind in (IF, WHILE, CALL_ONCE, COMPOSITE):
        chosen = np.flatnonzero(kinds == kind)
        if not len(chosen):
            continue
        options, inside = nodes.at(chosen).inner(12 if kind == COMPOSITE else 4, "options")
        for number in (1,) if kind == COMPOSITE else GRAPHS[kind]:
            found = options.values(number, "<i4")
            _below("an operator has graph", found, graphs)
            for caller, other in zip(owners[chosen[inside]].tolist(), found.tolist(), strict=True):
                called.setdefault(caller, set()).add(other)
    left = dict(called)
    while ready := [graph for graph, others in left.items() if not others & left.keys()]:
        for graph in ready:
            del left[graph]
    if left:
        raise ValueError("a graph calls itself")


def _signatures(model: Tables, graphs: Tables, tensors: Tensors) -> None:
    signatures, _ = model.children(7, "a signature")
    indices = signatures.values(4, "<u4")
    _below("a signature has graph", indices, len(graphs))
    signatures.vectors(2, 1)
    for number in (0, 1):
        entries, belong = signatures.children(number, "a signature")
        entries.vectors(0, 1)
        graph = indices[belong]
        found = entries.values(1, "<u4")
        _indices("a signature has tensor", found, tensors.counts[graph], least=0)
        listed = graphs.at(indices).vectors(1 + number, 4)
        pairs = zip(graph.tolist(), found.tolist(), strict=True)
        known = _pairs(listed.items("<i4"), indices)
        if any(pair not in known for pair in pairs):
            raise ValueError("a signature has a tensor that is no input or output of its graph")


def _pairs(items: tuple[Array, Array], graphs: Array) -> set[tuple[int, int]]:
    numbers, owners = items
    return set(zip(graphs[owners].tolist(), numbers.tolist(), strict=True))


def _below(what: str, found: Array, limit: int) -> None:
    _indices(what, found, np.full(len(found), limit), least=0)


def _indices(what: str, found: Array, limits: Array, *, least: int) -> None:
    wrong = (found < least) | (found >= limits)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{what} {found[index]} of {limits[index]}")
