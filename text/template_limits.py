"""Limits of time and memory for chat templates, which come from strangers: Jinja's sandbox has none.

A template may loop without end, double a text in every pass, pad one to a billion characters, or compare two lists that
have themselves as parts a billion times. Every pass of a loop, every call, and every operation whose result or whose
work can be much larger than its operands is counted here. One operation on operands within these limits takes at most a
few seconds and 1 GB, so that the limit of time also holds for functions in C, which cannot be stopped.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

SOURCE = 2**18  # characters of the template itself
STEPS = 200_000  # passes of loops and calls of macros
SECONDS = 10.0  # of processor time
CHARACTERS = 2**26  # in all texts and lists that are made, in the result, and in what is compared at once
DEPTH = 200  # lists in lists; Python computes the hash of a tuple without a limit of its own
WIDTH = 2**20  # largest number that is passed to a method or filter, such as a width
BITS = 2**14  # of an integer
SLOW = 2**16  # characters in filters that may take the square of the time
PRODUCT = 2**32  # steps of a search whose time is the product of two lengths
NUMBER = re.compile(r"[0-9]{6,}")
PART = 16  # characters that an item of a list or an object counts as
# Filters and tests that do not look into the parts of a list.
SHALLOW = (
    *("length", "count", "first", "last", "default", "d", "list", "reverse", "items", "batch", "slice", "attr"),
    *("map", "select", "reject", "selectattr", "rejectattr"),
)
TESTS_OF_TYPES = (
    *("defined", "undefined", "none", "boolean", "false", "true", "integer", "float", "string", "mapping", "number"),
    *("sequence", "iterable", "callable", "sameas"),
)
# Filters and methods that make a list of the characters or words of a text.
LISTING = (
    *("list", "batch", "slice", "map", "select", "reject", "selectattr", "rejectattr", "sort", "unique", "groupby"),
    *("splitlines", "sum", "min", "max", "random", "dictsort"),
)
QUADRATIC = ("urlize", "striptags", "wordwrap", "wordcount", "title", "pprint", "xmlattr")
SEARCHING = ("rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip", "trim")


class TooLargeError(ValueError):
    """A template does more than the limits allow."""


class Budget:
    """What one rendering has used so far."""

    def __init__(self) -> None:
        self.steps, self.characters, self.end = 0, 0, time.thread_time() + SECONDS
        self.looked = time.monotonic()

    def step(self) -> str:
        self.steps += 1
        if self.steps > STEPS:
            raise TooLargeError(f"more than {STEPS} passes of loops")
        self.look()
        return ""

    def look(self) -> None:
        """Compare the time with its limit, at most every 10 ms: reading the processor's time is slow."""
        now = time.monotonic()
        if now - self.looked > 0.01:
            self.looked = now
            if time.thread_time() > self.end:
                raise TooLargeError(f"more than {SECONDS:g} s")

    def spend(self, characters: int) -> None:
        self.characters += characters
        if self.characters > CHARACTERS:
            raise TooLargeError(f"more than {CHARACTERS} characters")
        self.look()

    def size(self, value: Any) -> int:
        """Return the characters and items in `value`, where a part counts as often as it occurs.

        Each object is looked at once: a list that is doubled 60 times consists of 60 lists.
        """
        sizes: dict[int, int] = {}
        depths: dict[int, int] = {}
        left = [value]
        while left:
            part = left[-1]
            if id(part) in sizes:
                left.pop()
                continue
            parts: Iterable[Any] = ()
            if isinstance(part, Mapping):
                parts = [*part.keys(), *part.values()]
            elif isinstance(part, list | tuple | set | frozenset):
                parts = part
            unknown = [inner for inner in parts if id(inner) not in sizes]
            if unknown and id(part) not in depths:
                depths[id(part)] = 0  # a second look at it comes after its parts
                left += unknown
                continue
            left.pop()
            if isinstance(part, str | bytes):
                found, depth = len(part), 0
            elif isinstance(part, int):
                found, depth = part.bit_length() // 3, 0
            else:
                found = sum((sizes.get(id(inner), 0) for inner in parts), PART * (len(parts) + 1))
                depth = 1 + max((depths.get(id(inner), 0) for inner in parts), default=0)
            if found > CHARACTERS:
                raise TooLargeError(f"more than {CHARACTERS} characters")
            if depth > DEPTH:
                raise TooLargeError(f"more than {DEPTH} lists in lists")
            sizes[id(part)], depths[id(part)] = found, depth
        return sizes[id(value)]

    def check(self, value: Any) -> Any:
        """Return `value`, which is about to be compared or searched."""
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            self.size(value)
        self.look()
        return value

    def weigh(self, value: Any) -> None:
        """Spend the characters and items in `value`, of which a text is made."""
        self.spend(len(value) if isinstance(value, str) else self.size(value))

    def spread(self, value: Any) -> Any:
        """Return `value`, which becomes the arguments of a call."""
        if hasattr(value, "__len__"):
            self.spend(PART * len(value))
        return value

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """Return a slice of `value`."""
        found = value[start:stop:step]
        self.made(found)
        return found

    def made(self, value: Any) -> None:
        """Spend what a new text, list or object has, without the parts that were there before."""
        if isinstance(value, str | bytes):
            self.spend(len(value))
        elif isinstance(value, list | tuple | Mapping):
            inner = value if isinstance(value, list) else ()
            self.spend(PART * (len(value) + sum(len(part) for part in inner if isinstance(part, list))))

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
        self.spend(len(text) + sum(map(int, re.findall("[0-9]+", text))))  # each of them may be a width
        if values:  # a format may use a value several times
            self.spend(self.size(values) * (text.count("{") + text.count("%")))

    def refuse(self, name: str, owner: Any, arguments: tuple[Any, ...]) -> None:
        """Refuse a method or filter that would take too long whatever was spent before."""
        if any(isinstance(value, int) and abs(value) > WIDTH for value in arguments):
            raise TooLargeError(f"a number above {WIDTH} as an argument")
        if not isinstance(owner, str | bytes):
            return
        if name == "translate":
            raise TooLargeError("a method without a limit, translate")
        if name in QUADRATIC and len(owner) > SLOW:
            raise TooLargeError(f"more than {SLOW} characters in {name}")
        longest = max((len(value) for value in arguments if _sized(value)), default=1)
        if name in SEARCHING and len(owner) * longest > PRODUCT:
            raise TooLargeError(f"a text of {len(owner)} characters with {name}")

    def listed(self, name: str, text: str, separators: list[str]) -> None:
        """Check a method or filter that makes a list of the characters or words of a text."""
        if name in ("split", "rsplit") and separators:
            self.spend(len(text) + PART * (text.count(separators[0]) if separators[0] else 0))
        else:
            self.spend(PART * len(text))

    def call(self, name: str, owner: Any, arguments: tuple[Any, ...]) -> None:
        """Check a method of a built-in type, or a filter whose first argument is `owner`."""
        for value in arguments:
            self.check(value)
        self.refuse(name, owner, arguments)
        if not isinstance(owner, str | bytes):
            self.check(owner if name not in SHALLOW else None)
            return
        text = owner if isinstance(owner, str) else owner.decode("latin-1")
        sizes = [len(value) for value in arguments if isinstance(value, str | bytes)]
        numbers = [abs(value) for value in arguments if isinstance(value, int)]
        if name in LISTING or name in ("split", "rsplit"):
            self.listed(name, text, [str(value) for value in arguments if isinstance(value, str)])
        elif name in ("format", "format_map"):
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
        else:
            self.spend(len(owner) + max([*sizes, *numbers, 0]))


def limited(environment_class: type) -> type:
    """Return a subclass of a sandboxed environment of Jinja that has these limits, for one rendering per object."""
    from jinja2 import nodes
    from jinja2.runtime import LoopContext, Macro

    class Limited(environment_class):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def __init__(self, **options: Any) -> None:
            budget = self.budget = Budget()
            # Without computing constants beforehand: a list that a loop then makes again would not be counted.
            super().__init__(finalize=self._finalized, optimized=False, **options)
            self.step, self.concat, self.checked = budget.step, budget.concat, budget.check
            self.spread, self.cut = budget.spread, budget.cut
            self.globals.pop("lipsum", None)
            self.filters = {name: self._counted(name, function) for name, function in self.filters.items()}
            self.tests = {name: self._tested(name, function) for name, function in self.tests.items()}

        def _finalized(self, value: Any) -> Any:
            if not isinstance(value, str):
                self.budget.weigh(value)
            return value

        def _counted(self, name: str, function: Any) -> Any:
            at = 1 if hasattr(function, "jinja_pass_arg") else 0

            @functools.wraps(function)
            def call(*args: Any, **options: Any) -> Any:
                owner, *rest = args[at:] or (None,)
                if name not in SHALLOW:
                    self.budget.weigh(args[at:])
                if name == "join" and isinstance(owner, list | tuple):
                    self.budget.spend(
                        len(owner) * max((len(v) for v in (*rest, *options.values()) if _sized(v)), default=0)
                    )
                self.budget.call(name, owner, (*rest, *options.values()))
                found = function(*args, **options)
                if not isinstance(found, str):  # which was spent before
                    self.budget.made(found)
                return found

            return call

        def _tested(self, name: str, function: Any) -> Any:
            @functools.wraps(function)
            def test(*args: Any) -> Any:
                for value in args:
                    self.budget.check(value)
                return function(*args)

            return function if name in TESTS_OF_TYPES else test

        def add_filter(self, name: str, function: Any) -> None:
            """Add a filter that has the limits, too."""
            self.filters[name] = self._counted(name, function)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            self.budget.binary(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def getitem(self, obj: Any, argument: Any) -> Any:
            return super().getitem(obj, self.budget.check(argument))

        def wrap_str_format(self, value: Any) -> Any:
            if (function := super().wrap_str_format(value)) is None:
                return None

            @functools.wraps(function)
            def call(*args: Any, **options: Any) -> str:
                self.budget.formatted(value.__self__, *args, *options.values())
                return function(*args, **options)

            return call

        def call(self, context: Any, function: Any, *args: Any, **options: Any) -> Any:
            owner = getattr(function, "__self__", None)
            if owner is self.budget or isinstance(function, Macro | LoopContext):
                return super().call(context, function, *args, **options)
            known = isinstance(owner, str | bytes | int | float | list | tuple | Mapping)
            if known and hasattr(function, "__name__"):
                self.budget.call(function.__name__, owner, (*args, *options.values()))
            else:
                for value in (*args, *options.values()):
                    self.budget.check(value)
            found = super().call(context, function, *args, **options)
            if not isinstance(owner, str | bytes):  # of which the results were spent before
                self.budget.made(found)
            return found

        def _parse(self, source: Any, name: Any, filename: Any) -> Any:
            if len(source) > SOURCE:
                raise TooLargeError(f"a template of more than {SOURCE} characters")
            tree = super()._parse(source, name, filename)

            def own(method: str, *args: Any) -> Any:
                return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None, lineno=1)

            def checked(value: Any) -> Any:
                return value if isinstance(value, nodes.Const) else own("checked", value)

            for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
                node.body.insert(0, nodes.ExprStmt(own("step"), lineno=node.lineno))
                if isinstance(node, nodes.For) and node.test is not None:  # a pass that it leaves out is one
                    node.test = nodes.Or(own("step"), node.test, lineno=node.lineno)
            for node in list(tree.find_all((nodes.Call, nodes.Filter, nodes.Test))):
                if node.dyn_args is not None:
                    node.dyn_args = own("spread", node.dyn_args)
                if node.dyn_kwargs is not None:
                    node.dyn_kwargs = own("spread", node.dyn_kwargs)
            for node in list(tree.find_all((nodes.Operand, nodes.Compare))):
                node.expr = checked(node.expr)
            for node in list(tree.find_all(nodes.Pair)):
                node.key = checked(node.key)
            slices = [node for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Slice)]
            for node in slices[::-1]:
                parts = [part or nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step)]
                call = own("cut", node.node, *parts)
                # A node cannot be replaced by another one without its parent, but can have its content.
                node.node, node.arg = nodes.List([call]), nodes.Const(0)
            return tree

        def from_string(self, source: Any, *args: Any, **options: Any) -> Any:
            template = super().from_string(source, *args, **options)
            names = template.root_render_func.__globals__  # of the compiled template, which imports them from Jinja
            names["str_join"] = names["markup_join"] = self.budget.joined
            return template

    return Limited


def _sized(value: Any) -> bool:
    return isinstance(value, str | bytes)
