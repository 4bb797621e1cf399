"""The operator versions of quantized TFLite files, beside those that TensorFlow's own converter writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.export.options import Precision
from attention_zoo.runtime.description import describe
from attention_zoo.runtime.tflite.flatbuffer import operators, packed, unpacked
from helpers import randomise, tiny

STATIC = Precision("int8", activations="static")
WIDE = Precision("int8", activations="static16")


def network() -> Any:
    """Return a network whose layers all have enough weights for TensorFlow to quantize them."""
    x = keras.Input((8, 8, 32), name="image")
    y = keras.layers.Conv2D(64, 3, activation="relu")(x)
    y = keras.layers.DepthwiseConv2D(5, padding="same")(y)
    y = keras.layers.Dense(64)(keras.layers.Flatten()(y))
    return randomise(keras.Model(x, keras.layers.Dense(40)(y)))


def versions(model: Any) -> set[tuple[str, int]]:
    return {(name, model.operatorCodes[node.opcodeIndex].version) for _, node, name in operators(model)}


def written(model: Any, path: Path, precision: Any, **options: Any) -> set[tuple[str, int]]:
    export.to_tflite(model, path, precision=precision, least_cosine=0, **options)
    stored = unpacked(bytearray(path.read_bytes()))
    assert len(stored.operatorCodes) == len(versions(stored))  # no version that no node has
    return versions(stored)


def by_tensorflow(model: Any, samples: Any = None) -> set[tuple[str, int]]:
    import tensorflow as tf

    converter: Any = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if samples is not None:
        converter.representative_dataset = lambda: ([sample["image"]] for sample in samples)
    return versions(unpacked(bytearray(converter.convert())))


@pytest.mark.slow
def test_as_tensorflow_writes_them(tmp_path: Path, rng: np.random.Generator) -> None:
    model = network()
    samples = [{"image": rng.normal(size=(1, 8, 8, 32)).astype("float32")} for _ in range(2)]
    layers = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    for precision, options, theirs in (
        ("int8", {}, by_tensorflow(model)),
        (STATIC, {"samples": samples}, by_tensorflow(model, samples)),
    ):
        ours = written(model, tmp_path / "m.tflite", precision, **options)
        assert {pair for pair in ours if pair[0] in layers} == {pair for pair in theirs if pair[0] in layers}


@pytest.mark.slow
def test_an_older_runtime_has_no_such_operator(tmp_path: Path) -> None:
    """Tables with a scale for each row, and int4 in blocks, have versions that runtimes without them do not know."""
    model = tiny("bert", "backbone", vocab_size=512)
    path = tmp_path / "m.tflite"
    assert {("EMBEDDING_LOOKUP", 4), ("FULLY_CONNECTED", 12)} <= written(model, path, "int8", sequence_length=8)
    assert describe(path)["least_runtime"] == "LiteRT 1.0"
    int4 = written(network(), path, "int4")
    assert ("FULLY_CONNECTED", 14) in int4
    assert describe(path)["least_runtime"] == "LiteRT 2.1"
    export.to_tflite(network(), path)
    assert describe(path)["least_runtime"].startswith("TensorFlow Lite")


def test_int16_activations(tmp_path: Path, rng: np.random.Generator) -> None:
    samples = [{"image": rng.normal(size=(1, 8, 8, 32)).astype("float32")} for _ in range(2)]
    found = written(network(), tmp_path / "m.tflite", WIDE, samples=samples)
    assert ("FULLY_CONNECTED", 14) in found


def test_a_runtime_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """The installed runtime stands for an older one that does not know the next version."""
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "m.tflite"
    written(network(), path, "int4")
    stored = unpacked(bytearray(path.read_bytes()))
    for code in stored.operatorCodes:
        code.version += 100 * (code.version == 14)
    path.write_bytes(packed(stored))
    with pytest.raises(ValueError, match="FULLY_CONNECTED"):
        Interpreter(str(path)).allocate_tensors()
