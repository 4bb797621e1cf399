"""The differences that ``verify`` accepts, and exports of models that were changed after
their creation, so that their config does not fully describe them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from planted.fault import SoftCap

import attention_zoo as az
from attention_zoo import export
from attention_zoo.export.frontend.inference import computing_in
from attention_zoo.export.verification.cases import Case, example
from attention_zoo.export.verification.comparison import FARTHER, compare
from attention_zoo.export.verification.reference import Reference
from attention_zoo.runtime.inputs import padded_mask
from helpers import ALL_BUT_ONE, FURTHER, TEXT, VARIANTS, close, every_variant, inputs_for, randomise, run, shared, tiny

# ---- the rules of comparison --------------------------------------------------------------------------------------


def rule(file: float, keras_: float, exact: float, shaken: float | None = None) -> tuple[bool, str]:
    asked = []

    def truth(shake: bool) -> dict[str, np.ndarray]:
        asked.append(1)
        return {"x": np.array([[exact if not shake or shaken is None else shaken, 100.0]])}

    of: Any = lambda value: {"x": np.array([[value, 100.0]], "float32")}  # noqa: E731
    check = compare("", of(file), of(keras_), truth, 1e-5)
    assert bool(asked) == (check.rule == "float64")
    return check.passed, check.rule


def test_small_differences_need_no_judge() -> None:
    assert rule(5.0005, 5.0, 9.0) == (True, "relative")  # relative to 100, the largest magnitude
    assert rule(5.002, 5.0, 5.0)[1] == "float64"


def test_float64_judges() -> None:
    assert rule(5.01, 5.0, 5.005) == (True, "float64")
    assert rule(5.0 + 0.005 * (FARTHER - 1.1), 5.0, 5.005)[0]
    assert not rule(5.0 - 0.005 * (FARTHER - 0.9), 5.0, 5.005)[0]
    assert not rule(5.01, 5.0, 5.0)[0], "Keras that is exact is no excuse"
    assert rule(5.01, 5.0, 5.0, 5.0 + 0.01 / (FARTHER - 0.1))[0], "but how far rounding leads is"
    assert not rule(5.01, 5.0, 5.0, 5.0 + 0.01 / (FARTHER + 0.1))[0]


def test_what_is_no_number_never_passes() -> None:
    for bad in (np.nan, np.inf):
        assert not rule(bad, 5.0, 5.0)[0]
        assert not rule(5.0, bad, 5.0)[0]


def test_other_shapes_and_padding() -> None:
    one, other = {"x": np.ones((2, 3, 4), "float32")}, {"x": np.ones((2, 3, 4), "float32")}
    other["x"][1, 2] = 9
    seen = np.array([[1, 1, 1], [1, 1, 0]], bool)
    assert compare("", other, one, lambda _: one, 1e-5, lambda _: seen).passed
    assert not compare("", other, one, lambda _: one, 1e-5).passed
    assert "shape" in compare("", {"x": np.ones((2, 3))}, one, lambda _: one, 1e-5).detail


@every_variant(slow=ALL_BUT_ONE)
def test_a_model_computes_in_float64_as_one_that_was_made_so(family: str, variant: str, rng: Any) -> None:
    """Check that ``computing_in`` gives the outputs of a model created in float64, and restores float32 afterwards."""
    model = shared(family, variant)
    inputs = inputs_for(model, rng)
    before, exact = run(model, inputs), run(shared(family, variant, "float64"), inputs)
    with computing_in(model, "float64"):
        judged = run(model, inputs)
    for name, expected in exact.items():
        np.testing.assert_array_equal(judged[name], expected)
        assert (before[name] != judged[name]).any(), "float32 would have given the same"
    for name, again in run(model, inputs).items():
        np.testing.assert_array_equal(before[name], again)


# ---- amplified rounding errors, and ties --------------------------------------------------------------------------


def wild(**fields: Any) -> Any:
    """Return a model that amplifies rounding errors as real weights do: its float32 outputs have only three digits."""
    return randomise(tiny("gpt", "llama", num_layers=4, max_length=24, **fields), spread=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_rounding_that_weights_amplify_is_judged(format: str, tmp_path: Path) -> None:
    model, file = wild(), tmp_path / f"m.{format}"
    to: Any = export.to_onnx if format == "onnx" else export.to_tflite
    to(model, file, cache=True)
    report = export.verify(model, file, tolerance=1e-7)
    assert report.passed, report.to_markdown()
    assert any(check.rule == "float64" for check in report.checks)
    other = wild()
    other.blocks[0].attention.scale = 1.001 * 12**-0.5
    report = export.verify(other, file)
    assert not report.passed
    assert {check.rule for check in report.checks if not check.passed} == {"float64"}


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_ties_are_no_difference(format: str, tmp_path: Path) -> None:
    """Check that a file passes whichever of two equal logits it selects; the vocabulary contains every token twice."""
    model, file = tiny("gpt", "gpt2", vocab_size=60), tmp_path / f"m.{format}"
    table = keras.ops.convert_to_numpy(model.embedding.embeddings)
    model.embedding.embeddings.assign(np.concatenate([table[:30], table[:30] * (1 + 1e-7)]))
    to: Any = export.to_onnx if format == "onnx" else export.to_tflite
    to(model, file, cache=True)
    report = export.verify(model, file)
    assert report.passed, report.to_markdown()


def test_how_far_rounding_leads_is_near(rng: np.random.Generator) -> None:
    """Check that the simulated rounding errors have a small effect, as a large one would hide faults.

    This includes a model with an adapter, which must be added to its weight only once.
    """
    for model in (tiny("gpt", "llama"), changed(), tiny("bert", "backbone")):
        inputs = {"input_ids": rng.integers(1, model.config.vocab_size, (2, 6))}
        reference = Reference(model, model.graphs("plain")["model"].function)
        exact, shaken = (reference.exact(inputs, shake) for shake in (False, True))
        for name, truth in exact.items():
            off = np.abs(shaken[name] - truth).max() / np.abs(truth).max()
            assert 0 < off < 2e-5, name


# ---- models that differ from their config -------------------------------------------------------------------------


def changed(dtype: str | None = None) -> Any:
    """Return a GPT with changes that its config does not contain: the order of blocks, an epsilon, and an adapter."""
    model = tiny("gpt", "llama", dtype=dtype)
    model.blocks = model.blocks[::-1]
    model.final_norm.epsilon = 0.3
    layer = model.blocks[0].attention.query_dense
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.random.default_rng(1).normal(size=layer.lora_kernel_b.shape))
    layer.lora_kernel_a.assign(np.random.default_rng(2).normal(size=layer.lora_kernel_a.shape))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("dtype", [None, "mixed_float16", "bfloat16"])
def test_what_no_config_says_is_exported(dtype: str | None, format: str, cache: bool, tmp_path: Path) -> None:
    model, exact = changed(dtype), changed()
    for ours, theirs in zip(exact.weights, model.weights, strict=True):
        ours.assign(keras.ops.cast(theirs, "float32"))
    to: Any = export.to_onnx if format == "onnx" else export.to_tflite
    to(model, tmp_path / f"m.{format}", cache=cache)
    ids = np.random.default_rng(0).integers(3, 90, (2, 9))
    expected = run(exact, {"input_ids": ids})["logits"]
    assert np.abs(expected - run(tiny("gpt", "llama"), {"input_ids": ids})["logits"]).max() > 0.1
    runner = export.load(tmp_path / f"m.{format}")
    decoder = runner.decoder()
    steps = [decoder.prompt(ids[:, :5], np.ones((2, 5), int), 4), *(decoder.step(ids[:, i]) for i in range(5, 9))]
    close(np.stack(steps, axis=1), expected[:, 4:], atol=1e-4)
    assert export.verify(model, tmp_path / f"m.{format}").passed
    assert model.dtype_policy.name == (dtype or "float32") and model.blocks[0].attention.query_dense.lora_enabled


@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_an_overridden_call(format: str, tmp_path: Path) -> None:
    """Check that an overridden ``call`` is exported without a cache, and rejected with a cache, which would omit it."""
    model, file = SoftCap(), tmp_path / f"m.{format}"
    to: Any = export.to_onnx if format == "onnx" else export.to_tflite
    with pytest.raises(ValueError, match=r"model: got a Capped whose call computes something else.*cache=False"):
        to(model, file, cache=True)
    assert list(tmp_path.iterdir()) == []
    to(model, file, cache=False)
    ids = np.random.default_rng(0).integers(3, 90, (2, 9))
    actual = export.load(file).run(ids)["logits"]
    close(actual, run(model, {"input_ids": ids})["logits"], atol=1e-5)
    assert np.abs(actual).max() < 3
    assert export.verify(model, file).passed


def test_adapters_of_a_layer_are_saved_merged(tmp_path: Path) -> None:
    model = tiny("bert", "backbone")
    layer = model.blocks[1].feedforward.down
    layer.enable_lora(3)
    layer.lora_kernel_b.assign(np.random.default_rng(1).normal(size=layer.lora_kernel_b.shape))
    inputs = inputs_for(model, np.random.default_rng(0))
    az.save(model, tmp_path / "m")
    for name, expected in run(model, inputs).items():
        close(run(az.load(tmp_path / "m"), inputs)[name], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.final_norm, "epsilon", 0.3), "final_norm: epsilon"),
        (lambda m: setattr(m, "blocks", m.blocks[::-1]), "blocks: in another order"),
        (lambda m: setattr(m.blocks[0].feedforward, "activation", "geglu"), "block_0/feedforward: activation"),
    ],
)
def test_what_no_config_says_is_not_saved_in_silence(change: Any, message: str, tmp_path: Path) -> None:
    model = tiny("gpt", "llama")
    az.save(model, tmp_path / "plain")
    change(model)
    for save in (az.save, az.to_huggingface):
        with pytest.raises(ValueError, match=rf"model: got .*{message}.*accepted"):
            save(model, tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


@pytest.mark.slow
def test_every_variant_is_as_its_config_says() -> None:
    from attention_zoo.zoo.saving import changes

    for family, variant in VARIANTS:
        assert changes(shared(family, variant)) == [], (family, variant)


@every_variant(TEXT, slow=FURTHER)
def test_cases_are_padded_as_they_say(family: str, variant: str) -> None:
    """Check the mask of every kind of padding. Without padding, a case keeps every token, up to the last position."""
    signature = shared(family, variant).graphs("plain")["model"].signature
    for padding in ("none", "left", "right", "interior", "all"):
        inputs = example(signature, Case(3, 9, 0, padding))
        assert np.array_equal(inputs["attention_mask"], padded_mask(3, 9, padding))


@pytest.mark.parametrize("key", ["attention_zoo.weights", "attention_zoo.folded", "attention_zoo.digest"])
def test_metadata_that_cannot_be_read(key: str, tmp_path: Path) -> None:
    """A damaged entry fails the check that reads it."""
    import onnx

    file = tmp_path / "m.onnx"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    export.to_onnx(model, file)
    damaged = onnx.load(file)
    entries = {entry.key: entry for entry in damaged.metadata_props}
    entry = entries[key] if key in entries else damaged.metadata_props.add(key=key)
    entry.value = "" if key.endswith("digest") else "[1"
    onnx.save(damaged, file)
    assert not export.verify(model, file).passed
