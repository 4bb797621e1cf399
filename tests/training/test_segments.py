"""Rows of several documents: every document has the logits and gradients that it has alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attention_zoo.zoo.registry import families
from helpers import close, every_variant, run, tiny

LENGTHS = (5, 1, 7, 3)  # and two columns of padding


def packs(family: str, variant: str) -> bool:
    model = families()[family]
    config = model.config_class.from_dict(model.tiny()[variant])
    return config.head in (None, "causal_lm", "masked_lm", "token_classification", "replaced_tokens")


TOKENS = [(name, variant) for name in ("gpt", "bert") for variant in families()[name].tiny() if packs(name, variant)]
ALONE = [(name, variant) for name in ("gpt", "bert") for variant in families()[name].tiny() if not packs(name, variant)]
FAST = ("gpt2", "alibi", "gemma", "relative", "mpnet", "deberta")


def packed(model: Any, rng: Any) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Return documents, and two rows with them in two orders and with padding."""
    low, high = 3, model.config.vocab_size  # 1 is the pad token of some variants
    documents = [rng.integers(low, high, (1, length)).astype("int32") for length in LENGTHS]
    ids, segments = np.ones((2, 18), "int32"), np.zeros((2, 18), "int32")
    for row, order in enumerate(([0, 1, 2, 3], [3, 2, 0, 1])):
        end = 0
        for number, document in enumerate(order, 1):
            start, end = end, end + LENGTHS[document]
            ids[row, start:end], segments[row, start:end] = documents[document][0], number
    return documents, {"input_ids": ids, "segment_ids": segments}


@every_variant(TOKENS, slow={pair for pair in TOKENS if pair[1] not in FAST})
def test_documents_of_a_row_are_computed_as_alone(family: str, variant: str, rng: Any) -> None:
    model = tiny(family, variant)
    documents, inputs = packed(model, rng)
    name = model.signature.outputs[0].name
    found = run(model, inputs)[name]
    alone = [run(model, {"input_ids": document})[name][0] for document in documents]
    assert np.isfinite(found).all()
    for row, order in enumerate(([0, 1, 2, 3], [3, 2, 0, 1])):
        close(found[row, :16], np.concatenate([alone[i] for i in order]), atol=1e-5)
    # With a mask as well, and with a single document, nothing changes.
    masked = run(model, {**inputs, "attention_mask": (inputs["segment_ids"] > 0).astype("int32")})[name]
    close(masked[:, :16], found[:, :16], atol=1e-6)
    ones = {"input_ids": documents[2], "segment_ids": np.ones((1, 7), "int32")}
    close(run(model, ones)[name][0], alone[2], atol=1e-5)


@pytest.mark.parametrize("family, variant", [("gpt", "gemma"), ("bert", "masked_lm")])
def test_no_gradient_flows_between_documents(family: str, variant: str, rng: Any) -> None:
    """The loss of the third document has no gradient for the embeddings of tokens in other documents."""
    import tensorflow as tf

    model = tiny(family, variant, tie_embeddings=False, vocab_size=60)
    ids = np.arange(3, 19, dtype="int32")[None]
    segments = np.repeat([1, 2, 3, 4], LENGTHS)[None].astype("int32")
    with tf.GradientTape() as tape:
        logits = model({"input_ids": ids, "segment_ids": segments}, training=True)
        loss = tf.reduce_sum(tf.square(logits[:, 6:13]))
    gradient = tape.gradient(loss, model.embedding.embeddings.value)
    rows = np.abs(np.asarray(tf.convert_to_tensor(gradient))).max(axis=1)
    touched = {int(i) for i in np.flatnonzero(rows)}
    assert touched == set(range(9, 16))


@every_variant(ALONE, slow=set(ALONE[2:]))
def test_models_with_one_output_for_a_row_refuse_segments(family: str, variant: str) -> None:
    model = tiny(family, variant)
    inputs = {name: np.ones((1, 4), "int32") for name in ("input_ids", "segment_ids")}
    if model.config.head == "multiple_choice":
        inputs = {name: value[None] for name, value in inputs.items()}
    with pytest.raises(ValueError, match=r"inputs: got \['segment_ids'\]; .*accepted"):
        model(inputs)
    assert "segment_ids" not in {spec.name for spec in model.signature.exported().inputs}


def test_segments_with_a_cache_are_refused() -> None:
    from attention_zoo.layers import StaticCache

    model = tiny("gpt", "llama")
    inputs = {name: np.ones((1, 4), "int32") for name in ("input_ids", "segment_ids")}
    with pytest.raises(ValueError, match=r"inputs: got \['segment_ids'\]"):
        model(inputs, cache=StaticCache.empty(layers=2, batch=1, heads=2, slots=8, head_dim=12))
    assert "segment_ids" not in {spec.name for spec in model.signature.exported().inputs}
