"""Functions of tensors, such as tf.functions, and the variables that they read. Each function becomes one graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import keras

from ....signature import Graph, Signature
from . import lookups, probing
from .call_signature import called_with, flat_specs, result_names, unique
from .model import Foreign, ForeignConfig

Tensor = Any


class AnyFunctions(Foreign):
    """One or several functions, which may share variables.

    Args:
        functions: the functions, by the names of their graphs in the file.
        input_signature: for one function, as in ``AnyModel``; for several, a mapping by name. Default: the signature
            that ``tf.function(input_signature=…)`` declared for each.

    Raises:
        ValueError: `input_signature` is not a mapping by the names of several functions.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], input_signature: Any = None) -> None:
        self.name = next(iter(functions))
        self.config = ForeignConfig("function", ", ".join(functions))
        alone = len(functions) == 1 or input_signature is None
        signatures = dict.fromkeys(functions, input_signature) if alone else input_signature
        if not isinstance(signatures, Mapping) or not {*signatures} <= {*functions}:
            raise ValueError(f"input_signature: got {signatures!r}; accepted: one for each of {[*functions]}")
        self.parts = {name: _Part(function, signatures.get(name)) for name, function in functions.items()}
        self.variables = _named([variable for part in self.parts.values() for variable in part.variables])
        self.weights = list(self.variables.values())
        self.signature = self.parts[self.name].signature

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        graphs = {name: Graph(part.signature, part.by_name) for name, part in self.parts.items()}
        return graphs if len(graphs) > 1 else {"model": graphs[self.name]}

    def named_weights(self) -> dict[str, Any]:
        return dict(self.variables)

    @contextmanager
    def reading(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Within the block, let the functions read `values` in place of the variables of these names."""
        import tensorflow as tf
        from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable

        known = {id(self.variables[name]): value for name, value in values.items()}
        read, gather = BaseResourceVariable._read_variable_op, BaseResourceVariable.sparse_read

        def _read(variable: Any, *args: Any, **kwargs: Any) -> Any:
            return known[id(variable)] if id(variable) in known else read(variable, *args, **kwargs)

        def _gather(variable: Any, indices: Any, name: Any = None) -> Any:
            return tf.gather(known[id(variable)], indices) if id(variable) in known else gather(variable, indices, name)

        with (
            mock.patch.object(BaseResourceVariable, "_read_variable_op", _read),
            mock.patch.object(BaseResourceVariable, "sparse_read", _gather),
        ):
            yield


class _Part:
    """One function with its signature and its variables."""

    def __init__(self, function: Callable[..., Any], input_signature: Any) -> None:
        self.function = getattr(function, "python_function", function)
        declared = getattr(function, "input_signature", None)
        given = list(declared) if input_signature is None and declared is not None else input_signature
        parameters = list(inspect.signature(self.function).parameters)
        self.arguments = called_with(self.function, given, parameters)
        probe = probing.Probe(self.call)
        specs, examples = probing.named_dimensions(probe, flat_specs(self.arguments))
        traces = probe.traces(specs, examples, several=True)
        limited = lookups.ranges(traces, specs)
        self.signature = Signature(limited, probing.output_specs(traces, None), examples=examples, padded=())
        self.variables = list(traces[0][0].graph.variables)

    def call(self, *tensors: Tensor) -> dict[str, Tensor]:
        given = iter(tensors)
        positional, named = keras.tree.map_structure(lambda _: next(given), self.arguments.structure)
        return result_names(None, self.function(*positional, **named), {name for name, _ in self.arguments.leaves})

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.call(*(inputs[spec.name] for spec in self.signature.inputs))


def named_functions(functions: Any) -> dict[str, Callable[..., Any]]:
    """Return functions by name: a mapping as it is, other functions by their ``__name__``.

    Raises:
        ValueError: an item is not a function or has no name, or two functions have the same name.
    """
    found: dict[Any, Any]
    if isinstance(functions, Mapping):
        found = dict(functions)
    else:
        several = functions if isinstance(functions, Sequence) and not isinstance(functions, str) else [functions]
        names = [getattr(getattr(function, "python_function", function), "__name__", None) for function in several]
        if len({*names}) < len(names) or None in names:
            raise ValueError(
                f"model: got functions of the names {names}; accepted: one name each, or a mapping by name"
            )
        found = dict(zip(names, several, strict=True))
    if bad := [name for name, function in found.items() if not callable(function)] or (["none"] if not found else []):
        raise ValueError(f"model: got {bad}, which are no functions; accepted: a keras.Model, a layer, or functions")
    return found


def _named(variables: list[Any]) -> dict[str, Any]:
    """Return each variable once, by its TensorFlow name, with a number appended to a name that occurs twice."""
    found: dict[str, Any] = {}
    for variable in {id(variable): variable for variable in variables}.values():
        found[unique(variable.name.partition(":")[0], found)] = variable
    return found
