"""How many of a model's attentions, norms, activations and recurrences are one operator each in an ONNX file.

Expected is how often the model calls a primitive of ``layers.functional``; found, how many nodes of the file say it in
one. An attention that also returns its scores, or a recurrent layer that is not the papers', is spelled out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

# By what they do: the primitives, and the operators that are one of them. In ONNX Runtime's attention with a cache are
# the two rotations of queries and keys too.
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


def counted(table: Mapping[str, Callable[..., Any]], calls: Counter[str]) -> dict[str, Callable[..., Any]]:
    """The lowerings of `table`, which note in `calls` what they are called for."""
    kinds = {name: kind for kind, (names, _) in KINDS.items() for name in names}

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            calls[kinds[name]] += 1
            return function(*args, **kwargs)

        return noted

    return {name: noting(name, function) if name in kinds else function for name, function in table.items()}


def fused(calls: Mapping[str, int], operators: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """By kind, how many were found and how many expected."""
    found = {kind: sum(operators.get(name, 0) for name in names) for kind, (_, names) in KINDS.items()}
    return {kind: (found[kind], calls[kind]) for kind in KINDS if calls.get(kind)}
