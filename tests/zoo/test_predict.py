"""``predict`` as users run it on a CPU: TensorFlow with oneDNN, its default, and its graph optimizer.

The other tests switch oneDNN off, so they see neither its kernels nor the operators that the optimizer fuses for it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attention_zoo.zoo.registry import families
from helpers import VARIANTS, python

# oneDNN's fused kernel is about 80 times slower than the operators it replaces if the addend is shared by all rows.
SLOW = "_MklFusedBatchMatMulV2"

CODE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from tensorflow.python.eager import context
from helpers import inputs_for, run, tiny

found = {}
for family, variant in json.loads(sys.argv[2]):
    model, exact = tiny(family, variant), tiny(family, variant, dtype="float64")
    inputs = inputs_for(model, np.random.default_rng(0), batch=3)
    context.enable_run_metadata()
    outputs = model.predict(inputs, verbose=0)
    graphs = context.export_run_metadata().function_graphs
    context.disable_run_metadata()
    outputs = outputs if isinstance(outputs, dict) else {model.signature.outputs[0].name: outputs}
    pairs = [(outputs[name], array) for name, array in run(exact, inputs).items() if name in outputs]
    found["-".join((family, variant))] = {
        "operators": sorted({node.op for graph in graphs for node in graph.post_optimization_graph.node}),
        "differences": [float(np.abs(actual - wanted).max() / np.abs(wanted).max()) for actual, wanted in pairs],
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_without_masks_and_with_onednn() -> None:
    """The results are those of the same model in float64, and no product is fused with a mask that all rows share."""
    one_each = [next(pair for pair in VARIANTS if pair[0] == family) for family in families()]
    decoders = [pair for pair in VARIANTS if pair[0] == "gpt"]
    pairs = list(dict.fromkeys(one_each + decoders))
    tests = Path(__file__).parents[1]
    printed = python(CODE, tests, json.dumps(pairs), TF_ENABLE_ONEDNN_OPTS="1").splitlines()[-1]
    found = json.loads(printed)
    assert len(found) == len(pairs)
    for name, seen in found.items():
        assert any("MatMul" in operator for operator in seen["operators"]), name  # the optimized graph was recorded
        assert SLOW not in seen["operators"], name
        assert seen["differences"] and max(seen["differences"]) < 2e-5, (name, seen["differences"])
