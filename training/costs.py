"""A cost model of training: parameters, floating-point operations, memory and communication of one step.

It covers models of one stack of blocks (GPT, BERT, ViT). The formulas, with their sources:

- **Operations.** A forward pass has 2 operations for each number of a matrix that a token is multiplied by, and
  ``4 · length · heads · head_dim`` in each layer for scores and their weighted sum, without a saving for causal masks.
  The backward pass has twice as many (Kaplan et al. 2020, arXiv:2001.08361; the count of Chowdhery et al. 2022,
  arXiv:2204.02311, appendix B, by which its model FLOPs utilization is defined).
- **Memory.** Weights, gradients and Adam's two moments in float32 are 16 bytes per parameter, divided as the weights
  are; under mixed precision a copy in two bytes is added (Rajbhandari et al. 2019, arXiv:1910.02054, section 3.1).
  Activations of a layer are those of Korthikanti et al. 2022 (arXiv:2205.05198, equation 1) without dropout masks; with
  recomputation, the input of every layer and the inside of one.
- **Communication.** Data parallelism adds up all gradients, of which every device sends and receives
  ``2 (n - 1) / n`` times their size; with weights divided too they are collected twice and gradients scattered once,
  ``3 (n - 1) / n``. Dividing projections adds up the activations four times in each layer and step (Shoeybi et al.
  2019, arXiv:1909.08053, section 3).
- **Time.** Operations by the speed that the device reaches, and bytes by the speed of its links. A step takes between
  the longer of the two, if they overlap perfectly, and their sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..checks import choice, fraction, positive_integer
from ..weights.rules import weight_name
from ..zoo.base import ZooModel
from .shapes import attention_width, model_of_shapes, numbers_of_a_token

TABLES = ("embedding/embeddings", "positions/embeddings", "token_types/embeddings", "embedding/positions")


@dataclass(frozen=True)
class Accelerator:
    """The peak figures of a device, as its maker publishes them.

    Attributes:
        name: its name.
        flops: operations per second in bfloat16, without sparsity.
        memory: bytes.
        near: bytes per second in one direction to devices of the same machine.
        far: bytes per second in one direction to other machines.
        group: number of devices in a machine.
    """

    name: str
    flops: float
    memory: float
    near: float
    far: float
    group: int


ACCELERATORS = {
    "a100": Accelerator("NVIDIA A100 80 GB", 312e12, 80e9, 300e9, 25e9, 8),  # NVLink 3; 200 Gb/s a device
    "h100": Accelerator("NVIDIA H100 SXM", 989e12, 80e9, 450e9, 50e9, 8),  # NVLink 4; 400 Gb/s a device
}


@dataclass(frozen=True)
class Costs:
    """The costs of one training step; see the formulas above. Figures of a device are those of each of them.

    Attributes:
        parameters: number of weights.
        tokens: tokens of a step, on all devices.
        flops_per_token: operations of forward and backward pass, without recomputation.
        flops: operations of a device in a step, with recomputation.
        state_bytes: weights, gradients and moments on a device.
        activation_bytes: activations that a device keeps for the backward pass.
        near_bytes, far_bytes: bytes that a device sends within its machine and to others.
        compute_seconds, communication_seconds: their times.
    """

    parameters: int
    tokens: int
    flops_per_token: float
    flops: float
    state_bytes: float
    activation_bytes: float
    near_bytes: float
    far_bytes: float
    compute_seconds: float
    communication_seconds: float

    @property
    def memory(self) -> float:
        """Bytes on a device."""
        return self.state_bytes + self.activation_bytes

    @property
    def seconds(self) -> tuple[float, float]:
        """The least and the greatest time of a step."""
        return max(self.compute_seconds, self.communication_seconds), self.compute_seconds + self.communication_seconds


def training_costs(
    model: Any,
    *,
    length: int,
    rows: int,
    batch: int = 1,
    model_parallel: int = 1,
    fsdp: bool = False,
    recompute: bool = False,
    accumulate: int = 1,
    mixed: bool = True,
    accelerator: str = "a100",
    efficiency: float = 0.5,
    **overrides: Any,
) -> Costs:
    """Return the costs of a training step with AdamW.

    Args:
        model: a name that ``create`` knows, the path of a folder, a config or a model.
        length: tokens of a row.
        rows: rows of a step, on all devices together.
        batch, model_parallel: the sizes of the mesh, as in ``layout_map``.
        fsdp: as in ``layout_map``.
        recompute: whether blocks are computed again in the backward pass (``gradient_checkpointing``).
        accumulate: number of steps of ``fit`` whose gradients are averaged (``gradient_accumulation_steps``). `rows`
            are those of all of them. Keras adds up the gradients of each over the devices.
        mixed: whether the dtype policy is "mixed_bfloat16".
        accelerator: a key of ``ACCELERATORS``.
        efficiency: the part of its peak that a device reaches while it computes.
        overrides: config fields, if `model` is a name or a path.

    Raises:
        ValueError: a model with several stacks, rows that the mesh does not divide, or a value that is not accepted.
    """
    device = ACCELERATORS[choice("accelerator", accelerator, tuple(ACCELERATORS))]
    given = {"length": length, "rows": rows, "batch": batch, "model_parallel": model_parallel, "accumulate": accumulate}
    for name, value in given.items():
        positive_integer(name, value)
    if rows % (batch * accumulate):
        raise ValueError(f"rows: got {rows}; accepted: a multiple of batch={batch} times accumulate={accumulate}")
    efficiency = fraction("efficiency", efficiency)
    with model_of_shapes(model, overrides) as made:
        c, parameters, matrices = _counted(made)
    heads, width, layers = c.num_heads, c.hidden_dim, c.num_layers
    forward = 2.0 * matrices + 4.0 * layers * length * attention_width(c)
    devices, tokens = batch * model_parallel, rows * length
    flops = (4.0 if recompute else 3.0) * forward * tokens / devices
    parts = model_parallel * (batch if fsdp else 1)
    state = (18.0 if mixed else 16.0) * parameters / parts
    here = tokens / batch / accumulate  # tokens that a device computes at once
    layer = activation_bytes(here, length, width, heads, mixed) / model_parallel
    size = 2 if mixed else 4
    kept = layers * size * here * width + layer if recompute else layers * layer
    vocabulary = getattr(c, "vocab_size", 0)
    kept += 2 * 4 * here * vocabulary / model_parallel  # logits and their gradient in float32
    gradients = size * parameters / model_parallel
    data = (3.0 if fsdp else 2.0) * (batch - 1) / batch * gradients * accumulate
    tensor = 4.0 * layers * 2.0 * (model_parallel - 1) / model_parallel * size * here * width * accumulate
    near, far = tensor, 0.0
    if devices <= device.group:
        near += data
    else:
        far += data
    if model_parallel > device.group:
        near, far = near - tensor, far + tensor
    return Costs(
        parameters=parameters,
        tokens=tokens,
        flops_per_token=3.0 * forward,
        flops=flops,
        state_bytes=state,
        activation_bytes=kept,
        near_bytes=near,
        far_bytes=far,
        compute_seconds=flops / (device.flops * efficiency),
        communication_seconds=near / device.near + far / device.far,
    )


def activation_bytes(tokens: float, length: int, width: int, heads: int, mixed: bool = True) -> float:
    """Return the bytes that one layer keeps for the backward pass, without dropout.

    In two bytes these are ``tokens · width · 32`` (inputs of both normalizations and of all products, queries, keys,
    values, and four widths before and after the activation), and ``tokens · heads · length · 4`` for scores and weights
    of attention, which fused attention does not keep.
    """
    return tokens * (32 * width + 4 * heads * length) * (1 if mixed else 2)


def _counted(model: ZooModel) -> tuple[Any, int, float]:
    """Return the config, the number of parameters, and the numbers of matrices that one token is multiplied by."""
    c: Any = model.config
    if model.family not in ("gpt", "bert", "vit"):
        raise ValueError(f"model: got {model.family}; accepted: models of one stack of blocks: gpt, bert, vit")
    parameters, matrices = 0, 0.0
    for variable in model.weights:
        parameters += math.prod(variable.shape)
        if len(variable.shape) > 1 and weight_name(variable) not in TABLES:
            matrices += numbers_of_a_token(variable, c)
    tied = not any(weight_name(variable).startswith("lm_head/kernel") for variable in model.weights)
    if tied and getattr(c, "head", None) in ("causal_lm", "masked_lm"):
        table = next(v for v in model.weights if weight_name(v) == "embedding/embeddings")
        matrices += math.prod(table.shape)
    return c, parameters, matrices
