"""How a TFLite file gets its weights: not through the converter, each once, as Keras has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.export import tflite_conversion
from attention_zoo.export.flatbuffer import operators, unpacked
from helpers import close, numpy, randomise, shared, tiny


def stored(file: Path) -> Any:
    return unpacked(bytearray(file.read_bytes()))


def kinds(file: Path) -> list[str]:
    return [kind for _, _, kind in operators(stored(file))]


def constants(model: Any) -> dict[str, np.ndarray]:
    """The matrices of a file by name, without the signature that several have behind it."""
    found = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and len(tensor.shape) == 2 and tensor.type == 0:
                name = tensor.name.decode().partition(";")[0]
                found[name] = np.asarray(data, "uint8").view("float32").reshape(tensor.shape)
    return found


@keras.saving.register_keras_serializable(package="tests")
class Reads(keras.layers.Layer):
    """A matrix that is multiplied with from the left, and one from the right that is summed up too."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(6, 6), initializer="normal", name="kernel")
        self.other = self.add_weight(shape=(6, 6), initializer="normal", name="other")

    def call(self, x: Any) -> Any:
        left = keras.ops.matmul(self.kernel, keras.ops.transpose(x, (0, 2, 1)))  # (B, 6, T)
        return keras.ops.matmul(x, self.other) + keras.ops.sum(self.other) + keras.ops.transpose(left, (0, 2, 1))


def test_products_are_what_the_converter_makes_of_constants(tmp_path: Path) -> None:
    """One operator each, with the bias and the activation in it, of rows and of sequences of rows."""
    model = keras.Sequential(
        [
            keras.Input((5, 6), batch_size=2, name="x"),
            keras.layers.Dense(7, activation="relu"),
            keras.layers.Dense(4, use_bias=False, activation="relu"),
            keras.layers.Dense(3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    randomise(model, spread=0.5)
    file = export.to_tflite(model, tmp_path / "m.tflite", batch_size=2).path
    assert [kind for kind in kinds(file) if kind != "RESHAPE"] == ["FULLY_CONNECTED"] * 4
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    first, bias, second, third, third_bias, last, last_bias = (numpy(w) for w in model.weights)
    expected = np.maximum(np.maximum(x @ first + bias, 0) @ second, 0) @ third + third_bias
    close(*export.load(file).run({"x": x}).values(), expected.reshape(2, -1) @ last + last_bias)


def test_matrices_are_the_models_bit_for_bit(tmp_path: Path) -> None:
    """Under their names; a kernel (out, in), as the operator wants it, a table as it is."""
    model = shared("bert", "backbone")
    found = constants(stored(export.to_tflite(model, tmp_path / "m.tflite").path))
    kernels = {name: numpy(v) for name, v in model.named_weights().items() if name.endswith("kernel")}
    assert len(kernels) > 8
    for name, value in kernels.items():
        assert np.array_equal(found[name], value.T), name
    table = model.named_weights()["embedding/embeddings"]
    assert np.array_equal(found["embedding/embeddings"], numpy(table))


def test_what_else_reads_a_matrix_finds_it(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 6), batch_size=1), Reads()])
    randomise(model)
    file = export.to_tflite(model, tmp_path / "m.tflite").path
    assert export.verify(model, file).passed
    assert "REDUCE_SUM" not in kinds(file) and "SUM" not in kinds(file)  # folded, as of any constant


def test_the_converter_sees_no_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes of several signatures is small, and the file has every weight once."""
    seen: list[int] = []
    convert = tflite_conversion._converted
    monkeypatch.setattr(tflite_conversion, "_converted", lambda *given: (seen.append(len(c := convert(*given))), c)[1])
    model = tiny("gpt", "llama", vocab_size=8000, tie_embeddings=True)
    result = export.to_tflite(model, tmp_path / "m.tflite", prefill=(2, 4), max_length=8)
    table = 4 * 8000 * model.config.hidden_dim
    assert seen[0] < table / 4
    assert result.bytes < result.weight_bytes + table / 4


def test_nothing_is_left_of_arguments(tmp_path: Path) -> None:
    """Of a decoder too, which reads none of its encoder's weights: no input and no tensor that nobody reads."""
    model = shared("transformer", "marian")
    content = stored(export.to_tflite(model, tmp_path / "m.tflite").path)
    for signature in content.signatureDefs:
        graph = content.subgraphs[signature.subgraphIndex]
        assert {entry.tensorIndex for entry in signature.inputs} == {*graph.inputs}
        used = {int(index) for node in graph.operators for index in (*node.inputs, *node.outputs)}
        assert {*range(len(graph.tensors))} <= used | {*map(int, graph.inputs)}
        assert not any(b"attention_zoo_weight" in tensor.name for tensor in graph.tensors)
    names = [tensor.name for graph in content.subgraphs for tensor in graph.tensors if b"kernel;" in tensor.name]
    assert len(names) == len({*names}) > 0  # which AI Edge Quantizer asks for


def test_buffers_of_large_files_stand_behind_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_zoo.export import flatbuffer

    monkeypatch.setattr(flatbuffer, "TABLES_LIMIT", 10_000)
    model = shared("bert", "backbone")
    file = export.to_tflite(model, tmp_path / "m.tflite").path
    assert len(list(constants(stored(file)))) > 8
    assert export.verify(model, file).passed
