"""Exports by Keras and TensorFlow themselves: the files compute what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from attention_zoo.runtime.inputs import example_inputs
from attention_zoo.zoo.registry import families
from helpers import ALL_BUT_ONE, VARIANTS, close, every_variant, numpy, run, shared, tiny

# The fast tests cover one decoder; all other variants run only with make test-all.
FURTHER = {pair for pair in VARIANTS if pair in ALL_BUT_ONE or pair[0] != "gpt"}
ONE_EACH = [(family, next(iter(cls.tiny()))) for family, cls in families().items()]
# Keras' own RNN loop is converted to TensorFlow tensor lists, which LiteRT does not support.
RECURRENT = {pair for pair in VARIANTS if pair[0] == "seq2seq"}


def padded(model: Any) -> dict[str, np.ndarray]:
    """Return three rows, two of them padded; an encoder-decoder's sources and targets differ in length."""
    signature = model.signature.exported()
    sizes = {**signature.defaults, "sequence": 7, "source": 7, "target": 5}
    sizes |= dict.fromkeys(("batch", "text_batch", "image_batch"), 3)
    return example_inputs(signature, sizes, padding="right", seed=1)


def expected(model: Any, inputs: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Return the outputs sorted by name; a file may rename an output if it is the only one."""
    return sorted(run(model, inputs).items())


def same(model: Any, inputs: Mapping[str, np.ndarray], found: Mapping[str, Any]) -> None:
    wanted = expected(model, inputs)
    assert len(found) == len(wanted)
    for name, values in wanted:
        actual = found[name] if len(wanted) > 1 else next(iter(found.values()))
        close(numpy(actual), values, atol=2e-5 * float(np.abs(values).max()), what=name)


@every_variant(slow=FURTHER)
def test_saved_models(family: str, variant: str, tmp_path: Path) -> None:
    model = shared(family, variant)
    inputs = padded(model)
    model.export(tmp_path / "keras", verbose=False)
    tf.saved_model.save(model, str(tmp_path / "tensorflow"))
    for folder in ("keras", "tensorflow"):
        served: Any = tf.saved_model.load(str(tmp_path / folder))
        same(model, inputs, served.signatures["serving_default"](**{n: tf.constant(a) for n, a in inputs.items()}))


@every_variant(slow=FURTHER)
def test_onnx(family: str, variant: str, tmp_path: Path) -> None:
    import onnxruntime

    model = shared(family, variant)
    inputs = padded(model)
    model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    outputs = [output.name for output in session.get_outputs()]
    given = {spec.name: inputs[spec.name] for spec in session.get_inputs()}
    same(model, inputs, dict(zip(outputs, session.run(None, given), strict=True)))


@pytest.mark.slow
@every_variant([pair for pair in VARIANTS if pair not in RECURRENT], slow=FURTHER)
def test_litert(family: str, variant: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model = shared(family, variant)
    inputs = padded(model)
    model.export(tmp_path / "m.tflite", format="litert", verbose=False)
    run_it = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner()
    same(model, inputs, run_it(**{name: inputs[name] for name in run_it.get_input_details()}))


@every_variant(ONE_EACH, slow=ONE_EACH[2:])
def test_clones_and_models_over_it(family: str, variant: str) -> None:
    model = tiny(family, variant)
    inputs = padded(model)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for name, values in expected(model, inputs):
        close(dict(expected(clone, inputs))[name], values, atol=0, what=name)

    if family == "clip":  # scores of all pairs have no fixed width that a layer could be built for
        return
    specs = model.signature.exported().inputs
    given = {spec.name: keras.Input(spec.open_shape[1:], name=spec.name, dtype=spec.dtype) for spec in specs}
    result = model(given)
    first = model.signature.outputs[0].name
    states = result[first] if isinstance(result, dict) else result
    whole = keras.Model(given, keras.layers.Dense(3)(states))
    dense = whole.layers[-1]
    found = dict(expected(model, inputs))[first] @ numpy(dense.kernel) + numpy(dense.bias)
    close(numpy(whole(inputs)), found, atol=1e-5)


@pytest.mark.parametrize("family", sorted(families()))
def test_summary_has_the_shapes_of_all_layers(family: str) -> None:
    lines: list[str] = []
    model = tiny(family, next(iter(families()[family].tiny())))
    model.summary(print_fn=lines.append, line_length=160)
    assert not [line for text in lines for line in text.splitlines() if " ? " in line or "unbuilt" in line]


def test_a_signature_of_ones_own(tmp_path: Path) -> None:
    model = shared("gpt", "gpt2")
    ids = np.arange(5, dtype="int32")[None]
    spec = {"input_ids": keras.InputSpec(shape=(1, 5), dtype="int32", name="input_ids")}
    model.export(tmp_path / "m", verbose=False, input_signature=[spec])
    served: Any = tf.saved_model.load(str(tmp_path / "m"))
    same(model, {"input_ids": ids}, served.signatures["serving_default"](input_ids=tf.constant(ids)))


def test_keras_does_not_quantise_it() -> None:
    with pytest.raises(ValueError, match=r"mode: got 'int8' .*accepted: none here, but .* as the precision"):
        tiny("bert", "backbone").quantize("int8")
