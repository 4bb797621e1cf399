"""What a model takes and gives, as data: names, dtypes, dimensions, limits. NumPy only.

The same object checks the inputs of a Keras call, shapes an export, feeds an exported file and lays out the grid
that verifies it, so that none of them can disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from .checks import is_integer, meant

Dim = int | str  # a size, or the name of one that may vary


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor.

    Attributes:
        dtype: "int32" for ids and masks (any integer dtype is taken), "float32" for the rest.
        dims: a size, or a name shared by every dimension that must agree.
        below: values must lie in 0 .. below - 1; None for no such rule.
        spread: in a check floats are drawn from 0 to this, as of an image; None for numbers around 0.
        optional: may be left out of a call.
        fill: what an exported file, which cannot leave anything out, is fed in its place.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    below: int | None = None
    optional: bool = False
    fill: int = 0
    spread: float | None = None

    @property
    def open_shape(self) -> tuple[int | None, ...]:
        """The dimensions as Keras and TensorFlow have them: None for a named one."""
        return tuple(dim if isinstance(dim, int) else None for dim in self.dims)

    def check_kind(self, dtype: str, shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless dtype and rank, and the sizes that are fixed, fit."""
        integer = self.dtype.startswith(("int", "uint", "bool"))
        if integer and not dtype.startswith(("int", "uint", "bool")):
            raise ValueError(f"{self.name}: got dtype {dtype}; accepted: integers")
        if not integer and "float" not in dtype:
            raise ValueError(f"{self.name}: got dtype {dtype}; accepted: floating point")
        expected = f"({', '.join(map(str, self.dims))})"
        if len(shape) != len(self.dims):
            raise ValueError(f"{self.name}: got rank {len(shape)}, shape {_show(shape)}; accepted: {expected}")
        for size, dim in zip(shape, self.dims, strict=True):
            if isinstance(dim, int) and size is not None and size != dim:
                raise ValueError(f"{self.name}: got shape {_show(shape)}; accepted: {expected}")

    def check_values(self, values: np.ndarray) -> None:
        """Raise ValueError when a value lies outside 0 .. below - 1."""
        if self.below is None or not values.size:
            return
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.below:
            raise ValueError(
                f"{self.name}: got values from {low} to {high}; accepted: integers from 0 to {self.below - 1}"
            )


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs.

    Attributes:
        limits: greatest size of a named dimension, such as the number of positions of "sequence".
        multiples: a named dimension must be a multiple, such as "height" of the patch size.
        defaults: the size of a named dimension where an export needs one and is given none.
        sizes: named dimensions that a file has for good. Smaller inputs are padded by whoever runs it.
        sums: a named dimension is the sum of others, such as "total_sequence" of what is cached and what is new.
        state: input to the output that takes its place in the next call, such as a cache. Its inputs may be empty.
        examples: sizes of named dimensions that are known to work, for checks; unlike `defaults` nobody's choice.
        padded: dimensions where zeros at the end, under a mask, change nothing.
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
        """Check names, dtypes and shapes, ``{name: (dtype, shape)}``, before anything runs. Not `complete`: inputs
        that are not optional may be missing all the same.

        Raises:
            ValueError: naming the input, what was got and what is accepted.
        """
        specs = {spec.name: spec for spec in self.inputs}
        if unknown := sorted(set(given) - set(specs)):
            raise ValueError(f"inputs: got {unknown}; {meant(unknown, specs)}accepted: {list(specs)}")
        missing = [s.name for s in self.inputs if s.name not in given and not s.optional]
        if missing and complete:
            raise ValueError(f"inputs: got {sorted(given)}, without {missing}; accepted: {list(specs)}")
        absent = [name for name in self.state if name not in given]
        if absent and len(absent) < len(self.state):  # zeros in their place would be memories of nothing
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
        # Position ids may be one row for the whole batch.
        if known != size and not (dim == "batch" and "position_ids" in (name, owner) and 1 in (size, known)):
            raise ValueError(f"{name}: got {dim} of {size}; accepted: {known}, as {owner} has")

    def check_arrays(self, arrays: Mapping[str, np.ndarray], *, complete: bool = True) -> None:
        """As `check_shapes`, and every value within its range."""
        self.check_shapes({name: (str(a.dtype), a.shape) for name, a in arrays.items()}, complete=complete)
        for spec in self.inputs:
            if spec.name in arrays:
                spec.check_values(arrays[spec.name])

    def exported(self, sizes: Mapping[str, int] | None = None) -> Signature:
        """The signature of a file: it counts positions itself, and may have some dimensions for good.

        Raises:
            ValueError: a size that breaks a limit, or a name this signature does not have.
        """
        names = {dim for spec in self.inputs for dim in spec.dims if isinstance(dim, str)}
        for dim, size in (sizes or {}).items():
            if dim not in names:
                raise ValueError(f"{dim}: not a dimension of this model; accepted: {sorted(names)}")
            if not is_integer(size):
                raise ValueError(f"{dim}: got {size!r}; accepted: a positive integer")
            self._check_size(dim, dim, size, {})
        inputs = tuple(spec for spec in self.inputs if spec.name != "position_ids")
        return replace(self, inputs=inputs, sizes={dim: int(size) for dim, size in (sizes or {}).items()})

    def shape(self, spec: TensorSpec) -> tuple[Dim, ...]:
        """A tensor's dimensions in a file: sizes where it has them for good, names elsewhere."""
        return tuple(self.sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.dims)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Signature:
        raw = dict(values)
        specs = {
            side: tuple(TensorSpec(**{**spec, "dims": tuple(spec["dims"])}) for spec in raw.pop(side))
            for side in ("inputs", "outputs")
        }
        sums = {dim: tuple(parts) for dim, parts in raw.pop("sums", {}).items()}
        padded = tuple(raw.pop("padded", cls.padded))
        return cls(**specs, **raw, sums=sums, padded=padded)


@dataclass(frozen=True)
class Graph:
    """A function that becomes one graph of a file: tensors by the names of `signature`, in and out."""

    signature: Signature
    function: Callable[[Mapping[str, Any]], dict[str, Any]]


def as_array(name: str, values: Any) -> np.ndarray:
    """`values` as NumPy has them.

    Raises:
        ValueError: naming the input, where lists of unequal lengths make no array.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name}: got rows that make no array ({error}); accepted: rows of one length") from error


def plain_inputs(inputs: Any, first: str) -> Any:
    """Inputs by name, or the `first` of them bare, with nested lists of numbers as arrays; all else as it is.

    Raises:
        ValueError: a text, or lists of unequal lengths.
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
