"""Tensors by name, and the rules that turn another library's into ours: nothing is ever unpickled or executed.

A dialect is a table: for every tensor of a checkpoint our weights' names and a transform that can be undone. Read one
way it loads, read the other way it saves, so that the two cannot disagree::

    DIALECT = Dialect(rules=(
        *linear("layers.{i}.self_attn.q_proj", "block_{i}/attention/query"),   # (out, in) there, (in, out) here
        Rule("norm.weight", "final_norm/scale"),
    ), ...)

"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .tensors import SHOWN
from .transforms import SAME, TRANSPOSED, Transform


@dataclass(frozen=True)
class Rule:
    """One tensor of theirs. ``{i}`` in both names is the number of a layer; a rule whose weights a model does not have
    asks for nothing."""

    theirs: str
    ours: str | tuple[str, ...]
    transform: Transform = SAME
    outside: bool = False  # without the prefix of the body

    @property
    def names(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def linear(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    """torch's Linear, whose kernel is (out, in)."""
    kernel = Rule(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED, outside)
    return kernel, Rule(f"{theirs}.bias", f"{ours}/bias", outside=outside)


def layer_norm(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    """torch's LayerNorm."""
    gamma = Rule(f"{theirs}.weight", f"{ours}/gamma", outside=outside)
    return gamma, Rule(f"{theirs}.bias", f"{ours}/beta", outside=outside)


REQUIRED: Any = object()


@dataclass(frozen=True)
class Field:
    """One entry of their config and the field of ours that it fills; `default` is what they take without it."""

    theirs: str
    ours: str
    default: Any = REQUIRED


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Dialect:
    """How one kind of checkpoint names its config and its tensors.

    Attributes:
        fields: entries of their config that are a field of ours under another name.
        fixed: fields of ours that every model of this kind has.
        demanded: entries of their config that we know in one value only; absent means that value.
        read, write: the rest of the config, from (their config, names of their tensors) and from ours.
        rules: see ``Rule``. Names are those of a model without a head.
        prefix: stands before the names of the body, but not in files of the body alone.
        aliases: pattern to replacement for names that other versions write.
        ignored: patterns of names that may be left over: buffers.
        unused: patterns of names of real weights that no head asks for, and whether they stand outside of the prefix.
            A model keeps them beside its own, to be saved again.
        tied: names that may be there a second time, and what they then must equal.
        headless: which ``head`` of ours has such a file of the body alone.
        heads: the name of their class by our ``head``; the first is what a config without one means.
        other_classes: further classes of theirs, and the ``head`` that reads them.
        silent: fields of ours that no entry of theirs holds, and that may have any value.
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
    silent: tuple[str, ...] = ()

    def head(self, raw: Mapping[str, Any]) -> str | None:
        """The ``head`` that their config asks for.

        Raises:
            ValueError: a class that no head of ours reads.
        """
        named = raw.get("architectures") or [next(iter(self.heads.values()))]
        classes = {cls: head for head, cls in self.heads.items()} | dict(self.other_classes)
        if named[0] not in classes:
            raise ValueError(f"architectures: got {named}; accepted: {sorted(classes)}, or a head given to load")
        return classes[named[0]]

    def config(self, raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        """Fields of our config, but for the head, of theirs.

        Raises:
            ValueError: an entry that is missing, or one that asks for what this model cannot do.
        """
        named = raw.get("architectures")
        if named is not None and not (isinstance(named, list) and all(isinstance(cls, str) for cls in named)):
            raise ValueError(f"architectures: got {named!r}; accepted: a list of names of classes")
        for name, value in self.demanded.items():
            if (given := raw.get(name)) is not None and given != value:
                raise ValueError(f"{name}: got {given!r}; accepted: {value!r}")
        values = dict(self.fixed)
        for entry in self.fields:
            value = raw.get(entry.theirs)
            no_token = entry.ours.endswith("_token_id") and entry.theirs in raw  # null is none there, and not the usual
            value = entry.default if value is None and not no_token else value
            if value is REQUIRED:
                raise ValueError(f"{entry.theirs}: not in the config; accepted: a value")
            values[entry.ours] = value
        return {**values, **self.read(raw, names)}

    def foreign(self, config: Any) -> dict[str, Any]:
        """Their config, of ours."""
        mine = config.to_dict()
        values = {entry.theirs: mine[entry.ours] for entry in self.fields}
        values["architectures"] = [self.heads[mine.get("head")]]
        return {**self.demanded, **values, **self.write(config)}

    def differences(
        self, config: Any, names: Collection[str], silent: Collection[str] = ()
    ) -> dict[str, tuple[Any, Any]]:
        """What `config` would lose: fields that come back with another value when it is written and read again, with
        both values. Fields that change no result, and silent ones (`silent` are more of them), do not count.

        Raises:
            ValueError: theirs cannot say it at all.
        """
        mine = config.to_dict()
        free = {name: mine[name] for name in (*config.unused_fields(), *self.silent, *silent) if name in mine}
        again = {**self.config(self.foreign(config), names), "head": mine.get("head"), **free}
        read = type(config).from_dict({name: value for name, value in again.items() if name in mine}).to_dict()
        return {name: (value, read[name]) for name, value in mine.items() if value != read[name]}

    def plan(self, model: Any) -> list[tuple[str, Rule, list[Any]]]:
        """Every tensor of theirs that this model has, by its name without prefix, with its rule and our variables."""
        variables = by_name(model)
        found = []
        for rule in self.rules(model.config) if callable(self.rules) else self.rules:
            for number in _layers(rule.names[0], variables):
                wanted = [name.replace("{i}", number) for name in rule.names]
                if wanted[0] in variables:
                    item = rule.theirs.replace("{i}", number), rule, [variables[name] for name in wanted]
                    found.append(item)
        unruled = set(variables) - {weight_name(v) for _, _, group in found for v in group}
        if unruled:
            raise ValueError(f"model: got weights {sorted(unruled)[:SHOWN]}, for which this kind of file has no name")
        return found

    def normalise(self, name: str) -> str:
        """A name without its prefix and in today's spelling."""
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.aliases.items():
            name = re.sub(pattern, replacement, name)
        return name


def weight_name(variable: Any) -> str:
    """A weight's name without its model's: "block_0/attention/query/kernel", the same in every process.

    Of our own models, whose paths begin with the model, wherever they are made. For others see ``by_name``.
    """
    return variable.path.partition("/")[2]


def by_name(model: Any) -> dict[str, Any]:
    """Every weight of a model by its name: its path, without the model's own where that stands first.

    Raises:
        ValueError: two weights of one name.
    """
    own, found = f"{model.name}/", {}
    for variable in model.weights:
        if (name := variable.path.removeprefix(own)) in found:
            raise ValueError(f"model: got two weights of the name {name}; accepted: layers of different names")
        found[name] = variable
    return found


def _layers(name: str, variables: Collection[str]) -> list[str]:
    """The numbers that ``{i}`` stands for."""
    if "{i}" not in name:
        return [""]
    pattern = re.compile(re.escape(name).replace(re.escape("{i}"), r"(\d+)"))
    return [match[1] for known in variables if (match := pattern.fullmatch(known))]
