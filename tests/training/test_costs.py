"""The cost model against counts by hand, published figures, and what XLA counts in the compiled step."""

from __future__ import annotations

import importlib.util
import json

import pytest

from attention_zoo.training.costs import activation_bytes, training_costs
from helpers import python

LLAMA_7B = {"num_layers": 32, "num_heads": 32, "hidden_dim": 4096, "intermediate_dim": 11008, "vocab_size": 32000}
LLAMA_7B |= {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
LLAMA_7B |= {"tie_embeddings": False, "max_length": 4096}


def test_operations_of_gpt2() -> None:
    """Six operations for each number of the 12 blocks and the table of words, and 12 · layers · width · length."""
    costs = training_costs("gpt2", length=1024, rows=8)
    blocks = 12 * 12 * 768**2
    assert costs.parameters == 124_439_808
    assert costs.flops_per_token == 6 * (blocks + 50257 * 768) + 12 * 12 * 768 * 1024
    assert costs.flops == costs.flops_per_token * 8 * 1024


def test_the_seven_billion_of_llama_2() -> None:
    """6,738,415,616 parameters, as published; 3,014 tokens/s on an A100 are 0.45 of its peak."""
    costs = training_costs("gpt", length=4096, rows=1, **LLAMA_7B)
    assert costs.parameters == 6_738_415_616
    assert 0.44 < 2e12 / (184_320 * 3600) * costs.flops_per_token / 312e12 < 0.47


def test_memory_is_divided() -> None:
    one = training_costs("gpt2", length=1024, rows=8)
    assert one.state_bytes == 18 * one.parameters and one.near_bytes == one.far_bytes == 0
    data = training_costs("gpt2", length=1024, rows=8, batch=8)
    assert data.state_bytes == one.state_bytes and data.activation_bytes == one.activation_bytes / 8
    assert data.near_bytes == 2 * 7 / 8 * 2 * one.parameters
    fsdp = training_costs("gpt2", length=1024, rows=8, batch=8, fsdp=True)
    assert fsdp.state_bytes == one.state_bytes / 8 and fsdp.near_bytes == 1.5 * data.near_bytes
    both = training_costs("gpt2", length=1024, rows=8, batch=2, model_parallel=4)
    assert both.state_bytes == one.state_bytes / 4 and both.flops == one.flops / 8
    far = training_costs("gpt2", length=1024, rows=64, batch=64)
    assert far.near_bytes == 0 < far.far_bytes
    assert far.seconds[0] <= far.seconds[1] == far.compute_seconds + far.communication_seconds


def test_recomputation_keeps_less_and_computes_a_third_more() -> None:
    kept, again = (training_costs("gpt2", length=1024, rows=8, recompute=on) for on in (False, True))
    assert again.activation_bytes < kept.activation_bytes / 2 and again.flops == kept.flops * 4 / 3
    assert activation_bytes(1, 1024, 768, 12) == 32 * 768 + 4 * 12 * 1024


def test_accumulation_keeps_the_activations_of_one_step() -> None:
    at_once = training_costs("gpt2", length=1024, rows=64, batch=8)
    in_four = training_costs("gpt2", length=1024, rows=64, batch=8, accumulate=4)
    assert in_four.activation_bytes == at_once.activation_bytes / 4 and in_four.flops == at_once.flops
    assert in_four.near_bytes == 4 * at_once.near_bytes


def test_experts_count_as_often_as_they_are_chosen() -> None:
    sizes = {"num_layers": 1, "hidden_dim": 32, "num_heads": 4, "vocab_size": 64, "activation": "swiglu"}
    sizes |= {"num_experts": 8, "expert_intermediate_dim": 16, "max_length": 16}
    two, four = (training_costs("gpt", length=1, rows=1, experts_per_token=k, **sizes) for k in (2, 4))
    assert four.flops_per_token - two.flops_per_token == 6 * 2 * 3 * 32 * 16


def test_refusals() -> None:
    for options, message in (
        ({"rows": 6, "batch": 4}, "rows: got 6; accepted: a multiple of batch=4 times accumulate=1"),
        ({"accelerator": "abacus"}, "accelerator: got 'abacus'"),
        ({"efficiency": 2}, "efficiency: got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            training_costs("gpt2", **{"length": 8, "rows": 4, **options})
    with pytest.raises(ValueError, match="model: got whisper"):
        training_costs("whisper", length=8, rows=4)


COMPILED = """
import json, jax, keras, numpy as np, attention_zoo as az
sizes = {"num_layers": 4, "hidden_dim": 256, "num_heads": 8, "vocab_size": 1024, "max_length": 256, "dropout": 0.0}
model = az.create("gpt", **sizes)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
x = np.zeros((2, 256), "int32")
def step(trained, others, x):
    return loss(x, model.stateless_call(trained, others, x, training=False)[0])
weights = [[v.value for v in some] for some in (model.trainable_variables, model.non_trainable_variables)]
print(jax.jit(jax.value_and_grad(step)).lower(*weights, x).compile().cost_analysis()["flops"])
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_operations_that_xla_counts() -> None:
    sizes = {"num_layers": 4, "hidden_dim": 256, "num_heads": 8, "vocab_size": 1024, "max_length": 256}
    counted = json.loads(python(COMPILED, KERAS_BACKEND="jax").splitlines()[-1])
    costs = training_costs("gpt", length=256, rows=2, **sizes)
    assert 0.98 < counted / costs.flops < 1.15  # XLA counts normalizations, softmax and activations too
