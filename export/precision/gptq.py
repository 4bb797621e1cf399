"""GPTQ: weights that are quantized later compensate for the errors of those before. Needs only NumPy.

Frantar et al. 2022 (arXiv:2210.17323), with scales and zero points that are already fixed ("static groups"), and in
order from the input with the largest values to the one with the smallest ("act order").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .blocks import Blocks

Array = np.ndarray

DAMPING = 0.01  # of the inputs' mean square, added to each, so that errors count even where an input is always zero
AT_ONCE = 128  # inputs whose errors are collected before the rest of the matrix is updated


class Order(NamedTuple):
    """The order in which the inputs of a matrix are quantized, and how later inputs compensate for the error of one.

    Attributes:
        inputs: (in,) indices, from the largest input to the smallest.
        shares: (in, in) upper triangle float32, in that order: the Cholesky factor of the inverse moments.
    """

    inputs: Array
    shares: Array


def order_of(moments: Array) -> Order:
    """Return the order for `moments` (in, in), the sums over many tokens of the products of two inputs. Inputs that are
    always zero count as small noise."""
    inputs = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(inputs, inputs)].astype("float64")
    damped[np.diag_indices_from(damped)] += DAMPING * max(float(np.diag(damped).mean()), 1e-30)
    return Order(inputs, np.linalg.cholesky(np.linalg.inv(damped)).T.astype("float32"))


def with_feedback(rows: Array, blocks: Blocks, order: Order) -> Blocks:
    """Return `blocks` of `rows` (out, in) with other values, and the same scales and zero points. The values are not
    those nearest to the weights, but those whose products with the inputs are nearest to the original ones."""
    out, width = rows.shape
    top = np.float32(2**blocks.bits - 1)
    size = blocks.values.shape[-1]
    scales = np.ascontiguousarray(blocks.scales.T)  # (blocks, out)
    middle = np.full(scales.shape, 2 ** (blocks.bits - 1)) if blocks.zeros is None else blocks.zeros.T
    zeros = np.ascontiguousarray(middle, "float32")
    left = np.ascontiguousarray(rows.T[order.inputs], "float32")  # (in, out)
    values = np.zeros((width, out), "uint8")
    for start in range(0, width, AT_ONCE):
        end = min(start + AT_ONCE, width)
        errors = np.zeros((end - start, out), "float32")
        for place in range(start, end):
            column = order.inputs[place]
            scale, zero = scales[column // size], zeros[column // size]
            rounded = np.clip(np.rint(left[place] / scale + zero), 0, top)
            values[column] = rounded
            error = (left[place] - (rounded - zero) * scale) / order.shares[place, place]
            left[place + 1 : end] -= order.shares[place, place + 1 : end, None] * error
            errors[place - start] = error
        left[end:] -= order.shares[start:end, end:].T @ errors
    made = blocks.values.reshape(out, -1).copy()  # keeps the padding of the last block
    made[:, :width] = values.T
    return blocks._replace(values=made.reshape(blocks.values.shape))
