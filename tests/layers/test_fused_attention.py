"""Attention in parts and in Keras' fused form, with JAX, beside float64 NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

CHILD = """
import keras, numpy as np
from keras import ops
from attention_zoo.layers import functional as F

def reference(q, k, v, causal, mask, bias):
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + (0 if bias is None else bias)
    seen = np.ones(scores.shape, bool) if mask is None else np.broadcast_to(mask, scores.shape)
    seen = seen & (np.tri(scores.shape[-2], dtype=bool) if causal else True)
    scores = np.where(seen, scores, -np.inf)
    top = np.where(seen.any(-1, keepdims=True), scores.max(-1, keepdims=True), 0.0)
    weights = np.exp(scores - top)
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ v

rng = np.random.default_rng(0)
mask = rng.random((2, 1, 1, 192)) > 0.3
mask[0, :, :, :70] = False  # rows without any key, over the end of a part
whole = rng.random((2, 1, 192, 192)) > 0.5
bias = rng.normal(size=(1, 4, 1, 192)), rng.normal(size=(1, 4, 192, 192))
q, k, v = (rng.normal(size=(2, heads, 192, 16)) for heads in (4, 2, 2))
called = []
parts = F._part
F._part = lambda *a: called.append(a) or parts(*a)
for given, added in ((None, None), (mask, None), (whole, None), (None, bias[0]), (mask, bias[1])):
    want = reference(q, k, v, True, given, added)
    args = [ops.cast(x, "float32") for x in (q, k, v)]
    options = {"mask": None if given is None else ops.convert_to_tensor(given)}
    options["bias"] = None if added is None else ops.cast(added, "float32")
    got = ops.convert_to_numpy(F.dot_product_attention(*args, causal=True, **options))
    assert abs(got - want).max() < 2e-6 * abs(want).max() * 4, abs(got - want).max()
assert len(called) == 5 * 2 * F.CHUNKS
F.on_gpu = lambda x: True
used = []
theirs = ops.dot_product_attention
ops.dot_product_attention = lambda *a, **o: used.append(o) or theirs(*a, **o)
args = [ops.cast(x, "bfloat16") for x in (q, k, v)]
rounded = [ops.convert_to_numpy(ops.cast(x, "float32")).astype("float64") for x in args]
for causal in (True, False):
    got = ops.convert_to_numpy(ops.cast(F.dot_product_attention(*args, causal=causal), "float32"))
    assert abs(got - reference(*rounded, causal, None, None)).max() < 0.03
assert len(used) == 2
F.dot_product_attention(*args, causal=True, mask=ops.convert_to_tensor(mask))  # may have rows without keys
F.dot_product_attention(args[0][:, :, -3:], *args[1:], causal=True)  # its last query is aligned with the last key
F.dot_product_attention(*(ops.cast(x, "float32") for x in args), causal=True)
wide = rng.normal(size=(2, 2, 192, 24))  # values of another width than the keys
got = ops.cast(F.dot_product_attention(*args[:2], ops.cast(wide, "bfloat16"), causal=True), "float32")
assert abs(ops.convert_to_numpy(got) - reference(*rounded[:2], wide, True, None, None)).max() < 0.03
assert len(used) == 2
print("equal")
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="needs jax")
def test_forms_of_attention_with_jax() -> None:
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]
