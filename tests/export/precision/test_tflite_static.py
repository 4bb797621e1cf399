"""TFLite files with static activation ranges: outputs compared with quantized arithmetic in NumPy, and with Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.export.precision.tflite.weights import multiplies_weights
from attention_zoo.runtime.tflite.flatbuffer import operators, unpacked
from helpers import ALL_BUT_ONE, VARIANTS, close, numpy, randomise, run, shared

FLOAT32, INT8, INT16 = 0, 9, 7  # of ``schema.TensorType``
RECURRENT = "seq2seq"


def static(bits: int = 8, **options: Any) -> export.Precision:
    return export.Precision("int8", activations={8: "static", 16: "static16"}[bits], **options)


def exported(model: Any, folder: Path, precision: Any, **options: Any) -> tuple[Path, Any]:
    file = folder / "m.tflite"
    return file, export.to_tflite(model, file, precision=precision, **options)


def made_of(file: Path) -> Any:
    return unpacked(bytearray(file.read_bytes()))


def dense(rng: np.random.Generator) -> Any:
    inputs = keras.Input((12,))
    return randomise(keras.Model(inputs, keras.layers.Dense(7)(inputs)), seed=int(rng.integers(100)))


def steps(values: np.ndarray, least: float, greatest: float, bits: int) -> tuple[np.ndarray, float]:
    """Return `values` after quantization to `bits` and dequantization, and the quantization step.

    The range from `least` to `greatest` is extended to include zero; with 16 bits, it is symmetric about zero (LiteRT
    8-bit quantization specification).
    """
    if bits == 16:
        step = max(abs(least), abs(greatest)) / 32767
        return np.clip(np.rint(values / step), -32768, 32767) * step, step
    step = (max(greatest, 0) - min(least, 0)) / 255
    zero = np.rint(-128 - min(least, 0) / step)
    return (np.clip(np.rint(values / step) + zero, -128, 127) - zero) * step, step


@pytest.mark.parametrize("bits", [8, 16])
def test_ranges_are_those_of_all_that_was_met(bits: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """Compare a matrix multiplication with float64 arithmetic on quantized weights and inputs.

    The ranges must cover the half of the samples that is used for calibration, including its rare extreme, and not the
    other half.
    """
    model = dense(rng)
    samples = [{"inputs": rng.normal(size=(1, 12)).astype("float32")} for _ in range(40)]
    samples[4]["inputs"][0, 3] = 9.0  # a moving average of the maximum would stay at 2
    samples[5]["inputs"][0, 3] = -20.0  # in the half that the accuracy is measured with
    name = export.to_onnx(model, tmp_path / "m.onnx") and export.load(tmp_path / "m.onnx").signature.inputs[0].name
    samples = [{name: sample["inputs"]} for sample in samples]
    file, result = exported(model, tmp_path, static(bits), samples=samples, least_cosine=0.5)
    assert "20 batches" in result.accuracy.samples
    met = np.concatenate([sample[name] for sample in samples[::2]]).astype("float64")
    kernel, bias = (numpy(weight).astype("float64") for weight in model.weights)
    scales = np.abs(kernel).max(0) / 127
    kernel = np.rint(kernel / scales) * scales
    outputs = met @ numpy(model.weights[0]) + bias
    inputs, _ = steps(met, met.min(), met.max(), bits)
    expected, step = steps(inputs @ kernel + bias, outputs.min(), outputs.max(), bits)
    found = export.load(file).run({name: met.astype("float32")})
    # One step, for sums between two steps; and with 16 bits the error of the kernel's inexact multiplier.
    close(next(iter(found.values())), expected, atol=1.01 * step + 1e-4)


WAYS = [(8, False), (16, False), (8, True), (16, True)]
QUICKLY = {"bert": (8, False), "vit": (16, True), "gpt": (8, True)}


@pytest.mark.parametrize(
    ("family", "variant", "bits", "integer_only"),
    [
        pytest.param(*pair, *way, marks=[] if quick else [pytest.mark.slow])
        for pair in VARIANTS
        for way in WAYS
        for quick in [pair not in ALL_BUT_ONE and QUICKLY.get(pair[0]) == way]
    ],
)
def test_every_model(family: str, variant: str, bits: int, integer_only: bool, tmp_path: Path) -> None:
    """Compare with Keras for every length and padding."""
    model = shared(family, variant)
    options: dict[str, Any] = {"cache": False} if model.generates else {}
    precision = static(bits, integer_only=integer_only)
    if family == RECURRENT:
        with pytest.raises(ValueError, match=r"precision.activations: got .* a loop of a recurrent layer"):
            exported(model, tmp_path, precision, **options)
        assert not list(tmp_path.iterdir())
        return
    if integer_only and "deberta" in variant:
        with pytest.raises(
            ValueError, match=r"precision.integer_only: got True for a model that multiplies weights by"
        ):
            exported(model, tmp_path, precision, **options)
        return
    if not model.static_ranges:
        with pytest.raises(ValueError, match=r"precision.activations: got .* for this clip"):
            exported(model, tmp_path, precision, **options)
        return
    if variant == "gemma" and integer_only and bits == 8:  # norms of small branches have no room in 8 bits
        with pytest.raises(export.AccuracyError, match="too far from float32"):
            exported(model, tmp_path, precision, least_cosine=0.9, **options)
        return
    file, result = exported(model, tmp_path, precision, least_cosine=0.9, **options)
    report = export.verify(model, file)
    assert report.passed, report.to_markdown()
    assert any(check.rule == "cosine" for check in report.checks)
    integers = {8: INT8, 16: INT16}[bits]
    made = made_of(file)
    for graph, node, operator in operators(made):
        if multiplies_weights(made, graph, node, operator):
            assert "deberta" in variant
        elif operator in ("FULLY_CONNECTED", "CONV_2D") and variant != "deberta_v3":  # whose table shares kernels
            types = [graph.tensors[index].type for index in (*node.inputs[:2], *node.outputs)]
            products = ([FLOAT32] * 3, [integers] * 3) if "expert" in variant else ()  # sums over experts
            assert types == [integers, INT8, integers] or types in products
    assert result.accuracy.cosine > 0.97 and export.load(file).precision_details["activations"] == precision.activations


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 16])
def test_masks_hold_though_no_sample_had_any(bits: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """Check an integer-only file that was calibrated without padding.

    The attention mask is quantized too, and samples without padding alone would give it a range of width zero.
    """
    model = shared("bert", "backbone")
    vocab = model.config.vocab_size
    samples = [
        {"input_ids": rng.integers(1, vocab, (1, 16)), "attention_mask": np.ones((1, 16), int)} for _ in range(8)
    ]
    file, _ = exported(model, tmp_path, static(bits, integer_only=True), samples=samples, sequence_length=16)
    masks = [
        np.asarray(buffer.data, "uint8")
        for buffer in made_of(file).buffers
        if buffer.data is not None and np.float32(-1e9).tobytes() in bytes(buffer.data)
    ]
    assert not masks
    runner = export.load(file)
    ids = rng.integers(1, vocab, (3, 9))
    lengths = np.array([9, 4, 1])
    mask = (np.arange(9) < lengths[:, None]).astype("int64")
    expected = run(model, {"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    found = runner.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    other = runner.run({"input_ids": np.where(mask, ids, 3), "attention_mask": mask})["last_hidden_state"]
    for row, length in enumerate(lengths):
        one, two = expected[row, :length].ravel(), found[row, :length].ravel()
        assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > (0.97 if bits == 8 else 0.99)
        # With 8 bits, masked keys have no weight; with 16 bits, LiteRT's table of exponentials ends at e^-10.
        close(found[row, :length], other[row, :length], atol=0 if bits == 8 else 4 * (16 - length) * np.exp(-10))


def pictures_model() -> Any:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dense(64, activation="relu", name="hidden")(keras.layers.Flatten()(x))
    model = randomise(keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x)), spread=0.05)
    for variable in model.weights:
        if variable.path.endswith("variance"):
            variable.assign(np.abs(variable.numpy()) + 0.5)
    return model


@pytest.mark.slow
def test_other_keras_models_in_integers_alone(tmp_path: Path) -> None:
    """Check that only the first and last operators have floats, since some accelerators support integers only."""
    model = pictures_model()
    file, result = exported(model, tmp_path, static(integer_only=True))  # with the default accuracy thresholds of int8
    assert result.accuracy is not None and result.rounded > 0.9 and export.verify(model, file).passed
    assert result.accuracy.divergence >= 0, "integers' probabilities have another sum than 1"
    nodes = list(operators(made_of(file)))
    floats = [operator for graph, node, operator in nodes if graph.tensors[node.outputs[0]].type == FLOAT32]
    assert floats == ["DEQUANTIZE"] and nodes[0][2] == "QUANTIZE" and nodes[-1][2] == "DEQUANTIZE"
    assert result.bytes < 0.35 * result.weight_bytes
    kept = static(integer_only=True, keep=("*hidden/kernel",))
    _, result = exported(model, tmp_path, kept)
    assert result.rounded < 0.5 and result.operators["FULLY_CONNECTED"] == 2


@pytest.mark.slow
def test_what_is_too_far_is_refused_and_leaves_no_file(tmp_path: Path, rng: np.random.Generator) -> None:
    """Check a model with one input so large that the other inputs are smaller than one quantization step."""
    model = dense(rng)
    kernel = model.weights[0].numpy()
    kernel[0] *= 1e-3
    model.weights[0].assign(kernel)
    name = export.to_onnx(model, tmp_path / "m.onnx") and export.load(tmp_path / "m.onnx").signature.inputs[0].name
    (tmp_path / "m.onnx").unlink()
    arrays = [np.concatenate([[1000.0], rng.normal(size=11)])[None].astype("float32") for _ in range(8)]
    samples = [{name: array} for array in arrays]
    with pytest.raises(export.AccuracyError, match=r"cosine with float32"):
        exported(model, tmp_path, static(), samples=samples)
    assert not list(tmp_path.iterdir())
    assert exported(model, tmp_path, static(16), samples=samples)[1].accuracy.cosine > 0.97


def test_wrong_precisions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"precision.integer_only: got True with activations None; accepted: 'static'"):
        export.Precision("int8", integer_only=True)
    with pytest.raises(ValueError, match=r"precision.integer_only: got True for int4"):
        export.Precision("int4", integer_only=True)
    for precision, said in (
        (static(16), "activations: got 'static16'"),
        (static(integer_only=True), "integer_only: got"),
    ):
        with pytest.raises(ValueError, match=said):
            export.to_onnx(shared("bert", "backbone"), tmp_path / "m.onnx", precision=precision)
    assert not list(tmp_path.iterdir())
