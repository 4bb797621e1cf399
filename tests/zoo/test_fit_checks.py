"""What ``compile`` and ``fit`` warn of or refuse, because Keras would train something else without a word."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import attention_zoo as az
from helpers import close, python, tiny

LOSS = keras.losses.SparseCategoricalCrossentropy


def messages(model: Any, *args: Any, **kwargs: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.compile(*args, **kwargs)
    assert all(Path(str(w.filename)).name == "test_fit_checks.py" for w in caught), "the line of the caller"
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_warned_of(dtype: str) -> None:
    (message,) = messages(tiny("gpt", "gpt2", dtype=dtype), "adam", LOSS(from_logits=True))
    assert message.startswith(f"dtype: got '{dtype}' weights") and f"'mixed_{dtype}'" in message
    mixed = tiny("gpt", "gpt2", dtype=f"mixed_{dtype}")
    assert messages(mixed, "adam", LOSS(from_logits=True)) == []
    adapted = tiny("gpt", "gpt2", dtype=dtype)
    adapted.enable_lora(2)  # adapters are float32
    assert messages(adapted, "adam", LOSS(from_logits=True)) == []


def test_losses_of_probabilities_are_warned_of(tmp_path: Path) -> None:
    model = tiny("gpt", "gpt2")
    binary = keras.losses.BinaryCrossentropy
    for loss in (
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        "categorical_crossentropy",
        "binary_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        LOSS(),
        [binary()],
    ):
        (message,) = messages(model, "adam", loss)
        assert message.startswith("loss: got ") and "from_logits=True" in message
    for loss in (LOSS(from_logits=True), "mse", None, binary(from_logits=True), lambda y, x: keras.ops.mean(x)):
        assert messages(model, "adam", loss) == []
    assert messages(tiny("bert", "backbone"), "adam", "binary_crossentropy") == []
    model.compile("adam", LOSS(from_logits=True), metrics=["accuracy"])
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.compiled and loaded.optimizer.built and loaded.loss.from_logits


def test_other_warnings_of_compile() -> None:
    ignoring = LOSS(from_logits=True, ignore_class=-100)
    model = tiny("gpt", "untied")
    for metrics in (["accuracy"], [keras.metrics.SparseCategoricalAccuracy()]):
        (message,) = messages(model, "adam", ignoring, metrics=metrics)
        assert "counts the labels -100 that the loss ignores" in message
        assert messages(model, "adam", LOSS(from_logits=True), metrics=metrics) == []
    for loss in (LOSS(from_logits=True), "mse"):
        (message,) = messages(model, "adam", loss, metrics=[az.metrics.Perplexity()])
        assert message.startswith("metrics: got 'perplexity' with shift=True") and "shift=False" in message
        assert messages(model, "adam", loss, weighted_metrics=[az.metrics.Perplexity(shift=False)]) == []
    assert messages(model, "adam", az.losses.CausalLM(), metrics=[az.metrics.Perplexity()]) == []
    for metrics in (["accuracy"], [keras.metrics.SparseTopKCategoricalAccuracy()], [["acc"]]):
        (message,) = messages(model, "adam", az.losses.CausalLM(), metrics=metrics)
        assert "accepted: those of az.metrics, such as az.metrics.MaskedAccuracy(shift=True)" in message
    assert messages(model, "adam", az.losses.CausalLM(), metrics=[az.metrics.MaskedAccuracy()]) == []
    muon = keras.optimizers.Muon
    (message,) = messages(model, muon(1e-3), ignoring)
    assert "got Muon for the output layers ['lm_head']" in message
    assert messages(model, muon(1e-3, exclude_layers=["lm_head"]), ignoring) == []
    assert messages(tiny("gpt", "gpt2"), muon(1e-3), ignoring) == []


def test_labels_among_the_inputs(rng: Any) -> None:
    ids = rng.integers(0, 97, (2, 5)).astype("int32")
    model = tiny("gpt", "gpt2")
    model.compile("sgd", LOSS(from_logits=True), run_eagerly=True)
    inputs = {"input_ids": ids, "labels": ids}
    for call in (model, model.fit):
        with pytest.raises(ValueError, match=r"inputs: got \['labels'\].*fit\(inputs, labels\)"):
            call(inputs)


CALLBACK = """
import keras, numpy as np, attention_zoo as az
ids = np.random.default_rng(0).integers(0, 64, (8, 8)).astype("int32")

def run(generates):
    keras.utils.set_random_seed(0)
    model = az.create("gpt", vocab_size=64, num_layers=1, num_heads=2, hidden_dim=16, max_length=16)
    model.compile(keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = []

    class Sample(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if generates:  # `model` is not `self.model`, which Keras would have brought up to date
                found.append([m.generate(ids[:1, :3], max_new_tokens=5).tolist() for m in (model, self.model)])

    losses = model.fit(ids, ids, epochs=10, batch_size=4, shuffle=False, verbose=0, callbacks=[Sample()]).history
    return losses["loss"], found, model.generate(ids[:1, :3], max_new_tokens=5).tolist()

plain, _, last = run(False)
losses, found, same = run(True)
assert losses == plain and same == last and [last, last] == found[-1]
assert all(own == current for own, current in found)
"""


@pytest.mark.slow
def test_generate_in_a_callback_on_jax() -> None:
    """During ``fit`` on JAX, the variables of a model are out of date, and their buffers may be deleted."""
    pytest.importorskip("jax")
    python(CALLBACK, KERAS_BACKEND="jax")


class Batches(keras.utils.PyDataset):
    def __init__(self, ids: np.ndarray) -> None:
        super().__init__()
        self.ids, self.ended = ids, 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return {"input_ids": self.ids + index}, self.ids

    def on_epoch_end(self) -> None:
        self.ended += 1


def test_ids_of_datasets_are_checked(rng: Any) -> None:
    """JAX fills rows out of range with NaN, XLA takes the last one."""
    model = tiny("gpt", "gpt2")
    model.compile("sgd", LOSS(from_logits=True), run_eagerly=True)
    good, bad = Batches(rng.integers(0, 96, (2, 5))), Batches(np.full((2, 5), 96))
    model.fit(good, verbose=0)
    assert good.ended > 0
    assert model.evaluate(good, verbose=0) > 0
    for call in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ValueError, match="input_ids: got values from 97 to 97; accepted: integers from 0 to 96"):
            call(bad, verbose=0)
    with pytest.raises(ValueError, match="input_ids: got values from 97 to 97"):
        model.fit((bad[i] for i in range(2)), verbose=0)
    ragged = tf.data.Dataset.from_tensor_slices((tf.ragged.constant([[1, 2], [3]]), [[1], [2]])).batch(2)
    with pytest.raises(ValueError, match=r"x: got ragged tensors; accepted: rows of one length, as .*padded_batch"):
        model.fit(ragged)


def test_class_weight_of_tokens(rng: Any) -> None:
    """Equal to the weighted mean over tokens in NumPy, of which Keras would take the wrong label of each row."""
    model = tiny("bert", "token_classification", dropout=0.0, attention_dropout=0.0)
    model.compile(keras.optimizers.SGD(0.0), LOSS(from_logits=True, ignore_class=-100), run_eagerly=True)
    ids, labels = rng.integers(0, 89, (2, 6)), rng.integers(0, 5, (2, 6))
    labels[0, 4:] = -100
    factors = {0: 2.0, 3: 0.5}
    loss = model.fit(ids, labels, class_weight=factors, verbose=0).history["loss"][0]
    logits = np.asarray(model(ids), "float64")
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(logs, np.maximum(labels, 0)[..., None], -1)[..., 0] * (labels >= 0)
    weights = np.vectorize(lambda label: factors.get(int(label), 1.0))(labels)
    same = model.fit(ids, labels, sample_weight=weights, verbose=0).history["loss"][0]
    close(loss, same, atol=1e-6)
    assert abs(loss - (each * weights).sum() / (labels >= 0).sum()) < 0.2 * loss
    dataset = tf.data.Dataset.from_tensor_slices((ids, labels)).batch(2)
    with pytest.raises(ValueError, match=r"class_weight: got labels in a dataset .*; accepted: labels"):
        model.fit(dataset, class_weight=factors)
    with pytest.raises(ValueError, match="class_weight: got sample_weight too"):
        model.fit(ids, labels, class_weight=factors, sample_weight=weights)
    sentences = tiny("bert", "sequence_classification")
    sentences.compile("sgd", LOSS(from_logits=True), run_eagerly=True)
    sentences.fit(ids, labels[:, 0], class_weight=factors, verbose=0)


@pytest.mark.parametrize("when", ["after", "before"])
def test_exclusions_under_layerwise_decay(when: str, tmp_path: Path, rng: Any) -> None:
    """Excluded weights stay 1 where others decay by a known factor, also after a ``.keras`` file."""

    def model() -> Any:
        made = tiny("gpt", "gpt2")
        for variable in made.weights:
            variable.assign(np.ones(variable.shape))
        inner = keras.optimizers.AdamW(1e-9, weight_decay=1e8)  # decays by a tenth in a step, and learns nothing
        if when == "before":
            inner.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        optimizer = made.layerwise_decay(inner, 1.0)
        if when == "after":
            optimizer.exclude_from_weight_decay(
                var_list=[made.position_layer.embeddings], var_names=["gamma", "beta", "bias"]
            )
        made.compile(optimizer, LOSS(from_logits=True), run_eagerly=True)
        return made

    def check(made: Any, steps: int) -> None:
        for variable in made.weights:
            own = variable.name in ("gamma", "beta", "bias")
            own |= when == "after" and variable is made.position_layer.embeddings
            close(np.asarray(variable), np.full(variable.shape, 1.0 if own else 0.9**steps), 1e-5, variable.path)

    ids = rng.integers(0, 97, (2, 5)).astype("int32")
    first = model()
    first.save(tmp_path / "unbuilt.keras")
    first.fit(ids, ids, verbose=0)
    check(first, 1)
    first.save(tmp_path / "built.keras")
    for name, steps in (("unbuilt", 1), ("built", 2)):
        loaded: Any = keras.models.load_model(tmp_path / f"{name}.keras")
        loaded.run_eagerly = True
        loaded.fit(ids, ids, verbose=0)
        check(loaded, steps)
