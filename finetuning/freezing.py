"""Freezing of weights by patterns over their names, and the recompilation that a change requires."""

from __future__ import annotations

import weakref
from collections.abc import Container, Iterable, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any, NamedTuple

from ..weights.rules import weight_name


class Parameters(NamedTuple):
    """Parameter counts of a model.

    Attributes:
        trainable: number of trainable parameters (scalars).
        total: number of all parameters.
    """

    trainable: int
    total: int


class Freezing:
    """Mixin for models that freezes and unfreezes weights.

    Weights are selected by shell patterns, in which ``*`` matches any part of a path, slashes included. A pattern
    selects the weights whose name it matches and all weights of the layers whose path it matches: "block_0" and
    "block_0/*" select the same weights, and "*/bias" selects all biases.
    """

    name: str
    weights: list[Any]
    optimizer: Any
    compiled: bool
    train_function: Any
    test_function: Any
    predict_function: Any
    _outdated_optimizer: Any = None  # a weak reference to an optimizer that was built for other trainable weights

    @property
    def parameter_counts(self) -> Parameters:
        """The numbers of trainable parameters and of all parameters, adapters included."""
        sizes = [(variable.trainable, prod(variable.shape)) for variable in self.weights]
        return Parameters(sum(size for trained, size in sizes if trained), sum(size for _, size in sizes))

    def freeze(self, *patterns: str) -> int:
        """Exclude weights from training: ``model.freeze("embedding*", "block_[0-3]/*")``.

        It may be called before or after ``compile``. A model that has already been fitted must be compiled again;
        otherwise ``fit`` raises an error. ``.keras`` files store which weights are frozen, ``save`` to a folder does
        not.

        Args:
            patterns: shell patterns over the names of weights and layers; see ``Freezing``.

        Returns:
            The number of weights (tensors) that matched.

        Raises:
            ValueError: no pattern, or one that matches nothing.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> int:
        """Include weights in training again; ``unfreeze("*")`` selects all. See :meth:`freeze`.

        Args:
            patterns: shell patterns over the names of weights and layers; see ``Freezing``.

        Returns:
            The number of weights (tensors) that matched.

        Raises:
            ValueError: no pattern, or one that matches nothing.
        """
        return self._set_trainable(patterns, True)

    def _set_trainable(self, patterns: Sequence[str], trainable: bool) -> int:
        if not patterns:
            raise ValueError('patterns: got none; accepted: at least one, such as "embedding*" or "block_[0-3]/*"')
        chosen = self._matching("patterns", patterns)
        for variable in chosen.values():
            variable.trainable = trainable
        self._changed()
        return len(chosen)

    def _matching(self, argument: str, patterns: Iterable[str]) -> dict[str, Any]:
        """Return the weights that match `patterns`, by name.

        Raises:
            ValueError: a pattern that matches no weight; the message names `argument`.
        """
        named = {weight_name(variable): variable for variable in self.weights}
        chosen: dict[str, Any] = {}
        for pattern in patterns:
            found = {name: variable for name, variable in named.items() if matches(name, pattern)}
            if not found:
                accepted = sorted({name.partition("/")[0] for name in named})
                raise ValueError(
                    f"{argument}: got {pattern!r}, which matches no weight of {self.name}; accepted: a shell pattern "
                    f"of a path that begins with one of {accepted}"
                )
            chosen |= found
        return chosen

    def _frozen_names(self) -> list[str]:
        return [weight_name(variable) for variable in self.weights if not variable.trainable]

    def _freeze_only(self, names: Container[str]) -> None:
        for variable in self.weights:
            variable.trainable = weight_name(variable) not in names

    def _changed(self) -> None:
        """Discard the functions that were compiled for the previous set of trainable weights."""
        self.train_function = self.test_function = self.predict_function = None
        if forget := getattr(self, "forget_compiled_steps", None):  # those of ``generate``
            forget()
        if self.compiled and self.optimizer is not None and self.optimizer.built:
            self._outdated_optimizer = weakref.ref(self.optimizer)

    def _check_optimizer(self) -> None:
        """Raise ValueError if the optimizer was built for other trainable weights."""
        if self._outdated_optimizer is not None and self._outdated_optimizer() is self.optimizer:
            raise ValueError(
                "optimizer: got one that was built for other trainable weights, before freeze, unfreeze, enable_lora "
                "or merge_lora; accepted: a new one, by model.compile"
            )


def listed(patterns: str | Sequence[str]) -> Sequence[str]:
    """Return `patterns` as a sequence, also if it is a single pattern."""
    return (patterns,) if isinstance(patterns, str) else patterns


def matches(path: str, patterns: str | Sequence[str]) -> bool:
    """Return whether a pattern matches `path` or the path of a layer that contains it."""
    parts = path.split("/")
    prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in listed(patterns))
