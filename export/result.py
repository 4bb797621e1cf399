"""The result of an export: the files, their sizes and operators, and their differences from Keras."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..runtime.tflite.suitability import Suitability
from .precision.report import Accuracy


@dataclass(frozen=True)
class ExportResult:
    """The result of one export. ``str(result)`` is the report in Markdown.

    Attributes:
        path: path of the exported file.
        format: "onnx", "tflite" or "litertlm"; for a file in a folder for another engine, "genai" or
            "huggingface_onnx".
        bytes: size in bytes of the model's files, including external data and the files of other graphs.
        weight_bytes: size in bytes that the model's weights have in float32, for comparison.
        seconds: duration of the export, including the comparison with Keras.
        operators: number of nodes of each operator, by its name, most frequent first.
        greatest_difference: maximum difference from Keras in the checks of the export, relative to the largest
            magnitude of an output. It is measured on the float32 file, whatever `precision` is.
        files: all files that belong to the model, `path` first. Copy or move them together.
        fused: for an ONNX file, pairs of numbers by kind ("attention", "normalization", "gelu", "rotary", "recurrent"):
            how many of that kind are a single operator in the file, and how many the model has.
        opset: for an ONNX file, the version of its standard operators; None for other formats.
        ir_version: for an ONNX file, its IR version.
        least_runtime: for an ONNX file, the first version of ONNX Runtime that reads it.
        warnings: what a user of the file should know, one sentence each.
        precision: "fp32", "fp16", "int8" or "int4".
        rounded: share of the weights' values that are in reduced precision, from 0 to 1; 0 for "fp32".
        accuracy: accuracy relative to the float32 file; None for "fp32".
        suitability: for a TFLite file, its suitability for phones: XNNPACK partitions, and operators that a GPU does
            not support. None for other formats.
    """

    path: Path
    format: str
    bytes: int
    weight_bytes: int
    seconds: float
    operators: dict[str, int]
    greatest_difference: float
    files: tuple[Path, ...] = ()
    fused: dict[str, tuple[int, int]] = field(default_factory=dict)
    opset: int | None = None
    ir_version: int | None = None
    least_runtime: str | None = None
    warnings: list[str] = field(default_factory=list)
    precision: str = "fp32"
    rounded: float = 0.0
    accuracy: Accuracy | None = None
    suitability: Suitability | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_json(self) -> str:
        """Return all fields as JSON."""
        return json.dumps(
            {**asdict(self), "path": str(self.path), "files": [str(file) for file in self.files]}, indent=2
        )

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        operators = ", ".join(f"{name} {count}" for name, count in self.operators.items())
        in_float32 = " (float32 file)" if self.accuracy else ""
        ratio = f" ({self.bytes / self.weight_bytes:.2f} × the float32 weights)" if self.weight_bytes else ""
        rows = [
            f"**{self.path}** ({self.format})",
            "",
            "| | |",
            "|---|---|",
            f"| size | {self.bytes / 1e6:.1f} MB{ratio} |",
            f"| time | {self.seconds:.1f} s |",
            *(
                [f"| opset | {self.opset}, IR {self.ir_version}: ONNX Runtime {self.least_runtime} or later |"]
                if self.opset
                else []
            ),
            f"| maximum difference from Keras | {self.greatest_difference:.1e}{in_float32} |",
            *(f"| {name} | {value} |" for name, value in self._accuracy_rows()),
            f"| operators | {sum(self.operators.values())}: {operators} |",
            *(f"| fused {kind} | {found} of {all_} |" for kind, (found, all_) in self.fused.items()),
            *(f"| {name} | {value} |" for name, value in (self.suitability.rows() if self.suitability else [])),
            *(f"| companion file | {file} |" for file in self.files if file != self.path),
            *(f"| warning | {warning} |" for warning in self.warnings),
        ]
        return "\n".join(rows)

    def _opset_rows(self) -> list[str]:
        if self.opset is None:
            return []
        return [f"{self.opset}, IR {self.ir_version}: for ONNX Runtime {self.least_runtime} or later"]

    def _accuracy_rows(self) -> list[tuple[str, str]]:
        if self.accuracy is None:
            return []
        return [("precision", f"{self.precision}, {self.rounded:.1%} of the weights"), *self.accuracy.rows()]
