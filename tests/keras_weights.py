"""Copying of weights from layers of Keras and KerasHub to layers of this package."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers import numpy


class Copier:
    """Copies weights one by one; ``finish`` checks that every weight of both models was copied exactly once."""

    def __init__(self, ours: Any, theirs: Any) -> None:
        self.ours = {id(w): w.path for w in ours.weights}
        self.theirs = {id(w): w.path for w in theirs.weights if "seed_generator" not in w.path}

    def __call__(self, ours: Any, theirs: Any) -> None:
        self.ours.pop(id(ours))
        self.theirs.pop(id(theirs))
        assert np.prod(ours.shape) == np.prod(theirs.shape)
        ours.assign(numpy(theirs).reshape(ours.shape))

    def dense(self, ours: Any, theirs: Any) -> None:
        """Copy the bias and the kernel, whose shape may be (in, heads, dim) or (heads, dim, out) in Keras."""
        self(ours.kernel, theirs.kernel)
        if theirs.bias is not None:
            self(ours.bias, theirs.bias)

    def norm(self, ours: Any, theirs: Any) -> None:
        self(ours.gamma, theirs.gamma)
        self(ours.beta, theirs.beta)

    def attention(self, ours: Any, theirs: Any) -> None:
        for name in ("query", "key", "value", "output"):
            self.dense(
                getattr(ours, f"{name}_dense"), getattr(theirs, f"{name}_dense", None) or theirs_of(theirs, name)
            )

    def block(self, ours: Any, theirs: Any) -> None:
        """Copy a KerasHub TransformerEncoder or TransformerDecoder."""
        self.attention(ours.attention, theirs._self_attention_layer)
        self.norm(ours.attention_norm, theirs._self_attention_layer_norm)
        self.norm(ours.feedforward_norm, theirs._feedforward_layer_norm)
        self.dense(ours.feedforward.up, theirs._feedforward_intermediate_dense)
        self.dense(ours.feedforward.down, theirs._feedforward_output_dense)

    def finish(self) -> None:
        assert not self.ours, f"not filled: {sorted(self.ours.values())}"
        assert not self.theirs, f"not copied: {sorted(self.theirs.values())}"


def theirs_of(layer: Any, name: str) -> Any:
    return getattr(layer, f"_{name}_dense")
