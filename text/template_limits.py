"""Limits of time and memory for chat templates, which come from strangers: Jinja's sandbox has none.

A template may loop without end, double a text in every pass, or pad one to a billion characters. Every pass of a loop,
every call of a macro, and every operation whose result can be much larger than its operands is counted here.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

STEPS = 200_000  # passes of loops and calls of macros
SECONDS = 10.0  # of processor time
CHARACTERS = 2**26  # in all texts and lists that are made, and in the result
WIDTH = 2**20  # largest number that is passed to a method or filter, such as a width
BITS = 2**14  # of an integer
NUMBER = re.compile(r"[0-9]{6,}")
PART = 16  # characters that an item of a list or an object counts as
# Filters that do not look into the parts of a list.
SHALLOW = (
    *("length", "count", "first", "last", "default", "d", "list", "reverse", "items", "batch", "slice", "attr"),
    *("map", "select", "reject", "selectattr", "rejectattr"),
)


class TooLargeError(ValueError):
    """A template does more than the limits allow."""


class Budget:
    """What one rendering has used so far."""

    def __init__(self) -> None:
        self.steps, self.characters, self.end = 0, 0, time.thread_time() + SECONDS

    def step(self) -> str:
        self.steps += 1
        if self.steps > STEPS:
            raise TooLargeError(f"more than {STEPS} passes of loops")
        if self.steps % 64 == 0 and time.thread_time() > self.end:
            raise TooLargeError(f"more than {SECONDS:.0f} s")
        return ""

    def spend(self, characters: int) -> None:
        self.characters += characters
        if self.characters > CHARACTERS:
            raise TooLargeError(f"more than {CHARACTERS} characters")
        if time.thread_time() > self.end:
            raise TooLargeError(f"more than {SECONDS:.0f} s")

    def weigh(self, value: Any) -> None:
        """Spend the characters and items in `value`, where a part counts as often as it occurs."""
        left = [value]
        while left:
            part = left.pop()
            if isinstance(part, str | bytes):
                self.spend(len(part))
            elif isinstance(part, Mapping):
                self.spend(PART * (len(part) + 1))
                left += [*part.keys(), *part.values()]
            elif isinstance(part, list | tuple | set | frozenset):
                self.spend(PART * (len(part) + 1))
                left += part

    def concat(self, pieces: Iterable[str]) -> str:
        found = []
        for piece in pieces:
            self.spend(len(piece))
            found.append(piece)
        return "".join(found)

    def joined(self, parts: Iterable[Any]) -> str:
        parts = list(parts)
        self.weigh(parts)
        return "".join(map(str, parts))

    def binary(self, operator: str, left: Any, right: Any) -> None:
        """Check the operands of ``+``, ``*``, ``**`` and ``%`` before they are computed."""
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            self.spend(len(left) + len(right))
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if hasattr(one, "__len__") and isinstance(other, int):
                    self.spend(len(one) * max(other, 0))
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            times = right if operator == "**" else 1
            if abs(left).bit_length() * max(times, 1) + abs(right).bit_length() > BITS:
                raise TooLargeError(f"an integer of more than {BITS} bits")
        if operator == "%" and isinstance(left, str | bytes):
            self.formatted(left, right)

    def formatted(self, pattern: Any, *values: Any) -> None:
        """Check a text that is formatted with `values`: they and its widths determine the size of the result."""
        text = pattern.decode("latin-1") if isinstance(pattern, bytes) else str(pattern)
        if NUMBER.search(text) or "*" in text or re.search(r"\{[^{}]*\{", text):
            raise TooLargeError("a format with a width of more than 99999 characters, or one from a variable")
        self.spend(len(text))
        self.weigh(values)
        if values:  # a format may use a value several times
            size = len(str(values)) if all(isinstance(v, str | int | float | None) for v in values) else 0
            self.spend(size * (text.count("{") + text.count("%")))

    def call(self, name: str, owner: Any, arguments: tuple[Any, ...]) -> None:
        """Check a method of a built-in type, or a filter whose first argument is `owner`."""
        if any(isinstance(value, int) and abs(value) > WIDTH for value in arguments):
            raise TooLargeError(f"a number above {WIDTH} as an argument")
        if not isinstance(owner, str | bytes):
            self.weigh(arguments)
            return
        text = owner if isinstance(owner, str) else owner.decode("latin-1")
        sizes = [len(value) for value in arguments if isinstance(value, str | bytes)]
        numbers = [abs(value) for value in arguments if isinstance(value, int)]
        if name in ("format", "format_map"):
            self.formatted(owner, *arguments)
        elif name == "replace" and len(sizes) > 1:
            self.spend(len(owner) + (len(owner) // max(sizes[0], 1) + 1) * sizes[1])
        elif name == "expandtabs":
            self.spend(len(owner) + text.count("\t") * (numbers or [8])[0])
        elif name == "indent":
            self.spend(len(owner) + (text.count("\n") + 1) * max([*sizes, *numbers, 4]))
        elif name == "join":
            items = list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple | dict) else []
            self.spend(len(owner) * len(items))
            self.weigh(items)
        elif name == "translate":
            raise TooLargeError("a method without a limit, translate")
        else:
            self.spend(len(owner) + max([*sizes, *numbers, 0]))


def limited(environment_class: type) -> type:
    """Return a subclass of a sandboxed environment of Jinja that has these limits, for one rendering per object."""
    from jinja2 import nodes

    class Limited(environment_class):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def __init__(self, **options: Any) -> None:
            self.budget = Budget()
            super().__init__(finalize=self._finalized, **options)
            self.step, self.concat = self.budget.step, self.budget.concat
            self.globals.pop("lipsum", None)
            self.filters = {name: self._counted(name, function) for name, function in self.filters.items()}

        def _finalized(self, value: Any) -> Any:
            if not isinstance(value, str):
                self.budget.weigh(value)
            return value

        def _counted(self, name: str, function: Any) -> Any:
            at = 1 if hasattr(function, "jinja_pass_arg") else 0

            @functools.wraps(function)
            def call(*args: Any, **options: Any) -> Any:
                if name not in SHALLOW:
                    self.budget.weigh(args[at:])
                owner, *rest = args[at:] or (None,)
                if name == "join" and len(args) > at and isinstance(owner, list | tuple):
                    self.budget.spend(
                        len(owner) * max((len(v) for v in (*rest, *options.values()) if _sized(v)), default=0)
                    )
                self.budget.call(name, owner, (*rest, *options.values()))
                return function(*args, **options)

            return call

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            self.budget.binary(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, *args: Any, **options: Any) -> Any:
            owner = getattr(function, "__self__", None)
            if isinstance(owner, str | bytes | int | float) and hasattr(function, "__name__"):
                self.budget.call(function.__name__, owner, (*args, *options.values()))
            return super().call(context, function, *args, **options)

        def _parse(self, source: Any, name: Any, filename: Any) -> Any:
            tree = super()._parse(source, name, filename)
            for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
                step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
                node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
            return tree

        def from_string(self, source: Any, *args: Any, **options: Any) -> Any:
            template = super().from_string(source, *args, **options)
            names = template.root_render_func.__globals__  # of the compiled template, which imports them from Jinja
            names["str_join"] = names["markup_join"] = self.budget.joined
            return template

    return Limited


def _sized(value: Any) -> bool:
    return isinstance(value, str | bytes)
