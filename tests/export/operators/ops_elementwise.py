"""Cases of the functions of ``keras.ops`` that work element by element."""

from __future__ import annotations

import numpy as np
from keras import ops
from ops_values import BOOLEANS, EDGES, INF, INTS, MODERATE, NAN, POSITIVE, UNIT, Cases, array, integers, pairs

CASES, OPS = Cases(), vars(ops)

# Functions of all floats. Sines and cosines of huge angles differ between libraries, so those get moderate ones.
ALL = [
    "abs",
    "absolute",
    "angle",
    "arcsinh",
    "arctan",
    "cbrt",
    "ceil",
    "celu",
    "conj",
    "conjugate",
    "copy",
    "deg2rad",
    "elu",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "floor",
    "gelu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "isreal",
    "leaky_relu",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_sigmoid",
    "logical_not",
    "nan_to_num",
    "negative",
    "rad2deg",
    "real",
    "reciprocal",
    "relu",
    "relu6",
    "round",
    "rsqrt",
    "selu",
    "sigmoid",
    "sign",
    "signbit",
    "silu",
    "soft_shrink",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sqrt",
    "square",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
    "trunc",
    "ones_like",
    "zeros_like",
    "stop_gradient",
]
SMALL = ["sinc", "cos", "cosh", "sin", "sinh", "tan", "i0", "arccosh"]
INSIDE = ["arccos", "arcsin", "arctanh", "erfinv"]
for name in ALL:
    CASES.add(f"{name}-float32", OPS[name], EDGES)
for name in SMALL:
    CASES.add(f"{name}-float32", OPS[name], MODERATE)
for name in INSIDE:
    CASES.add(f"{name}-float32", OPS[name], UNIT)
for name in ("exp", "log", "sqrt", "sin", "tanh", "expm1", "log1p"):
    CASES.add(f"{name}-int32", OPS[name], array([[0, 1, 2], [3, 10, 50]], "int32"))
CASES.add("gelu-exact", lambda x: ops.gelu(x, approximate=False), EDGES)
CASES.add("celu-alpha", lambda x: ops.celu(x, 0.3), EDGES)
CASES.add("elu-alpha", lambda x: ops.elu(x, 0.3), EDGES)
CASES.add("leaky_relu-slope", lambda x: ops.leaky_relu(x, 0.01), EDGES)
CASES.add("hard_shrink-threshold", lambda x: ops.hard_shrink(x, 1.5), EDGES)
CASES.add("soft_shrink-threshold", lambda x: ops.soft_shrink(x, 1.5), EDGES)
CASES.add("threshold-float32", lambda x: ops.threshold(x, 0.5, -7.0), EDGES)
CASES.add("squareplus-b", lambda x: ops.squareplus(x, 0.1), EDGES, atol=1e-4)
CASES.add("round-decimals", lambda x: ops.round(x, 1), MODERATE)
CASES.add("nan_to_num-given", lambda x: ops.nan_to_num(x, nan=1.0, posinf=2.0, neginf=-3.0), EDGES)
CASES.add("expm1-tiny", ops.expm1, array([[1e-7, -1e-7, 1e-4, -1e-4, 1e-20, 0.1]]), atol=1e-12)
CASES.add("log1p-tiny", ops.log1p, array([[1e-7, -1e-7, 1e-4, -1e-4, 1e-20, -0.99]]), atol=1e-12)
CASES.add(
    "softplus-tails", ops.softplus, array([[-104, -90, -30, -16, 16, 30], [88, 89, 104, 1e4, -1e4, 0]]), atol=1e-30
)
CASES.add(
    "log_sigmoid-tails", ops.log_sigmoid, array([[-104, -90, -30, -16, 16, 30], [88, 89, 1e4, -1e4, 0, 1]]), atol=1e-30
)
CASES.add("erfc-tail", ops.erfc, array([[0.5, 1, 2, 4, 6, 8, -1, -4]]), rtol=1e-4, atol=1e-37)
CASES.add("sinc-near-zero", ops.sinc, array([[0, -0.0, 1e-8, -1e-8, 1e-4, 0.5]]))
CASES.add("clip-float32", lambda x: ops.clip(x, -1.5, 2), EDGES)
CASES.add("clip-int32", lambda x: ops.clip(x, -3, 100), INTS["int32"])
CASES.add("clip-int64", lambda x: ops.clip(x, -3, 2**40), INTS["int64"])
CASES.add("clip-uint8", lambda x: ops.clip(x, 3, 200), INTS["uint8"])
CASES.add("clip-tensors", lambda x, low: ops.clip(x, low, 3.0), EDGES, EDGES[:, :1] * 0 + 1)
CASES.add("clip-inverted", lambda x: ops.clip(x, 2.0, -1.0), MODERATE)

for dtype, values in INTS.items():
    for name in [
        "abs",
        "negative",
        "sign",
        "square",
        "floor",
        "ceil",
        "round",
        "trunc",
        "copy",
        "logical_not",
        "ones_like",
    ]:
        if not (name == "negative" and dtype.startswith("u")):
            CASES.add(f"{name}-{dtype}", OPS[name], values)
    for name in ["bitwise_not", "bitwise_invert"]:
        CASES.add(f"{name}-{dtype}", OPS[name], values)
CASES.add("relu-int32", ops.relu, INTS["int32"])
CASES.add("leaky_relu-int32", ops.leaky_relu, INTS["int8"].astype("int32"))
CASES.add("logical_not-bool", ops.logical_not, BOOLEANS)
CASES.add("abs-bool", ops.abs, BOOLEANS)
CASES.add("empty_like-shape", lambda x: ops.zeros_like(ops.empty_like(x)), EDGES)
CASES.add("full_like-float32", lambda x: ops.full_like(x, 3.5), EDGES)
CASES.add("full_like-int32", lambda x: ops.full_like(x, -7), INTS["int32"])

# ---- two operands --------------------------------------------------------------------------------------------------

FEW = array([0, -0.0, 0.5, -0.5, 1, -1, 2, -2, 3.7, -3.7, 1e30, -1e30, INF, -INF, NAN])
TAME = array([0, -0.0, 0.5, -0.5, 1, -1, 2, -2, 3.7, -3.7, 7, 1e-3])
BINARY = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "true_divide",
    "divide_no_nan",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "arctan2",
    "hypot",
    "logaddexp",
    "logaddexp2",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "heaviside",
    "power",
    "isclose",
    "logical_and",
    "logical_or",
    "logical_xor",
]
for name in BINARY:
    function = OPS[name]
    CASES.add(f"{name}-float32", function, *pairs(FEW))
    CASES.add(f"{name}-column", function, FEW[:, None], pairs(FEW)[1])
    CASES.add(f"{name}-constant", lambda x, function=function: function(x, 2.0), EDGES)
    CASES.add(f"{name}-constant-first", lambda x, function=function: function(-1.5, x), EDGES)
for name in ["floor_divide", "mod", "fmod"]:
    function = OPS[name]
    finite = TAME[2:]
    CASES.add(f"{name}-float32", function, *pairs(TAME, finite), atol=1e-5)
    CASES.add(f"{name}-edges", function, *pairs(FEW[[0, 4, 5, 6, 7, 12, 13, 14]]), atol=1e-5)
    CASES.add(f"{name}-column", function, TAME[:, None], pairs(TAME, finite)[1], atol=1e-5)
    CASES.add(f"{name}-constant", lambda x, function=function: function(x, 3.0), MODERATE, atol=1e-5)
    CASES.add(f"{name}-constant-negative", lambda x, function=function: function(x, -2.0), MODERATE, atol=1e-5)
for name in [
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "maximum",
    "minimum",
    "add",
    "subtract",
    "multiply",
]:
    for dtype, values in INTS.items():
        CASES.add(f"{name}-{dtype}", OPS[name], *pairs(values))
for name in ["floor_divide", "mod", "fmod"]:
    for dtype, values in INTS.items():
        nonzero = values[(values != 0) & (values != -1)]  # -1 overflows for the lowest number, which TensorFlow rejects
        CASES.add(f"{name}-{dtype}", OPS[name], *pairs(values, nonzero))
    function = OPS[name]
    CASES.add(f"{name}-int32-constant", lambda x, function=function: function(x, 3), INTS["int32"])
    CASES.add(f"{name}-int32-negative", lambda x, function=function: function(x, -3), INTS["int32"])
    CASES.add(
        f"{name}-int64-column",
        function,
        INTS["int64"].reshape(-1, 1),
        INTS["int64"].reshape(1, -1)[:, 3:8].repeat(24, 0),
    )
    CASES.add(
        f"{name}-mixed",
        lambda x, y, function=function: function(x, y),
        pairs(INTS["int8"].astype("int32"), TAME[2:])[0],
        pairs(INTS["int8"], TAME[2:])[1],
        atol=1e-4,
    )
CASES.add("divide-int32", ops.divide, *pairs(INTS["int32"], INTS["int32"][INTS["int32"] != 0]))
CASES.add("true_divide-int32", ops.true_divide, *pairs(INTS["int32"], INTS["int32"][INTS["int32"] != 0]))
CASES.add("divide_no_nan-int32", ops.divide_no_nan, *pairs(INTS["int8"].astype("int32")))
CASES.add(
    "power-int32", ops.power, *pairs(array([0, 1, -1, 2, -2, 3, -7, 10], "int32"), array([0, 1, 2, 3, 5, 9], "int32"))
)
CASES.add(
    "power-int64", ops.power, *pairs(array([0, 1, -1, 2, -2, 3, -7, 10], "int64"), array([0, 1, 2, 3, 5, 15], "int64"))
)
CASES.add("power-half", lambda x: ops.power(x, 0.5), EDGES)
CASES.add("power-third", lambda x: ops.power(x, 3), EDGES)
CASES.add("power-base", lambda x: ops.power(2.0, x), EDGES)
CASES.add("ldexp-float32", ops.ldexp, *pairs(TAME, array([0, 1, -1, 5, -7, 20], "int32")))
CASES.add("nextafter-float32", ops.nextafter, *pairs(TAME[[2, 3, 4, 5, 6]]))
for name in ("gcd", "lcm"):
    CASES.add(f"{name}-int32", OPS[name], *pairs(array([0, 1, -1, 2, -6, 12, 35, 100], "int32")), fixed=True)
for name in ["bitwise_and", "bitwise_or", "bitwise_xor"]:
    for dtype, values in INTS.items():
        CASES.add(f"{name}-{dtype}", OPS[name], *pairs(values))
    CASES.add(f"{name}-constant", lambda x, function=OPS[name]: function(x, 12), INTS["int32"])
for name in ["left_shift", "right_shift", "bitwise_left_shift", "bitwise_right_shift"]:
    for dtype in ("int32", "int64", "uint8", "int8"):
        CASES.add(f"{name}-{dtype}", OPS[name], *pairs(INTS[dtype], array([0, 1, 3, 7], dtype)))
    CASES.add(f"{name}-constant", lambda x, function=OPS[name]: function(x, 4), INTS["int32"])
for name in ["logical_and", "logical_or", "logical_xor", "equal", "not_equal"]:
    CASES.add(f"{name}-bool", OPS[name], *pairs(array([True, False], "bool")))
    CASES.add(
        f"{name}-bool-column",
        OPS[name],
        array([[True], [False]], "bool"),
        pairs(array([True, False], "bool"))[0],
    )
CASES.add("logical_and-int32", ops.logical_and, *pairs(INTS["int32"][:1]))
CASES.add("isclose-given", lambda x, y: ops.isclose(x, y, rtol=0.3, atol=0.2, equal_nan=True), *pairs(FEW))
CASES.add("allclose-float32", lambda x, y: ops.reshape(ops.allclose(x, y), (1,)), *pairs(FEW), fixed=True)
CASES.add("allclose-true", lambda x, y: ops.reshape(ops.allclose(x, y + 1e-7), (1,)), *[pairs(TAME)[0]] * 2, fixed=True)
CASES.add("add-mixed", ops.add, *pairs(INTS["int8"].astype("int32"), TAME)[:1], pairs(INTS["int8"], TAME)[1])
CASES.add("multiply-bool", ops.multiply, *pairs(array([True, False], "bool"), FEW[:6])[:1], pairs(FEW[:2], FEW[:6])[1])
CASES.add("add-uint8-int8", ops.add, INTS["uint8"], integers(-128, 127, 2, 6, dtype="int8"))
CASES.add(
    "in_top_k-ties",
    lambda t, p: ops.in_top_k(t[:, 0], p, 2),
    array([[0], [1], [2], [3]], "int32"),
    array([[1, 1, 1, 0], [0, 3, 2, 1], [1, 2, 1, 0], [1, 0, 0, 0]]),
)

# ---- selection -----------------------------------------------------------------------------------------------------

CONDITION = np.isfinite(EDGES) & (EDGES > 0)
CASES.add("where-float32", ops.where, CONDITION, EDGES, EDGES[::-1].copy())
CASES.add("where-column", ops.where, CONDITION[:, :1], EDGES, EDGES[::-1].copy())
CASES.add("where-division", lambda x, n: ops.where(n > 0, x / n, 0.0), array([[2, 4, 6], [1, 2, 3]]), array([[2], [0]]))
CASES.add("where-scalars", lambda c: ops.where(c, 1.0, -INF), CONDITION)
CASES.add("where-nan", lambda x: ops.where(ops.isnan(x), 0.0, x), EDGES)
CASES.add("where-int32", ops.where, np.resize(CONDITION, (4, 6)), INTS["int32"], INTS["int32"][::-1].copy())
CASES.add("where-int64-column", ops.where, CONDITION[:4, :1], INTS["int64"], INTS["int64"][::-1].copy())
CASES.add("where-bool", ops.where, np.resize(CONDITION, (3, 3)), BOOLEANS, ~BOOLEANS)
CASES.add("where-uint8", ops.where, CONDITION[:2], INTS["uint8"], INTS["uint8"][::-1].copy())
CASES.add("where-row", lambda c, x: ops.where(c[:1, :], x, -x), CONDITION, EDGES)
CASES.add("where-rank", lambda c, x: ops.where(c[:, None, :1], x[:, :, None], INF), CONDITION, EDGES)
CASES.add("select-float32", lambda x: ops.select([x < -1, x > 1], [x * 10, x / 10], default=NAN), EDGES)

# ---- conversions ---------------------------------------------------------------------------------------------------

WHOLE = array([[0, -0.0, 0.5, -0.5, 1.5, -1.5], [2.7, -2.7, 100.9, -100.9, 127, -128]])
KINDS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
for dtype in KINDS:
    CASES.add(
        f"cast-float32-{dtype}", lambda x, dtype=dtype: ops.cast(x, dtype), np.abs(WHOLE) if dtype == "uint8" else WHOLE
    )
    CASES.add(f"cast-bool-{dtype}", lambda x, dtype=dtype: ops.cast(x, dtype), BOOLEANS)
    for source in ("int32", "int64", "uint8", "int8"):
        CASES.add(f"cast-{source}-{dtype}", lambda x, dtype=dtype: ops.cast(x, dtype), INTS[source])
CASES.add("cast-float32-bool-edges", lambda x: ops.cast(x, "bool"), EDGES)
CASES.add("cast-bfloat16", lambda x: ops.cast(ops.cast(x, "bfloat16"), "float32"), MODERATE)
CASES.add(
    "saturate_cast-uint8", lambda x: ops.saturate_cast(x, "uint8"), array([[-5, 0, 0.5, 254.9, 255, 300, 1e30, -1e30]])
)
CASES.add("saturate_cast-int8", lambda x: ops.saturate_cast(x, "int8"), INTS["int32"])
CASES.add("convert_to_tensor-float32", ops.convert_to_tensor, EDGES)
CASES.add("array-int32", lambda x: ops.array(x, dtype="int32"), WHOLE)
CASES.add("divide-positive", ops.divide, POSITIVE, POSITIVE[::-1].copy())
