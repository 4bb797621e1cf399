"""Any Keras model or layer with the interface that the exporters expect of an attention_zoo model."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope

from ....finetuning.lora import base_weight, is_adapter, merged, with_adapters
from ....runtime.graph_names import FOREIGN
from ....signature import Graph, Signature
from ....zoo.base import ZooModel
from ...errors import ExportError
from ..diagnostics import explained
from . import lookups, probing
from .call_signature import (
    Arguments,
    as_functional,
    as_integers,
    called_with,
    declared_results,
    flat_specs,
    result_names,
    unique,
)
from .mended import keras_mended
from .refusals import check_deterministic, check_exportable

Tensor = Any

MOST_GUESSED = 4  # inputs of a model without a signature that are tried as floats and integers
# Messages of Python and TensorFlow about a size that is open and therefore no number.
SYMBOLIC = re.compile(r"[Ss]ymbolic|cannot be interpreted as an integer|unknown shape|NoneType|object is not iterable")


@dataclass(frozen=True)
class ForeignConfig:
    """The config that a file's metadata holds for a third-party model, which has no config of this package."""

    class_name: str
    name: str

    def to_dict(self) -> dict[str, Any]:
        return {"class_name": self.class_name, "name": self.name}


class Foreign:
    """A third-party model: without cache and tokenizer, with names and sizes that the third party chose."""

    name: str
    config: Any
    signature: Signature
    weights: list[Any]
    family = FOREIGN
    task = None
    generates = False
    tokenizer = None

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        """Return the graphs to write to a file, by name."""
        raise NotImplementedError

    def named_weights(self) -> dict[str, Any]:
        """Return every weight by its name."""
        raise NotImplementedError

    def merged_weights(self, dtype: str | None = None) -> Iterator[tuple[str, Any]]:
        """Yield the name and value of every weight without adapters; the weights that have adapters include their
        contribution."""
        yield from self.named_weights().items()

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of the first graph, by name."""
        return next(iter(self.graphs().values())).function(inputs)

    def _flatten_layers(self, include_self: bool = True) -> list[Any]:
        return []


class AnyModel(Foreign):
    """A built Keras model or layer.

    Args:
        model: a ``keras.Model`` or a layer.
        input_signature: ``keras.InputSpec``, ``tf.TensorSpec`` or KerasTensor, or a nested structure of them as the
            model is called with. If ``call`` has several arguments: a dict by their names, or a list of them. None as a
            size leaves it open. Default: the inputs that the model was built with.

    Raises:
        ValueError: the model was not built, the shape or dtype of an input is unknown, an input is a string, or a layer
            cannot be exported. The message names it.
    """

    def __init__(self, model: Any, input_signature: Any = None) -> None:
        self.model, self.name = model, str(model.name)
        self.config = ForeignConfig(type(model).__name__, self.name)
        self.layers: list[Any] = model._flatten_layers()
        self.weights: list[Any] = list(model.weights)
        self.names = _names(self.weights, self.name)
        check_exportable(model, self.layers)
        self.takes_training = "training" in inspect.signature(model.call).parameters
        self.arguments: Arguments = called_with(model, input_signature)
        self.signature = self._first_possible(guess=input_signature is None)

    def _first_possible(self, *, guess: bool) -> Signature:
        """Return the signature of the call, or the first that Keras accepts of other guesses about what is not known:
        the batch of a Sequential model, and the dtypes of a subclassed one.

        Raises:
            ValueError: Keras accepts none.
        """
        try:
            return self._signature(guess=guess)
        except ValueError:
            others: Iterable[Arguments] = ()
            if guess and isinstance(self.model, keras.Sequential):  # a layer may need the batch of the first call
                others = [called_with(self.model, None, open_batch=False)]
            elif guess and as_functional(self.model) is None:
                floats = [name for name, leaf in self.arguments.leaves if "float" in leaf.dtype][:MOST_GUESSED]
                subsets = (names for n in range(len(floats)) for names in itertools.combinations(floats, n + 1))
                others = [as_integers(self.arguments, names) for names in subsets]
            first = self.arguments
            for self.arguments in others:
                with suppress(ValueError):
                    return self._signature(guess=False)
            self.arguments = first
            raise

    def _signature(self, *, guess: bool) -> Signature:
        model, functional = self.model, as_functional(self.model) is not None
        probe = probing.Probe(self._call)
        specs, examples = probing.named_dimensions(probe, flat_specs(self.arguments), batched=functional)
        declared = declared_results(model, {spec.name for spec in specs}) if functional else None
        opened = any(None in shape[1:] for _, shape in (declared or {}).values())
        traces = probe.traces(specs, examples, several=declared is None or bool(examples) or opened)
        if declared is not None and probing.surprising(traces, declared):
            traces = probe.traces(specs, examples, several=True)
        check_deterministic(traces[0][0])
        specs = lookups.ranges(traces, specs, guess=guess and not functional)
        if any(isinstance(layer, ZooModel) for layer in self.layers):  # they refuse ids below zero
            specs = tuple(replace(spec, least=max(spec.least, 0)) for spec in specs)
        return Signature(specs, probing.output_specs(traces, declared), examples=examples, padded=())

    def _call(self, *tensors: Tensor) -> dict[str, Tensor]:
        given = iter(tensors)
        positional, named = keras.tree.map_structure(lambda _: next(given), self.arguments.structure)
        options = {"training": False} if self.takes_training else {}
        with keras_mended(self.layers), _state_kept():
            results = self.model(*positional, **named, **options)
        return result_names(self.model, results, {name for name, _ in self.arguments.leaves})

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            return self._call(*(inputs[spec.name] for spec in self.signature.inputs))
        except Exception as error:  # of any type: a size that is open is no number
            sizes = [
                f"axis {axis} of {spec.name}"
                for spec in self.signature.inputs
                for axis, size in enumerate(inputs[spec.name].shape)
                if size is None
            ]
            if not sizes or not SYMBOLIC.search(str(error)):
                raise
            raise ExportError(
                f"{explained(error)}: it needs sizes as numbers, and open are {', '.join(sizes)}; accepted: an "
                "input_signature with numbers for those"
            ) from error

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        return {"model": Graph(self.signature, self.by_name)}

    def named_weights(self) -> dict[str, Any]:
        return dict(zip(self.names, self.weights, strict=True))

    def merged_weights(self, dtype: str | None = None) -> Iterator[tuple[str, Any]]:
        """Yield the name and value of every weight without the adapters that ``layer.enable_lora`` added; the weights
        that have adapters include their contribution."""
        adapted = {id(base_weight(layer)): layer for layer in with_adapters(self)}
        for name, variable in self.named_weights().items():
            if not is_adapter(name):
                yield name, merged(adapted[id(variable)], dtype) if id(variable) in adapted else variable

    def _flatten_layers(self, include_self: bool = True) -> list[Any]:
        return self.layers if include_self else self.layers[1:]


@contextmanager
def _state_kept() -> Iterator[None]:
    """Drop what a call assigns to variables, such as the number of calls, so that a comparison leaves the model as it
    is."""
    outer = get_stateless_scope()
    with keras.StatelessScope() as scope:
        if outer is not None:
            scope.state_mapping.update(outer.state_mapping)
        yield


def _names(weights: list[Any], model: str) -> list[str]:
    """Return the paths of the weights without the model's own name, with a number appended where Keras uses a path
    twice."""
    names: dict[str, None] = {}
    for variable in weights:
        names[unique(variable.path.removeprefix(f"{model}/"), names)] = None
    return list(names)
