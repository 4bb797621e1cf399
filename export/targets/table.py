"""The runtimes that ``check`` knows: which ONNX files each of them reads, as data.

The operators of a runtime come from a list that its authors publish; ``Target.source`` names it. Only their names and
limits are stored, in one module for each runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from . import coreml, mnn, onnxruntime, onnxruntime_web, openvino, qnn, rknn, tensorrt, tract

# The lowest IR version for an operator set: the one of the ONNX release that published the set.
IR_VERSIONS: Mapping[int, int] = MappingProxyType({17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11})
SEQUENCE_LENS = {"GRU": 4, "LSTM": 4, "RNN": 4}  # operator -> index of the input sequence_lens
NEWEST = ("Attention", "RMSNormalization", "RotaryEmbedding")  # operators that operator set 23 introduced


@dataclass(frozen=True)
class Target:
    """A runtime, with the ONNX files that it reads. Operators of another domain than ONNX's are named "domain.Name".

    Attributes:
        name: The name of the runtime, as in ``TARGETS``.
        opset: The newest operator set to write for it, from 17 to 23; None for the lowest that a graph needs.
        ir_version: The lowest IR version for `opset`; None if `opset` is.
        avoid: Operators that attention_zoo writes, that the runtime lacks and that can be written with other operators.
        operators: Every operator that the runtime knows, with a short text on its limits or an empty text. Empty for
            "standard", which stands for all operators of the ONNX standard.
        source: Where the list of operators is published.
        notes: What else to know about the runtime.
        shapes: "static" if every dimension must be a number, else "open".
        index_dtype: The dtype of ids and indices that the runtime computes with, "int64" or "int32".
        fallback: "cpu" if ONNX Runtime computes unknown operators on the CPU, or None if the runtime rejects the file.
        version: The release that the data describes, or an empty text.
        reads: The newest operator set that the runtime accepts; None if it does not check.
        reads_ir: The newest IR version that the runtime accepts; None if it does not check.
        domains: Domains of which the runtime knows all operators.
        dtypes: The dtypes of the first input (for ``Where``, of the second) of operators that are limited to some.
        lacks: Dtypes with which the runtime does not compute by default.
        constant: Indices of inputs that must be constants, by operator.
        stored: Indices of inputs that must be initializers or ``Constant`` nodes, by operator.
        int32_shapes: Whether shapes that depend on inputs may be computed with int32 and then cast to int64.
        rejects: Dtypes that an input must not have, by operator and index of the input.
        half: Whether the runtime computes in float16, in which a mask of float32's lowest number is infinite.
        overwrites: Operators whose result takes the place of their input, also where that is an output of the graph.
        ignores_lengths: Whether `sequence_lens` of LSTM, GRU and RNN is ignored without an error: "always", "open"
            (only if the length of the sequence is an open dimension) or "never".
    """

    name: str
    opset: int | None
    ir_version: int | None
    avoid: tuple[str, ...]
    operators: Mapping[str, str]
    source: str
    notes: str
    shapes: Literal["static", "open"] = "open"
    index_dtype: Literal["int32", "int64"] = "int64"
    fallback: Literal["cpu"] | None = None
    version: str = ""
    reads: int | None = None
    reads_ir: int | None = None
    domains: tuple[str, ...] = ()
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    constant: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    int32_shapes: bool = True
    rejects: Mapping[str, Mapping[int, tuple[str, ...]]] = field(default_factory=dict)
    half: bool = False
    overwrites: tuple[str, ...] = ()
    ignores_lengths: Literal["always", "open", "never"] = "never"

    @property
    def title(self) -> str:
        """The name and the version."""
        return f"{self.name} {self.version}".strip()

    def knows(self, operator: str) -> bool:
        """Return whether the runtime knows an operator, named "Name" or "domain.Name"."""
        return operator in self.operators or operator.rpartition(".")[0] in self.domains


def _target(name: str, module: Any, opset: int, **fields: Any) -> Target:
    """Return the target whose operators are in `module`. It avoids the composite operators that it lacks."""
    operators = MappingProxyType({one: module.LIMITS.get(one, "") for one in module.OPERATORS.split()})
    lacking = tuple(one for one in (*NEWEST, "Gelu") if one not in operators)
    fields = {"avoid": lacking, **fields}
    return Target(name, opset, IR_VERSIONS[opset], operators=operators, source=module.SOURCE, **fields)


_RELEASE, _OPSET, _IR = onnxruntime.RELEASES[-1]
# The execution providers are parts of ONNX Runtime, which reads the file and computes the rest on the CPU.
_PROVIDER: dict[str, Any] = {"fallback": "cpu", "version": _RELEASE, "reads": _OPSET, "reads_ir": _IR}
_AXES = tuple(f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum"))

_ALL = (
    Target(
        "standard",
        None,
        None,
        avoid=(),
        operators=MappingProxyType({}),
        source="https://github.com/onnx/onnx, docs/Operators.md",
        notes="The ONNX standard itself: the lowest operator set that a graph needs, and no runtime's own operators.",
    ),
    _target(
        "onnxruntime",
        onnxruntime,
        _OPSET,
        notes="The CPU execution provider. "
        + "; ".join(f"{release} reads operator set {opset} and IR {ir}" for release, opset, ir in onnxruntime.RELEASES)
        + ". Later releases read later sets.",
        version=_RELEASE,
        reads=_OPSET,
        reads_ir=_IR,
        domains=("com.microsoft",),
    ),
    _target(
        "onnxruntime-web",
        onnxruntime_web,
        17,  # released files of it read no later one
        notes="The list is that of WebGPU. WebAssembly computes the rest on the CPU, as ONNX Runtime does. WebGPU "
        "computes with int64 only if the option enableInt64 is set.",
        index_dtype="int32",
        lacks=("int64",),
        **_PROVIDER,
    ),
    _target(
        "openvino",
        openvino,
        22,
        notes="Accepts every operator set and rejects unknown operators. LSTM, GRU and RNN are right with "
        "sequence_lens only if the length of the sequence is a number. Releases of 2026 also know those of set 23.",
        version="2025",
        ignores_lengths="open",
    ),
    _target(
        "tensorrt",
        tensorrt,
        20,
        notes="Lists operator sets 9 to 20. float64 becomes float32; uint8 is for inputs and outputs only.",
        version="10.0",
        reads=20,
        dtypes=MappingProxyType(tensorrt.DTYPES),
        constant=MappingProxyType(
            dict.fromkeys((*_AXES, "ReduceSumSquare", "Squeeze", "Unsqueeze", "CumSum", "OneHot"), (1,))
            | {"Slice": (3,), "Pad": (3,)}
        ),
    ),
    _target(
        "coreml",
        coreml,
        17,
        notes="ONNX Runtime's CoreML execution provider with the option ModelFormat=MLProgram. Open dimensions are "
        "allowed, but slower.",
        constant=MappingProxyType(
            {"Gemm": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "Conv": (2,), "ConvTranspose": (1, 2)}
        ),
        half=True,
        **_PROVIDER,
    ),
    _target(
        "qnn",
        qnn,
        20,  # it has Gelu, and no Erf
        notes="ONNX Runtime's QNN execution provider. Its NPU backend, HTP, computes quantized models, and others in "
        "float16. If and Loop are not supported.",
        shapes="static",
        half=True,
        **_PROVIDER,
    ),
    _target(
        "rknn",
        rknn,
        19,
        notes="RKNN-Toolkit2, which converts files for Rockchip's NPU. It rejects operator sets above 19.",
        shapes="static",
        half=True,
        version="2.3.2",
        reads=19,
    ),
    _target(
        "mnn",
        mnn,
        17,
        notes="The converter of MNN. It accepts every operator set, rejects unknown operators, ignores sequence_lens, "
        "writes the result of a sigmoid over its input, also where that is an output, and tells -0.0 from 0.0.",
        index_dtype="int32",
        version="3.6",
        ignores_lengths="always",
        overwrites=("Sigmoid",),
    ),
    _target(
        "tract",
        tract,
        17,
        notes="Accepts every operator set and rejects unknown operators. It knows those of set 23 since 0.23, but "
        "rejects Attention with a boolean mask. A shape that goes through int32 loses its open dimensions.",
        avoid=NEWEST,
        version="0.23",
        constant=MappingProxyType(
            {"Pad": (1,), "Range": (0, 1)} | {name: (index,) for name, index in SEQUENCE_LENS.items()}
        ),
        stored=MappingProxyType(dict.fromkeys((*_AXES, "ReduceSumSquare"), (1,))),
        int32_shapes=False,
        rejects=MappingProxyType({"Attention": MappingProxyType({3: ("bool",)})}),
    ),
)

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _ALL})
