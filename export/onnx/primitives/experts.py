"""Mixtures of experts in ONNX operators: lookups of the kernels that are used, and one product of all blocks."""

from __future__ import annotations

from typing import Any

from ....layers import experts
from ....layers import functional as F
from ..markers import marker

Tensor = Any


def group_by_expert(chosen: Tensor, num_experts: int) -> experts.Groups:
    """Group pairs by expert into as many blocks as are in use, where the number of tokens is open."""
    if chosen.shape[0] is not None:
        return F.PRIMITIVES["group_by_expert"](chosen, num_experts)
    return experts.grouped(chosen, num_experts, lambda used: used)


def grouped_dense(inputs: Tensor, chosen: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    kernels = marker("Gather", [kernel, chosen], [chosen.shape[0], *kernel.shape[1:]], axis=0)  # (G, in, out)
    output = marker("MatMul", [inputs, kernels], [*inputs.shape[:-1], kernel.shape[-1]])
    if bias is None:
        return output
    bias = tf.convert_to_tensor(bias)
    return output + tf.expand_dims(marker("Gather", [bias, chosen], [chosen.shape[0], bias.shape[-1]], axis=0), 1)
