"""Rules that map the config and the tensors of third-party checkpoints to those of attention_zoo.

A dialect lists, for every tensor of a checkpoint, the weights of the model that it corresponds to and an invertible
transform. The same rules load and save, so the two directions cannot disagree::

    DIALECT = Dialect(rules=(
        *linear("layers.{i}.self_attn.q_proj", "block_{i}/attention/query"),   # (out, in) becomes (in, out)
        Rule("norm.weight", "final_norm/scale"),
    ), ...)

Nothing is ever unpickled or executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import checks
from .tensors import SHOWN, Shape
from .transforms import SAME, TRANSPOSED, Transform


@dataclass(frozen=True)
class Rule:
    """The rule for one tensor of a checkpoint. It is skipped for models that do not have its weights.

    Attributes:
        theirs: name of the tensor in the checkpoint, without the prefix of the body. ``{i}`` is the layer index. With
            ``{j}``, the tensors for j = 0, 1, … are the slices of one weight along its first axis, such as the kernels
            of experts; `transform` applies to each slice.
        ours: name, or names, of the model's weights, with the same ``{i}``.
        transform: conversion between the two.
        outside: whether the tensor is outside of the body, so that its name never has the prefix.
        optional: whether the tensor may be missing; its weights then keep their initial values.
    """

    theirs: str
    ours: str | tuple[str, ...]
    transform: Transform = SAME
    outside: bool = False
    optional: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def tensors(self, name: str, shapes: Sequence[Shape]) -> list[str]:
        """Return the names of the tensors for weights of these shapes: `name`, or with ``{j}`` one for each slice."""
        return [name.replace("{j}", str(j)) for j in range(shapes[0][0])] if self.sliced else [name]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of each of these tensors."""
        return self.transform.shape([shape[1:] for shape in shapes] if self.sliced else shapes)

    @property
    def sliced(self) -> bool:
        return "{j}" in self.theirs

    def load(self, arrays: Iterator[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the values of the weights from those of the tensors, which are taken one at a time."""
        if not self.sliced:
            return self.transform.load(next(arrays), shapes)
        parts = [shape[1:] for shape in shapes]
        found: list[np.ndarray] = []
        for j in range(shapes[0][0]):
            slices = self.transform.load(next(arrays), parts)
            found = found or [np.empty(shape, part.dtype) for shape, part in zip(shapes, slices, strict=True)]
            for whole, part in zip(found, slices, strict=True):
                whole[j] = part
        return found

    def save(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the values of the tensors from those of the weights."""
        if not self.sliced:
            return [self.transform.save(arrays)]
        return [self.transform.save(slices) for slices in zip(*arrays, strict=True)]


def linear(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    """Return the rules for a torch.nn.Linear, whose kernel is (out, in)."""
    kernel = Rule(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED, outside)
    return kernel, Rule(f"{theirs}.bias", f"{ours}/bias", outside=outside)


def layer_norm(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    """Return the rules for a torch.nn.LayerNorm."""
    gamma = Rule(f"{theirs}.weight", f"{ours}/gamma", outside=outside)
    return gamma, Rule(f"{theirs}.bias", f"{ours}/beta", outside=outside)


REQUIRED: Any = object()


@dataclass(frozen=True)
class Field:
    """An entry of a third-party config and the field of the attention_zoo config that it corresponds to.

    Attributes:
        theirs: name of the entry.
        ours: name of the field.
        default: value that the third-party library uses if the entry is missing; without it, the entry is required.
        nullable: whether null is a value of its own, for which the field is None. Otherwise null means the default.
            The ids of special tokens are always nullable.
        synonym: another name of the entry, which the third-party library prefers if a config has both.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    nullable: bool = False
    synonym: str | None = None


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Dialect:
    """The names that one kind of third-party checkpoint uses for its config and its tensors.

    "Field" means a field of the attention_zoo config, "entry" one of the third-party config.

    Attributes:
        fields: entries that correspond to a field of another name.
        rules: see ``Rule``; or a function that returns them for an attention_zoo config. Names are those in a
            checkpoint without a head.
        heads: the third-party class for each value of ``head``. The first class is assumed if the config names none.
        other_classes: further third-party classes, and the ``head`` that reads each.
        fixed: fields with the same value in all models of this kind.
        demanded: entries that must have this value or be missing.
        read: function of (third-party config, tensor names) that returns the remaining fields.
        write: function of the attention_zoo config that returns the remaining entries.
        prefix: prefix of the names of the body's tensors in a checkpoint with a head.
        headless: values of ``head`` whose checkpoints contain the body alone, without `prefix`.
        aliases: regular expressions for names written by other versions, and their replacements.
        ignored: regular expressions for names of tensors that may be ignored, such as buffers.
        unused: regular expressions for names of weights that no head uses, and whether they are outside of the
            body, without `prefix`. The model keeps their values and saves them again.
        tied: names of optional copies of a tensor, and the name of the tensor that each must equal.
        output: the name in `tied` of the output projection, if the model can also have one of its own.
        silent: fields that no entry stores and that may have any value.
        layouts: regular expressions for names of tensors, and functions that return the rules of files with such a
            tensor, for another layout of the same weights. Files are written by `rules`.
    """

    fields: tuple[Field, ...]
    rules: tuple[Rule, ...] | Callable[[Any], tuple[Rule, ...]]
    heads: Mapping[str | None, str] = field(default_factory=dict)
    other_classes: Mapping[str, str | None] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    demanded: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Mapping[str, Any], Collection[str]], dict[str, Any]] = _nothing
    write: Callable[[Any], dict[str, Any]] = _nothing
    prefix: str = ""
    headless: tuple[str | None, ...] = (None, "sentence_embedding")
    aliases: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    unused: Mapping[str, bool] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None
    silent: tuple[str, ...] = ()
    layouts: Mapping[str, Callable[[Any], tuple[Rule, ...]]] = field(default_factory=dict)

    def of(self, names: Collection[str]) -> Dialect:
        """Return the dialect with the rules of a file with these tensors."""
        for pattern, rules in self.layouts.items():
            if any(re.search(pattern, name) for name in names):
                return replace(self, rules=rules)
        return self

    def head(self, raw: Mapping[str, Any]) -> str | None:
        """Return the ``head`` for the class that the third-party config `raw` names.

        Raises:
            ValueError: no head reads this class.
        """
        named = raw.get("architectures") or [next(iter(self.heads.values()))]
        classes = {cls: head for head, cls in self.heads.items()} | dict(self.other_classes)
        if named[0] not in classes:
            hint = ", or a head given to load" if len(self.heads) > 1 else ""
            raise ValueError(f"architectures: got {named}; accepted: {sorted(classes)}{hint}")
        return classes[named[0]]

    def config(self, raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        """Return the fields of the attention_zoo config, except the head, for a third-party config.

        Args:
            raw: the third-party config.
            names: names of the checkpoint's tensors.

        Raises:
            ValueError: a required entry is missing, or an entry has a value that the model does not support.
        """
        named = raw.get("architectures")
        if named is not None and not (isinstance(named, list) and all(isinstance(cls, str) for cls in named)):
            raise ValueError(f"architectures: got {named!r}; accepted: a list of names of classes")
        for name, value in self.demanded.items():
            if (given := raw.get(name)) is not None and given != value:
                raise ValueError(f"{name}: got {given!r}; accepted: {value!r}")
        values = dict(self.fixed)
        for entry in self.fields:
            name = entry.synonym if entry.synonym and entry.synonym in raw else entry.theirs
            value, token = raw.get(name), entry.ours.endswith("_token_id")
            if value is None and not (name in raw and (token or entry.nullable)):
                value = entry.default
                if token and checks.is_integer(value) and checks.is_number(rows := values.get("vocab_size")):
                    value = value if value < rows else None  # the default for the usual vocabulary
            if value is REQUIRED:
                raise ValueError(f"{entry.theirs}: not in the config; accepted: a value")
            values[entry.ours] = value
        return {**values, **self.read(raw, names)}

    def foreign(self, config: Any) -> dict[str, Any]:
        """Return the third-party config for an attention_zoo `config`."""
        mine = config.to_dict()
        values = {entry.theirs: mine[entry.ours] for entry in self.fields}
        values["architectures"] = [self.heads[mine.get("head")]]
        return {**self.demanded, **values, **self.write(config)}

    def differences(
        self, config: Any, names: Collection[str], silent: Collection[str] = ()
    ) -> dict[str, tuple[Any, Any]]:
        """Return the fields of `config` that the third-party config cannot represent, as {name: (value, value read)}.

        These are the fields that change when `config` is written and read again. Fields that do not affect the result
        and silent fields are not compared; `silent` names more of these.

        Raises:
            ValueError: the config cannot be written or read at all.
        """
        mine = config.to_dict()
        free = {name: mine[name] for name in (*config.unused_fields(), *self.silent, *silent) if name in mine}
        again = {**self.config(self.foreign(config), names), "head": mine.get("head"), **free}
        read = type(config).from_dict({name: value for name, value in again.items() if name in mine}).to_dict()
        return {name: (value, read[name]) for name, value in mine.items() if value != read[name]}

    def plan(self, model: Any) -> list[tuple[str, Rule, list[Any]]]:
        """Return (name without prefix, rule, variables of `model`) for every tensor of a checkpoint of `model`.

        A name with ``{j}`` stands for several tensors, see ``Rule.tensors``.

        Raises:
            ValueError: there is no rule for some weights of `model`.
        """
        variables = by_name(model)
        found = []
        for rule in self.all_rules(model.config):
            for number in _layers(rule.names[0], variables):
                wanted = [name.replace("{i}", number) for name in rule.names]
                if wanted[0] in variables:
                    item = rule.theirs.replace("{i}", number), rule, [variables[name] for name in wanted]
                    found.append(item)
        unruled = set(variables) - {weight_name(v) for _, _, group in found for v in group}
        if unruled:
            raise ValueError(f"model: got weights {sorted(unruled)[:SHOWN]}, for which this kind of file has no name")
        return found

    def all_rules(self, config: Any) -> tuple[Rule, ...]:
        """Return the rules for models of an attention_zoo `config`."""
        return self.rules(config) if callable(self.rules) else self.rules

    def normalise(self, name: str) -> str:
        """Return a tensor name without the prefix and with aliases replaced."""
        while self.prefix and name.startswith(self.prefix):  # some training scripts save it twice
            name = name.removeprefix(self.prefix)
        for pattern, replacement in self.aliases.items():
            name = re.sub(pattern, replacement, name)
        return name


def weight_name(variable: Any) -> str:
    """Return a weight's path without the name of its model, such as "block_0/attention/query/kernel".

    It is the same in every process. This works for attention_zoo models, where every path begins with the name of the
    model; for other models use ``by_name``.
    """
    return variable.path.partition("/")[2]


def by_name(model: Any) -> dict[str, Any]:
    """Return the weights of a model by name: the path, without the name of the model if the path begins with it.

    Raises:
        ValueError: two weights have the same name.
    """
    own, found = f"{model.name}/", {}
    for variable in model.weights:
        if (name := variable.path.removeprefix(own)) in found:
            raise ValueError(f"model: got two weights of the name {name}; accepted: layers of different names")
        found[name] = variable
    return found


def _layers(name: str, variables: Collection[str]) -> list[str]:
    """Return the values of ``{i}`` for which `name` is in `variables`, as strings; [""] for a name without it."""
    if "{i}" not in name:
        return [""]
    pattern = re.compile(re.escape(name).replace(re.escape("{i}"), r"(\d+)"))
    return [match[1] for known in variables if (match := pattern.fullmatch(known))]
