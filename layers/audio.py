"""Audio inputs of a Transformer: the log-mel spectrogram of a waveform, and convolutions along time.

Both are matrix multiplications with fixed or trained kernels, which every exporter supports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from ..checks import is_integer, positive_integer
from . import functional as F

Tensor = Any
# Entries of a preprocessor_config.json that do not change the features, and those with one accepted value.
_IGNORED = {"feature_extractor_type", "processor_class", "padding_side", "return_attention_mask", "n_samples"}
_IGNORED |= {"nb_max_frames", "mel_filters"}
_ONLY: dict[str, Any] = {"padding_value": 0.0, "dither": 0.0, "do_normalize": None, "sampling_rate": 16_000}


def mel_filters(bins: int, frequencies: int, rate: int) -> np.ndarray:
    """Return triangular filters of equal area on Slaney's mel scale, (frequencies, bins) float32.

    Args:
        bins: number of filters, from 0 Hz to 8000 Hz.
        frequencies: number of frequencies, from 0 Hz to half of the sampling rate.
        rate: sampling rate in Hz.
    """
    step = math.log(6.4) / 27  # the scale is linear up to 1000 Hz, with 15 mels, and logarithmic above

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))

    edges = hertz(np.linspace(0.0, 15 + math.log(8.0) / step, bins + 2))
    distance = edges[None] - np.linspace(0.0, rate / 2, frequencies)[:, None]  # (frequencies, bins + 2)
    width = np.diff(edges)
    rising, falling = -distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])).astype("float32")


@keras.saving.register_keras_serializable(package="attention_zoo")
class LogMelSpectrogram(keras.layers.Layer):
    """The features of Whisper: the logarithm of the mel spectrogram of a waveform (arXiv:2212.04356).

    Waveforms (batch, samples) in float32, from -1 to 1 at `sampling_rate`, become features (batch, frames, bins) in
    float32, where frames is ``seconds * sampling_rate / hop``. Waveforms are filled with zeros, or cut, to `seconds`.
    As in Hugging Face's WhisperFeatureExtractor, the power spectrum of windows of `window` samples (Hann, centered and
    reflected at both ends) is summed by Slaney's mel filters, its decimal logarithm is limited to 8 below the maximum
    of the row, and the result is shifted and scaled by 4. The layer has no weights.

    Args:
        bins: number of mel filters.
        sampling_rate: samples per second.
        seconds: length of the waveform for which there are features.
        window: samples in a window.
        hop: samples between the beginnings of two windows.

    Raises:
        ValueError: a size is not a positive integer, `window` is odd, or `hop` does not divide the samples.
    """

    def __init__(
        self,
        bins: int = 80,
        *,
        sampling_rate: int = 16_000,
        seconds: int = 30,
        window: int = 400,
        hop: int = 160,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        sizes = {"bins": bins, "sampling_rate": sampling_rate, "seconds": seconds, "window": window, "hop": hop}
        for name, value in sizes.items():
            setattr(self, name, positive_integer(name, value))
        self.samples = self.seconds * self.sampling_rate
        if self.window % 2:
            raise ValueError(f"window: got {window}; accepted: an even number of samples")
        if self.samples % self.hop or self.samples <= self.window:
            raise ValueError(f"hop: got {hop}; accepted: a divisor of {self.samples} samples, more than a window")

    @classmethod
    def from_huggingface(cls, raw: Mapping[str, Any], **kwargs: Any) -> Self:
        """Return the layer of a preprocessor_config.json of Whisper.

        Raises:
            ValueError: an entry is unknown, or has another value than the accepted one.
        """
        names = {"feature_size": "bins", "n_fft": "window", "hop_length": "hop", "chunk_length": "seconds"}
        if unknown := sorted(set(raw) - {*names, *_IGNORED, *_ONLY}):
            raise ValueError(f"preprocessor_config.json: got {unknown}; accepted: {[*names, *_ONLY]}")
        for name, value in _ONLY.items():
            if raw.get(name, value) not in (value, False):
                raise ValueError(f"{name}: got {raw[name]!r}; accepted: {value!r}")
        return cls(**{ours: raw[theirs] for theirs, ours in names.items() if theirs in raw}, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        half, count = self.window // 2, self.samples // self.hop
        x = ops.pad(ops.cast(inputs, "float32"), [[0, 0], [0, self.samples]])[:, : self.samples]  # (B, S)
        ends = (np.arange(half, 0, -1), np.arange(self.samples - 2, self.samples - 2 - half, -1))
        before, behind = (ops.take(x, ops.convert_to_tensor(places.astype("int32")), axis=1) for places in ends)
        x = ops.concatenate([before, x, behind], axis=1)  # (B, S + window)
        power = self._power(x, count)  # (B, frames, frequencies)
        filters = mel_filters(self.bins, half + 1, self.sampling_rate)
        mel = F.dense(power, ops.convert_to_tensor(filters))  # (B, frames, bins)
        log = ops.log(ops.maximum(mel, 1e-10)) * (1 / math.log(10))
        return (ops.maximum(log, ops.max(log, axis=(1, 2), keepdims=True) - 8.0) + 4.0) / 4.0

    def _power(self, x: Tensor, count: int) -> Tensor:
        """Return the power spectrum of `count` windows of `x` (B, S + window): (B, count, frequencies)."""
        frames = _windows(x, self.window, self.hop, count)  # (B, count, window)
        half = self.window // 2
        places = np.arange(self.window)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * places / self.window)
        # The middle of a window is its origin, so that samples beside it are added and subtracted in pairs before the
        # multiplications: the sums are half as long, and their rounding errors smaller.
        frames = frames * ops.convert_to_tensor(hann.astype("float32"))
        mirror = ops.convert_to_tensor(np.arange(half - 1, 0, -1).astype("int32"))
        left, middle, right = ops.take(frames, mirror, axis=2), frames[:, :, half : half + 1], frames[:, :, half + 1 :]
        even = ops.concatenate([middle, right + left, frames[:, :, :1]], axis=2)  # (B, count, half + 1)
        odd = right - left  # (B, count, half - 1)
        angles = 2 * np.pi * np.outer(np.arange(half + 1), np.arange(half + 1)) / self.window
        real = F.dense(even, ops.convert_to_tensor(np.cos(angles).astype("float32")))
        imaginary = F.dense(odd, ops.convert_to_tensor(np.sin(angles[1:-1]).astype("float32")))
        return real * real + imaginary * imaginary

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0], self.samples // self.hop, self.bins

    def get_config(self) -> dict[str, Any]:
        own = ("bins", "sampling_rate", "seconds", "window", "hop")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _windows(x: Tensor, window: int, hop: int, count: int) -> Tensor:
    """Return `count` windows of `x` (B, S), which begin every `hop` samples: (B, count, window)."""
    # Blocks of one hop beside each other are wide enough for a window, without copying every sample on its own.
    blocks = -(-window // hop)
    needed = (count + blocks - 1) * hop
    x = ops.pad(x, [[0, 0], [0, max(0, needed - x.shape[1])]])[:, :needed]
    rows = ops.reshape(x, (ops.shape(x)[0], count + blocks - 1, hop))
    parts = [rows[:, i : i + count] for i in range(blocks)]  # (B, count, hop) each
    return ops.concatenate(parts, axis=2)[:, :, :window]


@keras.saving.register_keras_serializable(package="attention_zoo")
class TimeConvolution(keras.layers.Layer):
    """Convolution along time with a kernel of three steps and zeros before and after the sequence.

    Inputs (batch, length, width) become (batch, length / stride, units) in the compute dtype. It is computed as one
    matrix multiplication of three neighboring steps; the kernel is (3 · width, units).

    Args:
        units: width of the output.
        stride: 1, or 2 for every second step of an even length.
        kernel_initializer: initializer of the kernel.

    Raises:
        ValueError: `units` is not a positive integer, or `stride` is neither 1 nor 2.
    """

    def __init__(
        self, units: int, *, stride: int = 1, kernel_initializer: Any = "glorot_uniform", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.units = positive_integer("units", units)
        if not is_integer(stride) or stride not in (1, 2):
            raise ValueError(f"stride: got {stride!r}; accepted: 1 or 2")
        self.stride = stride
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        shape = (3 * input_shape[-1], self.units)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, inputs: Tensor) -> Tensor:
        length = ops.shape(inputs)[1]
        x = ops.pad(inputs, [[0, 0], [1, 1], [0, 0]])
        steps = [x[:, i : i + length : self.stride] for i in range(3)]  # (B, T / stride, width) each
        kernel, bias = (ops.convert_to_tensor(weight) for weight in (self.kernel, self.bias))
        return F.dense(ops.concatenate(steps, axis=-1), kernel, bias)

    def compute_output_shape(self, input_shape: Any) -> Any:
        length = input_shape[1]
        return input_shape[0], None if length is None else -(-length // self.stride), self.units

    def get_config(self) -> dict[str, Any]:
        kernel = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "units": self.units, "stride": self.stride, "kernel_initializer": kernel}


@keras.saving.register_keras_serializable(package="attention_zoo")
class Sinusoids(keras.initializers.Initializer):
    """Initializer of a table of positions: Whisper's sinusoids, first the sines, with wavelengths up to 10000 · 2π."""

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Tensor:
        length, half = shape[0], shape[1] // 2
        frequencies = np.exp(-math.log(10_000) / max(1, half - 1) * np.arange(half))
        angles = np.arange(length)[:, None] * frequencies[None]
        return ops.convert_to_tensor(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype("float32"), dtype)
