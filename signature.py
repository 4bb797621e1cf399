"""The inputs and outputs of a model as data: names, dtypes, dimensions and limits. This module needs only NumPy.

The same object checks the inputs of a Keras call, defines the shapes of an export, completes the inputs of an exported
file and determines the test cases that verify the file, so that these cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from .checks import INT32, is_integer, is_number, meant, shown

Dim = int | str  # a fixed size, or the name of a dynamic dimension
DTYPES = {  # names of NumPy's dtypes, and those that only the runtimes have
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128", "string", "str", "object", "int4"),
}
BATCHES = ("batch", "text_batch", "image_batch")  # numbers of rows; the latter two in a model that compares both


@dataclass(frozen=True)
class TensorSpec:
    """The name, dtype and dimensions of one input or output.

    Attributes:
        name: name of the tensor.
        dtype: such as "int32" for ids and masks, "float32" for most others. The checks accept any integer or boolean
            dtype for an integer one, any floating-point dtype for a floating-point one, and integers for ids that are
            floats in the model.
        dims: fixed sizes, or names of dynamic dimensions; dimensions of the same name must have the same size.
        below: values must be in least .. below - 1; None for no limit. The name of a dimension stands for its size.
        optional: whether the input may be omitted.
        fill: value of an omitted input in an exported file, where no input can be missing.
        spread: upper limit of uniform random values from 0, such as pixels, in synthetic inputs; None for normally
            distributed values.
        least: the lowest value where there is a limit `below`. It is negative where the model adds a constant to an
            index, or counts negative indices from the end of a table.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    below: int | str | None = None
    optional: bool = False
    fill: int = 0
    spread: float | None = None
    least: int = 0

    @property
    def open_shape(self) -> tuple[int | None, ...]:
        """The shape as in Keras and TensorFlow, with None for dynamic dimensions."""
        return tuple(dim if isinstance(dim, int) else None for dim in self.dims)

    def check_kind(self, dtype: str, shape: tuple[int | None, ...]) -> None:
        """Check the dtype, the rank and the fixed sizes of a tensor.

        Raises:
            ValueError: one of them does not match.
        """
        integer = self.dtype.startswith(("int", "uint", "bool"))
        if integer and not dtype.startswith(("int", "uint", "bool")):
            raise ValueError(f"{self.name}: got dtype {dtype}; accepted: integers")
        if not integer and "float" not in dtype and (self.below is None or not dtype.startswith(("int", "uint"))):
            raise ValueError(f"{self.name}: got dtype {dtype}; accepted: floating point")
        expected = f"({', '.join(map(str, self.dims))})"
        if len(shape) != len(self.dims):
            raise ValueError(f"{self.name}: got rank {len(shape)}, shape {_show(shape)}; accepted: {expected}")
        for size, dim in zip(shape, self.dims, strict=True):
            if isinstance(dim, int) and size is not None and size != dim:
                raise ValueError(f"{self.name}: got shape {_show(shape)}; accepted: {expected}")

    def end(self, sizes: Mapping[str, int]) -> int | None:
        """Return `below` as a number, given the `sizes` of named dimensions; None for no limit."""
        return sizes.get(self.below) if isinstance(self.below, str) else self.below

    def check_values(self, values: np.ndarray, sizes: Mapping[str, int] | None = None) -> None:
        """Check that all values are in least .. below - 1.

        Args:
            values: the input.
            sizes: sizes of named dimensions, one of which may be the limit.

        Raises:
            ValueError: a value is not.
        """
        end = self.end(sizes or {})
        if end is None or not values.size:
            return
        low, high = int(values.min()), int(values.max())
        if low < self.least or high >= end:
            raise ValueError(
                f"{self.name}: got values from {low} to {high}; accepted: integers from {self.least} to {end - 1}"
            )


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model.

    Attributes:
        inputs: specifications of the inputs.
        outputs: specifications of the outputs.
        limits: maximum size of a named dimension, such as the number of positions for "sequence".
        multiples: divisor of the size of a named dimension, such as the patch size for "height".
        defaults: size of a named dimension for exports that need one and are given none, and for omitted inputs.
        sizes: fixed sizes of named dimensions in an exported file. The runner pads smaller inputs.
        sums: dimensions whose size is the sum of others, such as "total_sequence" of cached and new tokens.
        state: for every input that carries state, such as a cache, the output that replaces it in the next call. These
            inputs may be empty, and are all given or all omitted.
        examples: sizes of named dimensions that are known to work, for synthetic inputs and verification only.
        padded: dimensions that may be padded with zeros at the end without changing the result, as a mask hides them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: Mapping[str, int] = field(default_factory=dict)
    multiples: Mapping[str, int] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    padded: tuple[str, ...] = ("sequence", "source", "target")

    def check_shapes(self, given: Mapping[str, tuple[str, tuple[int | None, ...]]], *, complete: bool = True) -> None:
        """Check the names, dtypes and shapes of inputs before the model runs.

        Args:
            given: (dtype, shape) of every input, by name.
            complete: whether all inputs that are not optional must be given.

        Raises:
            ValueError: an input does not match. The message names the input, its value and what is accepted.
        """
        specs = {spec.name: spec for spec in self.inputs}
        if unknown := sorted(set(given) - set(specs)):
            hint = ", and labels as the second argument of fit, fit(inputs, labels)" if "labels" in unknown else ""
            raise ValueError(f"inputs: got {unknown}; {meant(unknown, specs)}accepted: {list(specs)}{hint}")
        missing = [s.name for s in self.inputs if s.name not in given and not s.optional]
        if missing and complete:
            raise ValueError(f"inputs: got {sorted(given)}, without {missing}; accepted: {list(specs)}")
        absent = [name for name in self.state if name not in given]
        if absent and len(absent) < len(self.state):  # zeros would replace part of a cache
            raise ValueError(
                f"inputs: got {sorted(given)}, without {absent}; accepted: all of {list(self.state)} or none"
            )
        sizes: dict[str, tuple[int, str]] = {}
        for name, (dtype, shape) in given.items():
            spec = specs[name]
            spec.check_kind(dtype, shape)
            for size, dim in zip(shape, spec.dims, strict=True):
                if isinstance(dim, str) and size is not None:
                    self._check_size(name, dim, size, sizes)
        for dim, parts in self.sums.items():
            known = [sizes[part][0] if part in sizes else self.defaults.get(part) for part in parts]
            if dim in sizes and None not in known and sizes[dim][0] != sum(known):  # pyright: ignore
                raise ValueError(
                    f"{sizes[dim][1]}: got {dim} of {sizes[dim][0]}; accepted: {' + '.join(parts)} = "
                    f"{' + '.join(map(str, known))}"
                )

    def _check_size(self, name: str, dim: str, size: int, sizes: dict[str, tuple[int, str]]) -> None:
        if size < self.defaults.get(dim, 1) and size < 1:
            raise ValueError(f"{name}: got {dim} of {size}; accepted: at least 1")
        if size > self.limits.get(dim, size):
            raise ValueError(f"{name}: got {dim} of {size}; accepted: at most {self.limits[dim]}")
        if size % self.multiples.get(dim, 1):
            raise ValueError(f"{name}: got {dim} of {size}; accepted: a multiple of {self.multiples[dim]}")
        known, owner = sizes.setdefault(dim, (size, name))
        # Position ids may have one row for the whole batch.
        shared = any(spec.name in (name, owner) and _is_positions(spec) for spec in self.inputs)
        if known != size and not (dim == "batch" and shared and 1 in (size, known)):
            raise ValueError(f"{name}: got {dim} of {size}; accepted: {known}, as {owner} has")

    def check_arrays(self, arrays: Mapping[str, np.ndarray], *, complete: bool = True) -> None:
        """Check inputs as ``check_shapes`` does, and also that their values are in range."""
        self.check_shapes({name: (str(a.dtype), a.shape) for name, a in arrays.items()}, complete=complete)
        sizes = dict(self.sizes)
        for spec in self.inputs:
            if spec.name in arrays:
                pairs = zip(spec.dims, arrays[spec.name].shape, strict=True)
                sizes |= {dim: size for dim, size in pairs if isinstance(dim, str)}
        for spec in self.inputs:
            if spec.name in arrays:
                spec.check_values(arrays[spec.name], sizes)

    def exported(self, sizes: Mapping[str, int] | None = None) -> Signature:
        """Return the signature of an exported file, without ids of positions and segments, with fixed `sizes` if any.

        Raises:
            ValueError: a size is beyond a limit, or a name is not that of a dimension.
        """
        names = {dim for spec in self.inputs for dim in spec.dims if isinstance(dim, str)}
        for dim, size in (sizes or {}).items():
            if dim not in names:
                raise ValueError(f"{dim}: not a dimension of this model; accepted: {sorted(names)}")
            if not is_integer(size):
                raise ValueError(f"{dim}: got {size!r}; accepted: a positive integer")
            self._check_size(dim, dim, size, {})
        inputs = tuple(spec for spec in self.inputs if not _is_positions(spec) and not _is_segments(spec))
        return replace(self, inputs=inputs, sizes={dim: int(size) for dim, size in (sizes or {}).items()})

    def shape(self, spec: TensorSpec) -> tuple[Dim, ...]:
        """Return the dimensions of a tensor in an exported file, with names replaced by fixed sizes."""
        return tuple(self.sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.dims)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Signature:
        """Return the signature that ``to_dict`` wrote.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: the values are damaged.
        """
        raw = dict(values)
        specs = {
            side: tuple(TensorSpec(**{**spec, "dims": tuple(spec["dims"])}) for spec in raw.pop(side))
            for side in ("inputs", "outputs")
        }
        sums = {dim: tuple(parts) for dim, parts in raw.pop("sums", {}).items()}
        padded = tuple(raw.pop("padded", cls.padded))
        found = cls(**specs, **raw, sums=sums, padded=padded)
        found._check()
        return found

    def _check(self) -> None:
        """Check the types and ranges of all entries.

        Raises:
            ValueError: an entry has another type, or names a tensor that does not exist.
        """
        for spec in (*self.inputs, *self.outputs):
            sizes = all(isinstance(dim, str) or (is_integer(dim) and 0 <= dim < INT32) for dim in spec.dims)
            limit = spec.below is None or isinstance(spec.below, str) or is_integer(spec.below)
            number = (
                is_integer(spec.fill) and is_integer(spec.least) and (spec.spread is None or is_number(spec.spread))
            )
            if not (isinstance(spec.name, str) and spec.dtype in DTYPES and sizes and limit and number):
                raise ValueError(f"got a tensor {shown(spec)}")
        for name in ("limits", "multiples", "defaults", "sizes", "examples"):
            sizes = getattr(self, name)
            least = int(name in ("multiples", "sizes"))
            if not isinstance(sizes, Mapping) or not all(is_integer(n) and least <= n < INT32 for n in sizes.values()):
                raise ValueError(f"got {name} {shown(sizes)}")
        for dim, parts in self.sums.items():
            if not all(isinstance(part, str) for part in (dim, *parts)):
                raise ValueError(f"got sums {shown(self.sums)}")
        names = [{spec.name for spec in side} for side in (self.inputs, self.outputs)]
        if not isinstance(self.state, Mapping) or not (
            self.state.keys() <= names[0] and all(isinstance(v, str) and v in names[1] for v in self.state.values())
        ):
            raise ValueError(f"got a state {shown(self.state)}")


@dataclass(frozen=True)
class Graph:
    """A function to export as one graph. Its inputs and outputs are dicts with the names of `signature`."""

    signature: Signature
    function: Callable[[Mapping[str, Any]], dict[str, Any]]


def _is_positions(spec: TensorSpec) -> bool:
    """Return whether an input holds the position ids of a model of this package, where they are optional."""
    return spec.name == "position_ids" and spec.optional


def _is_segments(spec: TensorSpec) -> bool:
    """Return whether an input has the documents of packed rows, which only training needs."""
    return spec.name == "segment_ids" and spec.optional


def as_array(name: str, values: Any) -> np.ndarray:
    """Convert `values` to a NumPy array.

    Raises:
        ValueError: `values` has rows of unequal lengths; the message begins with `name`.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name}: got rows that make no array ({error}); accepted: rows of one length") from error


def plain_inputs(inputs: Any, first: str) -> Any:
    """Convert nested lists of numbers in `inputs` to arrays, and return everything else unchanged.

    `inputs` is a dict by name, or the value of the input named `first` alone.

    Raises:
        ValueError: an input is a text, or has rows of unequal lengths.
    """
    if isinstance(inputs, Mapping):
        return {name: _plain_input(str(name), value) for name, value in inputs.items()}
    return _plain_input(first, inputs)


def _plain_input(name: str, value: Any) -> Any:
    innermost = value
    while isinstance(innermost, list | tuple) and innermost:
        innermost = innermost[0]
    if isinstance(innermost, str):
        raise ValueError(f"{name}: got a text, {innermost!r:.40}; accepted: numbers, such as a tokenizer makes of it")
    if isinstance(value, list | tuple) and isinstance(innermost, bool | int | float | np.number):
        return as_array(name, value)
    return value


def _show(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"
