"""What an export reports: where the file is, what is in it, and the first proof that it is right."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..runtime.tflite.suitability import Suitability
from .precision.report import Accuracy


@dataclass(frozen=True)
class ExportResult:
    """One exported file.

    Attributes:
        path: the file.
        format: "onnx", "tflite", "litertlm", or of the folder that it is in: "genai", "huggingface_onnx".
        bytes: its size, external data included.
        weight_bytes: of the model's weights in float32, for comparison.
        seconds: from call to file, the check included.
        operators: how many of each operator.
        greatest_difference: from Keras, on the one padded batch every export is checked with.
        files: all that belong together, `path` first: to move the model is to move these.
        fused: how many "attention", "normalization", "gelu", "rotary" and "recurrent" are one operator of an ONNX file,
            and how many the model has: (found, expected).
        warnings: what the caller should know.
        precision: of its numbers.
        rounded: share of the weights' numbers that are in that precision, unless it is float32.
        accuracy: beside the file in float32; None of that itself.
        suitability: for phones, of a TFLite file: XNNPACK's pieces, and what a GPU leaves to the CPU.
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
    warnings: list[str] = field(default_factory=list)
    precision: str = "fp32"
    rounded: float = 0.0
    accuracy: Accuracy | None = None
    suitability: Suitability | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_json(self) -> str:
        return json.dumps(
            {**asdict(self), "path": str(self.path), "files": [str(file) for file in self.files]}, indent=2
        )

    def to_markdown(self) -> str:
        operators = ", ".join(f"{name} {count}" for name, count in self.operators.items())
        in_float32 = " (of the same file in float32)" if self.accuracy else ""
        rows = [
            f"**{self.path}** ({self.format})",
            "",
            "| | |",
            "|---|---|",
            f"| size | {self.bytes / 1e6:.1f} MB ({self.bytes / self.weight_bytes:.2f} × the weights) |",
            f"| time | {self.seconds:.1f} s |",
            f"| greatest difference from Keras | {self.greatest_difference:.1e}{in_float32} |",
            *(f"| {name} | {value} |" for name, value in self._accuracy_rows()),
            f"| operators | {sum(self.operators.values())}: {operators} |",
            *(f"| {kind} in one operator | {found} of {all_} |" for kind, (found, all_) in self.fused.items()),
            *(f"| {name} | {value} |" for name, value in (self.suitability.rows() if self.suitability else [])),
            *(f"| with it | {file} |" for file in self.files if file != self.path),
            *(f"| warning | {warning} |" for warning in self.warnings),
        ]
        return "\n".join(rows)

    def _accuracy_rows(self) -> list[tuple[str, str]]:
        if self.accuracy is None:
            return []
        return [("precision", f"{self.precision}, {self.rounded:.1%} of the weights"), *self.accuracy.rows()]
