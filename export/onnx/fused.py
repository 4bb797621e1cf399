"""How many of a model's attentions, norms, activations and recurrent layers became one operator each in an ONNX file.

The expected number is how often the model calls a primitive of ``layers.functional``; the number found is how many
nodes of the file compute such a primitive alone. Attention that also returns its scores, and a recurrent layer other
than the published ones, become several nodes. Attention with a soft cap or sinks always does, and is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

# For each kind, the primitives, and the operators that compute one of them alone. ONNX Runtime's attention with a cache
# includes the two rotations of queries and keys.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "attention": (("dot_product_attention",), ("Attention", "com.microsoft.GroupQueryAttention")),
    "normalization": (
        ("layer_norm", "rms_norm"),
        (
            "LayerNormalization",
            "RMSNormalization",
            "SimplifiedLayerNormalization",
            "com.microsoft.SkipSimplifiedLayerNormalization",
        ),
    ),
    "gelu": (("gelu",), ("Gelu",)),
    "rotary": (("rotary",), ("RotaryEmbedding", *["com.microsoft.GroupQueryAttention"] * 2)),
    "recurrent": (("recurrent",), ("LSTM", "GRU", "RNN")),
}


def counted(
    table: Mapping[str, Callable[..., Any]], single: Collection[str], calls: Counter[str]
) -> dict[str, Callable[..., Any]]:
    """Return the lowerings of `table`, which count in `calls` how often each kind of primitive is called.

    Args:
        table: the lowerings.
        single: the primitives that become one operator. In an opset without such an operator, a primitive is not
            counted.
        calls: the numbers by kind, which the lowerings increase.
    """
    kinds = {name: kind for kind, (names, _) in KINDS.items() for name in names if name in single}

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            composed = any(kwargs.get(option) is not None for option in ("softcap", "sinks"))  # no operator has them
            calls[kinds[name]] += not composed
            return function(*args, **kwargs)

        return noted

    return {name: noting(name, function) if name in kinds else function for name, function in table.items()}


def fused(calls: Mapping[str, int], operators: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return how many were found and how many were expected, by kind."""
    found = {kind: sum(operators.get(name, 0) for name in names) for kind, (_, names) in KINDS.items()}
    return {kind: (found[kind], calls[kind]) for kind in KINDS if calls.get(kind)}
