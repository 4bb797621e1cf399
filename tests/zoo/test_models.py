"""Every variant of every family: masks, training, precision and intermediate results."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import attention_zoo as az
import reference
from attention_zoo.layers import MultiHeadAttention
from attention_zoo.layers.cache import causal_context
from attention_zoo.layers.position import POSITIONS, encode_positions
from helpers import (
    ALL_BUT_ONE,
    FURTHER,
    FURTHER_BUT_GPT,
    TEXT,
    VARIANTS,
    beside_mask,
    close,
    every_variant,
    float64,
    inputs_for,
    numpy,
    per_token,
    run,
    shared,
    tiny,
)

LENGTH = 9
# Columns with real tokens in three rows of 6, 3 and 1 tokens.
SLOTS = {
    "right": (range(6), range(3), range(1)),
    "left": (range(3, 9), range(6, 9), range(8, 9)),
    "interior": ((0, 2, 3, 5, 6, 8), (0, 4, 7), (0,)),
}


ROWS = [slots for side in SLOTS.values() for slots in side]  # the rows of all kinds of padding
SIDES = {side: range(3 * i, 3 * i + 3) for i, side in enumerate(SLOTS)}


def comparable(model: Any, name: str, *, moved: bool = False) -> list[int]:
    """Return the rows whose per-row results do not depend on padding, or with `moved`, on the columns of the tokens.

    BERT's pooler, and the heads on it, read column 0 even if it is padding, as the original does. So does the decoder
    of BART's classifier with all padding before the last end token. Some positions number columns.
    """
    fields = model.config.to_dict()
    sides = set(SIDES)
    if model.family == "bert" and name in ("pooler_output", "logits", "scores"):
        sides -= {"left"}
    if model.family == "transformer" and (
        fields["head"] == "sequence_classification" or (moved and fields["numbering"] == "columns")
    ):
        sides = {"right"}
    return [row for side in sorted(sides) for row in SIDES[side]]


def takes_positions(model: Any) -> bool:
    """Return whether a BERT has position ids as an input."""
    return model.family == "bert" and "position_ids" in {spec.name for spec in model.signature.inputs}


def mask_of(slots: Any) -> np.ndarray:
    mask = np.zeros((len(slots), LENGTH), "int32")
    for row, kept in enumerate(slots):
        mask[row, list(kept)] = 1
    return mask


def scaled(actual: Any, expected: Any, tolerance: float = 2e-6) -> None:
    """Check equality relative to the greatest value, since logits of random weights are large."""
    close(actual, expected, atol=tolerance * max(1.0, float(np.abs(expected).max(initial=0))))


@every_variant(TEXT, slow=FURTHER_BUT_GPT)
def test_padding_is_never_read(family: str, variant: str, rng: Any) -> None:
    """All kinds of padding are in one batch."""
    model, mask = shared(family, variant), mask_of(ROWS)
    one, other = (inputs_for(model, rng, batch=len(ROWS)) for _ in range(2))
    valid = mask.astype(bool)
    if family == "transformer" and variant == "classifier":  # which reads one state, at the last end token
        for inputs in (one, other):
            inputs["input_ids"] = np.where(valid, inputs["input_ids"], 5).astype("int32")
            inputs["input_ids"][range(len(ROWS)), [slots[-1] for slots in ROWS]] = model.config.eos_token_id
        other["input_ids"][~valid] = 7
    if model.config.to_dict().get("numbering") == "tokens":  # which tells padding by its id
        for inputs in (one, other):
            inputs["input_ids"] = np.maximum(inputs["input_ids"], model.config.pad_token_id + 1)
    for name, values in other.items():
        values[...] = np.where(valid, one[name], values) if name in beside_mask(model) else one[name]
    assert (one["input_ids"] != other["input_ids"]).any()
    first, second = (run(model, {**inputs, "attention_mask": mask}) for inputs in (one, other))
    for name in first:
        if name in per_token(model):
            scaled(first[name][valid], second[name][valid])
            for changed, kept in zip(np.abs(first[name] - second[name]), valid, strict=True):
                assert changed[~kept].max() > 1e-3, "the padding itself was not changed"
        else:
            rows = comparable(model, name)
            scaled(first[name][rows], second[name][rows])


@every_variant(TEXT, slow=FURTHER_BUT_GPT)
def test_batch_of_unequal_lengths_against_rows_without_padding(family: str, variant: str, rng: Any) -> None:
    """A batch with all kinds of padding gives the results of its rows of one length, computed without a mask.

    In float64: the summation order of a matrix multiplication depends on its shape, and in float32 the resulting
    difference can reach the tolerance, depending on the processor. An effect of padding would not shrink with the
    precision.
    """
    model, mask = shared(family, variant, "float64"), mask_of(ROWS)
    inputs = inputs_for(model, rng, batch=len(ROWS))
    by_id = family == "bert" and model.config.position_offset
    if by_id or model.config.to_dict().get("numbering") == "tokens":  # these find their padding by the id alone
        inputs["input_ids"] = np.where(mask, np.maximum(inputs["input_ids"], 2), model.config.pad_token_id)
    given = {**inputs, "attention_mask": mask}
    # Between two tokens, padding counts as a distance there.
    by_columns = family == "bert" and (model.config.disentangled or model.config.sliding_window is not None)
    counts_tokens = family == "bert" and model.config.position_offset and model.config.attention_position == "none"
    if takes_positions(model) and not counts_tokens:  # position ids number columns, but tokens in RoBERTa
        right = np.isin(range(len(ROWS)), SIDES["right"])[:, None]
        given["position_ids"] = np.where(right, np.arange(LENGTH), np.maximum(mask.cumsum(1) - 1, 0)).astype("int32")
    together = run(model, given)
    for length in sorted(set(mask.sum(1))):
        (rows,) = np.nonzero(mask.sum(1) == length)
        rows = rows[~np.isin(rows, SIDES["interior"])] if by_columns else rows
        kept = np.array([list(ROWS[row]) for row in rows])
        alone = run(
            model,
            {
                name: values[rows[:, None], kept] if name in beside_mask(model) else values[rows]
                for name, values in inputs.items()
            },
        )
        for name, expected in alone.items():
            if name in per_token(model):
                scaled(together[name][rows[:, None], kept], expected)
            else:
                some = np.isin(rows, comparable(model, name, moved=True))
                scaled(together[name][rows[some]], expected[some])


@every_variant(TEXT, slow=FURTHER)
def test_mask_of_ones_is_no_mask(family: str, variant: str, rng: Any) -> None:
    model = shared(family, variant)
    inputs = inputs_for(model, rng)
    masked = run(model, {**inputs, "attention_mask": np.ones((2, LENGTH), "int32")})
    for name, expected in run(model, inputs).items():
        scaled(masked[name], expected)


@every_variant(TEXT, slow=FURTHER_BUT_GPT)
def test_fully_masked_row_is_finite_and_alone(family: str, variant: str, rng: Any) -> None:
    model = shared(family, variant)
    inputs = inputs_for(model, rng)
    mask = np.ones((2, LENGTH), "int32")
    expected = run(model, {**inputs, "attention_mask": mask})
    mask[1] = 0
    with tf.GradientTape() as tape:
        result = model({**inputs, "attention_mask": mask})
        named = result if isinstance(result, dict) else {model.signature.outputs[0].name: result}
        loss: Any = sum(tf.reduce_sum(tf.square(value)) for value in named.values())
    for name, value in named.items():
        assert np.isfinite(numpy(value)).all()
        scaled(numpy(value)[0], expected[name][0])
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.isfinite(numpy(tf.convert_to_tensor(gradient))).all()


@every_variant([pair for pair in TEXT if pair[0] == "gpt" and pair[1] not in ("classifier", "sentence")])
def test_gpt_is_causal(family: str, variant: str, rng: Any) -> None:
    model = shared(family, variant)
    inputs = inputs_for(model, rng)
    (name,) = per_token(model)
    before = run(model, inputs)[name]
    changed = np.repeat(inputs["input_ids"][None], LENGTH, 0)  # one position changed in each
    for t, ids in enumerate(changed):
        ids[:, t] = (ids[:, t] + 1) % model.config.vocab_size
    results = run(model, {"input_ids": changed.reshape(-1, LENGTH)})[name]
    for t, after in enumerate(results.reshape(LENGTH, *before.shape)):
        scaled(after[:, :t], before[:, :t])
        assert (np.abs(after - before)[:, t:].max(axis=(0, 2)) > 1e-4).all(), "what comes after must see it"


@every_variant([pair for pair in TEXT if pair[0] == "gpt" and pair[1] not in ("classifier", "sentence")])
def test_gpt_counts_positions_along_the_mask(family: str, variant: str, rng: Any) -> None:
    model = shared(family, variant)
    inputs = inputs_for(model, rng, batch=3)
    mask = mask_of(SLOTS["left"])
    positions = np.array([[0, 0, 0, 0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0, 0, 1, 2], [0] * 9], "int32")
    (name,) = per_token(model)
    counted = run(model, {**inputs, "attention_mask": mask})[name]
    given = run(model, {**inputs, "attention_mask": mask, "position_ids": positions})[name]
    scaled(counted, given)
    shifted = run(model, {**inputs, "attention_mask": mask, "position_ids": positions * 2 + 3})[name]
    moved = np.abs(shifted - given)[mask.astype(bool)].max()
    assert (moved > 1e-3) == (model.config.position != "none")


def permuted(inputs: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[:, order] for name, values in inputs.items()}


def test_attention_without_positions_is_permutation_equivariant(rng: Any) -> None:
    layer, order = MultiHeadAttention(4, num_kv_heads=2), rng.permutation(LENGTH)
    x = rng.normal(size=(2, LENGTH, 16)).astype("float32")
    close(numpy(layer(x[:, order])), numpy(layer(x))[:, order], atol=1e-6)
    assert np.abs(numpy(layer(x)) - numpy(layer(x))[:, order]).max() > 1e-2


@every_variant([pair for pair in TEXT if pair[0] == "bert" and "deberta" not in pair[1] and pair[1] != "modernbert"])
def test_bert_is_equivariant_without_positions_only(family: str, variant: str, rng: Any) -> None:
    model = shared(family, variant)
    inputs = inputs_for(model, rng)
    # The first token, which the pooler reads, stays in place.
    order = np.concatenate([[0], 1 + np.roll(np.arange(LENGTH - 1), 3)])
    nowhere = np.full((2, LENGTH), 7, "int32")
    plain = run(model, {**inputs, "position_ids": nowhere})
    moved = run(model, {**permuted(inputs, order), "position_ids": nowhere})
    with_positions = run(model, permuted(inputs, order)), run(model, inputs)
    for name, expected in plain.items():
        tokens = name in per_token(model)
        scaled(moved[name], expected[:, order] if tokens else expected)
        after, before = (results[name] for results in with_positions)
        assert np.abs(after - (before[:, order] if tokens else before)).max() > 1e-3


@pytest.mark.parametrize("position", POSITIONS)
def test_gpt_without_positions_sees_a_set(position: str, rng: Any) -> None:
    """In a single layer, the last token attends to an unordered set of tokens, unless position encodings order them."""
    model = tiny("gpt", "gpt2", num_layers=1, position=position)
    ids = rng.permutation(97)[:LENGTH][None].astype("int32")
    order = np.concatenate([rng.permutation(LENGTH - 1), [LENGTH - 1]])
    difference = np.abs(numpy(model(ids)) - numpy(model(ids[:, order])))[:, -1].max()
    assert difference < 1e-4 if position == "none" else difference > 1e-2


@every_variant([pair for pair in VARIANTS if pair[0] == "vit" and pair[1] != "images"])
def test_vit_is_equivariant_without_positions_only(family: str, variant: str, rng: Any) -> None:
    model = tiny(family, variant)
    c = model.config
    grid = c.image_size // c.patch_size
    order = rng.permutation(grid**2)
    image = rng.normal(size=(2, c.image_size, c.image_size, c.num_channels)).astype("float32")
    cut = image.reshape(2, grid, c.patch_size, grid, c.patch_size, -1).transpose(0, 1, 3, 2, 4, 5)
    cut = cut.reshape(2, grid**2, c.patch_size, c.patch_size, -1)[:, order]
    cut = cut.reshape(2, grid, grid, c.patch_size, c.patch_size, -1).transpose(0, 1, 3, 2, 4, 5)
    moved = cut.reshape(image.shape)
    front = c.num_prefix_tokens
    tokens = np.concatenate([np.arange(front), front + order])
    fixed = c.position != "learned"
    for positions in (True,) if fixed else (True, False):
        if not positions:
            model.embedding.positions.assign(np.zeros(model.embedding.positions.shape))
        after, before = run(model, {"pixel_values": moved}), run(model, {"pixel_values": image})
        for name, value in after.items():
            expected = before[name][:, tokens] if name == "last_hidden_state" else before[name]
            if positions:
                assert np.abs(value - expected).max() > 1e-3
            else:
                scaled(value, expected)


def arguments_of_blocks(model: Any, inputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the masks and positions that each block gets."""
    blocks, mask = range(len(model.blocks)), inputs.get("attention_mask")
    if model.family == "vit":
        grid = model.config.image_size // model.config.patch_size
        options = model.attention_positions(grid, grid)
        own = options.pop("of_blocks", [{}] * len(blocks))
        return [{**options, **own[i]} for i in blocks]
    if model.family == "bert":
        return model.of_blocks(inputs["input_ids"], mask)
    context = causal_context(LENGTH, mask, window=model.config.sliding_window)
    positions = encode_positions(model.position_layer, context.query_positions, context.key_positions)
    return model.of_blocks(context, positions)


@every_variant([pair for pair in VARIANTS if pair[0] in ("gpt", "bert", "vit")], slow=FURTHER)
def test_intermediates(family: str, variant: str, rng: Any) -> None:
    """Requesting intermediate results changes no output.

    Each hidden state follows from the previous one, and attention weights are probabilities over valid keys.
    """
    model = shared(family, variant)
    inputs = inputs_for(model, rng, batch=3)
    mask = mask_of(SLOTS["interior"])
    if family in ("gpt", "bert"):
        inputs["attention_mask"] = mask
    plain = run(model, inputs)
    both = run(model, inputs, output_hidden_states=True, output_attentions=True)
    states, attentions = both["hidden_states"], both["attentions"]
    for name, expected in plain.items():
        scaled(both[name], expected)
    assert set(run(model, inputs, output_hidden_states=True)) == {*plain, "hidden_states"}
    assert set(run(model, inputs, output_attentions=True)) == {*plain, "attentions"}

    schedule = model.config.schedule if family == "bert" else range(model.config.num_layers)
    assert len(states) == len(schedule) + 1 and len(attentions) == len(schedule)
    arguments = arguments_of_blocks(model, inputs)
    for i, step in enumerate(schedule):
        expected, scores = model.blocks[step](states[i], return_attention_scores=True, **arguments[i])
        scaled(states[i + 1], numpy(expected))
        close(attentions[i], numpy(scores), atol=1e-6)
    if "last_hidden_state" in plain:
        normalized = model.final_norm is not None and getattr(model.config, "pooling", None) != "normalized_mean"
        last = numpy(model.final_norm(states[-1])) if normalized else states[-1]
        scaled(plain["last_hidden_state"], last)

    tokens = states[0].shape[1]
    keep = np.ones((3, 1, tokens, tokens), bool)
    if family in ("gpt", "bert"):
        keep &= mask.astype(bool)[:, None, None]
    if family == "bert" and model.config.sliding_window is not None:
        near = np.abs(np.subtract.outer(range(tokens), range(tokens))) <= model.config.sliding_window // 2
        local = [np.broadcast_to(keep & near, attentions[0].shape), np.broadcast_to(keep, attentions[0].shape)]
        for kind, weights in zip(model.config.layer_types, attentions, strict=True):
            assert ((weights > 0) == local[kind == "full_attention"]).all()
        return
    if family == "gpt":
        keep &= np.tri(tokens, dtype=bool)
        counted = mask.cumsum(1) - 1
        near = (counted[:, :, None] - counted[:, None] < (model.config.sliding_window or tokens))[:, None]
    for i, weights in enumerate(attentions):
        assert weights.shape == (3, model.config.num_heads, tokens, tokens)
        sliding = family == "gpt" and model.config.sliding_layers[i]
        seen = np.broadcast_to(keep & near if sliding else keep, weights.shape)
        close(weights[~seen], np.zeros((~seen).sum()), atol=0)
        assert (weights[seen] > 0).all()
        if family == "gpt" and model.config.attention_sinks:  # the sinks have the rest
            assert (weights.sum(-1) < 1).all()
        else:
            close(weights.sum(-1), seen.any(-1).astype("float64"), atol=1e-5)


def task(model: Any, rng: np.random.Generator, size: int = 8) -> tuple[dict[str, np.ndarray], Any, Any]:
    """Return a few random examples to memorize: inputs, targets and losses."""
    inputs = inputs_for(model, rng, batch=size)
    if "input_ids" in inputs:
        inputs["attention_mask"] = (np.arange(LENGTH) < rng.integers(4, LENGTH + 1, (size, 1))).astype("int32")
    results = run(model, inputs)
    if set(results) == {"logits"}:
        *shape, classes = results["logits"].shape
        targets = rng.integers(0, classes, shape).astype("int32")
        return inputs, targets, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    targets = {name: rng.normal(size=value.shape).astype("float32") for name, value in results.items()}
    return inputs, targets, dict.fromkeys(results, "mse")


def loss_of(results: dict[str, np.ndarray], targets: Any) -> float:
    """Compute the same loss in NumPy."""
    if isinstance(targets, dict):
        return float(sum(np.mean((results[name].astype("float64") - targets[name]) ** 2) for name in targets))
    logits = results["logits"].astype("float64")
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return float(np.mean(np.log(np.exp(logits).sum(-1)) - chosen))


JITTED = [("gpt", "llama"), ("bert", "sequence_classification"), ("vit", "dino")]
COMPILED = [("gpt", "llama"), ("bert", "masked_lm"), ("vit", "dino")]


@every_variant(COMPILED, slow=COMPILED[1:])
def test_training_with_arrays_and_with_tf_data(family: str, variant: str, rng: Any) -> None:
    model = tiny(family, variant, num_layers=1)
    x, y, loss = task(model, rng)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    first = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)["loss"]
    assert first == pytest.approx(loss_of(run(model, x), y), rel=1e-4)

    model.fit(x, y, batch_size=8, epochs=20, verbose=0)
    middle = loss_of(run(model, x), y)
    assert middle < 0.7 * first

    examples: Any = (x, y)
    data = tf.data.Dataset.from_tensor_slices(examples).batch(8)
    history = model.fit(data, epochs=10, verbose=0).history["loss"]
    assert len(history) == 10 and history[-1] < middle
    after = run(model, x)
    assert model.evaluate(data, verbose=0, return_dict=True)["loss"] == pytest.approx(loss_of(after, y), rel=1e-4)

    predictions = model.predict(x, batch_size=8, verbose=0)
    predictions = predictions if isinstance(predictions, dict) else {"logits": predictions}
    for name, expected in after.items():
        scaled(predictions[name], expected, 1e-5)


@every_variant(slow=ALL_BUT_ONE - {("gpt", "qwen"), ("vit", "dino")})  # these two have weights of their own
def test_every_weight_has_its_gradient(family: str, variant: str, rng: Any) -> None:
    """A small step along the gradients lowers the loss by the amount that they predict, and no gradient is missing."""
    model = tiny(family, variant)
    x, y, loss = task(model, rng)
    with tf.GradientTape() as tape:
        results = model(x)
        if isinstance(y, dict):
            value: Any = sum(tf.reduce_mean(tf.square(results[name] - y[name])) for name in y)
        else:
            value = loss(y, results)
    gradients = tape.gradient(value, model.trainable_variables)
    absent = {w.path for w, gradient in zip(model.trainable_weights, gradients, strict=True) if gradient is None}
    assert absent == ({"vit/embedding/mask_token"} if getattr(model.config, "use_mask_token", False) else set())
    pairs = [
        (w, float64(tf.convert_to_tensor(g)))
        for w, g in zip(model.trainable_weights, gradients, strict=True)
        if g is not None
    ]
    for weight, gradient in pairs:
        # A key's bias adds the same number to all scores of a query, and softmax ignores it.
        assert np.abs(gradient).max() > 1e-9 or weight.path.endswith("key/bias")
    square = sum((gradient**2).sum() for _, gradient in pairs)
    named = results if isinstance(results, dict) else {"logits": results}
    first = loss_of({name: numpy(result) for name, result in named.items()}, y)
    assert float(value) == pytest.approx(first, rel=1e-4)
    step = 1e-3 * first / square
    for weight, gradient in pairs:
        weight.assign(float64(weight) - step * gradient)
    assert (first - loss_of(run(model, x), y)) / (step * square) == pytest.approx(1.0, abs=0.1)


@every_variant(JITTED, slow=JITTED[1:])
@pytest.mark.slow
def test_jit_compiled_or_not(family: str, variant: str, rng: Any) -> None:
    """Three training steps and a prediction give the same values with and without XLA."""
    weights, predictions = [], []
    overrides: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0} if family == "bert" else {}
    for jit in (True, False):
        model = tiny(family, variant, num_layers=1, **overrides)
        x, y, loss = task(model, np.random.default_rng(1))
        model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit)
        assert model.jit_compile is jit
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        weights.append([numpy(w).copy() for w in model.weights])
        predicted = model.predict(x, batch_size=8, verbose=0)
        predictions.append(list(predicted.values()) if isinstance(predicted, dict) else [predicted])
    for compiled, plain in zip(*weights, strict=True):
        scaled(compiled, plain, 1e-5)
    for compiled, plain in zip(*predictions, strict=True):
        scaled(compiled, plain, 2e-5)


@pytest.mark.parametrize(
    "policy",
    ["mixed_float16", "bfloat16", *(pytest.param(p, marks=pytest.mark.slow) for p in ("mixed_bfloat16", "float16"))],
)
@every_variant(slow=ALL_BUT_ONE)
def test_policies(family: str, variant: str, policy: str, rng: Any) -> None:
    """Outputs are float32, and close to those computed entirely in float32."""
    exact = shared(family, variant)
    model = type(exact)(exact.config, dtype=policy)
    for ours, theirs in zip(model.weights, exact.weights, strict=True):
        ours.assign(theirs)
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {
        "float32" if policy.startswith("mixed") else policy
    }
    inputs = inputs_for(model, rng, batch=3)
    if "attention_mask" in {spec.name for spec in model.signature.inputs}:
        inputs["attention_mask"] = mask_of(SLOTS["right"])
    results = model(inputs, output_hidden_states=True)
    for name, expected in run(exact, inputs).items():
        assert results[name].dtype == "float32"
        assert np.isfinite(numpy(results[name])).all()
        error = float64(results[name]) - float64(expected)
        relative = np.sqrt(np.mean(error**2) / np.mean(np.square(expected)))
        # About 16 roundings on the way to an output, each by half a unit in the last place at most.
        assert relative < 8 * (2**-7 if "bfloat16" in policy else 2**-10), f"{name}: {relative:.4f}"
    # Intermediate results must have the policy's dtype, otherwise nothing is gained.
    for raw in (states[-1] for name, states in results.items() if name.endswith("hidden_states")):
        assert keras.backend.standardize_dtype(raw.dtype) == policy.removeprefix("mixed_")


@pytest.mark.parametrize(
    ("family", "variant", "policy"),
    [
        ("gpt", "llama", "mixed_float16"),
        *(pytest.param(*pair, "mixed_bfloat16", marks=pytest.mark.slow) for pair in COMPILED),
    ],
)
def test_training_in_mixed_precision(family: str, variant: str, policy: str, rng: Any) -> None:
    model = tiny(family, variant, dtype=policy, num_layers=1)
    x, y, loss = task(model, rng)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    history = model.fit(x, y, batch_size=8, epochs=20, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert loss_of(run(model, x), y) < 0.7 * history[0]
    assert all(keras.backend.standardize_dtype(w.dtype) == "float32" for w in model.trainable_weights)


@pytest.mark.slow
def test_callbacks(tmp_path: Any, rng: Any) -> None:
    model = tiny("gpt", "gpt2", num_layers=1)
    x, y, loss = task(model, rng)
    model.compile(keras.optimizers.Adam(3e-2), loss, jit_compile=False)
    best = tmp_path / "best.keras"
    history = model.fit(
        x,
        y,
        validation_data=({**x, "input_ids": np.roll(x["input_ids"], 1, axis=0)}, y),
        batch_size=8,
        epochs=30,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(best, monitor="val_loss", save_best_only=True),
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True),
        ],
    ).history
    assert len(history["loss"]) < 30, "learning random targets by heart does not generalise, so it had to stop"
    loaded = keras.models.load_model(best)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        close(numpy(ours), numpy(theirs), atol=0)
    validation = {**x, "input_ids": np.roll(x["input_ids"], 1, axis=0)}
    assert loss_of(run(loaded, validation), y) == pytest.approx(min(history["val_loss"]), rel=1e-4)


def test_dropout_is_for_training_only(rng: Any) -> None:
    for family, variant in (("gpt", "gpt2"), ("bert", "backbone"), ("vit", "features")):
        model = tiny(family, variant, dropout=0.3, attention_dropout=0.2)
        inputs = inputs_for(model, rng)
        plain = tiny(family, variant, dropout=0.0, attention_dropout=0.0)
        for name, expected in run(plain, inputs).items():
            scaled(run(model, inputs)[name], expected)
            scaled(run(model, inputs, training=False)[name], expected)
            one, other = (run(model, inputs, training=True)[name] for _ in range(2))
            assert np.abs(one - expected).max() > 1e-2 and np.abs(one - other).max() > 1e-2
            scaled(run(plain, inputs, training=True)[name], expected)


@every_variant([("gpt", "gpt2"), ("bert", "backbone"), ("vit", "features")])
def test_dropout_of_the_embedding(family: str, variant: str, rng: Any) -> None:
    """Dropout zeroes values entering the first block at the configured rate and scales others by 1 / (1 - rate)."""
    model = tiny(family, variant, dropout=0.25, attention_dropout=0.0)
    inputs = inputs_for(model, rng, batch=8)
    plain = run(model, inputs, output_hidden_states=True)["hidden_states"][0]
    ratio = run(model, inputs, output_hidden_states=True, training=True)["hidden_states"][0] / plain
    kept = ratio > 0.5
    close(ratio[kept], np.full(kept.sum(), 1 / 0.75), atol=1e-4)
    close(ratio[~kept], np.zeros((~kept).sum()), atol=0)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)


def test_bert_sentence_embedding_is_the_masked_mean(rng: Any) -> None:
    body = shared("bert", "backbone")
    model = tiny("bert", "sentence_embedding")
    model.transfer_weights(body)
    inputs = {**inputs_for(model, rng, batch=3), "attention_mask": mask_of(SLOTS["interior"])}
    states = run(body, inputs)["last_hidden_state"].astype("float64")
    expected = np.stack([states[row, list(slots)].mean(0) for row, slots in enumerate(SLOTS["interior"])])
    scaled(run(model, inputs)["sentence_embedding"], expected)
    nothing = {**inputs, "attention_mask": np.zeros((3, LENGTH), "int32")}
    close(run(model, nothing)["sentence_embedding"], np.zeros((3, 32)), atol=0)


def test_bert_heads_on_their_body(rng: Any) -> None:
    """Each head is recomputed in NumPy from the hidden states of the body."""
    body = shared("bert", "backbone")
    inputs = inputs_for(body, rng)
    states, pooled = (run(body, inputs)[name].astype("float64") for name in ("last_hidden_state", "pooler_output"))

    def weight(model: Any, path: str) -> np.ndarray:
        (found,) = [w for w in model.weights if w.path.endswith(path)]
        return float64(found)

    close(pooled, np.tanh(states[:, 0] @ weight(body, "pooler/kernel") + weight(body, "pooler/bias")), atol=1e-5)
    for head, source in (("sequence_classification", pooled), ("token_classification", states)):
        model = tiny("bert", head, seed=1)
        model.transfer_weights(body)
        expected = source @ weight(model, "classifier/kernel") + weight(model, "classifier/bias")
        scaled(run(model, inputs)["logits"], expected, 1e-5)
    model = tiny("bert", "masked_lm", seed=1)
    model.transfer_weights(body)
    x = reference.gelu(states @ weight(model, "transform/kernel") + weight(model, "transform/bias"))
    gamma, beta = weight(model, "transform_norm/gamma"), weight(model, "transform_norm/beta")
    x = reference.layer_norm(x, gamma, beta, 1e-12)
    expected = x @ weight(model, "bert/embedding/embeddings").T + weight(model, "output_bias")
    scaled(run(model, inputs)["logits"], expected, 1e-5)


def test_bare_input_is_the_first_input(rng: Any) -> None:
    for family, variant in (("gpt", "gpt2"), ("bert", "masked_lm"), ("vit", "classifier")):
        model = shared(family, variant)
        inputs = inputs_for(model, rng)
        name = model.signature.inputs[0].name
        close(numpy(model(inputs[name])), numpy(model({name: inputs[name]})), atol=0)


def test_integer_kinds_of_ids_and_masks(rng: Any) -> None:
    model = shared("bert", "masked_lm")
    inputs = {**inputs_for(model, rng, batch=3), "attention_mask": mask_of(SLOTS["right"])}
    expected = numpy(model(inputs))
    for dtype in ("int64", "uint8", "int16"):
        close(numpy(model({name: values.astype(dtype) for name, values in inputs.items()})), expected, atol=0)
    boolean = {**inputs, "attention_mask": inputs["attention_mask"].astype(bool)}
    close(numpy(model(boolean)), expected, atol=0)


def test_longest_sequence(rng: Any) -> None:
    """A sequence of `max_length` tokens is accepted, and its last position is used."""
    for family, variant in (("gpt", "gpt2"), ("bert", "masked_lm")):
        model = tiny(family, variant)
        inputs = inputs_for(model, rng, length=40)
        before = run(model, inputs)["logits"]
        table = (model.position_layer if family == "gpt" else model.positions).embeddings
        table.assign(np.concatenate([numpy(table)[:-1], rng.normal(size=(1, 32))]))
        after = run(model, inputs)["logits"]
        assert np.abs(after - before)[:, -1].max() > 1e-2


def test_transfer_weights(rng: Any) -> None:
    body, headed = shared("bert", "backbone"), tiny("bert", "sequence_classification", seed=1)
    classifier = numpy(headed.classifier.kernel).copy()
    assert sorted(headed.transfer_weights(body)) == ["classifier/bias", "classifier/kernel"]
    close(numpy(headed.classifier.kernel), classifier, atol=0)
    inputs = inputs_for(body, rng)
    pooled = run(body, inputs)["pooler_output"].astype("float64")
    scaled(run(headed, inputs)["logits"], pooled @ classifier + numpy(headed.classifier.bias), 1e-5)


def test_transfer_weights_that_do_not_fit() -> None:
    target = tiny("gpt", "gpt2")
    before = [numpy(w).copy() for w in target.weights]
    with pytest.raises(ValueError, match=r"source: positions/embeddings has shape \(30, 32\); accepted: \(40, 32\)"):
        target.transfer_weights(tiny("gpt", "gpt2", seed=1, max_length=30))
    for weight, expected in zip(target.weights, before, strict=True):
        close(numpy(weight), expected, atol=0, what="a transfer that is refused changes nothing")
    with pytest.raises(ValueError, match=r"source: got .*no weight"):
        target.transfer_weights(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


# Wrong inputs: a ValueError names the input and what is accepted, before any computation.
IDS = np.ones((2, LENGTH), "int32")
IMAGE = np.ones((2, 20, 20, 3), "float32")
WRONG: list[tuple[str, Any, str]] = [
    ("gpt", {"input_ids": IDS[0]}, r"input_ids: got rank 1.*accepted: \(batch, sequence\)"),
    ("gpt", {"input_ids": IDS[None]}, r"input_ids: got rank 3.*accepted: \(batch, sequence\)"),
    ("bert", {"input_ids": IDS.astype("float32")}, r"input_ids: got dtype float32; accepted: integers"),
    ("gpt", {"input_ids": IDS * 97}, r"input_ids: got values from 97 to 97; accepted: integers from 0 to 96"),
    ("bert", {"input_ids": -IDS}, r"input_ids: got values from -1 to -1; accepted: integers from 0 to 88"),
    (
        "bert",
        {"input_ids": IDS, "token_type_ids": 2 * IDS},
        r"token_type_ids: got values from 2 to 2; accepted: integers from 0 to 1",
    ),
    (
        "gpt",
        {"input_ids": IDS, "position_ids": 40 * IDS},
        r"position_ids: got values from 40 to 40; accepted: integers from 0 to 39",
    ),
    ("gpt", {"input_ids": np.ones((2, 41), "int32")}, r"input_ids: got sequence of 41; accepted: at most 40"),
    ("bert", {"input_ids": np.ones((2, 41), "int32")}, r"input_ids: got sequence of 41; accepted: at most 40"),
    ("gpt", {"input_ids": np.ones((2, 0), "int32")}, r"input_ids: got sequence of 0; accepted: at least 1"),
    (
        "bert",
        {"input_ids": IDS, "attention_mask": np.ones((2, 8), "int32")},
        r"attention_mask: got sequence of 8; accepted: 9, as input_ids has",
    ),
    (
        "gpt",
        {"input_ids": IDS, "attention_mask": np.ones((3, 9), "int32")},
        r"attention_mask: got batch of 3; accepted: 2, as input_ids has",
    ),
    (
        "gpt",
        {"input_ids": IDS, "attention_mask": np.ones((2, 9, 9), "int32")},
        r"attention_mask: got rank 3.*accepted: \(batch, sequence\)",
    ),
    (
        "gpt",
        {"input_ids": IDS, "attention_mask": 2 * IDS},
        r"attention_mask: got values from 2 to 2; accepted: integers from 0 to 1",
    ),
    (
        "bert",
        {"input_ids": IDS, "attention_mask": IDS.astype("float32")},
        r"attention_mask: got dtype float32; accepted: integers",
    ),
    ("bert", {"input_ids": IDS, "token_types": IDS}, r"inputs: got \['token_types'\]; .*accepted: .*token_type_ids"),
    ("gpt", {"attention_mask": IDS}, r"inputs: .*without \['input_ids'\]; accepted: .*input_ids"),
    ("gpt", {"pixel_values": IMAGE}, r"inputs: got \['pixel_values'\]; accepted: .*input_ids"),
    ("vit", {"pixel_values": IMAGE[:, :18]}, r"pixel_values: got height of 18; accepted: a multiple of 5"),
    ("vit", {"pixel_values": IMAGE[:, :, :3]}, r"pixel_values: got width of 3; accepted: a multiple of 5"),
    ("vit", {"pixel_values": IMAGE[:, :0]}, r"pixel_values: got height of 0; accepted: at least 1"),
    ("vit", {"pixel_values": IMAGE[0]}, r"pixel_values: got rank 3.*accepted: \(batch, height, width, 3\)"),
    ("vit", {"pixel_values": IMAGE[..., :1]}, r"pixel_values: got shape .*accepted: \(batch, height, width, 3\)"),
    ("vit", {"pixel_values": IMAGE.astype("uint8")}, r"pixel_values: got dtype uint8; accepted: floating point"),
]
PLAIN = {"gpt": "gpt2", "bert": "masked_lm", "vit": "classifier"}


@pytest.mark.parametrize("way", ["call", "predict", "fit", "evaluate"])
@pytest.mark.parametrize(("family", "inputs", "message"), WRONG, ids=[f"{w[0]}-{i}" for i, w in enumerate(WRONG)])
def test_wrong_inputs(family: str, inputs: Any, message: str, way: str) -> None:
    model = shared(family, PLAIN[family])
    if way == "call":
        with pytest.raises(ValueError, match=message):
            model(inputs)
        return
    if not model.compiled:
        model.compile("sgd", "mse")
    targets = () if way == "predict" else (np.zeros(2),)
    with pytest.raises(ValueError, match=message):
        getattr(model, way)(inputs, *targets, verbose=0)
    assert int(model.optimizer.iterations) == 0, "it was refused after it had run"


@pytest.mark.slow
def test_lists_are_arrays() -> None:
    """Lists are accepted by name or bare, in a call and in Keras' loops; other values raise the package's own error."""
    for family in ("gpt", "bert"):
        model = shared(family, PLAIN[family])
        rows = [[3, 1, 2], [4, 5, 6]]
        expected = run(model, {"input_ids": np.array(rows)})["logits"]
        mask = [[1, 1, 1], [1, 1, 1]]
        for given in (
            rows,
            {"input_ids": rows},
            {"input_ids": rows, "attention_mask": mask},
            {"input_ids": tuple(rows)},
        ):
            np.testing.assert_array_equal(numpy(model(given)), expected)
            scaled(model.predict(given, verbose=0), expected, 1e-5)
        for way in (model, lambda x, model=model: model.predict(x, verbose=0)):
            for given, message in (
                ("hello", r"input_ids: got a text, 'hello'; accepted: numbers, such as a tokenizer makes of it"),
                ({"input_ids": [["a"]]}, r"input_ids: got a text, 'a'"),
                ([[1, 2, 3], [4, 5]], r"input_ids: got rows that make no array"),
                ({"input_ids": None}, r"without \['input_ids'\]"),
                ([1, 2, 3], r"input_ids: got rank 1"),
            ):
                with pytest.raises(ValueError, match=message):
                    way(given)


def test_wrong_inputs_given_bare() -> None:
    model = shared("gpt", "gpt2")
    for way in (model, lambda x: model.predict(x, verbose=0)):
        with pytest.raises(ValueError, match=r"input_ids: got values from 97 to 97; accepted"):
            way(IDS * 97)


def test_outputs_are_what_the_signature_says(rng: Any) -> None:
    for family, variant in VARIANTS:
        model = shared(family, variant)
        inputs = inputs_for(model, rng, batch=3)
        results = run(model, inputs)
        assert list(results) == [spec.name for spec in model.signature.outputs]
        for spec in model.signature.outputs:
            sizes = {"sequence": LENGTH, "target": LENGTH, "tokens": results[spec.name].shape[1]}
            sizes |= dict.fromkeys(("batch", "text_batch", "image_batch"), 3)
            assert results[spec.name].shape == tuple(sizes.get(d, d) if isinstance(d, str) else d for d in spec.dims)
            assert results[spec.name].dtype == spec.dtype


def test_tied_head_reads_the_table_backwards(rng: Any) -> None:
    model = tiny("gpt", "gpt2")
    body = az.GPT(model.config.from_dict({**model.config.to_dict(), "head": None}))
    assert body.transfer_weights(model) == []
    ids = inputs_for(model, rng)
    states = run(body, ids)["last_hidden_state"].astype("float64")
    scaled(run(model, ids)["logits"], states @ float64(model.embedding.embeddings).T, 1e-5)
    untied = tiny("gpt", "untied")
    body = az.GPT(untied.config.from_dict({**untied.config.to_dict(), "head": None, "tie_embeddings": True}))
    assert body.transfer_weights(untied) == []
    states = run(body, ids)["last_hidden_state"].astype("float64")
    scaled(run(untied, ids)["logits"], states @ float64(untied.lm_head.kernel), 1e-5)


def test_initial_outputs_of_branches_are_scaled() -> None:
    """Their standard deviation is that of the other kernels divided by sqrt(2 · num_layers), as in GPT-2."""
    model = az.create("gpt2", num_layers=8, num_heads=2, hidden_dim=256, vocab_size=50, max_length=8)
    for block in model.blocks:
        for layer, expected in (
            (block.attention.output_dense, 0.005),
            (block.feedforward.down, 0.005),
            (block.attention.query_dense, 0.02),
            (block.feedforward.up, 0.02),
        ):
            kernel = numpy(layer.kernel)
            assert kernel.std() == pytest.approx(expected, abs=5 * expected / (2 * kernel.size) ** 0.5)
    plain = az.create("gpt2", num_layers=1, num_heads=2, hidden_dim=64, vocab_size=50, scale_initial_outputs=False)
    assert numpy(plain.blocks[0].feedforward.down.kernel).std() == pytest.approx(0.02, rel=0.1)
