"""Rules for the options and layers of KerasHub models that several families share.

They follow keras-hub 0.32 (``keras_hub/src/models``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..weights.rules import Field, Rule
from ..weights.tensors import Shape
from ..weights.transforms import SAME, Transform

FIELDS = (  # options of backbones that consist of TransformerEncoder or TransformerDecoder layers
    Field("vocabulary_size", "vocab_size"),
    Field("num_layers", "num_layers"),
    Field("num_heads", "num_heads"),
    Field("hidden_dim", "hidden_dim"),
    Field("intermediate_dim", "intermediate_dim"),
    Field("dropout", "dropout"),
    Field("max_sequence_length", "max_length"),
)
TASK = "task."  # prefix of a task's options; those of its backbone have none


def accept(raw: Mapping[str, Any], **accepted: Any) -> None:
    """Raise ValueError if an option of a task is set to another value than the `accepted` one."""
    for name, value in accepted.items():
        if (given := raw.get(TASK + name)) is not None and given != value:
            raise ValueError(f"{name}: got {given!r}; accepted: {value!r}")


def split_heads(axis: int, heads: int) -> Transform:
    """Return a transform from KerasHub's two axes (heads, dim), as in an EinsumDense layer, to one (heads · dim).

    Args:
        axis: the index of the joint axis in this package's weight.
        heads: the number of heads.
    """

    def shape(ours: Shape) -> Shape:
        return (*ours[:axis], heads, ours[axis] // heads, *ours[axis + 1 :])

    return Transform(
        lambda theirs, shapes: [theirs.reshape(shapes[0])],
        lambda ours: ours[0].reshape(shape(ours[0].shape)),
        lambda shapes: shape(shapes[0]),
    )


def rows_from(first: int) -> Transform:
    """Return a transform that writes a table without its rows before `first`, and reads a table unchanged.

    If there is a second weight, (1, width), its row is added to each row that is written.
    """

    def save(ours: Sequence[np.ndarray]) -> np.ndarray:
        rows = ours[0][first:]
        return rows + ours[1] if len(ours) > 1 else rows

    return Transform(lambda theirs, _: [theirs], save, lambda shapes: (shapes[0][0] - first, *shapes[0][1:]))


def dense(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    return tuple(Rule(f"{theirs}.{part}", f"{ours}/{part}", SAME, outside) for part in ("kernel", "bias"))  # pyright: ignore[reportReturnType]


def layer_norm(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    return tuple(Rule(f"{theirs}.{part}", f"{ours}/{part}", SAME, outside) for part in ("gamma", "beta"))  # pyright: ignore[reportReturnType]


def attention(theirs: str, num_heads: int, num_kv_heads: int, layer: str = "block_{i}/attention") -> Iterator[Rule]:
    """Yield the rules for the projections of Keras' MultiHeadAttention and similar layers at the path `theirs`."""
    for part, heads in (("query", num_heads), ("key", num_kv_heads), ("value", num_kv_heads)):
        dense, ours = f"{theirs}._{part}_dense", f"{layer}/{part}"
        yield Rule(f"{dense}.kernel", f"{ours}/kernel", split_heads(1, heads))
        yield Rule(f"{dense}.bias", f"{ours}/bias", split_heads(0, heads))
    yield Rule(f"{theirs}._output_dense.kernel", f"{layer}/output/kernel", split_heads(0, num_heads))
    yield Rule(f"{theirs}._output_dense.bias", f"{layer}/output/bias")


def transformer_layers(c: Any, layer: str = "transformer_layers.{i}.", block: str = "block_{i}") -> Iterator[Rule]:
    """Yield the rules for KerasHub's TransformerEncoder or TransformerDecoder layers, for a model with config `c`."""
    yield from attention(f"{layer}_self_attention_layer", c.num_heads, c.num_heads, f"{block}/attention")
    yield from layer_norm(f"{layer}_self_attention_layer_norm", f"{block}/attention_norm")
    yield from layer_norm(f"{layer}_feedforward_layer_norm", f"{block}/feedforward_norm")
    yield from dense(f"{layer}_feedforward_intermediate_dense", f"{block}/feedforward/up")
    yield from dense(f"{layer}_feedforward_output_dense", f"{block}/feedforward/down")
