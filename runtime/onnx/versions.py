"""Which version of ONNX Runtime reads a file."""

from __future__ import annotations

from collections.abc import Iterable

# The first ONNX Runtime that reads an opset (docs/Versioning.md of ONNX Runtime), and the first whose CPU has one of
# its own operators as this package writes it: with 8 bits too.
OPSETS = {17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23"}
OPERATORS = {"MatMulNBits": "1.22", "GroupQueryAttention": "1.18", "GatherBlockQuantized": "1.23"}


def least_runtime(opset: int, operators: Iterable[str]) -> str | None:
    """Return the first version of ONNX Runtime that reads a file, or None if the opset is newer than this table.

    Args:
        opset: the file's opset of standard operators.
        operators: names of its operators, with or without their domains.
    """
    newest = OPSETS.get(max(opset, min(OPSETS)))
    if newest is None:
        return None
    names = {operator.rpartition(".")[2] for operator in operators}
    return max([newest, *(OPERATORS[name] for name in names & OPERATORS.keys())], key=_numbers)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
