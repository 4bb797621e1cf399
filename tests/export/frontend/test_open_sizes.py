"""Third-party models with open sizes, for which Keras itself needs numbers or has no operator."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from attention_zoo import export

RNG = np.random.default_rng(0)


def _upsampling() -> Any:
    image = keras.Input((None, None, 2), name="x")
    return keras.Model(image, L.UpSampling2D(2, interpolation="bilinear")(image))


def _resized() -> Any:
    class Half(L.Layer):
        def call(self, x: Any) -> Any:
            _, height, width, _ = ops.shape(x)
            return ops.image.resize(x, (height // 2, width // 2))

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor((x.shape[0], None, None, x.shape[3]))

    image = keras.Input((None, None, 2), name="x")
    return keras.Model(image, Half()(image))


def _each_step() -> Any:
    words = keras.Input((None, 5), dtype="int32", name="x")
    y = L.TimeDistributed(L.Embedding(9, 3, mask_zero=True))(words)
    return keras.Model(words, L.TimeDistributed(L.GRU(4))(y))


def _other_activation() -> Any:
    x = keras.Input((None, 3), name="x")
    return keras.Model(x, L.LSTM(4, activation="relu", return_sequences=True)(L.Masking()(x)))


def _images_in_time() -> Any:
    video = keras.Input((None, 5, 5, 1), name="x")
    return keras.Model(video, L.ConvLSTM2D(2, 3)(video))


def _patches() -> Any:
    class Patches(L.Layer):
        def call(self, x: Any) -> Any:
            apart = tf.image.extract_patches(x, [1, 3, 2, 1], [1, 2, 3, 1], [1, 2, 1, 1], "SAME")
            beside = tf.image.extract_patches(x, [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID")
            return ops.concatenate([ops.reshape(y, (-1, 1)) for y in (apart, beside)])

    image = keras.Input((None, None, 2), name="x")
    return keras.Model(image, Patches()(image))


def _spectrogram() -> Any:
    """Reflects half a frame at both ends, so that a length has to be longer than that."""

    class Magnitude(L.Layer):
        def call(self, x: Any) -> Any:
            real, imaginary = ops.stft(x, 64, 16, 64)
            return ops.sqrt(ops.square(real) + ops.square(imaginary) + 0.1)

    wave = keras.Input((None,), name="x")
    return keras.Model(wave, Magnitude()(wave))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (_upsampling, [(2, 9, 6, 2), (1, 5, 7, 2)]),
        (_resized, [(2, 8, 6, 2), (1, 10, 4, 2)]),
        (_each_step, [(2, 1, 5), (3, 9, 5)]),
        (_other_activation, [(2, 1, 3), (1, 9, 3)]),
        (_patches, [(2, 9, 6, 2), (1, 5, 7, 2)]),
        (_spectrogram, [(2, 33), (1, 200)]),
        (_images_in_time, [(2, 1, 5, 5, 1), (1, 4, 5, 5, 1)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_sizes_other_than_those_of_the_trace(build, shapes, tmp_path):
    model = build()
    for weight in model.weights:
        weight.assign(RNG.normal(0, 0.5, weight.shape))
    export.to_onnx(model, tmp_path / "m.onnx")
    runner = export.load(tmp_path / "m.onnx")
    integers = "int" in runner.signature.inputs[0].dtype
    for shape in shapes:
        x = RNG.integers(0, 9, shape) if integers else RNG.normal(size=shape).astype("float32")
        expected = np.asarray(model(x))
        (found,) = runner.run(x).values()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 5e-6 * np.abs(expected).max()


def test_a_size_that_must_be_a_number_is_named(tmp_path):
    class Unrolled(L.Layer):
        def call(self, x: Any) -> Any:
            return ops.stack([x[:, step] * step for step in range(ops.shape(x)[1])], axis=1)

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape)

    x = keras.Input((None, 3), name="series")
    with pytest.raises(export.ExportError, match=r"open are .*axis 1 of series; accepted") as caught:
        export.to_onnx(keras.Model(x, Unrolled()(x)), tmp_path / "new" / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # no empty folder is left behind
