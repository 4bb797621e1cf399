"""Cases of the functions of ``keras.ops`` that reduce, sort, index and rearrange arrays."""

from __future__ import annotations

import numpy as np
from keras import ops
from ops_values import BOOLEANS, EDGES, INF, INTS, MODERATE, NAN, Cases, array, integers, normal, uniform

CASES, OPS = Cases(), vars(ops)
X3 = normal(3, 4, 5)
I3 = integers(-9, 9, 3, 4, 5)
GAPS = array([[1, NAN, 3, -2], [NAN, NAN, NAN, NAN], [0, 5, -1, 2], [INF, 1, -INF, NAN]])
SOME = GAPS[[0, 2]]

# ---- reductions ----------------------------------------------------------------------------------------------------

for name in [
    "sum",
    "prod",
    "mean",
    "max",
    "min",
    "amax",
    "amin",
    "std",
    "var",
    "logsumexp",
    "ptp",
    "median",
    "any",
    "all",
    "count_nonzero",
    "norm",
]:
    function = OPS[name]
    CASES.add(f"{name}-axis", lambda x, function=function: function(x, axis=1), X3)
    CASES.add(
        f"{name}-all",
        lambda x, function=function: ops.reshape(function(x), (1,)),
        X3[0] if name == "norm" else X3,
        fixed=True,
    )
    if name != "count_nonzero":
        CASES.add(f"{name}-keepdims", lambda x, function=function: function(x, axis=-1, keepdims=True), X3)
    if name != "median":
        CASES.add(f"{name}-two-axes", lambda x, function=function: function(x, axis=(1, 2)), X3)
        CASES.add(f"{name}-edges", lambda x, function=function: function(x, axis=1), EDGES)
        CASES.add(f"{name}-batch", lambda x, function=function: function(x, axis=0), X3, fixed=name == "ptp")
for name in ["sum", "prod", "mean", "max", "min", "any", "all", "count_nonzero", "std", "var", "ptp"]:
    function = OPS[name]
    for dtype, values in INTS.items():
        few = (
            values
            if name in ("max", "min", "any", "all", "count_nonzero")
            else (values % 7 - (0 if dtype == "uint8" else 3)).astype(dtype)
        )
        CASES.add(f"{name}-{dtype}", lambda x, function=function: function(x, axis=1), few)
    if name not in ("ptp",):
        CASES.add(f"{name}-bool", lambda x, function=function: function(x, axis=1), BOOLEANS)
NONE = np.zeros((2, 0), "float32")
for name in ["sum", "prod", "any", "all", "count_nonzero"]:
    CASES.add(f"{name}-empty", lambda x, function=OPS[name]: function(x[:, :0], axis=1), MODERATE)
CASES.add("sum-overflow", lambda x: ops.sum(x, axis=1), INTS["int32"])
CASES.add("prod-overflow", lambda x: ops.prod(x, axis=1), INTS["int32"])
CASES.add("max-initial", lambda x: ops.max(x, axis=1, initial=0.5), EDGES)
CASES.add("min-initial", lambda x: ops.min(x, axis=1, initial=-0.5), EDGES)
CASES.add(
    "logsumexp-infinite",
    lambda x: ops.logsumexp(x, axis=1),
    array([[-INF, -INF, -INF], [-INF, 0, 1], [INF, 0, 1], [1e4, 1e4, 0]]),
)
for order in (None, 1, 2, INF, -INF, 0, 3, "fro"):
    axes = (1, 2) if order == "fro" else 1
    CASES.add(f"norm-order-{order}", lambda x, order=order, axes=axes: ops.norm(x, ord=order, axis=axes), X3)
for order in (1, -1, INF, -INF, "nuc", 2):
    CASES.add(f"norm-matrix-{order}", lambda x, order=order: ops.norm(x, ord=order, axis=(1, 2)), X3)
CASES.add("average-plain", lambda x: ops.average(x, axis=1), X3)
CASES.add("average-weights", lambda x, w: ops.average(x, axis=1, weights=w), X3, uniform(3, 4, 5, seed=1))
CASES.add("moments-axes", lambda x: ops.moments(x, axes=[1]), X3)
CASES.add("trapezoid-axis", lambda x: ops.trapezoid(x, dx=0.5), X3)
for name in ["nansum", "nanmean", "nanmax", "nanmin", "nanprod", "nanstd", "nanvar"]:
    CASES.add(f"{name}-axis", lambda x, function=OPS[name]: function(x, axis=1), GAPS)
    CASES.add(f"{name}-keepdims", lambda x, function=OPS[name]: function(x, axis=1, keepdims=True), SOME)
for name in ["nanargmax", "nanargmin", "nancumsum", "nancumprod"]:
    CASES.add(f"{name}-axis", lambda x, function=OPS[name]: function(x, axis=1), SOME)
for method in ("linear", "lower", "higher", "nearest", "midpoint"):
    CASES.add(
        f"quantile-{method}", lambda x, method=method: ops.quantile(x, [0.1, 0.5, 0.9], axis=1, method=method), X3
    )
CASES.add("percentile-axis", lambda x: ops.percentile(x, 30, axis=2, keepdims=True), X3)
CASES.add(
    "argmax-ties",
    lambda x: ops.argmax(x, axis=1),
    array([[1, 3, 3, 2], [-1, -1, -1, -1], [0, INF, INF, 2], [-INF, -INF, -5, -5]]),
)
CASES.add(
    "argmin-ties",
    lambda x: ops.argmin(x, axis=1),
    array([[1, 1, 3, 2], [-1, -1, -1, -1], [0, -INF, -INF, 2], [INF, INF, 5, 5]]),
)
for name in ("argmax", "argmin"):
    function = OPS[name]
    for dtype, values in INTS.items():
        CASES.add(f"{name}-{dtype}", lambda x, function=function: function(x, axis=1), values)
    CASES.add(f"{name}-bool", lambda x, function=function: function(x, axis=1), BOOLEANS)
    CASES.add(f"{name}-keepdims", lambda x, function=function: function(x, axis=-1, keepdims=True), X3)
    CASES.add(f"{name}-flat", lambda x, function=function: ops.reshape(function(x), (1,)), X3, fixed=True)
    CASES.add(f"{name}-zeros", lambda x, function=function: function(x, axis=1), array([[0.0, 1.0, 0.0], [2, 2, -2]]))
for name in ("cumsum", "cumprod"):
    function = OPS[name]
    CASES.add(f"{name}-axis", lambda x, function=function: function(x, axis=1), X3)
    CASES.add(f"{name}-last", lambda x, function=function: function(x, axis=-1), MODERATE)
    CASES.add(
        f"{name}-edges",
        lambda x, function=function: function(x, axis=-1),
        array([[1, 0, INF, 2, -1], [NAN, 1, 2, 3, 4], [-2, -3, 0, 5, 1]]),
    )
    CASES.add(f"{name}-reversed", lambda x, function=function: ops.flip(function(ops.flip(x, 1), axis=1), 1), X3)
    CASES.add(f"{name}-bool", lambda x, function=function: function(x, axis=1), BOOLEANS)
    for dtype in ("int32", "int64", "int8"):
        CASES.add(
            f"{name}-{dtype}", lambda x, function=function: function(x, axis=1), integers(-3, 4, 3, 5, dtype=dtype)
        )
CASES.add("diff-axis", ops.diff, X3)
CASES.add("diff-twice", lambda x: ops.diff(x, n=2, axis=1), I3)
CASES.add("correlate-valid", lambda x: ops.correlate(x[0], x[1], mode="valid")[None], normal(2, 6), fixed=True)
CASES.add("correlate-same", lambda x: ops.correlate(x[0], x[1], mode="same")[None], normal(2, 6), fixed=True)
CASES.add("correlate-full", lambda x: ops.correlate(x[0], x[1], mode="full")[None], normal(2, 6), fixed=True)
CASES.add("bincount-length", lambda x: ops.bincount(x, minlength=6), array([[0, 1, 1, 3], [5, 5, 5, 0]], "int32"))
CASES.add(
    "bincount-weights",
    lambda x, w: ops.bincount(x, weights=w, minlength=6),
    array([[0, 1, 1, 3], [5, 5, 5, 0]], "int32"),
    normal(2, 4),
)
CASES.add("histogram-range", lambda x: ops.histogram(x, bins=4, range=(-2.0, 2.0)), normal(20), fixed=True)

# ---- sorting -------------------------------------------------------------------------------------------------------

TIES = array([[3, 1, 2, 1, 3, -0.0, 0.0], [INF, -INF, 5, 5, 5, 1, 2], [1, 1, 1, 1, 1, 1, 1]])
for name in ["sort", "argsort"]:
    function = OPS[name]
    CASES.add(f"{name}-ties", lambda x, function=function: function(x), TIES)
    CASES.add(f"{name}-axis", lambda x, function=function: function(x, axis=1), X3)
    for dtype in ("int32", "int64", "uint8", "int8"):
        CASES.add(f"{name}-{dtype}", lambda x, function=function: function(x), INTS[dtype])
CASES.add("sort-descending", lambda x: ops.flip(ops.sort(x), -1), TIES)
CASES.add("argpartition-smallest", lambda x: ops.sort(ops.argpartition(x, 3)[..., :3]), normal(8), fixed=True)
for dtype, values in {"float32": TIES, "int32": INTS["int32"], "int64": INTS["int64"], "uint8": INTS["uint8"]}.items():
    CASES.add(f"top_k-{dtype}", lambda x: ops.top_k(x, 3), values)
CASES.add("top_k-all", lambda x: ops.top_k(x, 7), TIES)
SORTED, VALUES = array([-1.5, 0, 0, 2, 7]), array([[-2, -1.5, 0, 0.5], [2, 6.9, 7, 8], [INF, -INF, -0.0, 1]])
for side in ("left", "right"):
    CASES.add(
        f"searchsorted-{side}",
        lambda x, side=side: ops.searchsorted(SORTED, ops.reshape(x, (-1,)), side=side),
        VALUES,
        fixed=True,
    )
CASES.add(
    "searchsorted-int32",
    lambda x: ops.searchsorted(np.array([1, 3, 3, 9], "int32"), x[0]),
    array([[0, 1, 3, 4, 10]], "int32"),
    fixed=True,
)
CASES.add("digitize-float32", lambda x: ops.digitize(x, SORTED[[0, 1, 3, 4]]), VALUES)
CASES.add("digitize-int32", lambda x: ops.digitize(x, np.array([0, 3, 9], "int32")), INTS["int32"])
CASES.add(
    "unique-size",
    lambda x: ops.unique(ops.reshape(x, (-1,)), size=4, fill_value=-1),
    array([[3, 1, 3], [2, 2, 1]], "int32"),
    fixed=True,
)
CASES.add("nonzero-where", ops.nonzero, array([[0, 1, 2], [3, 0, 0]], "int32"), fixed=True)

# ---- indexing ------------------------------------------------------------------------------------------------------

INDEX = array([[0, 3, -1], [2, -4, 1], [1, 1, 1]], "int32")
TABLE = normal(4, 3, seed=3)
for dtype in ("float32", "int32", "int64", "uint8", "bool"):
    table = (np.arange(12).reshape(4, 3) % 5).astype(dtype)
    CASES.add(f"take-table-{dtype}", lambda i, table=table: ops.take(table, i, axis=0), INDEX)
CASES.add("take-axis", lambda x, i: ops.take(x, i, axis=1), X3, INDEX)
CASES.add("take-last", lambda x: ops.take(x, [-1, 0, 2], axis=-1), X3)
CASES.add("take-flat", lambda x: ops.take(x, [-1, 0, 7]), X3, fixed=True)
CASES.add("take-scalar", lambda x: ops.take(x, 1, axis=1), X3)
CASES.add("take-int64", lambda i: ops.take(TABLE, i, axis=0), INDEX.astype("int64"))
CASES.add("take_along_axis-middle", lambda x, i: ops.take_along_axis(x, i[:, :, None], axis=1), X3, INDEX)
CASES.add("take_along_axis-last", lambda x, i: ops.take_along_axis(x, i, axis=-1), MODERATE[:3], INDEX)
for dtype in ("int32", "int64", "uint8"):
    ids = array([[0, 3, 4], [2, 250, 1]], dtype) if dtype == "uint8" else array([[0, -1, 5], [3, 4, -4]], dtype)
    CASES.add(f"one_hot-{dtype}", lambda x: ops.one_hot(x, 4), ids)
    CASES.add(f"multi_hot-{dtype}", lambda x: ops.multi_hot(x, 6), np.clip(ids.astype("int64"), 0, 5).astype(dtype))
CASES.add("one_hot-axis", lambda x: ops.one_hot(x, 4, axis=1), array([[0, -1, 5], [3, 4, 1]], "int32"))
CASES.add("one_hot-int32-dtype", lambda x: ops.one_hot(x, 4, dtype="int32"), array([[0, -1, 5], [3, 4, 1]], "int32"))
CASES.add("one_hot-bool-dtype", lambda x: ops.one_hot(x, 4, dtype="bool"), array([[0, -1, 5], [3, 4, 1]], "int32"))
CASES.add("get_item-slices", lambda x: ops.get_item(x, (slice(None), slice(3, None, -1), slice(1, 4, 2))), X3)
CASES.add("get_item-ellipsis", lambda x: x[..., -1, None, ::2], X3)
CASES.add("get_item-negative", lambda x: x[:, -2:, :-1], I3)
CASES.add("get_item-bool", lambda x: x[:, ::-1], BOOLEANS)
CASES.add("get_item-empty", lambda x: ops.concatenate([x[:, 5:2], x], 1), MODERATE)
CASES.add("slice-fixed", lambda x: ops.slice(x, (0, 1, 2), (3, 2, 3)), X3, fixed=True)
CASES.add("slice_update-fixed", lambda x, u: ops.slice_update(x, (0, 1, 2), u), X3, normal(3, 2, 3, seed=5), fixed=True)
CASES.add(
    "scatter-sums", lambda v: ops.scatter(np.array([[0], [2], [0]], "int32"), v, (4, 5)), normal(3, 5), fixed=True
)
CASES.add(
    "scatter_update-rows",
    lambda x, u: ops.scatter_update(x, [[0, 1], [2, 3]], u),
    normal(3, 5),
    normal(2, seed=1),
    fixed=True,
)
for reduction in ("add", "max", "min"):
    CASES.add(
        f"scatter_update-{reduction}",
        lambda x, u, reduction=reduction: ops.scatter_update(x, [[0, 1], [2, 3], [0, 1]], u, reduction=reduction),
        normal(3, 5),
        normal(3, seed=1),
        fixed=True,
    )
SEGMENTS = np.array([0, 0, 2, 1, -1, 2], "int32")
for name in ["segment_sum", "segment_max", "segment_min", "segment_prod"]:
    function = OPS[name]
    CASES.add(
        f"{name}-float32",
        lambda x, function=function: function(x, SEGMENTS.clip(0), num_segments=4),
        normal(6, 2),
        fixed=True,
    )
    CASES.add(
        f"{name}-int32",
        lambda x, function=function: function(x, SEGMENTS.clip(0), num_segments=4),
        integers(-9, 9, 6, 2),
        fixed=True,
    )
    CASES.add(
        f"{name}-sorted",
        lambda x, function=function: function(x, np.array([0, 0, 1, 1, 2, 2], "int32"), sorted=True),
        normal(6, 2),
        fixed=True,
    )
    CASES.add(
        f"{name}-dropped",
        lambda x, function=function: function(x, SEGMENTS, num_segments=3),
        normal(6, 2),
        fixed=True,
    )
CASES.add("unravel_index-int32", lambda x: ops.unravel_index(x, (3, 4)), array([[0, 5], [11, 7]], "int32"), fixed=True)

# ---- shapes --------------------------------------------------------------------------------------------------------

SHAPES = {
    "append-axis": lambda x: ops.append(x, x * 2, axis=1),
    "array_split-axis": lambda x: ops.array_split(x, 3, axis=1),
    "broadcast_to-rank": lambda x: ops.broadcast_to(x[:, :1], ops.shape(x)),
    "concatenate-axis": lambda x: ops.concatenate([x, x[:, :2]], axis=1),
    "diagonal-offset": lambda x: ops.diagonal(x, offset=1, axis1=1, axis2=2),
    "dstack-two": lambda x: ops.dstack([x, x]),
    "dsplit-indices": lambda x: ops.dsplit(x, [2, 3]),
    "expand_dims-axis": lambda x: ops.expand_dims(x, (1, -1)),
    "flip-axis": lambda x: ops.flip(x, axis=(1, 2)),
    "fliplr-axis": ops.fliplr,
    "hsplit-half": lambda x: ops.hsplit(x, 2),
    "hstack-two": lambda x: ops.hstack([x, x]),
    "moveaxis-axis": lambda x: ops.moveaxis(x, 2, 1),
    "rearrange-merge": lambda x: ops.rearrange(x, "b (h w) c -> b h (w c)", h=2),
    "repeat-axis": lambda x: ops.repeat(x, 2, axis=1),
    "repeat-each": lambda x: ops.repeat(x, np.array([1, 0, 3, 2]), axis=1),
    "reshape-open": lambda x: ops.reshape(x, (-1, 20)),
    "roll-axis": lambda x: ops.roll(x, 2, axis=1),
    "roll-negative": lambda x: ops.roll(x, (-1, 3), axis=(1, 2)),
    "rot90-axes": lambda x: ops.rot90(x, k=1, axes=(1, 2)),
    "split-indices": lambda x: ops.split(x, [1, 3], axis=1),
    "squeeze-axis": lambda x: ops.squeeze(x[:, :1], axis=1),
    "stack-axis": lambda x: ops.stack([x, x], axis=1),
    "swapaxes-axis": lambda x: ops.swapaxes(x, 1, 2),
    "tile-axes": lambda x: ops.tile(x, (1, 2, 3)),
    "trace-offset": lambda x: ops.trace(x, offset=-1, axis1=1, axis2=2),
    "transpose-axes": lambda x: ops.transpose(x, (0, 2, 1)),
    "tril-offset": lambda x: ops.tril(x, k=-1),
    "triu-offset": lambda x: ops.triu(x, k=1),
    "unstack-axis": lambda x: ops.unstack(x, axis=1),
    "meshgrid-two": lambda x: ops.meshgrid(x[0, 0], x[0, :, 0]),
    "pad-constant": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 3))),
    "pad-value": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 3)), constant_values=7),
    "pad-reflect": lambda x: ops.pad(x, ((0, 0), (1, 2), (2, 0)), mode="reflect"),
    "pad-symmetric": lambda x: ops.pad(x, ((0, 0), (2, 1), (0, 3)), mode="symmetric"),
}
for name, function in SHAPES.items():
    for dtype, values in {
        "float32": X3,
        "int32": I3,
        "bool": I3 > 0,
        "int64": I3.astype("int64"),
        "uint8": np.abs(I3).astype("uint8"),
    }.items():
        if not (name in ("trace-offset", "pad-value", "append-axis") and dtype == "bool") and not (
            dtype in ("int64", "uint8") and len(name) % 2
        ):
            CASES.add(f"{name}-{dtype}", function, values)
for name, function in {
    "diag-vector": lambda x: ops.diag(x[0]),
    "diag-matrix": lambda x: ops.diag(x, k=1),
    "diagflat-matrix": lambda x: ops.diagflat(x, k=-1),
    "flipud-batch": ops.flipud,
    "ravel-all": ops.ravel,
    "vsplit-half": lambda x: ops.vsplit(x, 2),
    "vstack-two": lambda x: ops.vstack([x, x]),
    "vander-vector": lambda x: ops.vander(x[0], 3),
    "vander-increasing": lambda x: ops.vander(x[0], 3, increasing=True),
    "copy-all": ops.copy,
    "size-all": lambda x: ops.reshape(ops.convert_to_tensor(ops.size(x)), (1,)) + ops.cast(x[0, :1] * 0, "int32"),
    "ndim-all": lambda x: ops.cast(ops.ndim(x), "float32") * x,
    "dtype-name": lambda x: ops.cast(ops.dtype(x) == "float32", "float32") * x,
    "is_tensor-yes": lambda x: x if ops.is_tensor(x) else x * 0,
}.items():
    CASES.add(name, function, MODERATE, fixed=True)
CASES.add("shape-open", lambda x: x * ops.cast(ops.shape(x)[0], "float32"), MODERATE)
CASES.add("repeat-flat", lambda x: ops.repeat(x, 2), MODERATE, fixed=True)
CASES.add("arange-length", lambda x: x + ops.arange(0, 12, 2, dtype="float32"), MODERATE)
CASES.add("arange-open", lambda x: ops.cast(ops.arange(ops.shape(x)[0]), "float32")[:, None] * x, MODERATE)
for name, made in {
    "eye-offset": lambda: ops.eye(6, k=1),
    "identity-plain": lambda: ops.identity(6),
    "tri-offset": lambda: ops.tri(6, k=-1),
    "ones-plain": lambda: ops.ones((1, 6)),
    "zeros-plain": lambda: ops.zeros((1, 6)),
    "empty-plain": lambda: ops.empty((1, 6)) * 0,
    "full-plain": lambda: ops.full((1, 6), 2.5),
    "linspace-plain": lambda: ops.linspace(-1.0, 2.0, 6),
    "logspace-plain": lambda: ops.logspace(0.0, 2.0, 6),
    "geomspace-plain": lambda: ops.geomspace(1.0, 64.0, 6),
    "blackman-plain": lambda: ops.blackman(6),
    "hamming-plain": lambda: ops.hamming(6),
    "hanning-plain": lambda: ops.hanning(6),
    "kaiser-plain": lambda: ops.kaiser(6, 4.0),
}.items():
    CASES.add(
        name,
        lambda x, made=made: (
            x[:1] + made() if made().shape[0] != 6 or len(made().shape) == 1 else ops.matmul(x, made())
        ),
        MODERATE,
    )
CASES.add("linspace-tensors", lambda x: ops.linspace(x, x + 3, 4, axis=1), MODERATE)
CASES.add("logspace-tensors", lambda x: ops.logspace(x * 0, x * 0 + 2, 3, axis=1), MODERATE)
CASES.add("geomspace-tensors", lambda x: ops.geomspace(x * x + 1, x * x + 9, 3, axis=0), MODERATE)
CASES.add("view-int32", lambda x: ops.view(x, "int32"), MODERATE)
