"""GPTQ: what rounding one input's weights did wrong, the weights of later inputs make good. NumPy only.

Frantar et al. 2022 (arXiv:2210.17323), over scales and zero points that are there already ("static groups"), from the
input with the largest values to the one with the smallest ("act order").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .blocks import Blocks

Array = np.ndarray

DAMPING = 0.01  # of the mean square of an input: what is never seen may not become free
AT_ONCE = 128  # inputs whose errors are kept back before the rest of the matrix hears of them


class Order(NamedTuple):
    """In what order inputs are rounded, and how an error at one of them is made good by those behind it.

    Attributes:
        inputs: (in,) from the largest to the smallest.
        shares: (in, in) upper triangle float32, in that order.
    """

    inputs: Array
    shares: Array


def order_of(moments: Array) -> Order:
    """Of (in, in) sums over many tokens of the products of two inputs. What was never seen counts as small noise."""
    inputs = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(inputs, inputs)].astype("float64")
    damped[np.diag_indices_from(damped)] += DAMPING * max(float(np.diag(damped).mean()), 1e-30)
    return Order(inputs, np.linalg.cholesky(np.linalg.inv(damped)).T.astype("float32"))


def with_feedback(rows: Array, blocks: Blocks, order: Order) -> Blocks:
    """`blocks` of `rows` (out, in) with other values: not those nearest to the weights, but those whose product with
    the inputs is nearest. Scales and zero points stay."""
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
    made = blocks.values.reshape(out, -1).copy()  # what fills the last block up stays
    made[:, :width] = values.T
    return blocks._replace(values=made.reshape(blocks.values.shape))
