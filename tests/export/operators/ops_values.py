"""Input arrays with edge values for the operator cases, and the form of a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Case:
    """A function of tensors with its inputs.

    Attributes:
        name: the public function of ``keras.ops``, then what differs between its cases, separated by "-".
        function: called with one tensor for each input; returns a tensor or a nested structure of tensors.
        inputs: the arrays. Their first axis is the batch, which is open in the ONNX file unless `fixed`.
        fixed: whether the function needs to know the size of the batch.
        rtol: tolerance of floats relative to each value; rounding errors of the operations of the function.
        atol: absolute tolerance of floats, for results that are differences of larger numbers.
        reference: computes the same in another way, where Keras itself may lack an operation. Default: `function`.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    fixed: bool = False
    rtol: float = 2e-5
    atol: float = 2e-6
    reference: Callable[..., Any] | None = None

    @property
    def op(self) -> str:
        return self.name.partition("-")[0]


class Cases(list[Case]):
    """A list of cases; ``add`` appends one."""

    def add(self, name: str, function: Callable[..., Any], *inputs: np.ndarray, **options: Any) -> None:
        self.append(Case(name, function, inputs, **options))


def array(values: Any, dtype: str = "float32") -> np.ndarray:
    return np.array(values, dtype)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, size=shape).astype("float32")


def integers(low: int, high: int, *shape: int, dtype: str = "int32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


# Both signs of zero, halves, whole numbers, tiny, large, and infinite numbers, and NaN.
MODERATE = array(
    [
        [0, -0.0, 0.5, -0.5, 1, -1],
        [1.5, -1.5, 2.5, -2.5, 3.7, -3.7],
        [1e-6, -1e-6, 0.25, -0.75, 6.5, -8],
        [4, 3, 2, 9, 0.1, -0.3],
    ]
)
EDGES = np.concatenate([MODERATE, array([[88, -87, 120, -120, 1e30, -1e30], [1e-30, -1e-30, INF, -INF, NAN, 7]])])
POSITIVE = np.abs(np.where(EDGES == 0, 0.7, EDGES))
UNIT = array([[0, -0.0, 0.5, -0.5, 1, -1], [0.1, -0.9, 0.999, -0.999, 1e-6, NAN], [2, -2, INF, -INF, 0.25, -0.75]])
BOOLEANS = array([[True, False, True], [False, False, False], [True, True, True]], "bool")

_SMALL = [0, 1, -1, 2, -2, 3, -3, 7, -7, 8, -8, 100, -100, 127, -128, 5, -5, 64]
INTS: dict[str, np.ndarray] = {
    "int8": array(_SMALL, "int8").reshape(3, 6),
    "int16": array([*_SMALL, 32767, -32768, 12345, -12345, 256, -256], "int16").reshape(4, 6),
    "int32": array([*_SMALL, 2**31 - 1, -(2**31), 65536, -65536, 46341, 1], "int32").reshape(4, 6),
    "int64": array([*_SMALL, 2**62, -(2**62), 2**40, -(2**33), 2**31, 1], "int64").reshape(4, 6),
    "uint8": array([0, 1, 2, 3, 7, 8, 100, 127, 128, 200, 254, 255], "uint8").reshape(2, 6),
    "uint16": array([0, 1, 2, 3, 7, 8, 100, 127, 128, 40000, 65534, 65535], "uint16").reshape(2, 6),
    "uint32": array([0, 1, 2, 3, 7, 8, 100, 127, 128, 2**31, 2**32 - 2, 2**32 - 1], "uint32").reshape(2, 6),
}
INTS = {dtype: values for dtype, values in INTS.items() if dtype not in ("uint16", "uint32")}  # no file takes these


def pairs(left: np.ndarray, right: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return two matrices whose elements are all pairs of the two arrays' elements."""
    left, right = left.ravel(), (left if right is None else right).ravel()
    shape = (left.size, right.size)
    return np.broadcast_to(left[:, None], shape).copy(), np.broadcast_to(right, shape).copy()
