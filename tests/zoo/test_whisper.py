"""Whisper: the texts of transformers' ``generate`` from features, in Keras, ONNX and TFLite; and the features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import attention_zoo as az
from attention_zoo import export
from attention_zoo.layers.audio import LogMelSpectrogram, TimeConvolution, mel_filters
from helpers import ROOT, close, numpy, tiny

FOLDER = ROOT / "tests" / "goldens" / "whisper"
SPOKEN: dict[str, Any] = json.loads((FOLDER / "speech.json").read_text())


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.load(FOLDER / "golden.npz")["right/input_features"].transpose(0, 2, 1)


@pytest.fixture(scope="module")
def model() -> Any:
    return az.load(FOLDER)


def check(made: np.ndarray, expected: list[list[int]], end: int = 2) -> None:
    """Compare new tokens, which follow the first ones; shorter rows are padded with the end token."""
    width = max(map(len, expected))
    np.testing.assert_array_equal(made[:, made.shape[1] - width :], expected)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 2)) for i, n in enumerate(SPOKEN)])
def test_texts_are_theirs(name: str, model: Any, features: np.ndarray) -> None:
    """Languages, tasks, suppressed tokens and beams are obeyed, and a language is detected if none is given."""
    case, own = SPOKEN[name], dict(model.generation_config)
    model.generation_config = {key: value for key, value in {**own, **case["config"]}.items() if value is not None}
    try:
        check(model.generate(features, **case["arguments"]), case["tokens"])
    finally:
        model.generation_config = own


@pytest.mark.slow
def test_files_generate_the_same(model: Any, features: np.ndarray, tmp_path: Path) -> None:
    """An exported file has the generation config, and its encoder and cached decoder write the same tokens."""
    export.to_onnx(model, tmp_path / "w.onnx")
    export.to_tflite(model, tmp_path / "w.tflite")
    for file in ("w.onnx", "w.tflite"):
        runner = export.load(tmp_path / file)
        for name in ("plain", "task", "beams", "languages"):
            check(runner.generate(features, **SPOKEN[name]["arguments"]), SPOKEN[name]["tokens"])
        with pytest.raises(ValueError, match=r"^input_features: got int64 of shape \(1, 1, 2\); accepted: floats"):
            runner.generate([[1, 2]])


def test_first_tokens_of_the_target(model: Any, features: np.ndarray) -> None:
    """They take the place of language and task, and can differ between rows."""
    made = model.generate(features, language="de", max_new_tokens=5)
    first = made[:, :-5]
    np.testing.assert_array_equal(model.generate(features, decoder_input_ids=first, max_new_tokens=5), made)
    np.testing.assert_array_equal(model.generate(features, decoder_input_ids=first[0], max_new_tokens=5), made)
    alone = model.generate({"input_features": features[1]}, decoder_input_ids=first[1], max_new_tokens=5)
    np.testing.assert_array_equal(alone, made[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language": "xx"}, r"^language: got 'xx'; accepted: a code of \['de', 'en', 'fr'\]"),
        ({"language": ["de", "en", "fr"]}, r"^language: got 3; accepted: one, or 2"),
        ({"language": 3}, r"^language: got 3; accepted: the code of a language"),
        ({"task": "sing"}, r"^task: got 'sing'; accepted: \['transcribe', 'translate'\]"),
        ({"decoder_input_ids": [[1.0]]}, r"^decoder_input_ids: got float64 of shape \(1, 1\); accepted: integers"),
        ({"decoder_input_ids": [[99]]}, r"^decoder_input_ids: got values from 99 to 99"),
        ({"max_new_tokens": 18}, r"^max_new_tokens: got 18 after"),
    ],
)
def test_what_cannot_be_said(arguments: dict[str, Any], message: str, model: Any, features: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(features, **arguments)


@pytest.mark.slow
def test_models_without_speech_refuse_its_options() -> None:
    translator = tiny("transformer", "marian")
    with pytest.raises(ValueError, match=r"^language: got 'de' for a model without it"):
        translator.generate([[5, 6]], language="de")
    made = translator.generate([[5, 6], [7, 8]], decoder_input_ids=[[1, 9], [1, 10]], max_new_tokens=3, stop_tokens=[])
    for row in range(2):
        alone = translator.generate(
            [[5, 6], [7, 8]][row], decoder_input_ids=[1, 9 + row], max_new_tokens=3, stop_tokens=[]
        )
        np.testing.assert_array_equal(alone, made[row : row + 1])
    with pytest.raises(ValueError, match=r"^decoder_input_ids: got .* for a model without it"):
        tiny("gpt", "gpt2").generate([[5, 6]], decoder_input_ids=[1])


def mel_in_float64(waveform: np.ndarray, layer: Any) -> np.ndarray:
    """Compute the features of one waveform with NumPy's FFT in float64."""
    samples = np.zeros(layer.samples)
    samples[: len(waveform)] = waveform[: layer.samples]
    padded = np.pad(samples, layer.window // 2, mode="reflect")
    hann = np.hanning(layer.window + 1)[:-1]
    starts = range(0, layer.samples, layer.hop)
    spectrum = np.abs(np.fft.rfft([padded[i : i + layer.window] * hann for i in starts])) ** 2
    power = spectrum @ mel_filters(layer.bins, layer.window // 2 + 1, layer.sampling_rate).astype("float64")
    log = np.log10(np.maximum(power, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


@pytest.mark.parametrize("length", [1, 700, 16_000, 20_000])
def test_features_in_float64(length: int, rng: Any) -> None:
    """Short waveforms are filled with silence, and long ones are cut."""
    layer = LogMelSpectrogram(20, seconds=1)
    quiet = 0.3 * np.sin(np.arange(length) * 0.2) + rng.normal(0, 1e-3, length)
    made = numpy(layer(np.stack([quiet, 0 * quiet]).astype("float32")))
    close(made[0], mel_in_float64(quiet, layer), atol=1e-4)
    close(made[1], np.full((100, 20), -1.5), atol=1e-6)
    again = LogMelSpectrogram.from_config(layer.get_config())
    close(numpy(again(quiet[None].astype("float32")))[0], made[0], atol=0)


def test_features_of_published_configs() -> None:
    raw = {"feature_size": 128, "n_fft": 400, "hop_length": 160, "chunk_length": 30, "sampling_rate": 16000}
    layer = LogMelSpectrogram.from_huggingface({**raw, "feature_extractor_type": "WhisperFeatureExtractor"})
    assert layer.compute_output_shape((2, None)) == (2, 3000, 128)
    with pytest.raises(ValueError, match=r"^sampling_rate: got 8000; accepted: 16000"):
        LogMelSpectrogram.from_huggingface({**raw, "sampling_rate": 8000})
    with pytest.raises(ValueError, match=r"^preprocessor_config.json: got \['colour'\]"):
        LogMelSpectrogram.from_huggingface({**raw, "colour": 1})
    with pytest.raises(ValueError, match=r"^window: got 401; accepted: an even number"):
        LogMelSpectrogram(window=401)


def test_convolutions_are_those_of_keras(rng: Any) -> None:
    x = rng.normal(size=(2, 10, 4)).astype("float32")
    for stride in (1, 2):
        layer = TimeConvolution(6, stride=stride)
        layer(x)
        kernel, bias = rng.normal(size=(3, 4, 6)).astype("float32"), rng.normal(size=6).astype("float32")
        layer.kernel.assign(kernel.reshape(12, 6))
        layer.bias.assign(bias)
        padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
        expected = numpy(keras.ops.conv(padded, kernel, strides=stride, padding="valid")) + bias
        close(numpy(layer(x)), expected, atol=1e-5)
        assert layer.compute_output_shape(x.shape) == expected.shape
    with pytest.raises(ValueError, match=r"^stride: got 3; accepted: 1 or 2"):
        TimeConvolution(6, stride=3)


@pytest.mark.slow
def test_features_are_exported(tmp_path: Path, rng: Any) -> None:
    """The layer is part of a file, in front of a model or alone."""
    waveform = keras.Input((8000,), name="waveform")
    model = keras.Model(waveform, LogMelSpectrogram(12, seconds=1)(waveform))
    given = rng.normal(0, 0.1, (1, 8000)).astype("float32")
    expected = numpy(model(given))
    export.to_onnx(model, tmp_path / "f.onnx")
    export.to_tflite(model, tmp_path / "f.tflite")
    for file in ("f.onnx", "f.tflite"):
        (made,) = export.load(tmp_path / file).run({"waveform": given}).values()
        close(made, expected, atol=1e-4)
