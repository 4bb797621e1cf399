"""Layouts of weights on a mesh of devices, for ``keras.distribution.ModelParallel`` (JAX).

One table covers all families, as they name their weights alike: projections are divided as in Megatron-LM (Shoeybi et
al. 2019, arXiv:1909.08053), a block's first products by columns and its last by rows, and tables by words. With
``fsdp=True`` every weight is also divided over the devices that share a batch (Rajbhandari et al. 2019,
arXiv:1910.02054, stage 3): each device keeps a part and receives the rest while it is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import keras
import numpy as np

from ..weights.rules import weight_name
from ..zoo.base import ZooModel
from .layout_report import LayoutReport, WeightLayout
from .shapes import model_of_shapes

BATCH, MODEL = "batch", "model"
LARGE = 0.01  # the part of a model above which a weight must be divided, or be named as one that is not
LORA = re.compile(r"/lora_(kernel|embeddings)_([ab])$")


class Rule(NamedTuple):
    """A line of the table: how weights whose whole name `pattern` matches are divided over "model".

    Attributes:
        kind: name of the rule in reports.
        pattern: regular expression over names without the model's.
        dims: the dimensions that may be divided, the first choice first; none for weights that stay whole.
        heads: "query" or "value" if the parts must be whole attention heads of this kind.
    """

    kind: str
    pattern: str
    dims: tuple[int, ...]
    heads: str | None = None


# The first match counts. Kernels are (in, out), tables (rows, width), kernels of experts (experts, in, out).
TABLE = (
    Rule("experts", r".*/(gate|up)_kernel", (0, 2)),
    Rule("experts", r".*/down_kernel", (0, 1)),
    Rule("experts", r".*/(gate|up|down)_bias", (0,)),
    Rule("columns", r"(.*/)?\w*attention/(query|position_query)/(kernel|bias)", (-1,), "query"),
    Rule("columns", r"(.*/)?\w*attention/(key|value|position_key)/(kernel|bias)", (-1,), "value"),
    Rule("rows", r"(.*/)?\w*attention/output/kernel", (0,), "query"),
    Rule("columns", r".*/(gate|up)/(kernel|bias)", (-1,)),
    Rule("rows", r".*/down/kernel", (0,)),
    Rule("vocabulary", r"(\w+_)?embedding/embeddings", (0, 1)),
    Rule("vocabulary", r"lm_head/kernel", (1, 0)),
    Rule("vocabulary", r"lm_head/(bias|\w+_bias)|(logits|output)_bias", (0,)),
    Rule("positions", r"\w+/embeddings|(embedding|patches)/positions", (-1, -2)),
    Rule("recurrent", r".*_cell/(kernel|recurrent_kernel|bias)", (-1,)),
    Rule("columns", r"(.*/)?\w+/kernel", (-1, -2)),
    Rule("vectors", r".*", ()),
)


class ModelLayouts(keras.distribution.LayoutMap):
    """A ``LayoutMap`` of ``keras.distribution`` with a layout for every weight of one model; see ``layout_map``.

    Attributes:
        report: a ``LayoutReport``: what lies where, bytes on a device, and what is whole, and why.
    """

    def __init__(self, device_mesh: Any, report: LayoutReport) -> None:
        super().__init__(device_mesh)
        self.report = report
        for weight in report.weights:
            self[weight.name] = weight.axes

    def __getitem__(self, key: str) -> Any:
        """Return the layout of the weight with the path `key`, or None for other variables and for layers."""
        name = key
        while name:  # the path begins with the name of the model, and of those that contain it
            if name in self._layout_map:
                return self._layout_map[name]
            if (found := LORA.search(name)) and (layout := self._of_adapter(name[: found.start()], found)) is not None:
                return layout
            name = name.partition("/")[2]
        return None

    def _of_adapter(self, layer: str, found: re.Match[str]) -> Any:
        """Return the layout of an adapter's factor: the first has the rows of the weight, the second its columns."""
        whole = self._layout_map.get(f"{layer}/{found[1]}")
        if whole is None:
            return None
        rows, columns = whole.axes
        axes = [rows, None] if found[2] == "a" else [None, columns]
        return keras.distribution.TensorLayout(axes, self.device_mesh)

    def check_model(self, model: Any) -> None:
        """Check that `model` has the weights that this map was made for. ``fit`` calls it.

        Raises:
            ValueError: a weight is unknown, or has another shape.
        """
        known = {weight.name: weight.shape for weight in self.report.weights}
        for variable in model.weights:
            name = weight_name(variable)
            if LORA.search(name) is None and known.get(name) != tuple(variable.shape):
                raise ValueError(
                    f"layout_map: got one for another model: {name} has shape {tuple(variable.shape)}, and "
                    f"{known.get(name, 'no entry')} in the map; accepted: layout_map(mesh, model) of the same config"
                )


def layout_map(
    mesh: Any,
    model: Any,
    *,
    fsdp: bool = False,
    whole: Sequence[str] = (),
    rules: Mapping[str, Sequence[str | None]] | None = None,
    **overrides: Any,
) -> ModelLayouts:
    """Return the layout of every weight of a model on a mesh of devices, for ``ModelParallel`` on the JAX backend.

    The map is made before the model, from its config::

        layouts = az.layout_map((2, 4), "gpt2")  # 2 groups that share a batch, of 4 devices that share the weights
        print(layouts.report)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch"))
        model = az.load("gpt2")

    Over "model", projections to queries, keys, values and the inside of feed-forward layers are divided by columns,
    those back by rows, tables by words, and experts by experts. Heads are never cut: where the devices do not divide
    the number of heads, as with few key and value heads, the projection is not divided, and the report says so.

    Args:
        mesh: a ``keras.distribution.DeviceMesh`` with the axes "batch" and "model", or one of them; or the sizes of
            both, for a mesh of all devices.
        model: the model: a name that ``create`` knows, a path that ``load`` reads (no weights are read), a config, or a
            model.
        fsdp: divide every matrix over "batch" too, along the largest dimension that can be divided.
        whole: shell patterns over the names of weights that are to stay whole.
        rules: axes by shell pattern over names, such as ``{"pooler/kernel": (None, "model")}``. They come before the
            table.
        overrides: config fields, if `model` is a name or a path.

    Returns:
        The map, with the attribute ``report``.

    Raises:
        ValueError: a pattern matches no weight; axes do not fit the mesh or a shape; or a weight that holds more than
            1 % of the model's numbers stays whole and is neither in `whole` nor a projection to grouped heads.
    """
    mesh = _mesh(mesh)
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    with model_of_shapes(model, overrides) as made:
        weights, heads = _weights(made)
    axes_of = _own_rules(sizes, weights, rules or {})
    asked = _matching(whole, weights, "whole")
    total = sum(math.prod(shape) for shape, _ in weights.values())
    found: list[WeightLayout] = []
    for name, (shape, width) in weights.items():
        if name in asked:
            axes, kind, why = (None,) * len(shape), "whole", "asked for"
        elif name in axes_of:
            axes, kind, why = axes_of[name], "own rule", ""
        else:
            axes, kind, why = _layout(name, shape, sizes, heads, fsdp)
        parts = math.prod(sizes[axis] for axis in axes if axis)
        why = why if parts == 1 or "heads" in why else ""
        found.append(WeightLayout(name, shape, axes, kind, math.prod(shape) * width, parts, why))
    large = [
        one
        for one in found
        if one.parts == 1
        and one.why != "asked for"
        and "grouped" not in one.why
        and math.prod(one.shape) > LARGE * total
    ]
    if large and math.prod(mesh.shape) > 1:
        named = "; ".join(f"{one.name} {one.shape}: {one.why or one.kind}" for one in large[:4])
        raise ValueError(
            f"layout_map: got {len(large)} weights over {LARGE:.0%} of the model that no device shares: {named}; "
            f"accepted: sizes that the mesh {mesh.shape} divides, fsdp=True, own rules, or whole={large[0].name!r}"
        )
    return ModelLayouts(mesh, LayoutReport(tuple(found), tuple(mesh.shape), tuple(mesh.axis_names)))


def _mesh(mesh: Any) -> Any:
    if isinstance(mesh, tuple | list):
        devices = keras.distribution.list_devices()
        if len(mesh) != 2 or math.prod(mesh) != len(devices):
            raise ValueError(f"mesh: got {tuple(mesh)}; accepted: sizes of batch and model of {len(devices)} devices")
        return keras.distribution.DeviceMesh(tuple(mesh), (BATCH, MODEL), devices)
    if not isinstance(mesh, keras.distribution.DeviceMesh):
        raise ValueError(f"mesh: got {mesh!r}; accepted: a keras.distribution.DeviceMesh, or (batch, model) sizes")
    if not set(mesh.axis_names) <= {BATCH, MODEL}:
        raise ValueError(f"mesh: got the axes {list(mesh.axis_names)}; accepted: {BATCH!r} and {MODEL!r}")
    return mesh


def _weights(model: ZooModel) -> tuple[dict[str, tuple[tuple[int, ...], int]], dict[str, Any]]:
    """Return the shapes and bytes per number of all weights by name, and the attention layers by name."""
    weights = {
        name: (tuple(variable.shape), np.dtype(variable.dtype).itemsize)
        for variable in model.weights
        if LORA.search(name := weight_name(variable)) is None
    }
    heads: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if hasattr(layer, "query_dense") and hasattr(layer, "num_heads"):
            heads[weight_name(layer.query_dense.kernel).rpartition("/query/")[0]] = layer
    return weights, heads


def _matching(patterns: Sequence[str], names: Mapping[str, Any], argument: str) -> set[str]:
    found: set[str] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise ValueError(
                f"{argument}: got {pattern!r}, which no weight matches; accepted: such as {next(iter(names))}"
            )
        found |= matched
    return found


def _own_rules(
    sizes: Mapping[str, int],
    weights: Mapping[str, tuple[tuple[int, ...], int]],
    rules: Mapping[str, Sequence[str | None]],
) -> dict[str, tuple[str | None, ...]]:
    found: dict[str, tuple[str | None, ...]] = {}
    for pattern, given in rules.items():
        axes = tuple(given)
        for name in _matching((pattern,), weights, "rules"):
            shape = weights[name][0]
            named = [axis for axis in axes if axis is not None]
            fits = len(axes) == len(shape) and set(named) <= set(sizes) and len(set(named)) == len(named)
            if not fits or any(axis and size % sizes[axis] for axis, size in zip(axes, shape, strict=True)):
                raise ValueError(
                    f"rules: got {axes} for {name} of shape {shape}; accepted: for each dimension None or one of "
                    f"{sizes}, which divides it"
                )
            found.setdefault(name, axes)
    return found


def _layout(
    name: str, shape: tuple[int, ...], sizes: Mapping[str, int], heads: Mapping[str, Any], fsdp: bool
) -> tuple[tuple[str | None, ...], str, str]:
    """Return the axes of a weight, the kind of its rule, and why it is whole if it is."""
    rule = next(rule for rule in TABLE if re.fullmatch(rule.pattern, name))
    axes: list[str | None] = [None] * len(shape)
    parts, why = sizes.get(MODEL, 1), "a vector"
    if rule.dims and shape:
        why = "no device on the axis 'model' to share with" if parts == 1 else f"{parts} devices divide no dimension"
        layer: Any = heads.get(name.rsplit("/", 2)[0]) if rule.heads else None
        number = getattr(layer, "num_heads" if rule.heads == "query" else "num_kv_heads", 0)
        if parts > 1 and layer is not None and number % parts:
            grouped = "grouped " if number != layer.num_heads else ""
            why = f"{parts} devices do not divide its {number} {grouped}heads"
        elif parts > 1:
            for dim in rule.dims:
                if -len(shape) <= dim < len(shape) and shape[dim] % parts == 0:
                    axes[dim] = MODEL
                    break
    if fsdp and len(shape) > 1 and (others := sizes.get(BATCH, 1)) > 1:
        free = [dim for dim in range(len(shape)) if axes[dim] is None and shape[dim] % others == 0]
        if free:
            axes[max(free, key=lambda dim: shape[dim])] = BATCH
        elif axes.count(None) == len(axes):
            why = f"{others} devices divide no dimension"
    return tuple(axes), rule.kind, why
