"""The report of ``layout_map``: which part of every weight a device holds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@dataclass(frozen=True)
class WeightLayout:
    """Where the parts of one weight are.

    Attributes:
        name: the name of the weight, without the model's.
        shape: its whole shape.
        axes: for each dimension, the axis of the mesh that divides it, or None.
        kind: the rule that decided, such as "columns".
        bytes: size of the whole weight.
        parts: number of equal parts into which it is divided; each device holds one.
        why: why it is whole, or not divided between heads; "" if it is divided by its rule.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    kind: str
    bytes: int
    parts: int
    why: str


@dataclass(frozen=True)
class LayoutReport:
    """What a device holds of the weights of a model. ``print`` shows it as a table, with blocks of equal layout as one.

    Attributes:
        weights: the layout of every weight.
        mesh: the sizes of the mesh.
        axis_names: the names of its axes.
    """

    weights: tuple[WeightLayout, ...]
    mesh: tuple[int, ...]
    axis_names: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of all weights."""
        return sum(weight.bytes for weight in self.weights)

    @property
    def device_bytes(self) -> int:
        """Size of the parts that one device holds. Gradients and the moments of an optimizer are divided likewise."""
        return sum(weight.bytes // weight.parts for weight in self.weights)

    @property
    def whole(self) -> dict[str, str]:
        """The reason for every weight of which each device holds a copy, by name."""
        return {weight.name: weight.why for weight in self.weights if weight.parts == 1}

    def to_json(self) -> dict[str, Any]:
        """Return the report as data for ``json``."""
        return {
            "mesh": dict(zip(self.axis_names, self.mesh, strict=True)),
            "bytes": self.bytes,
            "device_bytes": self.device_bytes,
            "weights": [
                {**vars(weight), "shape": list(weight.shape), "axes": list(weight.axes)} for weight in self.weights
            ],
        }

    def __str__(self) -> str:
        groups: dict[tuple[Any, ...], list[WeightLayout]] = {}
        for weight in self.weights:
            if weight.kind != "vectors":
                key = (re.sub(r"_\d+/", "_*/", weight.name), weight.shape, weight.axes, weight.why)
                groups.setdefault(key, []).append(weight)
        vectors = [weight for weight in self.weights if weight.kind == "vectors"]
        mesh = ", ".join(f"{name} {size}" for name, size in zip(self.axis_names, self.mesh, strict=True))
        lines = [
            f"{_size(self.bytes)} of weights on {math.prod(self.mesh)} devices ({mesh}): "
            f"{_size(self.device_bytes)} on each"
        ]
        for (name, shape, axes, why), group in groups.items():
            part = "whole" if group[0].parts == 1 else f"{group[0].kind}, 1/{group[0].parts}"
            what = f"{part}: {why}" if why else part
            spread = ", ".join(
                f"{size}" + (f" over {axis}" if axis else "") for size, axis in zip(shape, axes, strict=True)
            )
            lines.append(f"  {len(group):4} × {name} ({spread}): {what}")
        if vectors:
            lines.append(f"  {len(vectors):4} vectors, {_size(sum(weight.bytes for weight in vectors))}: whole")
        return "\n".join(lines)


def _size(number: int) -> str:
    unit, divisor = next(((unit, size) for unit, size in UNITS if number >= size), ("bytes", 1))
    return f"{number / divisor:.3g} {unit}"
