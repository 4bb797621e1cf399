"""Parity with KerasHub's backbones, converted by ``from_keras_hub``, and Keras' attention layers; random weights."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

from attention_zoo.layers import MultiHeadAttention
from attention_zoo.zoo.keras_hub import from_keras_hub
from helpers import close, numpy, randomise
from keras_weights import Copier

TOLERANCE = 1e-5
SIZES = {"num_layers": 3, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 52}
LENGTHS = (11, 4, 1)


def ids_and_mask(rng: np.random.Generator, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of different lengths, padded on the right with random tokens, and their mask."""
    ids = rng.integers(0, vocab_size, (len(LENGTHS), max(LENGTHS))).astype("int32")
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype("int32")
    return ids, mask


def test_bert(rng: Any, record_property: Any) -> None:
    theirs = keras_hub.models.BertBackbone(
        vocabulary_size=89, max_sequence_length=20, num_segments=3, dropout=0.1, **SIZES
    )
    randomise(theirs)
    ours = from_keras_hub(theirs)

    ids, mask = ids_and_mask(rng, 89)
    types = rng.integers(0, 3, ids.shape).astype("int32")
    result = ours({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    expected = theirs({"token_ids": ids, "padding_mask": mask, "segment_ids": types})
    valid = mask.astype(bool)
    states = numpy(result["last_hidden_state"])[valid], numpy(expected["sequence_output"])[valid]
    pooled = numpy(result["pooler_output"]), numpy(expected["pooled_output"])
    record_property("greatest difference", float(max(np.abs(np.subtract(*pair)).max() for pair in (states, pooled))))
    assert np.std(states[1]) > 0.1
    close(*states, atol=TOLERANCE)
    close(*pooled, atol=TOLERANCE)


def test_gpt2(rng: Any, record_property: Any) -> None:
    theirs = keras_hub.models.GPT2Backbone(vocabulary_size=97, max_sequence_length=20, dropout=0.1, **SIZES)
    randomise(theirs)
    ours = from_keras_hub(theirs)

    ids, mask = ids_and_mask(rng, 97)
    valid = mask.astype(bool)
    result = numpy(ours({"input_ids": ids, "attention_mask": mask})["last_hidden_state"])[valid]
    expected = numpy(theirs({"token_ids": ids, "padding_mask": mask}))[valid]
    record_property("greatest difference", float(np.abs(result - expected).max()))
    assert np.std(expected) > 0.1
    close(result, expected, atol=TOLERANCE)

    # The tied head is the transposed embedding table.
    headed = from_keras_hub(theirs, head="causal_lm")
    logits = numpy(headed({"input_ids": ids, "attention_mask": mask}))[valid]
    reverse = numpy(theirs.token_embedding(expected, reverse=True))
    close(logits, reverse, atol=TOLERANCE)


def test_vit(rng: Any, record_property: Any) -> None:
    theirs = keras_hub.models.ViTBackbone(
        image_shape=(20, 20, 3),
        patch_size=5,
        mlp_dim=52,
        **{name: size for name, size in SIZES.items() if name != "intermediate_dim"},
    )
    randomise(theirs)
    ours = from_keras_hub(theirs)

    images = rng.normal(size=(3, 20, 20, 3)).astype("float32")
    result, expected = numpy(ours(images)["last_hidden_state"]), numpy(theirs(images))
    record_property("greatest difference", float(np.abs(result - expected).max()))
    assert np.std(expected) > 0.1
    close(result, expected, atol=TOLERANCE)


def test_llama(rng: Any, record_property: Any) -> None:
    """Compare rotary positions, RMSNorm, SwiGLU and grouped-query attention with KerasHub's Llama 3."""
    theirs = keras_hub.models.Llama3Backbone(
        vocabulary_size=97,
        num_layers=3,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=32,
        intermediate_dim=52,
        rope_max_wavelength=500.0,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=False,
    )
    randomise(theirs)
    ours = from_keras_hub(theirs, head="causal_lm")

    ids, mask = ids_and_mask(rng, 97)
    valid = mask.astype(bool)
    logits = numpy(ours({"input_ids": ids, "attention_mask": mask}))[valid]
    states = theirs({"token_ids": ids, "padding_mask": mask})
    expected = numpy(theirs.token_embedding(states, reverse=True))[valid]
    record_property("greatest difference", float(np.abs(logits - expected).max()))
    assert np.std(expected) > 0.1
    close(logits, expected, atol=TOLERANCE)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_layers(kv_heads: int, masked: bool, cross: bool, rng: Any) -> None:
    """Compare with Keras' MultiHeadAttention and GroupQueryAttention, including masks and attention scores."""
    if kv_heads == 4:
        theirs = keras.layers.MultiHeadAttention(4, key_dim=6, value_dim=5, output_shape=9)
        ours = MultiHeadAttention(4, 6, 5, output_dim=9)
    else:
        theirs = keras.layers.GroupQueryAttention(6, 4, kv_heads)
        ours = MultiHeadAttention(4, 6, num_kv_heads=kv_heads)
    query = rng.normal(size=(2, 5, 12)).astype("float32")
    value = rng.normal(size=(2, 7, 10)).astype("float32") if cross else query
    options: dict[str, Any] = {"return_attention_scores": True, "use_causal_mask": not cross}
    if masked:
        options["attention_mask"] = rng.random((2, 5, value.shape[1])) < 0.6
        options["attention_mask"][..., 0] = True  # Keras defines rows without any key differently
    theirs(query, value)
    randomise(theirs, spread=0.5)
    ours.build(query.shape, value.shape)
    copy = Copier(ours, theirs)
    copy.attention(ours, theirs)
    copy.finish()
    output, scores = ours(query, value, **options)
    expected, expected_scores = theirs(query, value, **options)
    close(numpy(output), numpy(expected), atol=TOLERANCE)
    close(numpy(scores), numpy(expected_scores), atol=TOLERANCE)
