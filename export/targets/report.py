"""The result of ``check``: what of an ONNX file a runtime rejects, computes wrongly or leaves to the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

FILE = ""  # the operator of a finding about the whole file


@dataclass(frozen=True)
class TargetFinding:
    """Nodes of one operator with the same problem, or a problem of the whole file.

    Attributes:
        operator: The operator, "Name" or "domain.Name"; empty for the whole file or its inputs.
        count: The number of nodes or inputs.
        first: The name of the first of them; the name of its first output if the node has none.
        reason: The problem, in a line.
    """

    operator: str
    count: int
    first: str
    reason: str

    def __str__(self) -> str:
        where = f", first: {self.first}" if self.first else ""
        return f"{self.operator} {self.count}: {self.reason}{where}" if self.operator else f"{self.reason}{where}"


@dataclass(frozen=True)
class TargetReport:
    """The result of the check of one ONNX file for one runtime. ``str(report)`` is the report in Markdown.

    Attributes:
        file: The file.
        target: The name of the runtime.
        opset: The operator set of the ONNX standard that the file uses; 0 if it uses none.
        ir_version: The IR version of the file.
        nodes: The number of nodes, with those of nested graphs and of functions of the file.
        refused: What makes the runtime reject the file.
        wrong: What the runtime computes wrongly without an error.
        on_cpu: What is computed on the CPU instead of the accelerator.
        warnings: What may be limited: the limits that the runtime's list states are not all checked.
    """

    file: str
    target: str
    opset: int
    ir_version: int
    nodes: int
    refused: tuple[TargetFinding, ...]
    wrong: tuple[TargetFinding, ...]
    on_cpu: tuple[TargetFinding, ...]
    warnings: tuple[TargetFinding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is refused and nothing is known to be computed wrongly."""
        return not self.refused and not self.wrong

    def __str__(self) -> str:
        return self.to_markdown()

    def to_dict(self) -> dict:
        """Return all fields and ``passed`` as JSON types."""
        return json.loads(json.dumps(asdict(self))) | {"passed": self.passed}

    def to_json(self) -> str:
        """Return all fields and ``passed`` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def rows(self) -> list[tuple[str, str]]:
        """Return table rows: a row for the result, and one for each finding."""
        found = [(f"not readable by {self.target}", str(one)) for one in self.refused]
        found += [(f"wrong in {self.target}", str(one)) for one in self.wrong]
        if self.passed:
            count = sum(one.count for one in self.on_cpu if one.operator)
            share = f"; {count} of {self.nodes} nodes are on the CPU" if count else ""
            found.append((f"readable by {self.target}", f"yes{share}"))
        found += [(f"on the CPU in {self.target}", str(one)) for one in self.on_cpu]
        return found + [("warning", str(one)) for one in self.warnings]

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        rows = [
            f"**{self.file}** for {self.target}: {'passed' if self.passed else 'failed'}",
            "",
            "| | |",
            "|---|---|",
            f"| operator set | {self.opset}, IR version {self.ir_version} |",
            *(f"| {name} | {text} |" for name, text in self.rows()),
        ]
        return "\n".join(rows)


def grouped(findings: Iterable[tuple[str, str, str]]) -> tuple[TargetFinding, ...]:
    """Return the findings of (operator, name, reason), those with the same operator and reason as one."""
    found: dict[tuple[str, str], list[str]] = {}
    for operator, name, reason in findings:
        found.setdefault((operator, reason), []).append(name)
    return tuple(TargetFinding(operator, len(names), names[0], reason) for (operator, reason), names in found.items())
