"""Losses and metrics of tokens, against closed forms in float64, on every backend."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import attention_zoo as az
from attention_zoo.layers.vocabulary import Projection, chunked_logit_statistics, logit_statistics
from helpers import python

Array = np.ndarray
LLAMA = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
SMALL = {
    "vocab_size": 61,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "max_length": 12,
    "initializer_range": 0.4,
}


def closed_form(
    logits: Array,
    labels: Array,
    *,
    shift: bool,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    weight: Array | None = None,
) -> tuple[float, float, int]:
    """Return the mean loss, the sum of the plain cross-entropies and the number of counted tokens, one by one."""
    total, plain, number = 0.0, 0.0, 0
    for row in range(len(labels)):
        for place in range(labels.shape[1]):
            at = place - 1 if shift else place
            if at < 0 or labels[row, place] == -100:
                continue
            z = logits[row, at].astype("float64")
            lse = math.log(np.exp(z - z.max()).sum()) + z.max()
            target = np.full(len(z), smoothing / len(z))
            target[labels[row, place]] += 1 - smoothing
            loss = float(-(target * (z - lse)).sum()) + z_loss * lse**2
            factor = 1.0 if weight is None else float(np.broadcast_to(weight, labels.shape)[row, place])
            total, plain = total + factor * loss, plain + lse - z[labels[row, place]]
            number += factor != 0
    return (total / number if number else 0.0), plain, number


@pytest.fixture
def batch(rng: Any) -> tuple[Array, Array]:
    labels = rng.integers(0, 11, (4, 6))
    labels[0, 3:], labels[1, :2], labels[2] = -100, -100, -100
    return 3 * rng.normal(size=(4, 6, 11)).astype("float32"), labels


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.2}, {"z_loss": 0.01}, {"label_smoothing": 0.1, "z_loss": 0.02}]
)
def test_losses_are_the_closed_form(
    batch: tuple[Array, Array], shift: bool, options: Mapping[str, float], rng: Any
) -> None:
    logits, labels = batch
    loss = (az.losses.CausalLM if shift else az.losses.TokenCrossEntropy)(**options)
    more = {"smoothing": options.get("label_smoothing", 0.0), "z_loss": options.get("z_loss", 0.0), "shift": shift}
    assert float(loss(labels, logits)) == pytest.approx(closed_form(logits, labels, **more)[0], rel=2e-6)
    for weight in (rng.uniform(size=(4, 6)), np.array([[1.0], [0.0], [2.0], [0.5]])):
        expected = closed_form(logits, labels, weight=weight, **more)[0]
        assert float(loss(labels, logits, weight)) == pytest.approx(expected, rel=2e-6)
        assert float(loss(labels, logits, weight[:, 0])) == pytest.approx(
            closed_form(logits, labels, weight=weight[:, :1], **more)[0], rel=2e-6
        )
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()
    assert float(again(labels, logits)) == float(loss(labels, logits))


def test_rows_of_weight_zero_and_padding_change_nothing(batch: tuple[Array, Array]) -> None:
    logits, labels = batch
    loss = az.losses.CausalLM(pad_token_id=7)
    ignored = np.where(labels == 7, -100, labels)
    expected = closed_form(logits, ignored, shift=True)[0]
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=2e-6)
    more = [np.concatenate([x, x[::-1]]) for x in (labels, logits)]
    assert float(loss(*more, np.repeat([1.0, 0.0], 4))) == pytest.approx(expected, rel=2e-6)
    assert float(loss(labels[:, :1], logits[:, :1])) == 0  # a single token has nothing before it
    assert float(loss(np.full((2, 5), -100), logits[:2, :5])) == 0


def test_labels_of_padding_and_of_the_first_tokens_of_documents() -> None:
    loss, ids = az.losses.CausalLM(), np.arange(1, 9).reshape(1, 8)
    mask, segments = np.array([[0, 0, 1, 1, 1, 1, 1, 0]]), np.array([[1, 1, 1, 2, 2, 3, 0, 0]])
    of = lambda x, y=None: np.asarray(loss.labels_of(x, y))[0].tolist()  # noqa: E731
    assert of(ids) == list(range(1, 9))
    assert of({"input_ids": ids, "attention_mask": mask}) == [-100, -100, -100, 4, 5, 6, 7, -100]
    assert of({"input_ids": ids, "segment_ids": segments}) == [-100, 2, 3, -100, 5, -100, -100, -100]
    assert of({"input_ids": ids, "attention_mask": mask}, ids[..., None] + 20) == [
        -100,
        -100,
        -100,
        24,
        25,
        26,
        27,
        -100,
    ]
    # An encoder's mask says nothing about the decoder's labels.
    pair = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}
    assert np.asarray(az.losses.TokenCrossEntropy().labels_of(pair, ids)).tolist() == ids.tolist()
    with pytest.raises(ValueError, match="y: got None"):
        az.losses.TokenCrossEntropy().labels_of({"input_ids": ids}, None)


def test_the_masks_of_other_models() -> None:
    """Losses and metrics leave out what Keras' mask leaves out, with labels of any rank."""
    ids, labels = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0]]), np.array([[1, 2, 3, 4, 5], [6, 5, 4, 3, 2]])
    layers = keras.layers
    model = keras.Sequential([keras.Input((5,), dtype="int32"), layers.Embedding(10, 4, mask_zero=True)])
    model.add(layers.LSTM(4, return_sequences=True))
    model.add(layers.Dense(7))
    mean, _, _ = closed_form(np.asarray(model(ids)), np.where(ids, labels, -100), shift=False)
    for given in (labels, labels[..., None]):
        metrics = [az.metrics.Perplexity(shift=False)]
        model.compile("sgd", az.losses.TokenCrossEntropy(), metrics=metrics, run_eagerly=True)
        assert model.evaluate(ids, given, verbose=0) == pytest.approx([mean, math.exp(mean)], rel=1e-5)


def test_half_precision_is_computed_in_float32(batch: tuple[Array, Array]) -> None:
    logits, labels = batch
    half = ops.cast(logits, "bfloat16")
    exact = closed_form(np.asarray(ops.cast(half, "float32")), labels, shift=True)[0]
    assert float(az.losses.CausalLM()(labels, half)) == pytest.approx(exact, rel=2e-6)
    large = np.where(labels[..., None] == np.arange(11), 60_000, 0).astype("float16")
    assert float(az.losses.TokenCrossEntropy()(labels, large)) == 0


def test_metrics_are_exact_over_unequal_batches(batch: tuple[Array, Array]) -> None:
    logits, labels = batch
    sizes = np.array([0, 1, 3, 2, 5, 1, 1, 4, 2, 0, 7])
    metrics = [
        az.metrics.Perplexity(),
        az.metrics.MaskedAccuracy(),
        az.metrics.BitsPerByte(bytes_per_token=sizes),
    ]
    for metric in metrics:
        for rows in (slice(0, 1), slice(1, 4)):
            metric.update_state(labels[rows], logits[rows])
    _, plain, number = closed_form(logits, labels, shift=True)
    targets, hits = labels[:, 1:], logits[:, :-1].argmax(-1)
    expected = [
        math.exp(plain / number),
        (hits == targets)[targets != -100].mean(),
        plain / math.log(2) / sizes[targets[targets != -100]].sum(),
    ]
    assert [float(metric.result()) for metric in metrics] == pytest.approx(expected, rel=2e-6)
    for metric, value in zip(metrics, expected, strict=True):
        again = keras.metrics.deserialize(keras.metrics.serialize(metric))
        again.update_state(labels, logits)
        assert float(again.result()) == pytest.approx(value, rel=2e-6)
        metric.reset_state()
        assert float(metric.result()) == (1 if isinstance(metric, az.metrics.Perplexity) else 0)


def test_bytes_of_labels_beyond_the_table_are_not_made_up(batch: tuple[Array, Array]) -> None:
    metric = az.metrics.BitsPerByte(bytes_per_token=[1, 2, 3])
    metric.update_state(np.full_like(batch[1], 2), batch[0])
    assert math.isfinite(float(metric.result()))
    metric.update_state(np.full_like(batch[1], 3), batch[0])
    assert math.isnan(float(metric.result()))


def test_sums_of_many_batches_are_not_rounded() -> None:
    """A plain sum in float32 would be off by 1e-4 after 3000 such batches."""
    metric, labels = az.metrics.MaskedAccuracy(shift=False), np.zeros((100, 100), int)
    logits = ops.convert_to_tensor(np.eye(2, dtype="float32")[labels])
    metric.update_state(labels, logits)
    metric.total.assign(2.0**26)
    metric.count.assign(2.0**26)
    for _ in range(3):
        metric.update_state(labels[:1, :1], 1 - logits[:1, :1])
    assert float(ops.convert_to_tensor(metric.count)) == 2.0**26
    assert float(ops.convert_to_tensor(metric.count_rest)) == 3


def test_bytes_of_tokens() -> None:
    from tokenizers import Tokenizer, decoders, models

    from attention_zoo.training.bytes import bytes_per_token

    words = {"</s>": 0, "<0xC3>": 1, "▁über": 2, "a": 3, "▁": 4}
    backend = Tokenizer(models.BPE(words, [], unk_token="a", byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(parts)
    tokenizer = az.Tokenizer(backend, eos_token="</s>")
    assert bytes_per_token(tokenizer).tolist() == [0, 1, 6, 1, 1]
    backend = Tokenizer(models.BPE({"Ã": 0, "¼": 1, "Ġa": 2, "<|end|>": 3}, []))
    backend.decoder = decoders.ByteLevel()
    assert bytes_per_token(az.Tokenizer(backend, eos_token="<|end|>")).tolist() == [1, 1, 2, 0]
    backend.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match="tokenizer: got one whose decoder is"):
        az.metrics.BitsPerByte(az.Tokenizer(backend))


def gradients(function: Any, *values: Array) -> list[Array]:
    """Return the value of `function` and its gradients, on TensorFlow."""
    import tensorflow as tf

    tensors = [tf.constant(value) for value in values]
    with tf.GradientTape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        value = function(*tensors)
    return [np.asarray(x) for x in (value, *tape.gradient(value, tensors))]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scale, softcap", [(1.0, None), (0.3, 2.0)])
def test_chunks_have_the_gradients_of_all_logits(tied: bool, scale: float, softcap: float | None, rng: Any) -> None:
    hidden, bias = rng.normal(size=(3, 7, 5)), rng.normal(size=11)
    kernel, labels = rng.normal(size=(11, 5) if tied else (5, 11)), rng.integers(0, 11, (3, 7))
    upstream = rng.normal(size=(3, 7, 4)) * [1, 1, 1, 0]
    values = [x.astype("float32") for x in (hidden, kernel, bias)]

    def plain(hidden: Any, kernel: Any, bias: Any) -> Any:
        logits = Projection(kernel, tied, bias, scale, softcap).logits(hidden)
        return ops.sum(logit_statistics(logits, labels) * ops.cast(upstream, "float32"))

    expected = gradients(plain, *values)
    for tokens in (1, 6, 9, None):

        def chunked(hidden: Any, kernel: Any, bias: Any, tokens: Any = tokens) -> Any:
            projection = Projection(kernel, tied, bias, scale, softcap)
            return ops.sum(chunked_logit_statistics(hidden, projection, labels, tokens) * ops.cast(upstream, "float32"))

        for one, other in zip(gradients(chunked, *values), expected, strict=True):
            assert abs(one - other).max() <= 1e-6 * max(1, abs(other).max())


CHILD = """
import json, sys
import attention_zoo as az
import keras
import numpy as np

options = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
ids, mask = rng.integers(0, 61, (5, 9)), np.ones((5, 9), int)
mask[0, 5:], mask[2, :3] = 0, 0
inputs, found = {"input_ids": ids, "attention_mask": mask}, []
for chunk_size in (None, 7):
    keras.utils.set_random_seed(0)
    model = az.create(**options["model"], **({"dtype": options["dtype"]} if options["dtype"] else {}))
    for i, weight in enumerate(model.weights):  # the same on every backend
        weight.assign(0.4 * np.random.default_rng(i).normal(size=weight.shape))
    causal = model.family == "gpt"
    loss = (az.losses.CausalLM if causal else az.losses.TokenCrossEntropy)(0.1, 1e-3, chunk_size)
    metrics = [az.metrics.Perplexity(causal), az.metrics.MaskedAccuracy(causal)]
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics, jit_compile=options["jit"])
    target = () if causal else (np.where(np.arange(9) % 2, -100, ids),)
    history = model.fit(inputs, *target, batch_size=2, epochs=2, shuffle=False, verbose=0).history
    history["evaluated"] = [float(x) for x in model.evaluate(inputs, *(target or (ids,)), batch_size=4, verbose=0)]
    assert model.predict({"input_ids": ids}, verbose=0).shape == (5, 9, 61)
    if causal:
        logits = np.asarray(keras.ops.convert_to_numpy(model(inputs)))
        by_hand = az.losses.CausalLM()(loss.labels_of(inputs, None), logits)
        history["loss by hand"] = [float(keras.ops.convert_to_numpy(by_hand))]
    found.append(history)
print(json.dumps(found))
"""
MODELS = {
    "tied": {"name": "gpt", **SMALL, "logits_softcap": 5.0},
    "untied": {"name": "gpt", **SMALL, **LLAMA, "tie_embeddings": False, "use_head_bias": True, "logits_scale": 0.5},
    "bert": {"name": "bert", **SMALL, "head": "masked_lm", "intermediate_dim": 20},
    "bert_untied": {"name": "bert", **SMALL, "head": "masked_lm", "intermediate_dim": 20, "tie_embeddings": False},
}
CASES = [
    pytest.param(name, backend, jit, dtype, marks=[pytest.mark.slow] * (case > 0))
    for case, (name, backend, jit, dtype) in enumerate(
        [
            ("tied", "jax", True, None),
            *[
                (name, backend, True, None)
                for name in MODELS
                for backend in ("tensorflow", "jax")
                if (name, backend) != ("tied", "jax")
            ],
            *[(name, "torch", False, None) for name in ("untied", "bert")],
            ("tied", "tensorflow", False, None),
            ("bert", "tensorflow", False, None),
            *[("untied", backend, True, "mixed_bfloat16") for backend in ("tensorflow", "jax")],
            ("tied", "tensorflow", True, "mixed_float16"),
        ]
    )
]


@pytest.mark.parametrize("name, backend, jit, dtype", CASES)
def test_training_in_chunks_is_training(name: str, backend: str, jit: bool, dtype: str | None, tmp_path: Path) -> None:
    """Losses and metrics of ``fit`` and ``evaluate`` with chunks are those without, on every backend."""
    if backend != "tensorflow":
        pytest.importorskip(backend)
    given = json.dumps({"model": MODELS[name], "jit": jit, "dtype": dtype})
    plain, chunked = json.loads(python(CHILD, given, KERAS_BACKEND=backend).splitlines()[-1])
    for key, values in plain.items():
        assert chunked[key] == pytest.approx(values, rel=2e-5 if dtype is None else 0.03), key


def test_fit_uses_the_loss_and_mask_by_itself(rng: Any) -> None:
    """The value that ``evaluate`` gives is the closed form over the tokens that the mask keeps."""
    model = az.GPT(**SMALL)
    ids, mask = rng.integers(0, 61, (3, 8)), np.ones((3, 8), int)
    mask[0, 5:], mask[1, :2] = 0, 0
    logits = np.asarray(model({"input_ids": ids, "attention_mask": mask}))
    first = np.roll(mask, 1, axis=1) == 0  # tokens after padding, which nothing precedes
    mean, plain, number = closed_form(logits, np.where(mask.astype(bool) & ~first, ids, -100), shift=True)
    for chunk_size in (None, 4):
        loss = az.losses.CausalLM(chunk_size=chunk_size)
        for given in (loss, [loss], {"logits": loss}):
            model.compile("sgd", given, metrics=[az.metrics.Perplexity()], run_eagerly=True)
            found = model.evaluate({"input_ids": ids, "attention_mask": mask}, ids, verbose=0)
            assert found == pytest.approx([mean, math.exp(plain / number)], rel=1e-5)


def test_weights_without_labels_count(rng: Any) -> None:
    """Keras leaves out weights of rows without labels, which are the ids here."""
    model, weight = az.GPT(**SMALL), np.array([2.0, 0.0, 0.5])
    inputs = {"input_ids": rng.integers(0, 61, (3, 8))}
    mean, _, _ = closed_form(np.asarray(model(inputs)), inputs["input_ids"], shift=True, weight=weight[:, None])
    model.compile(keras.optimizers.SGD(0.0), az.losses.CausalLM(), run_eagerly=True)
    assert model.evaluate(inputs, sample_weight=weight, verbose=0) == pytest.approx(mean, rel=1e-5)
    found = model.fit(inputs, sample_weight=weight, validation_data=(inputs, None, weight), verbose=0).history
    assert [found["loss"][0], found["val_loss"][0]] == pytest.approx([mean] * 2, rel=1e-5)


@pytest.mark.parametrize("chunk_size", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_a_row_has_the_same_loss_wherever_its_padding_is(chunk_size: int | None, rng: Any) -> None:
    model = az.GPT(**SMALL, use_bias=False)
    model.compile("sgd", az.losses.CausalLM(chunk_size=chunk_size), run_eagerly=True)
    ids = rng.integers(1, 61, (2, 5))
    sides = ((0, 3), (3, 0), (1, 2))
    padded = [{"input_ids": np.pad(ids, ((0, 0), s)), "attention_mask": np.pad(ids > 0, ((0, 0), s))} for s in sides]
    found = [model.evaluate(x, x["input_ids"], verbose=0) for x in padded]
    logits = np.asarray(model({"input_ids": ids}))
    assert found == pytest.approx([closed_form(logits, ids, shift=True)[0]] * 3, rel=1e-5)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: az.losses.CausalLM(label_smoothing=1.0), "label_smoothing: got 1.0"),
        (lambda: az.losses.CausalLM(chunk_size="all"), "chunk_size: got 'all'"),
        (lambda: az.losses.CausalLM(chunk_size=0), "chunk_size: got 0"),
        (lambda: az.losses.CausalLM(ignore_index=3), "ignore_index: got 3"),
        (az.metrics.BitsPerByte, "tokenizer: got it and bytes_per_token, or neither"),
        (lambda: az.losses.CausalLM()(np.zeros((2, 3), int), np.zeros((2, 4, 5))), "y_pred: got shape"),
        (
            lambda: az.GPT(**SMALL, head=None).compile("sgd", az.losses.CausalLM(chunk_size=4)),
            "chunk_size: got 4 for gpt",
        ),
        (
            lambda: az.GPT(**SMALL).compile("sgd", az.losses.CausalLM(chunk_size=4), metrics=["accuracy"]),
            "metrics: got 'accuracy' with the chunk_size",
        ),
        (
            lambda: az.GPT(**SMALL).compile("sgd", az.losses.CausalLM(), metrics=[az.metrics.Perplexity(shift=False)]),
            "metrics: got perplexity with shift=False; accepted: shift=True",
        ),
        (
            lambda: az.GPT(**SMALL).compile("sgd", [az.losses.CausalLM(), "mse"]),
            "loss: got a loss of tokens among 2 losses",
        ),
    ],
)
def test_wrong_arguments_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        wrong()


MEMORY = """
import os, sys
import attention_zoo as az
import keras
import numpy as np

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

chunk_size = None if sys.argv[1] == "plain" else "auto"
words = 150_000
model = az.GPT(vocab_size=words, num_layers=1, num_heads=2, hidden_dim=64, max_length=256)
model.compile("sgd", az.losses.CausalLM(chunk_size=chunk_size))
ids = np.random.default_rng(0).integers(0, words, (4, 256))
before = peak()
for _ in range(2):
    model.train_on_batch({"input_ids": ids}, ids)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_memory_with_150000_words(backend: str) -> None:
    if backend != "tensorflow":
        pytest.importorskip(backend)
    plain, chunked = (float(python(MEMORY, kind, KERAS_BACKEND=backend).splitlines()[-1]) for kind in ("plain", "auto"))
    assert chunked <= 0.4 * plain, (chunked, plain)
