"""Hashes of integers as arithmetic, against TensorFlow's own of their texts."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from attention_zoo import export
from attention_zoo.export.frontend import hashes

EXPORTS = {"onnx": export.to_onnx, "tflite": export.to_tflite}
BINS = (1, 2, 1000, 2**32, 2**62 + 12345, 2**63 - 1)


def integers(dtype: str, count: int = 1000) -> np.ndarray:
    """Return the limits of a dtype, the first and last numbers of each length, and random numbers of all lengths."""
    limits, rng = np.iinfo(dtype), np.random.default_rng(0)
    ends = [10**k + more for k in range(20) for more in (-1, 0, 1)]
    values = [limits.min, limits.min + 1, limits.max, *ends, *map(int, 10 ** rng.uniform(0, 19, count))]
    signed = [sign * int(value) for value in values for sign in (1, -1)]
    return np.array([value for value in signed if limits.min <= value <= limits.max], dtype)


@pytest.mark.parametrize("dtype", hashes.DIGITS)
def test_hashes_are_those_of_the_texts(dtype: str) -> None:
    ids = tf.constant(integers(dtype))
    texts = tf.as_string(ids)
    for bins in BINS:
        assert np.array_equal(hashes.fast_bucket(ids, bins), tf.strings.to_hash_bucket_fast(texts, bins))
    for key in ([133, 133], [3, 2**63 - 1]):
        wanted = tf.strings.to_hash_bucket_strong(texts, 1000, key)
        assert np.array_equal(hashes.strong_bucket(ids, 1000, key), wanted)


@pytest.mark.parametrize("widths", [(1, 1), (1, 1, 1), (2, 3), (3, 1, 2)])
def test_crossed_features(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    columns = [tf.constant(rng.permutation(integers("int64"))[: 200 * n].reshape(200, n)) for n in widths]
    for bins in (0, *BINS):
        wanted = tf.sparse.to_dense(tf.sparse.cross_hashed(columns, bins, hash_key=77))
        assert np.array_equal(hashes.crossed_bucket(columns, bins, 77), wanted)


@pytest.mark.parametrize("form", EXPORTS)
def test_files_hash_and_cross(form: str, tmp_path: Path) -> None:
    """Run a batch of one and a larger one, with bins that need all 64 bits."""
    a, b = (keras.Input((1,), dtype=dtype, name=dtype) for dtype in ("int64", "int32"))
    crossed = keras.layers.HashedCrossing(2**61 + 7)([a, b])
    model = keras.Model([a, b], {"crossed": crossed, "again": keras.layers.Hashing(999, mask_value=-1)(crossed)})
    file = EXPORTS[form](model, tmp_path / f"m.{form}").path
    runner, wide, narrow = export.load(file), integers("int64", 30)[:, None], integers("int32")[:, None]
    for given in ((wide, narrow[: len(wide)]), (wide[:1], narrow[-1:]), (np.array([[-1]]), np.array([[0]], "int32"))):
        found, wanted = runner.run(dict(zip(("int64", "int32"), given, strict=True))), model(list(given))
        for name, values in wanted.items():
            assert np.array_equal(found[name], values), name


@pytest.mark.parametrize("form", EXPORTS)
def test_files_cross_several_columns(form: str, tmp_path: Path) -> None:
    class Crossed(keras.layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return tf.sparse.to_dense(tf.sparse.cross_hashed([x[:, :1], x[:, 1:3], x[:, 3:]], 1000))

        def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
            return keras.KerasTensor((None, 2), "int64")

    x = keras.Input((4,), dtype="int64", name="x")
    model, values = keras.Model(x, Crossed()(x)), integers("int64", 30)[:120].reshape(30, 4)
    (found,) = export.load(EXPORTS[form](model, tmp_path / f"m.{form}").path).run({"x": values}).values()
    assert np.array_equal(found, model(values))


@pytest.mark.parametrize("form", EXPORTS)
def test_other_texts_are_refused(form: str, tmp_path: Path) -> None:
    class Padded(keras.layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return tf.strings.to_hash_bucket_fast(tf.strings.as_string(x, width=9, fill="0"), 10)

        def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
            return keras.KerasTensor(x.shape, "int64")

    x, text = keras.Input((4,), dtype="int64"), keras.Input((1,), dtype="string", name="word")
    with pytest.raises(export.ExportError, match=r"StringToHashBucketFast .*padded"):
        EXPORTS[form](keras.Model(x, Padded(name="padded")(x)), tmp_path / f"m.{form}")
    with pytest.raises(ValueError, match=r"^input_signature: got word of texts; accepted: numbers\. [^\n]*$"):
        EXPORTS[form](keras.Model(text, keras.layers.Hashing(9)(text)), tmp_path / f"m.{form}")
