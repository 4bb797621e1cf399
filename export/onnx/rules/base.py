"""What a rule takes and returns, and the tables of the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Tensor = Any


class Functions(Protocol):
    """Copies functions of the traced graph; see ``rewriting.Copier``.

    Attributes:
        tables: keys and values of lookup tables, by the name of their placeholder.
    """

    tables: Mapping[str, Any]

    def function(self, name: str) -> Any:
        """Return the graph of a function."""
        ...

    def copy(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], arguments: list[Any] | None) -> list[Any]:
        """Copy what computes `outputs` into the current graph, and return them."""
        ...


class UnsupportedError(Exception):
    """An operation without an equivalent in ONNX: `kind`, and the `name` of the operation in the traced graph."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} ({name})")
        self.kind, self.name = kind, name


class Pair(NamedTuple):
    """A complex tensor as two float tensors."""

    real: Tensor
    imaginary: Tensor


class Items(NamedTuple):
    """A list of tensors of equal shape as one tensor (size, ·), which is None as long as the shape is unknown."""

    tensor: Any
    size: Tensor


@dataclass(frozen=True)
class Call:
    """An operation of the traced graph.

    Attributes:
        op: the operation; the shapes and dtypes of its outputs are those of the result.
        inputs: its inputs in the new graph: a ``Pair`` for a complex one, ``Items`` for a list.
        copier: copies functions that the operation calls: see ``inlined``.
    """

    op: Any
    inputs: list[Any]
    copier: Functions

    @property
    def dtype(self) -> Any:
        """The dtype of the first output."""
        return self.op.outputs[0].dtype

    @property
    def shape(self) -> list[int | None] | None:
        """The shape of the first output, or None if its rank is unknown."""
        shape = self.op.outputs[0].shape
        return None if shape.rank is None else shape.as_list()

    def attr(self, name: str) -> Any:
        value = self.op.get_attr(name)
        return value.decode() if isinstance(value, bytes) else value

    def inlined(self, function: str, arguments: Sequence[Any]) -> list[Any]:
        """Return the outputs of a function that the operation calls, as operations of the current graph."""
        graph = self.copier.function(function)
        return self.copier.copy(graph.inputs, graph.outputs, list(arguments))


# A rule returns the outputs, or None to keep the operation.
Rule = Callable[[Call], Any]
RULES: dict[str, Rule] = {}
LISTS: dict[str, Rule] = {}  # rules for graphs whose lists of tensors become tensors


def rule(*kinds: str, table: dict[str, Rule] = RULES) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these kinds of operations."""

    def register(function: Rule) -> Rule:
        table.update(dict.fromkeys(kinds, function))
        return function

    return register


FINAL = "_final"  # attribute of operations that no rule replaces


def final(tensor: Tensor) -> Tensor:
    """Return `tensor`, whose operation no rule replaces any more; for a rule that uses an operation of its own kind."""
    from tensorflow.core.framework import attr_value_pb2

    tensor.op._set_attr(FINAL, attr_value_pb2.AttrValue(b=True))
    return tensor
