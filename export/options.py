"""What a file's numbers may be: the four precisions by name, and what can be said about each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from ..checks import choice, fraction

NAMES = ("fp32", "fp16", "int8", "int4")
ACCEPTED: Mapping[str, tuple[Any, ...]] = {
    "activations": (None, "dynamic", "float", "static", "static16"),
    "block_size": (None, 16, 32, 64, 128, 256),
    "symmetric": (None, True, False),
    "method": (None, "rtn", "search", "gptq"),
    "head": ("int8", "int4", "fp32"),
    "embedding": ("int8", "int4", "fp32"),
    "reduce_range": (True, False),
    "integer_only": (True, False),
}


@dataclass(frozen=True)
class Precision:
    """The numbers of an exported file. In most cases a name says enough: ``precision="int8"``.

    Attributes:
        name: "fp32", "fp16" (weights, activations and caches; softmax, norms and angles in float32), "int8" or "int4"
            (weights).
        activations: of int8. "dynamic": activations become 8-bit integers too, with a range measured at every call;
            the fastest for encoders and images. "float": weights alone, in blocks; the most exact, and for a decoder
            that writes token by token the fastest. "static": ranges measured at export, on `samples`; for accelerators
            that want them. "static16": these in 16 bits; TFLite. Default: "float" for a decoder with a cache,
            "dynamic" for all else.
        block_size: weights that share one scale, of int4 and of int8 with activations "float"; along the input.
            Default: 32 of int4 and 64 of int8, or less where that fills a matrix without rest.
        symmetric: blocks without a zero point. Default: of int8 they have none, of int4 they have one.
        method: of a block. "rtn": its scale is from its extremes. "search": the best of several scales by squared
            error. "gptq": then, by inputs that the model meets, the weights of 4 bits make good each other's errors;
            models of one graph. Default: "search" of int4.
        head, embedding: precision of the last projection of a language model and of its token table: "int8", "int4" or
            "fp32". Default: "int8".
        eight_bits: of int4, patterns of weights that have 8 bits instead. Default: the value projections, which are
            small and cost the most: of SmolLM2 1.6 of 102 MB, and a third of the divergence.
        reduce_range: of dynamic and static int8, whether sums of products stay within 16 bits on processors without
            VNNI (AVX2, and browsers). True: no pair of neighbours can exceed it, which costs less than a bit; a file is
            then the same everywhere.
        integer_only: of static ranges, whether every operator computes in integers and not the products alone, for
            accelerators without floats; TFLite. Inputs and outputs remain floats.
        keep: patterns of weights that stay float32, such as ``("*/down/kernel",)``.
    """

    name: str = "fp32"
    activations: str | None = None
    block_size: int | None = None
    symmetric: bool | None = None
    method: str | None = None
    head: str = "int8"
    embedding: str = "int8"
    eight_bits: tuple[str, ...] = ("*/value/kernel",)
    reduce_range: bool = True
    integer_only: bool = False
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"precision: got {self.name!r}; accepted: {', '.join(NAMES)}, or an export.Precision")
        for name, accepted in ACCEPTED.items():
            choice(f"precision.{name}", getattr(self, name), accepted)
        for name in ("keep", "eight_bits"):
            value: Any = getattr(self, name)
            if not isinstance(value, list | tuple) or not all(isinstance(pattern, str) for pattern in value):
                raise ValueError(f"precision.{name}: got {value!r}; accepted: patterns of weights, as ('*/kernel',)")
            object.__setattr__(self, name, tuple(value))
        unused = {"fp32": ALL, "fp16": ALL, "int8": ("eight_bits",), "int4": ACTIVATIONS}[self.name]
        changed = [name for name in unused if getattr(self, name) != DEFAULTS[name]]
        if changed:
            raise ValueError(
                f"precision.{changed[0]}: got {getattr(self, changed[0])!r} for {self.name}, which has no use for it; "
                f"accepted: {DEFAULTS[changed[0]]!r}"
            )
        if self.integer_only and not self.static:
            said = f"precision.integer_only: got True with activations {self.activations!r}"
            raise ValueError(f"{said}; accepted: 'static' or 'static16' activations")

    @property
    def static(self) -> bool:
        """Are ranges measured at export?"""
        return self.activations in ("static", "static16")

    @property
    def by_samples(self) -> str:
        """The field that asks for samples of what the model meets; "" where none does."""
        return "method" if self.method == "gptq" else "activations" if self.static else ""

    def kept(self, weight: str) -> bool:
        """Does this weight stay float32?"""
        return any(fnmatchcase(weight, pattern) for pattern in self.keep)

    def numbers_of(self, weight: str) -> str:
        """Of a weight that is rounded and neither a head nor a table: "int8" or "int4"."""
        higher = self.name == "int4" and any(fnmatchcase(weight, pattern) for pattern in self.eight_bits)
        return "int8" if higher else self.name

    def alike(self, weights: Iterable[str]) -> bool:
        """Are all of these in the same numbers?"""
        return len({(self.kept(name), self.numbers_of(name)) for name in weights}) == 1


# Below these a file is refused. Of real models in int8: 0.98 and more, 0.01 to 0.05; in int4: 0.95 and more, to 0.3.
LEAST_COSINE = {"fp16": 0.999, "int8": 0.97, "int4": 0.9}
MOST_DIVERGENCE = {"fp16": 0.01, "int8": 0.2, "int4": 0.6}

DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Precision)}
ALL = tuple(name for name in DEFAULTS if name != "name")
ACTIVATIONS = ("activations", "reduce_range", "integer_only")


def as_precision(value: Any) -> Precision:
    """A precision by its name, or itself.

    Raises:
        ValueError: naming what is accepted.
    """
    if isinstance(value, Precision):
        return value
    if not isinstance(value, str):
        raise ValueError(f"precision: got {value!r}; accepted: {', '.join(NAMES)}, or an export.Precision")
    return Precision(value)


def accuracy_rules(precision: Precision, **given: Any) -> dict[str, Any]:
    """How the accuracy is measured (samples, metric, least_cosine), checked.

    Raises:
        ValueError: any of them for "fp32", or a least_cosine that is none.
    """
    asked = [name for name, value in given.items() if value is not None]
    if precision.name == "fp32" and asked:
        raise ValueError(
            f"{asked[0]}: got one for 'fp32', whose proof is `verify`; accepted: None, or another precision"
        )
    if given["least_cosine"] is not None:
        given["least_cosine"] = fraction("least_cosine", given["least_cosine"])
    return given
