"""Adapters, freezing, layer-wise learning rates and gradient checkpointing, compared with NumPy and plain models."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import attention_zoo as az
from attention_zoo import export
from attention_zoo.finetuning.optimizers import LayerwiseDecay, WarmupLinearDecay
from attention_zoo.zoo.base import weight_name
from helpers import (
    ALL_BUT_ONE,
    FURTHER,
    ROOT,
    VARIANTS,
    WITHOUT_TENSORFLOW,
    close,
    every_variant,
    float64,
    inputs_for,
    numpy,
    python,
    run,
    tiny,
)

LOSS = keras.losses.SparseCategoricalCrossentropy
SMALL = {"num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0}


def classifier(dtype: Any = None, **overrides: Any) -> Any:
    return tiny("bert", "sequence_classification", dtype=dtype, **{**SMALL, **overrides})


def values(model: Any) -> dict[str, np.ndarray]:
    return {weight_name(variable): float64(variable) for variable in model.weights}


def trained(model: Any) -> set[str]:
    return {weight_name(variable) for variable in model.trainable_weights}


def randomise_adapters(model: Any, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "lora" in variable.name:
            variable.assign(rng.normal(0, 0.3, variable.shape).astype("float32"))


def fitted(model: Any, rng: Any, optimizer: Any = None, steps: int = 3, jit: bool | None = None) -> list[float]:
    """Return the losses of `steps` steps on one batch; the model runs eagerly if `jit` is None."""
    inputs = inputs_for(model, rng, batch=4)
    labels = rng.integers(0, model.config.num_classes, 4)
    if optimizer is not None:
        model.compile(optimizer, LOSS(from_logits=True), jit_compile=bool(jit), run_eagerly=jit is None)
    return model.fit(inputs, labels, batch_size=4, epochs=steps, verbose=0).history["loss"]


def by_hand(before: dict[str, np.ndarray], after: dict[str, np.ndarray], layers: set[str], factor: float) -> Any:
    """Return `before` with W + factor · A B as the kernels of `layers`, computed in float64."""
    merged = dict(before)
    for layer in layers:
        kind = "embeddings" if f"{layer}/lora_embeddings_a" in after else "kernel"
        a, b = (after[f"{layer}/lora_{kind}_{part}"] for part in "ab")
        merged[f"{layer}/{kind}"] = before[f"{layer}/{kind}"] + factor * a @ b
    return merged


def plain(model: Any, weights: dict[str, np.ndarray]) -> Any:
    """Return a model without adapters that has these weights."""
    twin = type(model)(model.config)
    for variable in twin.weights:
        variable.assign(weights[weight_name(variable)].astype("float32"))
    return twin


# ---- adapters -----------------------------------------------------------------------------------------------------


@every_variant(VARIANTS, slow=ALL_BUT_ONE)
def test_adapters_are_added_to_the_kernels(family: str, variant: str, rng: Any) -> None:
    """Adapters on all possible layers equal a plain model with W + alpha / rank · A B, computed in NumPy."""
    model = tiny(family, variant)
    inputs, before = inputs_for(model, rng), values(model)
    untouched = run(model, inputs)
    model.enable_lora(3, targets="*", alpha=6, also_train=())
    for name, expected in run(model, inputs).items():
        close(numpy(untouched[name]), expected, atol=2e-5, what="B of zeros changes nothing")
    randomise_adapters(model)
    expected_model = plain(model, by_hand(before, values(model), set(model.lora.layers), 2.0))
    expected = run(expected_model, inputs)
    for name, actual in run(model, inputs).items():
        scale = max(1.0, float(np.abs(expected[name]).max()))
        close(actual, expected[name], atol=5e-5 * scale)
        assert np.abs(actual - untouched[name]).max() > 1e-2
    assert trained(model) == {name for name in values(model) if "lora" in name}


@pytest.mark.slow
def test_what_is_trained_and_what_moves(rng: Any) -> None:
    """``fit`` changes only the head and the adapters of query and value, compiled before or after adding them."""
    for compile_first in (True, False):
        model = classifier()
        before = values(model)
        optimizer = keras.optimizers.Adam(1e-2)
        if compile_first:
            model.compile(optimizer, LOSS(from_logits=True), jit_compile=False)
        counts = model.enable_lora(2)
        layers = {f"block_{i}/attention/{part}" for i in range(2) for part in ("query", "value")}
        adapters = {f"{layer}/lora_kernel_{part}" for layer in layers for part in "ab"}
        head = {f"{layer}/{part}" for layer in ("pooler", "classifier") for part in ("kernel", "bias")}
        assert trained(model) == adapters | head
        assert counts.trainable == 4 * 2 * (32 * 2) + 32 * 32 + 32 + 32 * 5 + 5
        assert counts.total == sum(array.size for array in before.values()) + 4 * 2 * (32 * 2)
        losses = fitted(model, rng, None if compile_first else optimizer, steps=4)
        assert losses[-1] < losses[0]
        after = values(model)
        for name, array in before.items():
            assert (np.abs(array - after[name]).max() > 1e-4) == (name in head), name
        assert all(np.abs(after[name]).max() > 1e-4 for name in adapters)


def test_what_a_new_task_brings_is_trained_whole() -> None:
    """Layers that the family lists are trained in full, but not a pooler without a head or a language model head."""
    for family, variant, own in (
        ("bert", "question_answering", {"span"}),
        ("bert", "token_classification", {"classifier"}),
        ("bert", "masked_lm", set()),
        ("bert", "backbone", set()),
        ("vit", "deit", {"classifier", "distillation_classifier"}),
        ("vit", "pooled", set()),
        ("gpt", "gpt2", set()),
    ):
        model = tiny(family, variant)
        names = set(values(model))
        model.enable_lora(2)
        assert {name.partition("/")[0] for name in trained(model) & names} == own, (family, variant)
        assert any(name.startswith("pooler/") for name in names) == (variant in ("backbone", "pooled"))


@pytest.mark.parametrize(
    "dtype", ["mixed_float16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixed_bfloat16", "bfloat16"))]
)
def test_adapters_in_half_precision(dtype: str, rng: Any) -> None:
    """Adapters are float32 and learn, and they are merged in float32."""
    model = classifier(dtype)
    before = values(model)
    model.enable_lora(2)
    assert all(v.dtype == "float32" for v in model.weights if "lora" in v.name)
    losses = fitted(model, rng, keras.optimizers.Adam(1e-2), steps=4)
    assert losses[-1] < losses[0]
    expected = by_hand(before, values(model), set(model.lora.layers), 1.0)
    model.merge_lora()
    for name, array in values(model).items():
        if "attention" in name:
            close(array, expected[name], atol=2e-2 if dtype == "bfloat16" else 1e-6, what=name)


def test_adapter_on_the_tied_table(rng: Any) -> None:
    """The adapter applies to the embedding lookup and to the tied output head."""
    model = tiny("gpt", "gpt2")
    before = values(model)
    model.enable_lora(2, targets="embedding")
    randomise_adapters(model)
    after = values(model)
    table = before["embedding/embeddings"] + after["embedding/lora_embeddings_a"] @ after["embedding/lora_embeddings_b"]
    ids = rng.integers(0, 97, (2, 7)).astype("int32")
    close(numpy(model.embedding(ids)), table[ids], atol=1e-5)
    states = rng.normal(size=(2, 7, 32))
    close(numpy(model.embedding.project(states.astype("float32"))), states @ table.T, atol=1e-4)


def test_merging_gives_the_plain_model_back(rng: Any) -> None:
    model = classifier()
    names, inputs = [v.path for v in model.weights], inputs_for(model, rng)
    before = values(model)
    model.freeze("token_types")
    model.enable_lora(4, targets=("block_*/attention/*", "up"), alpha=8)
    assert len(model.lora.layers) == 2 * 5
    randomise_adapters(model)
    expected, merged = run(model, inputs), by_hand(before, values(model), set(model.lora.layers), 2.0)
    listed = dict(model.merged_weights())
    assert set(listed) == set(before)
    assert run(model, inputs)["logits"].tolist() == expected["logits"].tolist(), "merged_weights changes nothing"
    model.merge_lora()
    assert [v.path for v in model.weights] == names
    assert model.lora is None
    for name, array in values(model).items():
        close(array, merged[name], atol=1e-6, what=name)
        close(numpy(listed[name]), merged[name], atol=1e-6, what=name)
    close(run(model, inputs)["logits"], expected["logits"], atol=2e-6 * np.abs(expected["logits"]).max())
    assert set(names) - {v.path for v in model.trainable_weights} == {"bert/token_types/embeddings"}
    model.enable_lora(2)  # adapters can be added again after merging
    assert len(model.lora.layers) == 4


@pytest.mark.slow
def test_generate_forgets_what_it_compiled(rng: Any) -> None:
    model = tiny("gpt", "gpt2")
    ids = rng.integers(0, 97, (1, 5))
    first = model.generate(ids, max_new_tokens=6)
    model.enable_lora(4, targets="*")
    assert np.array_equal(model.generate(ids, max_new_tokens=6), first)
    randomise_adapters(model)
    second = model.generate(ids, max_new_tokens=6)
    assert not np.array_equal(second, first)
    model.merge_lora()
    assert np.array_equal(model.generate(ids, max_new_tokens=6), second)


@pytest.mark.slow
def test_folders_and_exports_have_merged_weights(tmp_path: Path, rng: Any) -> None:
    model = classifier()
    plain_names = set(values(model))
    model.enable_lora(2, alpha=5)
    randomise_adapters(model)
    held = values(model)
    inputs = inputs_for(model, rng)
    expected = run(model, inputs)["logits"]

    tensors = safetensors.numpy.load_file(az.save(model, tmp_path / "folder") / "model.safetensors")
    assert set(tensors) == plain_names
    close(run(az.load(tmp_path / "folder"), inputs)["logits"], expected, atol=1e-5)
    export.to_onnx(model, tmp_path / "model.onnx")
    close(export.load(tmp_path / "model.onnx").run(inputs)["logits"], expected, atol=1e-4)
    assert export.verify(model, tmp_path / "model.onnx").passed
    export.to_tflite(model, tmp_path / "model.tflite", batch_size=2, sequence_length=9)
    close(export.load(tmp_path / "model.tflite").run(inputs)["logits"], expected, atol=1e-4)
    for name, array in values(model).items():
        assert np.array_equal(array, held[name]), "the model that trains is left alone"
    assert model.lora is not None


@pytest.mark.slow
def test_keras_file_goes_on_where_training_stopped(tmp_path: Path, rng: Any) -> None:
    """The file keeps adapters, frozen weights and the optimizer, so that training continues with equal results."""
    model = classifier()
    model.enable_lora(2, alpha=3)
    fitted(model, rng, model.layerwise_decay(keras.optimizers.AdamW(1e-2), 0.7), steps=2)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.lora == model.lora
    assert loaded.optimizer.factors == model.optimizer.factors
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables) > 2 * len(model.trainable_weights)
    assert trained(loaded) == trained(model)
    for name, array in values(loaded).items():
        close(array, values(model)[name], atol=0, what=name)
    before = values(loaded)
    for each in (model, loaded):
        fitted(each, np.random.default_rng(5))
    for name, array in values(loaded).items():
        close(array, values(model)[name], atol=1e-6, what=name)
        if "lora" in name:
            assert np.abs(array - before[name]).max() > 1e-5, "both adapters still learn"
    loaded.merge_lora()
    assert {v.name for v in loaded.weights}.isdisjoint({"lora_kernel_a", "lora_kernel_b"})


@pytest.mark.parametrize(
    ("family", "variant", "stacks"),
    [("bert", "backbone", ("blocks",)), ("transformer", "original", ("encoder_blocks", "decoder_blocks"))],
)
def test_keras_file_names_blocks_once(family: str, variant: str, stacks: tuple[str, ...], tmp_path: Path) -> None:
    """A property that returned blocks would change their paths in Keras' files, and older files would not load."""
    model = tiny(family, variant)
    model.save(tmp_path / "model.keras")
    paths: list[str] = []
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visit(paths.append)
    assert {path.partition("/")[0] for path in paths if "/transformer_block" in path} == {*stacks}
    assert [list(stack) for stack in model.block_stacks()] == [getattr(model, name) for name in stacks]


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import attention_zoo as az; print(az.LayerwiseDecay.__name__)",
        "from attention_zoo.finetuning.optimizers import LayerwiseDecay; print(LayerwiseDecay.__name__)",
        "from attention_zoo.finetuning.model import FineTuning; print(FineTuning.__name__)",
    ],
)
def test_the_first_import_may_be_any(code: str) -> None:
    """Importing Keras imports the families, which import these modules; none may be partially imported by then."""
    assert python(WITHOUT_TENSORFLOW + code, KERAS_BACKEND="numpy").split()[-1] in ("LayerwiseDecay", "FineTuning")


def test_adapters_alone_in_a_file(tmp_path: Path, rng: Any) -> None:
    model, other = classifier(), classifier()
    model.enable_lora(2, alpha=3, targets=("query", "down"))
    fitted(model, rng, keras.optimizers.Adam(1e-2))
    file = model.save_lora(tmp_path / "adapters.safetensors")
    assert set(safetensors.numpy.load_file(file)) == trained(model)
    assert other.load_lora(file) == model.parameter_counts
    assert other.lora == model.lora
    inputs = inputs_for(model, rng)
    assert run(other, inputs)["logits"].tolist() == run(model, inputs)["logits"].tolist()
    for wrong, message in (
        (classifier(hidden_dim=16), "has shape"),
        (classifier(num_layers=1), "is not in bert"),
        (tiny("gpt", "gpt2"), "is not in gpt|has shape"),
    ):
        names = set(values(wrong))
        with pytest.raises(ValueError, match=rf"path: got .*({message}).*accepted: a file that save_lora wrote"):
            wrong.load_lora(file)
        assert set(values(wrong)) == names and wrong.lora is None
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no")
    for name in ("other.safetensors", "text", "absent"):
        with pytest.raises(ValueError, match=r"path: got .*cannot be read.*accepted"):
            classifier().load_lora(tmp_path / name)


def test_what_lora_refuses() -> None:
    model = classifier()
    for arguments, message in (
        ({"rank": 0}, "rank: got 0; accepted: a positive integer"),
        ({"rank": 2.0}, "rank: got 2.0; accepted"),
        ({"rank": True}, "rank: got True; accepted"),
        ({"rank": 2, "alpha": 0}, "alpha: got 0; accepted"),
        ({"rank": 2, "alpha": float("nan")}, "alpha: got nan; accepted"),
        ({"rank": 2, "targets": ("query", "colour")}, "targets: got 'colour', which matches no layer.*'query'"),
        ({"rank": 2, "targets": "classifier"}, "targets: got 'classifier', which matches no layer"),
        ({"rank": 2, "also_train": "head"}, "also_train: got 'head', which matches no weight.*'classifier'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.enable_lora(**arguments)
    assert model.lora is None
    assert trained(model) == set(values(model))
    for method in (model.merge_lora, lambda: model.save_lora("nowhere")):
        with pytest.raises(ValueError, match="model: got bert without adapters; accepted: one after enable_lora"):
            method()
    model.enable_lora(2)
    with pytest.raises(ValueError, match=r"rank: got 3 .*with adapters of rank 2; accepted: a model without"):
        model.enable_lora(3)


# ---- freezing -----------------------------------------------------------------------------------------------------


@every_variant(VARIANTS, slow=FURTHER)
def test_every_weight_is_trainable_until_frozen(family: str, variant: str) -> None:
    model = tiny(family, variant)
    frozen = {"encoder_positions/embeddings"} if family == "whisper" else set()  # sinusoids, as in the original
    assert trained(model) == set(values(model)) - frozen
    assert model.freeze("*") == len(model.weights)
    assert trained(model) == set()
    assert model.unfreeze("*") == len(model.weights)
    assert trained(model) == set(values(model))


def test_patterns() -> None:
    model = tiny("bert", "sequence_classification", num_layers=5)
    names = set(values(model))

    def first(*parts: str) -> set[str]:
        return {name for name in names if name.partition("/")[0] in parts}

    assert model.freeze("embedding*", "block_[0-3]/*") == len(first("embedding", "embedding_norm")) + 4 * 16
    assert names - trained(model) == first("embedding", "embedding_norm", *(f"block_{i}" for i in range(4)))
    model.unfreeze("block_2")
    assert names - trained(model) == first("embedding", "embedding_norm", "block_0", "block_1", "block_3")
    model.freeze("*")
    model.unfreeze("*/bias", "*/beta")  # BitFit
    assert trained(model) == {name for name in names if name.endswith(("bias", "beta"))}
    assert model.parameter_counts.trainable == sum(values(model)[name].size for name in trained(model))
    for method in (model.freeze, model.unfreeze):
        with pytest.raises(ValueError, match=r"patterns: got 'block_9', which matches no weight of bert; accepted"):
            method("classifier", "block_9")
        with pytest.raises(ValueError, match="patterns: got none; accepted"):
            method()


@pytest.mark.slow
def test_frozen_weights_stay(tmp_path: Path, rng: Any) -> None:
    """Frozen weights stay unchanged by ``fit``, also after reloading; unfreezing requires compiling again."""
    model = classifier()
    model.freeze("*")
    model.unfreeze("classifier")
    for step in range(2):
        before = values(model)
        fitted(model, rng, keras.optimizers.AdamW(1e-2) if step == 0 else None)
        for name, array in values(model).items():
            assert (np.abs(array - before[name]).max() > 1e-4) == name.startswith("classifier/"), name
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
        assert trained(model) == {"classifier/kernel", "classifier/bias"}
    model.unfreeze("block_1")
    with pytest.raises(ValueError, match=r"optimizer: got one that was built for other trainable weights"):
        fitted(model, rng)
    before = values(model)
    fitted(model, rng, keras.optimizers.AdamW(1e-2))
    moved = {name for name, array in values(model).items() if np.abs(array - before[name]).max() > 1e-4}
    assert {name.partition("/")[0] for name in moved} == {"classifier", "block_1"}


# ---- layer-wise learning rates ------------------------------------------------------------------------------------

FACTORS = {"embedding": 3, "token_types": 3, "positions": 3, "embedding_norm": 3, "block_0": 2, "block_1": 1}


def gradients(model: Any, inputs: Any, labels: Any, training: bool = True) -> dict[str, np.ndarray]:
    with tf.GradientTape() as tape:
        loss = LOSS(from_logits=True)(labels, model(inputs, training=training))
    found = tape.gradient(loss, model.trainable_weights)
    assert all(gradient is not None for gradient in found)
    return {
        weight_name(v): float64(tf.convert_to_tensor(g)) for v, g in zip(model.trainable_weights, found, strict=True)
    }


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sgd_by_hand(jit: bool, rng: Any) -> None:
    """The update is w - rate · 0.5 ** depth · (gradient + decay · w), with Keras' decoupled weight decay."""
    model = classifier()
    inputs, labels = inputs_for(model, rng, batch=4), rng.integers(0, 5, 4)
    found, before = gradients(model, inputs, labels), values(model)
    optimizer = model.layerwise_decay(keras.optimizers.SGD(0.25, weight_decay=0.125), 0.5)
    model.compile(optimizer, LOSS(from_logits=True), jit_compile=jit)
    model.fit(inputs, labels, batch_size=4, epochs=1, verbose=0)
    for name, after in values(model).items():
        rate = 0.25 * 0.5 ** FACTORS.get(name.partition("/")[0], 0)
        close(after, before[name] - rate * (found[name] + 0.125 * before[name]), atol=3e-6, what=name)


@pytest.mark.parametrize(
    "name", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lion", "rmsprop", "adafactor"))]
)
def test_any_optimizer_moves_less_the_deeper(name: str, rng: Any) -> None:
    """The first update of each weight is compared with that of the same optimizer without layer-wise decay."""
    inputs, labels = inputs_for(classifier(), rng, batch=4), rng.integers(0, 5, 4)
    changes = []
    for decay in (1.0, 0.5):
        model = classifier()
        before = values(model)
        model.compile(model.layerwise_decay(name, decay), LOSS(from_logits=True), run_eagerly=True)
        model.optimizer.learning_rate = 0.01
        model.fit(inputs, labels, batch_size=4, epochs=1, verbose=0)
        changes.append({name: array - before[name] for name, array in values(model).items()})
        assert int(model.optimizer.iterations) == 1
    for path, change in changes[1].items():
        close(change, changes[0][path] * 0.5 ** FACTORS.get(path.partition("/")[0], 0), atol=1e-6, what=path)


def test_layerwise_decay_with_loss_scaling_and_schedule(rng: Any) -> None:
    """mixed_float16 wraps the optimizer for loss scaling, and the learning rate schedule still applies."""
    model = classifier("mixed_float16")
    before = values(model)
    schedule = WarmupLinearDecay(1e-2, 1, 10)
    model.compile(model.layerwise_decay(keras.optimizers.Adam(schedule), 0.5), LOSS(from_logits=True), run_eagerly=True)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(model.optimizer.inner_optimizer, LayerwiseDecay)
    inputs, labels = inputs_for(model, rng, batch=4), rng.integers(0, 5, 4)
    model.fit(inputs, labels, batch_size=4, epochs=1, verbose=0)
    for name, array in values(model).items():
        close(array, before[name], atol=0, what="the rate of step 0 is 0")
    model.fit(inputs, labels, batch_size=4, epochs=1, verbose=0)
    for name in ("classifier/bias", "block_1/feedforward/down/bias", "block_0/feedforward/down/bias"):
        change = np.abs(values(model)[name] - before[name]).max()
        close(change, 1e-2 * 0.5 ** FACTORS.get(name.partition("/")[0], 0), atol=1e-4, what=name)


def test_depths() -> None:
    bert = classifier()
    factors = bert.layerwise_decay("adam", 0.5).factors
    assert factors == {name: 0.5**depth for name, depth in FACTORS.items()}
    both = tiny("transformer", next(iter(az.Transformer.tiny())))
    found = both.layerwise_decay("adam", 0.5).factors
    for stack, n in (("encoder", both.config.num_layers), ("decoder", both.config.num_decoder_layers)):
        assert [found[f"{stack}_block_{i}"] for i in range(n)] == [0.5 ** (n - i) for i in range(n)]
    for decay in (0, 1.1, -1, "high", float("nan")):
        with pytest.raises(ValueError, match=r"decay: got .*; accepted: a number over 0"):
            bert.layerwise_decay("adam", decay)
    with pytest.raises(ValueError, match="optimizer: got one with use_ema"):
        bert.layerwise_decay(keras.optimizers.Adam(use_ema=True))
    with pytest.raises(ValueError, match="layerwise_decay: got a seq2seq; accepted"):
        tiny("seq2seq", next(iter(az.Seq2Seq.tiny()))).layerwise_decay("adam")


def test_warmup_linear_decay() -> None:
    schedule = WarmupLinearDecay(2.0, 4, 12)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    expected = [0, 0.5, 1, 1.5, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25, 0, 0, 0]
    close([float(schedule(step)) for step in range(15)], expected, atol=1e-6)
    close([float(again(step)) for step in range(15)], expected, atol=1e-6)
    close([float(WarmupLinearDecay(2.0, 0, 4)(step)) for step in range(5)], [2, 1.5, 1, 0.5, 0], atol=1e-6)
    for arguments, message in (
        ((0, 1, 2), "peak"),
        ((1, 2, 2), "warmup_steps"),
        ((1, -1, 2), "warmup_steps"),
        ((1, 0.5, 2), "warmup_steps"),
        ((1, 0, 2.5), "total_steps"),
    ):
        with pytest.raises(ValueError, match=rf"{message}: got .*; accepted"):
            WarmupLinearDecay(*arguments)


# ---- gradient checkpointing ---------------------------------------------------------------------------------------

# Covers trained position biases that are passed to every block, encoder keys, and LayerScale.
BLOCKS = [
    ("gpt", "relative"),
    ("bert", "backbone"),
    ("vit", "dino"),
    ("transformer", next(iter(az.Transformer.tiny()))),
]


def tape(model: Any, inputs: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Return loss and gradients, traced as in ``fit``."""

    @tf.function(autograph=False)
    def both(inputs: Any) -> Any:
        with tf.GradientTape() as t:
            result = model(inputs, training=True)
            named = result if isinstance(result, dict) else {"result": result}
            loss = sum(tf.reduce_mean(tf.sin(value)) for value in named.values())
        return loss, t.gradient(loss, model.trainable_weights)

    loss, found = both({name: tf.constant(value) for name, value in inputs.items()})
    named = zip(model.trainable_weights, found, strict=True)
    return float(loss), {weight_name(v): float64(tf.convert_to_tensor(g)) for v, g in named if g is not None}


@every_variant(BLOCKS, slow=BLOCKS[1:])
def test_checkpointing_changes_neither_loss_nor_gradients(family: str, variant: str, rng: Any) -> None:
    """This holds with dropout too: both passes of a block draw the same masks as the plain model."""
    results = []
    inputs = inputs_for(tiny(family, variant), rng)
    for on in (False, True):
        keras.utils.set_random_seed(3)
        model = tiny(family, variant, dropout=0.3)
        model.gradient_checkpointing = on
        assert model.gradient_checkpointing is on
        results.append(tape(model, inputs))
    (loss, expected), (other, found) = results
    close(other, loss, atol=1e-6)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        close(found[name], gradient, atol=2e-6 * max(1.0, np.abs(gradient).max()), what=name)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_checkpointing_under_fit(jit: bool, rng: Any) -> None:
    results = []
    for on in (False, True):
        model = classifier()
        model.enable_lora(2)
        randomise_adapters(model)
        model.gradient_checkpointing = on
        losses = fitted(model, np.random.default_rng(2), keras.optimizers.SGD(0.05), steps=3, jit=jit)
        results.append((losses, values(model)))
    close(results[1][0], results[0][0], atol=1e-5)
    for name, array in results[0][1].items():
        close(results[1][1][name], array, atol=1e-5, what=name)


def test_masks_differ_from_step_to_step(rng: Any) -> None:
    model = classifier(dropout=0.5)
    model.gradient_checkpointing = True
    inputs = inputs_for(model, rng)
    first, second = (numpy(model(inputs, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    close(numpy(model(inputs)), numpy(model(inputs)), atol=0)


def compiled_gradient(model: Any) -> Any:
    @tf.function(jit_compile=True, autograph=False)
    def gradient(ids: Any) -> Any:
        with tf.GradientTape() as t:
            total = tf.reduce_sum(model(ids, training=True)["last_hidden_state"] ** 3)
        return t.gradient(total, model.trainable_weights)

    return gradient


@pytest.mark.slow
def test_blocks_are_computed_again(rng: Any) -> None:
    """XLA keeps the recomputation: the compiled step has about one forward pass more of matrix multiplications."""
    counts = []
    ids = tf.constant(rng.integers(0, 97, (2, 32)).astype("int32"))
    for on in (False, True):
        model = tiny("gpt", "gpt2", head=None)
        model.gradient_checkpointing = on
        text = compiled_gradient(model).experimental_get_compiler_ir(ids)(stage="optimized_hlo")
        counts.append(sum(text.count(name) for name in (" dot(", "matmul")))
    plain, again = counts
    assert plain > 2 * 3 * 8 - 4, "six products of weights and two of attention in a block, thrice"
    assert again > 1.2 * plain


@pytest.mark.slow
def test_checkpointing_goes_on_as_without(tmp_path: Path, rng: Any) -> None:
    """Later steps draw the masks of the plain model, losses of routers are kept, and ``.keras`` files keep the setting.

    A draw too many or too few would change the second step.
    """
    inputs, results = rng.integers(0, 97, (4, 7)).astype("int32"), []
    for on in (False, True):
        keras.utils.set_random_seed(3)
        model = tiny("gpt", "experts", dropout=0.3, attention_dropout=0.1, router_loss=0.5)
        model.gradient_checkpointing = on
        model.compile(keras.optimizers.SGD(0.1), LOSS(from_logits=True), jit_compile=False)
        results.append(model.fit(inputs, inputs, epochs=3, verbose=0).history["loss"])
        model.save(tmp_path / "model.keras")
        assert az.load(tmp_path / "model.keras").gradient_checkpointing is on
        assert keras.models.load_model(tmp_path / "model.keras").gradient_checkpointing is on
    close(results[1], results[0], atol=2e-6)


STEPS = """
import sys; sys.path.insert(0, sys.argv[1])
import keras, numpy as np
from helpers import tiny
ids = np.random.default_rng(0).integers(0, 61, (4, 7)).astype("int32")
for family, variant in (("gpt", "experts"), ("gpt", "relative"), ("transformer", "original")):
    results = []
    for on in (False, True):
        keras.utils.set_random_seed(3)
        model = tiny(family, variant, dropout=0.3)
        model.gradient_checkpointing = on
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x = {spec.name: ids for spec in model.signature.inputs if spec.name.endswith("input_ids")}
        results.append(model.fit(x, ids, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=2e-6)
    assert results[0][2] < results[0][0]
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_checkpointing_on_other_backends(backend: str) -> None:
    pytest.importorskip(backend)
    python(STEPS, ROOT / "tests", KERAS_BACKEND=backend)


def test_checkpointing_needs_blocks() -> None:
    with pytest.raises(ValueError, match="gradient_checkpointing: got a seq2seq; accepted"):
        tiny("seq2seq", next(iter(az.Seq2Seq.tiny()))).gradient_checkpointing = True
