"""Between one tensor of theirs and one or more of ours: transforms, each with its inverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .tensors import Shape


@dataclass(frozen=True)
class Transform:
    """Between one tensor of theirs and one or more of ours.

    Attributes:
        load: their array, and the shapes of ours, to our arrays.
        save: our arrays to theirs.
        shape: their shape, of ours.
    """

    load: Callable[[np.ndarray, Sequence[Shape]], list[np.ndarray]]
    save: Callable[[Sequence[np.ndarray]], np.ndarray]
    shape: Callable[[Sequence[Shape]], Shape]


def permuted(*axes: int) -> Transform:
    """Axis i here is axis ``axes[i]`` there."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Transform(
        lambda theirs, _: [theirs.transpose(axes)],
        lambda ours: ours[0].transpose(back),
        lambda shapes: tuple(shapes[0][axis] for axis in back),
    )


def joined(axis: int, *, transposed: bool = False) -> Transform:
    """Several of ours, perhaps each transposed, one behind the other along `axis` there."""

    def turn(array: np.ndarray) -> np.ndarray:
        return array.T if transposed else array

    def load(theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        sizes = [(shape[::-1] if transposed else shape)[axis] for shape in shapes]
        return [turn(part) for part in np.split(theirs, np.cumsum(sizes)[:-1], axis=axis)]

    def shape(shapes: Sequence[Shape]) -> Shape:
        turned = [list(shape[::-1] if transposed else shape) for shape in shapes]
        turned[0][axis] = sum(part[axis] for part in turned)
        return tuple(turned[0])

    return Transform(load, lambda ours: np.concatenate([turn(array) for array in ours], axis=axis), shape)


def paired_rows(heads: int) -> Transform:
    """A transposed kernel, or a bias, of a projection to heads whose features stand in pairs for rotary positions, as
    GGUF files of Llama have them (0, D/2, 1, D/2 + 1, …), where ours and Hugging Face's stand in halves."""

    def load(theirs: np.ndarray, _: Sequence[Shape]) -> list[np.ndarray]:
        rows, *columns = theirs.shape
        return [theirs.reshape(heads, rows // heads // 2, 2, *columns).swapaxes(1, 2).reshape(rows, *columns).T]

    def save(ours: Sequence[np.ndarray]) -> np.ndarray:
        rows, *columns = ours[0].T.shape
        return ours[0].T.reshape(heads, 2, rows // heads // 2, *columns).swapaxes(1, 2).reshape(rows, *columns)

    return Transform(load, save, lambda shapes: shapes[0][::-1])


SAME = Transform(lambda theirs, _: [theirs], lambda ours: ours[0], lambda shapes: shapes[0])


TRANSPOSED = permuted(1, 0)


ROW = Transform(lambda theirs, _: [theirs[0]], lambda ours: ours[0][None], lambda shapes: (1, *shapes[0]))
