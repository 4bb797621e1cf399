"""Complex numbers as pairs of floats, and Fourier transforms as matrix multiplications.

LiteRT has no arithmetic of complex numbers. A complex tensor of a trace is always the output of a Complex operation, on
the real and imaginary parts of the result; whatever reads only these parts leaves the Complex operation unused, and the
converter drops it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ExportError
from ...frontend.diagnostics import place
from .integers import cast as cast_of_others
from .table import RULES, Rule, Tensor, constant, emit, rule, tensors

Parts = tuple[Tensor, Tensor]


def _is_complex(x: Any) -> bool:
    import tensorflow as tf

    return tf.is_tensor(x) and x.dtype == tf.complex64


def _parts(x: Tensor) -> Parts:
    """Return the real and the imaginary part of a tensor, which is complex or not."""
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    if not _is_complex(x):
        return tf.cast(x, tf.float32), tf.zeros_like(x, tf.float32)
    value = constant(x)
    if value is not None:
        return tf.constant(np.real(value)), tf.constant(np.imag(value))
    while x.op.type == "Identity":
        x = x.op.inputs[0]
    if x.op.type != "Complex":
        raise ExportError(f"LiteRT has no complex numbers, which {x.op.type} computes in {place(x.op)}")
    return x.op.inputs[0], x.op.inputs[1]


def _joined(real: Tensor, imaginary: Tensor) -> Tensor:
    import tensorflow as tf

    return tf.complex(real, imaginary)


# ---- arithmetic ------------------------------------------------------------------------------------------------------


@rule("Real")
def _real(input: Tensor, **_: Any) -> Tensor | None:
    return _parts(input)[0] if _is_complex(input) else None


@rule("Imag")
def _imag(input: Tensor, **_: Any) -> Tensor | None:
    return _parts(input)[1] if _is_complex(input) else None


@rule("Cast")
def _cast(x: Tensor, DstT: Any, Truncate: bool = False) -> Tensor | None:  # noqa: N803
    import tensorflow as tf

    if _is_complex(x):
        return _parts(x)[0] if tf.as_dtype(DstT) == tf.float32 else None
    return _joined(*_parts(x)) if tf.as_dtype(DstT) == tf.complex64 else cast_of_others(x=x, DstT=DstT)


@rule("Conj")
def _conj(input: Tensor, **_: Any) -> Tensor | None:
    if not _is_complex(input):
        return None
    real, imaginary = _parts(input)
    return _joined(real, -imaginary)


@rule("ComplexAbs")
def _complex_abs(x: Tensor, **_: Any) -> Tensor:
    import tensorflow as tf

    real, imaginary = _parts(x)
    return tf.sqrt(real * real + imaginary * imaginary)


@rule("Angle")
def _angle(input: Tensor, **_: Any) -> Tensor:
    import tensorflow as tf

    real, imaginary = _parts(input)
    return tf.atan2(imaginary, real)


def _product(x: Parts, y: Parts, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    (a, b), (c, d) = x, y
    return _joined(multiply(a, c) - multiply(b, d), multiply(a, d) + multiply(b, c))


def _mul(x: Tensor, y: Tensor) -> Tensor:
    import tensorflow as tf

    return _product(_parts(x), _parts(y), tf.multiply)


def _div(x: Tensor, y: Tensor) -> Tensor:
    import tensorflow as tf

    c, d = _parts(y)
    size = c * c + d * d
    return _product(_parts(x), (c / size, -d / size), tf.multiply)


def _exp(x: Tensor) -> Tensor:
    import tensorflow as tf

    real, imaginary = _parts(x)
    size = tf.exp(real)
    return _joined(size * tf.cos(imaginary), size * tf.sin(imaginary))


def _matmul(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    import tensorflow as tf

    return _product(_parts(x), _parts(y), lambda a, b: tf.matmul(a, b, **options))


def _batch_matmul(x: Tensor, y: Tensor, adj_x: bool = False, adj_y: bool = False, **_: Any) -> Tensor:
    import tensorflow as tf

    (a, b), (c, d) = _parts(x), _parts(y)
    pairs = (a, -b if adj_x else b), (c, -d if adj_y else d)
    return _product(*pairs, lambda p, q: tf.matmul(p, q, transpose_a=adj_x, transpose_b=adj_y))


def _square(x: Tensor) -> Tensor:
    return _mul(x, x)


# Operations on complex numbers that mean more than the same operation on both parts, by their operands.
COMPLEX: dict[str, Rule] = {"Mul": _mul, "RealDiv": _div, "Exp": _exp, "Square": _square}
COMPLEX |= {"BatchMatMulV2": _batch_matmul, "BatchMatMulV3": _batch_matmul}
# Operations that apply to both parts, with the arguments that are complex.
ON_PARTS = {
    **dict.fromkeys(("AddV2", "Add", "Sub"), ("x", "y")),
    **dict.fromkeys(("Neg", "Transpose"), ("x",)),
    **dict.fromkeys(("Reshape", "GatherV2"), ("tensor", "params")),
    **dict.fromkeys(
        ("StridedSlice", "Slice", "Pad", "PadV2", "Tile", "ExpandDims", "Squeeze", "Sum", "Mean"), ("input",)
    ),
    **dict.fromkeys(("BroadcastTo", "Identity", "Split"), ("input", "value")),
    **dict.fromkeys(("ReverseV2", "Roll"), ("tensor", "input")),
    "SelectV2": ("t", "e"),
    "ConcatV2": ("values",),
    "Pack": ("values",),
    "Unpack": ("value",),
}


def _on_parts(operation: str, operands: tuple[str, ...]) -> Rule:
    others = RULES.get(operation)

    def apply(**arguments: Any) -> Any:
        given = [name for name in operands if name in arguments]
        flat = [x for name in given for x in _listed(arguments[name])]
        if not any(_is_complex(x) for x in flat):
            return None if others is None else others(**arguments)
        found = []
        for part in range(2):
            parts = {}
            for name in given:
                value = arguments[name]
                several = isinstance(value, list | tuple)
                parts[name] = [_parts(x)[part] for x in value] if several else _parts(value)[part]
            more = {"constant_values": 0.0} if operation == "PadV2" else {}
            found.append(emit(operation, **{**arguments, **parts, **more}))
        return [_joined(real, imaginary) for real, imaginary in zip(*found, strict=True)]

    return apply


def _of_complex(operation: str, function: Rule) -> Rule:
    others = RULES.get(operation)

    def apply(**arguments: Any) -> Any:
        if not any(_is_complex(value) for value in arguments.values()):
            return None if others is None else others(**arguments)
        return function(**arguments)

    return apply


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def register() -> None:
    """Let the operations on complex numbers come before the rules for other dtypes, which are registered by then."""
    for operation, operands in ON_PARTS.items():
        RULES[operation] = _on_parts(operation, operands)
    for operation, function in COMPLEX.items():
        RULES[operation] = _of_complex(operation, function)


# ---- Fourier transforms ----------------------------------------------------------------------------------------------


def _waves(size: int, kept: int, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine of 2 pi j k / size, (size, kept), with the signs of the transform."""
    import tensorflow as tf

    whole = np.outer(np.arange(size), np.arange(kept)) % size
    angle = 2 * np.pi * whole / size
    scale, sign = (1 / size, 1) if inverse else (1, -1)
    sin = np.where(2 * whole % size == 0, 0.0, sign * np.sin(angle))  # exactly, which the angle of a real number needs
    return tf.constant(scale * np.cos(angle), tf.float32), tf.constant(scale * sin, tf.float32)


def _along_last(x: Parts, *, inverse: bool) -> Parts:
    import tensorflow as tf

    size = x[0].shape[-1]
    cos, sin = _waves(size, size, inverse=inverse)
    real, imaginary = x
    a = tf.matmul(real, cos) - tf.matmul(imaginary, sin)
    return a, tf.matmul(real, sin) + tf.matmul(imaginary, cos)


def _along(x: Parts, axis: int, *, inverse: bool) -> Parts:
    """Transform along one axis, counted from the end."""
    import tensorflow as tf

    rank = x[0].shape.rank
    if axis == -1:
        return _along_last(x, inverse=inverse)
    order = [*range(rank)]
    order[axis], order[-1] = order[-1], order[axis]
    turned = tuple(tf.transpose(part, order) for part in x)
    found = _along_last((turned[0], turned[1]), inverse=inverse)
    return tf.transpose(found[0], order), tf.transpose(found[1], order)


def _fft(axes: int, inverse: bool) -> Rule:
    def transform(input: Tensor, **_: Any) -> Tensor | None:
        x = _parts(input)
        if None in x[0].shape[-axes:]:
            return None
        for axis in range(-1, -axes - 1, -1):
            x = _along(x, axis, inverse=inverse)
        return _joined(*x)

    return transform


for _axes, _name in enumerate(("FFT", "FFT2D", "FFT3D"), 1):
    RULES[_name], RULES[f"I{_name}"] = _fft(_axes, False), _fft(_axes, True)


def _fitted(x: Tensor, sizes: list[int]) -> Tensor:
    """Crop the last axes to `sizes`, or fill them with zeros."""
    import tensorflow as tf

    for offset, size in enumerate(reversed(sizes), 1):
        known = x.shape[-offset]
        if known > size:
            x = tf.slice(x, [0] * x.shape.rank, [-1] * (x.shape.rank - offset) + [size] + [-1] * (offset - 1))
        elif known < size:
            widths = [[0, 0]] * (x.shape.rank - offset) + [[0, size - known]] + [[0, 0]] * (offset - 1)
            x = tf.pad(x, widths)
    return x


def _rfft(axes: int) -> Rule:
    def transform(input: Tensor, fft_length: Tensor, **_: Any) -> Tensor | None:
        import tensorflow as tf

        (x,), sizes = tensors(input), constant(fft_length)
        if sizes is None or None in x.shape[-axes:]:
            return None
        x = _fitted(x, [int(n) for n in sizes])
        cos, sin = _waves(int(sizes[-1]), int(sizes[-1]) // 2 + 1)
        found = tf.matmul(x, cos), tf.matmul(x, sin)
        for axis in range(-2, -axes - 1, -1):
            found = _along(found, axis, inverse=False)
        return _joined(*found)

    return transform


def _irfft(axes: int) -> Rule:
    def transform(input: Tensor, fft_length: Tensor, **_: Any) -> Tensor | None:
        import tensorflow as tf

        sizes = constant(fft_length)
        x = _parts(input)
        if sizes is None or None in x[0].shape[-axes:]:
            return None
        last = int(sizes[-1])
        kept = last // 2 + 1
        real, imaginary = (_fitted(part, [*(int(n) for n in sizes[:-1]), kept]) for part in x)
        for axis in range(-2, -axes - 1, -1):
            real, imaginary = _along((real, imaginary), axis, inverse=True)
        cos, sin = _waves(last, kept, inverse=True)  # (last, kept)
        weight = np.full(kept, 2.0, "float32")  # a frequency stands for its conjugate, too, except for these
        weight[0] = 1
        weight[-1] = 1 if last % 2 == 0 else weight[-1]
        cos, sin = tf.transpose(cos * weight), tf.transpose(sin * weight)
        return tf.matmul(real, cos) - tf.matmul(imaginary, sin)

    return transform


for _axes, _name in enumerate(("RFFT", "RFFT2D", "RFFT3D"), 1):
    RULES[_name], RULES[f"I{_name}"] = _rfft(_axes), _irfft(_axes)
