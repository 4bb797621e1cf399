"""The precisions of an exported file and their options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from ..checks import choice

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
    "rotation": (None, 0, 16, 32, 64, 128),
}


@dataclass(frozen=True)
class Precision:
    """The precision of an exported file, with its options. Without options the name is enough: ``precision="int8"``.

    The defaults of the options depend on the name and the format. An option that does not apply to the name, or a value
    that the format does not support, is rejected.

    Attributes:
        name: "fp32", "fp16", "int8" or "int4". In ONNX, "fp16" stores weights and computes activations and the
            key/value cache in float16; softmax, norms and position angles stay float32. In TFLite, "fp16" stores only
            the weights in float16. "int8" and "int4" quantize the weights.
        activations: the activations of an int8 file. "dynamic" quantizes them to 8 bits with a range measured at every
            call, which is the fastest for encoders and image models. "float" quantizes only the weights, which is the
            most accurate, and in ONNX the fastest for a decoder that generates token by token. "static" quantizes
            activations to 8 bits with ranges measured on `samples` at export, for accelerators that require it.
            "static16" (TFLite only) does the same with 16 bits. Default: in ONNX "float" for a graph with a key/value
            cache and "dynamic" for any other; in TFLite "dynamic".
        block_size: the number of consecutive weights of one output that share a scale; for int4, and in ONNX also for
            int8 with "float" activations. ONNX accepts 16, 32, 64, 128 and 256; TFLite 32 and more. Default: 32 for
            int4 and 64 for int8; in ONNX a smaller power of two, at least 16, if a row is not a multiple of that.
        symmetric: whether blocks have no zero point. Default: True for 8-bit blocks, False for 4-bit blocks in ONNX.
            TFLite supports symmetric blocks only.
        method: how the values of a block are chosen. "rtn" rounds to the nearest value, with a scale computed from the
            extremes of the block. "search" takes, of several scales, the one with the least squared error. "gptq" also
            compensates the errors of 4-bit weights, using the inputs of the matrix multiplications on calibration data
            (GPTQ, arXiv:2210.17323); it supports models of a single graph. Default: "search" for 4-bit blocks, "rtn"
            for 8-bit blocks.
        head, embedding: the precision of the output projection of a language model, and of the embedding tables, in an
            int8 or int4 file: "int8", "int4" (ONNX only) or "fp32". Default: "int8".
        eight_bits: for int4, shell-style patterns of the names of weights that get 8 bits instead. Default: the value
            projections, which are small and lose the most accuracy: in SmolLM2 they are 1.6 of 102 MB and cause a third
            of the KL divergence.
        reduce_range: for int8 with dynamic or static activations in ONNX, whether to scale the weights so that the sum
            of two neighboring products fits into 16 bits. Processors without VNNI (with AVX2 only, and browsers) would
            saturate it otherwise. It costs less than one bit of accuracy, and the file then computes the same on every
            processor. Default: True.
        integer_only: for static activations in TFLite, whether to quantize every operator that has an integer kernel
            and not only matrix multiplications and convolutions, for accelerators without floating point. Inputs and
            outputs of the file remain float32. Default: False.
        rotation: for int8 with dynamic activations in TFLite, the most consecutive features that a Hadamard matrix
            mixes before they are rounded: 16, 32, 64 or 128, or 0 for none. The weights are multiplied by its inverse,
            so that only the rounding changes: the few large features of a language model do not set the step of all
            others. A given number rotates every input whose width it or a smaller power of two divides. Default: 64
            for a decoder with a key/value cache, at the inputs where the export measures a gain, and 0 for any other
            model.
        keep: shell-style patterns of the names of weights that stay float32, such as ``("*/down/kernel",)``.
            Default: none.

    Raises:
        ValueError: the name, an option or its value is not accepted.
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
    rotation: int | None = None
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

        if self.name == "int8" and self.method == "gptq":
            said = "precision.method: got 'gptq' for int8, whose weights need no calibration"
            raise ValueError(f"{said}; accepted: None, 'rtn' or 'search'")
        if self.activations in ("dynamic", "static", "static16"):
            self.check_integers(self.activations)
        if self.rotation and self.activations not in (None, "dynamic"):
            said = f"precision.rotation: got {self.rotation} with activations {self.activations!r}"
            raise ValueError(f"{said}; accepted: None or 0, or 'dynamic' activations")

    def check_integers(self, activations: str) -> None:
        """Check that no weight that is multiplied with integer `activations` is to have 4 bits.

        Raises:
            ValueError: the head or the embedding tables are to have 4 bits.
        """
        for name in ("head", "embedding"):
            if self.name == "int8" and getattr(self, name) == "int4":
                said = f"precision.{name}: got 'int4' with {activations!r} activations, which take no 4 bits"
                raise ValueError(f"{said}; accepted: 'int8', 'fp32', or 'float' activations")

    @property
    def static(self) -> bool:
        """Whether the ranges of activations are measured at export."""
        return self.activations in ("static", "static16")

    @property
    def by_samples(self) -> str:
        """The name of the option that requires calibration data, or "" if none does."""
        return "method" if self.method == "gptq" else "activations" if self.static else ""

    def kept(self, weight: str) -> bool:
        """Return whether the weight with this name stays float32, as the kernels of routers do: they are small, and a
        rounded one selects other experts."""
        router = weight.endswith(ROUTER) and not self.integer_only
        return router or any(fnmatchcase(weight, pattern) for pattern in self.keep)

    def numbers_of(self, weight: str) -> str:
        """Return "int8" or "int4" for a quantized weight that is neither the output head nor an embedding table."""
        higher = self.name == "int4" and any(fnmatchcase(weight, pattern) for pattern in self.eight_bits)
        return "int8" if higher else self.name

    def alike(self, weights: Iterable[str]) -> bool:
        """Return whether all of these weights have the same precision."""
        return len({(self.kept(name), self.numbers_of(name)) for name in weights}) == 1


ROUTER = "/router/kernel"  # the end of the names of routers' kernels

# Limits of the mean cosine and of the KL divergence in nats, beyond which a file is rejected. Pretrained models have a
# cosine of at least 0.98 and a divergence of 0.01 to 0.05 in int8; of at least 0.95, and of up to 0.3, in int4.
LEAST_COSINE = {"fp16": 0.999, "int8": 0.97, "int4": 0.9}
MOST_DIVERGENCE = {"fp16": 0.01, "int8": 0.2, "int4": 0.6}

# Limits of the root mean square error of the difference between the log-probabilities of the two most likely tokens, in
# nats, in the answers of a language model. A pretrained model of 135 M parameters has 0.2 in int8, and 0.45 with
# activations in which large features are not rotated.
MOST_MARGIN_ERROR = {"fp16": 0.1, "int8": 0.35, "int4": 2.0}

DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Precision)}
ALL = tuple(name for name in DEFAULTS if name != "name")
ACTIVATIONS = ("activations", "reduce_range", "integer_only", "rotation")


def as_precision(value: Any) -> Precision:
    """Return `value` as a ``Precision``, which it may be already; otherwise it is the name of one.

    Raises:
        ValueError: `value` is neither. The message lists the accepted names.
    """
    if isinstance(value, Precision):
        return value
    if not isinstance(value, str):
        raise ValueError(f"precision: got {value!r}; accepted: {', '.join(NAMES)}, or an export.Precision")
    return Precision(value)
