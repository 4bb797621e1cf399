"""Conversion from KerasHub and back preserves weights, configs and outputs, for random weights and unusual sizes."""

from __future__ import annotations

import ast
import re
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

import attention_zoo as az
from attention_zoo.zoo.keras_hub import from_keras_hub, kinds, to_keras_hub
from helpers import ROOT, close, numpy, python, randomise, tiny
from keras_hub_models import (
    LEARNED,
    PAIRS,
    ROTARY,
    SCALING,
    SOURCES,
    VOCABULARY,
    bert,
    deit,
    dinov2,
    gemma,
    gemma3,
    gpt2,
    llama,
    roberta,
    t5,
    vit,
    whisper,
)

hub = keras_hub.models
LENGTHS = (11, 4, 1)


def inputs_of(theirs: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return the same inputs for KerasHub's model and for that of this package.

    Texts are rows of different lengths, padded on the right with random tokens.
    """
    if not isinstance(theirs.input, dict) or "images" in theirs.input:
        images = rng.normal(size=(3, 15, 15, 2)).astype("float32")
        return {"images": images} if isinstance(theirs.input, dict) else images, images
    ids = rng.integers(0, VOCABULARY, (len(LENGTHS), max(LENGTHS))).astype("int32")
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype("int32")
    one, other = {"token_ids": ids, "padding_mask": mask}, {"input_ids": ids, "attention_mask": mask}
    if "mask_positions" in theirs.input:  # all positions, so that both models return logits for every token
        one["mask_positions"] = np.broadcast_to(np.arange(max(LENGTHS), dtype="int32"), ids.shape)
    if "segment_ids" in theirs.input:
        one["segment_ids"] = other["token_type_ids"] = rng.integers(0, 3, ids.shape).astype("int32")
    return one, other


def assert_same_results(theirs: Any, ours: Any, rng: np.random.Generator) -> None:
    one, other = inputs_of(theirs, rng)
    expected, result = theirs(one), ours(other)
    if not isinstance(expected, dict):
        expected = {"sequence_output": expected}
    result = list(result.values()) if isinstance(result, dict) else [result]
    for theirs_one, ours_one in zip(expected.values(), result, strict=False):  # a ViT also returns its class token
        wanted, got = numpy(theirs_one), numpy(ours_one)
        if "token_ids" in one and wanted.shape[:2] == one["token_ids"].shape:
            kept = one["padding_mask"].astype(bool)
            wanted, got = wanted[kept], got[kept]
        assert np.std(wanted) > 0.1
        close(got, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))
    assert len(expected) <= len(result)


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """Return the weights by path, without the numbers of KerasHub's unnamed layers of experts."""
    return {re.sub(r"_moe_block_\d+/", "_moe_block/", v.path): numpy(v) for v in model.weights}


def assert_same_weights(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def config_of(theirs: Any) -> dict[str, Any]:
    """Return the config of a task and its backbone, without generated names and in a canonical form."""
    config = {**theirs.get_config(), "class": type(theirs).__name__}
    config.pop("name")
    if "backbone" in config:
        config["backbone"] = config_of(theirs.backbone)
    if "patch_size" in config and isinstance(config["patch_size"], int):
        config["patch_size"] = (config["patch_size"],) * 2
    return config | ({"tied": theirs.tie_word_embeddings} if hasattr(theirs, "tie_word_embeddings") else {})


QUICKLY = (
    *("bert-lm", "roberta-classifier", "distilbert-classifier", "albert-lm", "electra", "deberta-lm", "gpt2-lm"),
    *("llama-lm", "qwen3-lm", "gemma3-lm", "phi3-scaled-lm", "mixtral-lm", "vit-classifier", "dinov2-gated"),
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICKLY)) for n in SOURCES])
@pytest.mark.filterwarnings("ignore:.*keep their initial values")
def test_there_and_back(name: str, rng: Any) -> None:
    make, kind = SOURCES[name]
    theirs = randomise(make())
    ours = from_keras_hub(theirs)
    assert ours.count_params() <= theirs.count_params()
    assert_same_results(theirs, ours, rng)

    back = to_keras_hub(ours, kind=kind)
    assert type(back) is type(theirs)
    assert config_of(back) == config_of(theirs)
    written, expected = weights_of(back), weights_of(theirs)
    if ours.config.head in ("masked_lm", "sentence_embedding"):
        for weights in (written, expected):  # no output depends on these, and models of this package lack them
            for part in ("kernel", "bias"):
                weights.pop(f"pooled_dense/{part}", None)
    if kind == "DINOV2" or "dinov2" in name:  # of two tables of positions only one is used; the other becomes the same
        expected["embeddings/position_embeddings"] = expected["embeddings/interpolated_position_embeddings"]
    assert_same_weights(written, expected)

    again = from_keras_hub(back)
    assert again.config == ours.config
    assert_same_weights(weights_of(again), weights_of(ours))


@pytest.mark.parametrize("head", [None, "masked_lm", "sequence_classification"])
def test_rows_for_padding_and_the_only_token_type(head: str | None, rng: Any) -> None:
    """A RoBERTa of Hugging Face's kind has both; KerasHub's has neither, with equal results for rows padded right."""
    fields = {"position_offset": 2, "pad_token_id": 1, "type_vocab_size": 1, "norm_epsilon": 1e-5, "pooler": False}
    ours = randomise(az.create("bert", head=head, **{**SMALL, **fields}), seed=3)
    theirs = to_keras_hub(ours)
    assert type(theirs).__name__.startswith("Roberta")
    one, other = inputs_of(theirs, rng)
    padded = one["padding_mask"] == 0
    tokens = np.where(padded, 1, np.maximum(one["token_ids"], 2))
    one["token_ids"] = other["input_ids"] = tokens.astype("int32")
    kept = ... if head == "sequence_classification" else ~padded
    result = ours(other)
    result = numpy(result["last_hidden_state"] if head is None else result)[kept]
    close(result, numpy(theirs(one))[kept])
    again = from_keras_hub(theirs)
    assert (again.config.position_offset, again.config.type_vocab_size) == (0, 0)


def logits_of_both(theirs: Any, ours: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of two models with an encoder and a decoder, for sources and targets padded on the right."""
    source, target = (rng.integers(0, VOCABULARY, (3, length)).astype("int32") for length in (11, 7))
    masks = [(np.arange(n) < np.array(rows)[:, None]).astype("int32") for n, rows in ((11, LENGTHS), (7, (5, 7, 2)))]
    one = {"encoder_token_ids": source, "encoder_padding_mask": masks[0]}
    one |= {"decoder_token_ids": target, "decoder_padding_mask": masks[1]}
    other = {"input_ids": source, "attention_mask": masks[0]}
    other |= {"decoder_input_ids": target, "decoder_attention_mask": masks[1]}
    return numpy(theirs(one))[masks[1] == 1], numpy(ours(other))[masks[1] == 1]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("bart", "t5"))) for n in PAIRS])
def test_encoders_with_decoders_there_and_back(name: str, rng: Any) -> None:
    theirs = randomise(PAIRS[name]())
    ours = from_keras_hub(theirs)
    expected, result = logits_of_both(theirs, ours, rng)
    assert np.std(expected) > 0.03  # T5 scales tied logits down
    close(result, expected, atol=1e-5 * np.abs(expected).max())
    back = to_keras_hub(ours)
    assert config_of(back) == config_of(theirs)
    for one, other in zip(back.weights, theirs.weights, strict=True):  # names of T5's norms have numbers of instances
        np.testing.assert_array_equal(numpy(one), numpy(other), err_msg=one.path)
    again = from_keras_hub(back.backbone)  # the body has all weights
    assert again.config == ours.config
    assert_same_weights(weights_of(again), weights_of(ours))


def test_whisper_there_and_back(rng: Any) -> None:
    theirs = randomise(whisper())
    ours = from_keras_hub(theirs)
    features, target = (
        rng.normal(size=(3, 12, 5)).astype("float32"),
        rng.integers(0, VOCABULARY, (3, 7)).astype("int32"),
    )
    mask = (np.arange(7) < np.array((5, 7, 2))[:, None]).astype("int32")
    one = {"encoder_features": features, "decoder_token_ids": target, "decoder_padding_mask": mask}
    states = theirs(one)["decoder_sequence_output"]
    expected = numpy(theirs.token_embedding(states, reverse=True))
    result = numpy(ours({"input_features": features, "decoder_input_ids": target, "decoder_attention_mask": mask}))
    assert np.std(expected) > 0.1
    close(result[mask == 1], expected[mask == 1])
    back = to_keras_hub(ours)
    assert config_of(back) == config_of(theirs)
    assert_same_weights(weights_of(back), weights_of(theirs))
    assert from_keras_hub(back).config == ours.config


def test_bart_with_rows_before_the_first_position(rng: Any) -> None:
    fields = {"position": "learned", "numbering": "columns", "embedding_norm": True, "scale_embeddings": False}
    sizes = {**SMALL, "attention_dropout": 0.1, "activation": "gelu", "norm_epsilon": 1e-5, "position_offset": 2}
    ours = randomise(az.create("transformer", **{**sizes, **fields}), seed=3)
    close(*logits_of_both(to_keras_hub(ours), ours, rng))


def test_positions_for_another_size(rng: Any) -> None:
    """KerasHub interpolates DINOv2's positions when it is built; the converted model has the result."""
    theirs = randomise(dinov2(position_embedding_shape=(25, 25, 2)))
    ours = from_keras_hub(theirs)
    assert ours.config.image_size == 15
    assert_same_results(theirs, ours, rng)


LLAMA = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 6,
    "hidden_dim": 36,
    "intermediate_dim": 22,
}
BERT = {"activation": "gelu_tanh", "type_vocab_size": 3}
OURS: dict[str, tuple[str, str, dict[str, Any]]] = {  # family, selected kind, config
    "bert": ("bert", "Bert", {**BERT, "head": "sequence_classification", "num_classes": 5}),
    "bert-lm": (
        "bert",
        "Bert",
        {**BERT, "head": "masked_lm", "transform_activation": "gelu", "transform_norm_epsilon": 1e-5},
    ),
    "distilbert": ("bert", "DistilBert", {"type_vocab_size": 0, "pooler": False, "pooler_activation": "relu"}),
    "albert": ("bert", "Albert", {**BERT, "token_dim": 5, "project_embeddings": True, "num_layer_groups": 2}),
    "electra": ("bert", "Electra", {**BERT, "token_dim": 5}),
    "gpt2": ("gpt", "GPT2", {"max_length": 19}),
    "llama": ("gpt", "Llama", {**LLAMA, "num_kv_heads": 3, "tie_embeddings": False, "rope_theta": 700.0}),
    "mistral": ("gpt", "Mistral", {**LLAMA, "sliding_window": 4, "head_dim": 4, "tie_embeddings": False}),
    "qwen": ("gpt", "Qwen", {**LLAMA, "use_qkv_bias": True, "num_kv_heads": 1}),
    "qwen3": (
        "gpt",
        "Qwen3",
        {**LLAMA, "qk_norm": True, "head_dim": 10, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    ),
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore:.*keep their initial values")
def test_ours_as_theirs(name: str, rng: Any) -> None:
    family, kind, fields = OURS[name]
    ours = randomise(az.create(family, **{**SMALL, **fields}), seed=3)
    theirs = to_keras_hub(ours)
    assert type(theirs).__name__ == kinds()[kind][1].heads[ours.config.head]
    assert_same_results(theirs, ours, rng)
    again = from_keras_hub(theirs, max_length=ours.config.max_length)
    assert again.config == ours.config
    assert_same_weights(weights_of(again), weights_of(ours))


def test_our_vit_as_theirs(rng: Any) -> None:
    ours = tiny("vit", "classifier", image_size=15, num_channels=2)
    assert_same_results(to_keras_hub(ours), ours, rng)


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_float16"])
def test_dtype(policy: str) -> None:
    theirs = randomise(gpt2(dtype=policy, num_layers=1))
    ours = from_keras_hub(theirs)
    assert ours.dtype_policy.name == policy
    assert {v.dtype for v in ours.weights} == {v.dtype for v in theirs.weights}
    back = to_keras_hub(ours)
    assert back.dtype_policy.name == policy
    assert_same_weights(weights_of(back), weights_of(theirs))
    assert from_keras_hub(theirs, dtype="float32").dtype_policy.name == "float32"


def test_backbone_with_head(rng: Any) -> None:
    """The logits of a backbone are its hidden states times its embedding table, or times its separate output table."""
    for make in (gpt2, llama, lambda: llama(tie_word_embeddings=True)):
        theirs = randomise(make())
        ours = from_keras_hub(theirs, head="causal_lm")
        one, other = inputs_of(theirs, rng)
        kept = one["padding_mask"].astype(bool)
        logits = numpy(theirs.token_embedding(theirs(one), reverse=True))
        close(numpy(ours(other))[kept], logits[kept])


def test_another_head() -> None:
    theirs = randomise(hub.BertTextClassifier(bert(), num_classes=5))
    with pytest.warns(UserWarning, match=r"has no such head: transform/kernel.* keep their initial values"):
        ours = from_keras_hub(theirs, head="masked_lm")
    assert ours.config.head == "masked_lm"
    np.testing.assert_array_equal(numpy(ours.embedding.embeddings), numpy(theirs.backbone.token_embedding.embeddings))
    with pytest.warns(UserWarning, match=r"has no such head: span/kernel, span/bias keep their initial values"):
        from_keras_hub(theirs, head="question_answering")
    with pytest.warns(UserWarning, match=r"has no such head: classifier/kernel, classifier/bias keep"):
        ours = from_keras_hub(theirs, head="sequence_classification", num_classes=7)
    assert ours.classifier.kernel.shape == (30, 7)
    states = from_keras_hub(theirs, head=None)
    np.testing.assert_array_equal(numpy(states.pooler.kernel), numpy(theirs.backbone.pooled_dense.kernel))


def test_what_theirs_alone_has_is_announced() -> None:
    ours = randomise(az.GPT(**SMALL, **LLAMA, head=None, tie_embeddings=False))
    with pytest.warns(UserWarning, match=r"gpt has no such weights: token_embedding/reverse_embeddings keep their"):
        to_keras_hub(ours)


def test_overrides() -> None:
    ours = from_keras_hub(llama(), max_length=64, initializer_range=0.1, dropout=0.3)
    assert (ours.config.max_length, ours.config.initializer_range, ours.config.dropout) == (64, 0.1, 0.3)
    assert from_keras_hub(llama()).config.max_length == 2048
    assert from_keras_hub(llama(**SCALING)).config.max_length == 64  # original length × factor
    classifier = hub.BertTextClassifier(bert(), num_classes=2, dropout=0.5)
    assert from_keras_hub(classifier, dropout=0.5).config.dropout == 0.5
    with pytest.raises(ValueError, match=r"GPTConfig: got unknown fields \['widht'\]; accepted: .*'vocab_size'"):
        from_keras_hub(llama(), widht=3)


class Changed(hub.GPT2Backbone):
    """A third-party subclass, which may compute something else."""


def with_lora() -> Any:
    theirs = gpt2()
    theirs.enable_lora(2)
    return theirs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (keras.Sequential, r"source: got keras\S*\.Sequential; accepted: KerasHub's \[.*'BertBackbone'"),
        (lambda: "bert", r"source: got builtins\.str; accepted: "),
        (lambda: Changed(**LEARNED), r"source: got \S*test_from_keras_hub\.Changed; accepted: "),
        (lambda: az.GPT(**SMALL), r"source: got attention_zoo\.zoo\.gpt\.model\.GPT; accepted: "),
        (with_lora, r"source: the GPT2Backbone \S* does not fit .*surplus \S*lora_kernel_a"),
        (lambda: llama(rope_position_scaling_factor=2.0), "rope_position_scaling_factor: got 2.0; accepted: 1.0"),
        (
            lambda: hub.BertTextClassifier(bert(), num_classes=2, dropout=0.5),
            "dropout: got 0.5; accepted: 0.1",
        ),
        (
            lambda: hub.BertTextClassifier(bert(), num_classes=2, activation="softmax"),
            "activation: got 'softmax'; accepted: None",
        ),
        (
            lambda: hub.RobertaTextClassifier(roberta(), num_classes=2, dropout=0.1, hidden_dim=9),
            "hidden_dim: got 9; accepted: 30",
        ),
        (lambda: gemma(layer_norm_epsilon=1e-5), "layer_norm_epsilon: got 1e-05; accepted: 1e-06"),
        (lambda: gemma(use_post_ffw_norm=False), "use_post_ffw_norm: got False; accepted: use_post_attention_norm, Tr"),
        (
            lambda: gemma3(query_head_dim_normalize=False),
            "query_head_dim_normalize: got False; accepted: True, as KerasHub 0.32 computes for False too",
        ),
        (lambda: gemma3(local_rope_scaling_factor=2.0), "local_rope_scaling_factor: got 2.0; accepted: 1.0"),
        (lambda: gemma3(use_bidirectional_attention=True), "use_bidirectional_attention: got True; accepted: False"),
        (lambda: vit(image_shape=(15, 20, 2)), r"image_shape: got \(15, 20, 2\); accepted: a square"),
        (lambda: vit(patch_size=(5, 3)), r"patch_size: got \(5, 3\); accepted: a square"),
        (lambda: vit(use_class_token=False), "use_class_token: got False; accepted: True"),
        (lambda: vit(use_patch_bias=False), "use_patch_bias: got False; accepted: True"),
        (lambda: vit(use_mha_bias=False), "use_mha_bias: got False; accepted: True"),
        (lambda: vit(use_mlp_bias=False), "use_mlp_bias: got False; accepted: True"),
        (
            lambda: vit(image_shape=(2, 15, 15), data_format="channels_first"),
            "data_format: got 'channels_first'; accepted: 'channels_last'",
        ),
        (lambda: t5(activation="tanh"), r"activation: got 'tanh'; accepted: \['relu', 'gelu'"),
        (lambda: dinov2(drop_path_rate=0.1), "drop_path_rate: got 0.1; accepted: 0.0"),
        (lambda: deit(use_mha_bias=False), "use_mha_bias: got False; accepted: True"),
        (lambda: hub.ViTImageClassifier(vit(), num_classes=5, pooling="gap"), "pooling: got 'gap'; accepted: 'token'"),
        (lambda: hub.ViTImageClassifier(vit(), num_classes=5, dropout=0.2), "dropout: got 0.2; accepted: 0.0"),
        (
            lambda: hub.ViTImageClassifier(vit(), num_classes=5, intermediate_dim=9),
            "intermediate_dim: got 9 for the head; accepted: None",
        ),
    ],
)
def test_sources_we_cannot_read(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_keras_hub(make())


@pytest.mark.parametrize(
    ("family", "fields", "kind", "message"),
    [
        (
            "seq2seq",
            {},
            None,
            r"model: got a seq2seq; accepted: one of \['bert', 'gpt', 'transformer', 'vit', ",
        ),
        ("gpt", {}, "Falcon", r"kind: got 'Falcon'; accepted for a gpt: \['GPT2', 'Llama', 'Llama3', 'Mistral'"),
        ("gpt", {}, "ViT", r"kind: got 'ViT'; accepted for a gpt: "),
        ("gpt", {}, "Llama", "position: got 'learned'; accepted: 'rotary'; norm: got 'layer_norm'; accepted: 'rms_n"),
        ("gpt", {"position": "alibi"}, None, "^position: got 'alibi'; accepted: 'learned', for KerasHub's GPT2$"),
        ("gpt", {"attention_dropout": 0.2}, None, "^attention_dropout: got 0.2; accepted: 0.0, for KerasHub's GPT2$"),
        ("gpt", {**LLAMA, "head_dim": 4, "qk_norm": True, "tie_embeddings": False}, "Llama", "head_dim: got 4; acc.*6"),
        (
            "gpt",
            {**LLAMA, "rope_scaling": {"rope_type": "ntk", "factor": 2.0}},
            "Llama",
            "rope_scaling: got rope_type 'ntk'; accepted: 'llama3', or None",
        ),
        (
            "gpt",
            {**LLAMA, "rope_scaling": {"rope_type": "ntk", "factor": 2.0}},
            "Qwen3",
            "rope_scaling: got rope_type 'ntk'; accepted: 'linear', or None",
        ),
        ("gpt", {**LLAMA, "attention_scale": 0.3}, "Gemma", "^attention_scale: got 0.3; accepted: 0.408.*, or None"),
        ("bert", {}, None, "^activation: got 'gelu'; accepted: 'gelu_tanh', for KerasHub's Bert$"),
        ("bert", {"activation": "gelu_tanh", "norm_epsilon": 1e-5}, None, "norm_epsilon: got 1e-05; accepted: 1e-12"),
        ("bert", {"activation": "gelu_tanh", "pooler": False}, "Bert", "pooler: got False; accepted: True"),
        ("bert", {"activation": "gelu_tanh", "type_vocab_size": 0}, None, "type_vocab_size: got 0; accepted: at least"),
        (
            "bert",
            {"head": "token_classification"},
            None,
            r"head: got 'token_classification'; accepted: \[None, 'masked_lm'",
        ),
        ("transformer", {"head": None}, "T5", "^head: got None, for an encoder alone; accepted: 'seq2seq_lm'"),
        ("transformer", {"num_decoder_layers": 3}, "Bart", "num_decoder_layers: got 3; accepted: 2"),
        ("vit", {"num_registers": 2}, None, "num_registers: got 2; accepted: 0"),
        ("vit", {"layer_scale": 0.1}, "ViT", "layer_scale: got 0.1; accepted: None"),
        ("vit", {"pooler": True}, None, "pooler: got True; accepted: False"),
        ("vit", {"use_qkv_bias": False}, None, "use_qkv_bias: got False; accepted: True"),
    ],
)
def test_models_they_cannot_hold(family: str, fields: dict[str, Any], kind: str | None, message: str) -> None:
    sizes = {"gpt": SMALL, "bert": SMALL, "transformer": SMALL, "seq2seq": {"vocab_size": 9, "hidden_dim": 6}}
    images = {"image_size": 10, "patch_size": 5, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    model = az.create(family, **{**sizes.get(family, images), **fields})
    with pytest.raises(ValueError, match=message):
        to_keras_hub(model, kind=kind)


def test_not_a_model_of_ours() -> None:
    with pytest.raises(ValueError, match="model: got GPT2Backbone; accepted: a model of attention_zoo"):
        to_keras_hub(gpt2())


def test_adapters_have_no_place_there() -> None:
    model = az.GPT(**SMALL)
    model.enable_lora(2)
    with pytest.raises(ValueError, match=r"model: got weights \[.*lora.* for which this kind of file has no name"):
        to_keras_hub(model)


@pytest.mark.slow
def test_tokenizer() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es", "run", "."]
    tokenizer = hub.BertTokenizer(vocabulary=words, lowercase=True)
    preprocessor = hub.BertTextClassifierPreprocessor(tokenizer, sequence_length=9)
    theirs = randomise(hub.BertTextClassifier(bert(), num_classes=3, preprocessor=preprocessor))
    ours = from_keras_hub(theirs)
    assert ours.config.pad_token_id == 0
    assert ours.tokenizer.model_max_length == 19
    texts = ["The foxes run.", "Fox"]
    expected = theirs.predict(texts, verbose=0)  # KerasHub's preprocessor truncates, adds special tokens and pads
    assert np.std(expected) > 0.01
    close(numpy(ours(dict(ours.tokenizer(texts)))), expected)


def test_special_tokens_of_a_decoder() -> None:
    letters = "abcdefgh"
    vocabulary = {
        token: i for i, token in enumerate([*letters, "Ġ", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    }
    vocabulary |= {"<|start_header_id|>": 12, "<|end_header_id|>": 13, "ab": 14}
    tokenizer = hub.Llama3Tokenizer(vocabulary=vocabulary, merges=["a b"])
    preprocessor = hub.Llama3CausalLMPreprocessor(tokenizer, sequence_length=8)
    backbone = hub.Llama3Backbone(**ROTARY)
    ours = from_keras_hub(hub.Llama3CausalLM(backbone, preprocessor=preprocessor))
    assert (ours.config.bos_token_id, ours.config.eos_token_id) == (9, (10, 11))
    assert ours.tokenizer("abc")["input_ids"][0].tolist() == [9, 14, 2]
    assert from_keras_hub(backbone).tokenizer is None


def test_unknown_tokenizer_is_left_with_a_warning() -> None:
    class Bytes(keras_hub.tokenizers.ByteTokenizer):
        end_token_id, start_token_id, pad_token_id = 3, 2, 0

    theirs = hub.GPT2CausalLM(gpt2())
    theirs.preprocessor = keras_hub.models.CausalLMPreprocessor(Bytes(), sequence_length=8)
    with pytest.warns(UserWarning, match=r"without its tokenizer: tokenizer: got Bytes"):
        ours = from_keras_hub(theirs)
    assert ours.tokenizer is None
    assert (ours.config.bos_token_id, ours.config.eos_token_id, ours.config.pad_token_id) == (2, 3, 0)


def test_importing_ours_does_not_import_theirs() -> None:
    code = "import sys, attention_zoo as az\naz.list_models()\nprint('keras_hub' in sys.modules)"
    assert python(code).split()[-1] == "False"
    module = ast.parse((ROOT / "zoo" / "keras_hub.py").read_text())
    named = [node for node in module.body if isinstance(node, ast.Import)]  # imports at module level, such as Keras
    assert [alias.name for node in named for alias in node.names] == ["functools", "keras", "numpy"]
