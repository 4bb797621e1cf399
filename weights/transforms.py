"""Invertible transforms between one tensor of a checkpoint and one or more weights of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .tensors import Shape


@dataclass(frozen=True)
class Transform:
    """A transform between one tensor of a checkpoint and one or more weights of a model, in both directions.

    Attributes:
        load: function of (the checkpoint's array, shapes of the weights) that returns the arrays of the weights.
        save: function of the arrays of the weights that returns the checkpoint's array.
        shape: function of the shapes of the weights that returns the shape of the checkpoint's tensor.
    """

    load: Callable[[np.ndarray, Sequence[Shape]], list[np.ndarray]]
    save: Callable[[Sequence[np.ndarray]], np.ndarray]
    shape: Callable[[Sequence[Shape]], Shape]


def permuted(*axes: int) -> Transform:
    """Return a transform in which axis i of the weight is axis ``axes[i]`` of the checkpoint's tensor."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Transform(
        lambda theirs, _: [theirs.transpose(axes)],
        lambda ours: ours[0].transpose(back),
        lambda shapes: tuple(shapes[0][axis] for axis in back),
    )


def joined(axis: int, *, transposed: bool = False) -> Transform:
    """Return a transform that concatenates weights along `axis` in the checkpoint.

    With `transposed`, the last two axes of each weight are exchanged first.
    """

    def turn(array: np.ndarray) -> np.ndarray:
        return array.swapaxes(-1, -2) if transposed else array

    def turned_shape(shape: Shape) -> Shape:
        return (*shape[:-2], shape[-1], shape[-2]) if transposed else shape

    def load(theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        sizes = [turned_shape(shape)[axis] for shape in shapes]
        return [turn(part) for part in np.split(theirs, np.cumsum(sizes)[:-1], axis=axis)]

    def shape(shapes: Sequence[Shape]) -> Shape:
        turned = [list(turned_shape(shape)) for shape in shapes]
        turned[0][axis] = sum(part[axis] for part in turned)
        return tuple(turned[0])

    return Transform(load, lambda ours: np.concatenate([turn(array) for array in ours], axis=axis), shape)


def grouped_heads(heads: int, kv_heads: int) -> Transform:
    """Return a transform for the kernels (transposed) or the biases of queries, keys and values in one tensor.

    The tensor has, for each key/value head, its query heads, then the head of keys, then the head of values, as in
    GPT-NeoX, BLOOM, Falcon and DeBERTa.
    """
    queries = heads // kv_heads

    def load(theirs: np.ndarray, _: Sequence[Shape]) -> list[np.ndarray]:
        grouped = theirs.reshape(kv_heads, queries + 2, -1, *theirs.shape[1:])
        parts = (grouped[:, :queries], grouped[:, queries], grouped[:, queries + 1])
        return [part.reshape(-1, *theirs.shape[1:]).T for part in parts]

    def save(ours: Sequence[np.ndarray]) -> np.ndarray:
        columns = ours[0].T.shape[1:]
        query, key, value = (
            array.T.reshape(kv_heads, number, -1, *columns) for array, number in zip(ours, (queries, 1, 1), strict=True)
        )
        return np.concatenate([query, key, value], axis=1).reshape(-1, *columns)

    def shape(shapes: Sequence[Shape]) -> Shape:
        return (sum(each[-1] for each in shapes), *shapes[0][:-1])

    return Transform(load, save, shape)


def paired_rows(heads: int) -> Transform:
    """Return a transform for the kernel (transposed) or the bias of a query or key projection in GGUF files of Llama.

    These files store the D features of each head in the order 0, D/2, 1, D/2 + 1, …: features that are rotated together
    are adjacent. In attention_zoo, as in Hugging Face's Llama, feature i is rotated with feature i + D/2.
    """

    def load(theirs: np.ndarray, _: Sequence[Shape]) -> list[np.ndarray]:
        rows, *columns = theirs.shape
        return [theirs.reshape(heads, rows // heads // 2, 2, *columns).swapaxes(1, 2).reshape(rows, *columns).T]

    def save(ours: Sequence[np.ndarray]) -> np.ndarray:
        rows, *columns = ours[0].T.shape
        return ours[0].T.reshape(heads, 2, rows // heads // 2, *columns).swapaxes(1, 2).reshape(rows, *columns)

    return Transform(load, save, lambda shapes: shapes[0][::-1])


# Two weights whose last axes alternate in the checkpoint: 0 of the first, 0 of the second, 1 of the first, …
ALTERNATING = Transform(
    lambda theirs, _: [theirs[..., ::2], theirs[..., 1::2]],
    lambda ours: np.stack(ours, axis=-1).reshape(*ours[0].shape[:-1], -1),
    lambda shapes: (*shapes[0][:-1], 2 * shapes[0][-1]),
)


SAME = Transform(lambda theirs, _: [theirs], lambda ours: ours[0], lambda shapes: shapes[0])


TRANSPOSED = permuted(1, 0)


ROW = Transform(lambda theirs, _: [theirs[0]], lambda ours: ours[0][None], lambda shapes: (1, *shapes[0]))


BATCHED = Transform(lambda theirs, _: [theirs[None]], lambda ours: ours[0][0], lambda shapes: shapes[0][1:])
