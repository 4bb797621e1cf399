"""A third-party image model whose exported file takes images as (batch, channels, height, width)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....signature import Graph, TensorSpec
from .model import AnyModel, Foreign

Tensor = Any

LAYOUT = "attention_zoo.channels_first"  # metadata key of the names of the inputs that are transposed


class ChannelsFirst(Foreign):
    """A view of a model whose images have their channels first. All other attributes are those of the model.

    Args:
        model: the model.
        names: the inputs that are images, (batch, height, width, channels) in the model.
    """

    def __init__(self, model: Foreign, names: list[str]) -> None:
        self.model, self.names = model, names
        self.name, self.config, self.weights = model.name, model.config, model.weights
        own = model.signature
        inputs = tuple(_first(spec) if spec.name in names else spec for spec in own.inputs)
        self.signature = replace(own, inputs=inputs)

    def graphs(self, kind: str = "plain") -> dict[str, Graph]:
        return {"model": Graph(self.signature, self.by_name)}

    def by_name(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from keras import ops

        moved = {name: ops.transpose(x, (0, 2, 3, 1)) if name in self.names else x for name, x in inputs.items()}
        return self.model.by_name(moved)

    def named_weights(self) -> dict[str, Any]:
        return self.model.named_weights()

    def merged_weights(self, dtype: str | None = None) -> Any:
        return self.model.merged_weights(dtype)

    def _flatten_layers(self, include_self: bool = True) -> list[Any]:
        return self.model._flatten_layers(include_self)

    @property
    def file_metadata(self) -> dict[str, str]:
        """The metadata entry from which ``verify`` restores the view."""
        return {LAYOUT: json.dumps(self.names)}


def _first(spec: TensorSpec) -> TensorSpec:
    batch, *sides, channels = spec.dims
    return replace(spec, dims=(batch, channels, *sides))


def images_of(model: Foreign) -> list[str]:
    """Return the names of the inputs that are images with their channels last, as Keras has them by default."""
    layouts = {getattr(layer, "data_format", None) for layer in model._flatten_layers()}
    if not isinstance(model, AnyModel) or "channels_first" in layouts:
        return []
    images = [spec for spec in model.signature.inputs if len(spec.dims) == 4 and isinstance(spec.dims[-1], int)]
    return [spec.name for spec in images]


def layout_in_file(model: Any, metadata: Mapping[str, str]) -> Any:
    """Return the view of `model` that a file with this metadata was made from, which may be `model` itself."""
    names = json.loads(metadata.get(LAYOUT, "[]"))
    return ChannelsFirst(model, names) if names and names == images_of(model) else model
