"""Weights of TFLite files: matrices bypass the converter, are stored once, and equal those of Keras bit for bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from attention_zoo import export
from attention_zoo.export.tflite import conversion as tflite_conversion
from attention_zoo.export.tflite.packing import Product, groups, joint_name
from attention_zoo.runtime.tflite.flatbuffer import operators, unpacked
from helpers import close, numpy, randomise, shared, tiny


def stored(file: Path) -> Any:
    return unpacked(bytearray(file.read_bytes()))


def kinds(file: Path) -> list[str]:
    return [kind for _, _, kind in operators(stored(file))]


def constants(model: Any) -> dict[str, np.ndarray]:
    """Return the float32 matrices of a file by name, without the signature that follows some names."""
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
    """A layer that multiplies by one matrix from the left, and by another from the right, which it also sums."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(6, 6), initializer="normal", name="kernel")
        self.other = self.add_weight(shape=(6, 6), initializer="normal", name="other")

    def call(self, x: Any) -> Any:
        left = keras.ops.matmul(self.kernel, keras.ops.transpose(x, (0, 2, 1)))  # (B, 6, T)
        return keras.ops.matmul(x, self.other) + keras.ops.sum(self.other) + keras.ops.transpose(left, (0, 2, 1))


def test_products_are_what_the_converter_makes_of_constants(tmp_path: Path) -> None:
    """Check that each layer becomes one operator with its bias and activation, for rows and for sequences of rows."""
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


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_activations_without_a_bias(activation: str, tmp_path: Path) -> None:
    """Check that an activation directly after a product, or after a bias of zeros as in a new model, is not lost."""
    x = keras.Input((6,), name="x")
    layers = [keras.layers.Dense(5, activation=activation, use_bias=bias) for bias in (True, False)]
    model = keras.Model(x, [layer(x) for layer in layers])
    values = np.random.default_rng(0).normal(size=(1, 6)).astype("float32")
    outputs = export.load(export.to_tflite(model, tmp_path / "m.tflite").path).run({"x": values}).values()
    for layer, output in zip(layers, outputs, strict=True):
        assert (output == 0).any()
        close(output, np.clip(values @ numpy(layer.kernel), 0, 6 if activation == "relu6" else None))


def test_matrices_are_the_models_bit_for_bit(tmp_path: Path) -> None:
    """Check that weights keep their names. Kernels are (out, in), as the operator requires; tables are unchanged."""
    model = shared("bert", "backbone")
    found = constants(stored(export.to_tflite(model, tmp_path / "m.tflite").path))
    kernels = {name: numpy(v) for name, v in model.named_weights().items() if name.endswith("kernel")}
    assert len(kernels) > 8
    for name, value in kernels.items():
        assert np.array_equal(found[name], value.T), name
    table = model.named_weights()["embedding/embeddings"]
    assert np.array_equal(found["embedding/embeddings"], numpy(table))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["llama", "qwen", "gpt2"])
def test_a_decoder_s_products_of_one_input_are_one(variant: str, tmp_path: Path) -> None:
    """Check that kernels and biases are joined bit for bit for all signatures, and outputs are sliced correctly."""
    model = randomise(tiny("gpt", variant), spread=0.5)
    file = export.to_tflite(model, tmp_path / "m.tflite", prefill=(2, 4), max_length=12).path
    assert export.verify(model, file).passed
    own = {name: numpy(value) for name, value in model.named_weights().items()}
    content = stored(file)
    found = constants(content)
    (joint,) = [name for name in found if name.startswith("block_0/attention/") and "+" in name]
    parts = joint.split("/")[2].split("+")
    assert sorted(parts) == ["key", "query", "value"]
    kernel = np.concatenate([own[f"block_0/attention/{part}/kernel"].T for part in parts])
    assert np.array_equal(found[joint], kernel)
    assert not any(name.startswith("block_0/attention/query/") for name in found)
    if "block_0/attention/query/bias" in own:
        bias = np.concatenate([own[f"block_0/attention/{part}/bias"] for part in parts])
        assert any(b.data is not None and bytes(b.data) == bias.tobytes() for b in content.buffers)
    widest = own["block_0/attention/query/kernel"].shape[1] + 2 * own["block_0/attention/key/kernel"].shape[1]
    buffers = [b for b in content.buffers if b.data is not None and len(b.data) == 4 * widest * len(kernel.T)]
    assert len(buffers) == model.config.num_layers, "once for all signatures"


@pytest.mark.slow
def test_what_is_in_other_numbers_stays_alone(tmp_path: Path) -> None:
    model = shared("gpt", "llama")
    options: dict[str, Any] = {"prefill": 4, "max_length": 8, "least_cosine": 0.3}
    for precision, names in (
        (export.Precision("int8", keep=("*/key/kernel",)), ({"query", "value"}, {"key"})),
        (export.Precision("int4"), ({"query", "key"}, {"value"})),
    ):
        file = export.to_tflite(model, tmp_path / "m.tflite", precision=precision, **options).path
        graph = next(graph for graph in stored(file).subgraphs if graph.name == b"decode")
        found = {tuple(t.name.decode().split("/")): t.type for t in graph.tensors}
        kinds = {frozenset(path[2].split("+")): found[path] for path in found if path[-1] == "kernel;decode"}
        first, second = (kinds[frozenset(parts)] for parts in names)
        assert first != second and kinds[frozenset(["gate", "up"])] == first
        assert export.verify(model, file).passed


def test_names_of_joint_weights() -> None:
    assert joint_name(["b/q/kernel"]) == "b/q/kernel"
    assert joint_name(["b/q/kernel", "b/k/kernel", "b/v/kernel"]) == "b/q+k+v/kernel"
    assert joint_name(["q", "k"]) == "q+k" and joint_name(["a/q", "b/q"]) == "a+b/q"


@pytest.mark.parametrize(
    ("step", "prompt", "expected"),
    [
        ("q0 k0 v0 o1", "q0 k0 v0 o1", ["qkv"]),
        ("q0 k0 v0", "k3 v3", ["qkv"]),  # the last layer of a prompt needs no queries
        ("q0 k0 v0", "k3 v4", ["qk"]),  # different inputs in one graph
        ("q0 k0+ v0+", "q0 k0+ v0+", ["kv"]),
        ("q0+ k0+ v0+", "q0+ k0 v0+", ["qv"]),  # the bias is added separately in one graph
        ("q0 k0 q1", "", []),  # one kernel is used twice
        ("q0 k0 v0 t0", "", ["qkv"]),  # `t` is also used for lookups
        ("q0 k0 x0", "", ["qk"]),  # `x` has another precision
        ("", "q0 k0", []),
    ],
)
def test_what_belongs_together(step: str, prompt: str, expected: list[str]) -> None:
    found = groups(products(decode=step, prefill_4=prompt), {"t"}, lambda names: len({n == "x" for n in names}) == 1)
    assert ["".join(names) for names in found] == expected


def test_steps_of_several_lengths_are_alike() -> None:
    """Check that inputs are compared only within a graph, since every graph has its own tensor indices."""
    several = products(encode_4="e0 f0", decode_4="q0 k0 v1", encode_8="e3 f3", decode_8="v0 q5 k5")
    assert groups(several, (), lambda _: True) == [("q", "k")]


def products(**graphs: str) -> list[Product]:
    """Return the products of `graphs`, such as "q0 k0+": letter for the kernel, digit for the input, "+" for a bias."""
    found = []
    for name, said in graphs.items():
        graph = SimpleNamespace(name=name.encode())
        for letter, rows, *bias in said.split():
            options = SimpleNamespace(fusedActivationFunction=0)
            node = SimpleNamespace(inputs=[int(rows), 7, 8 if bias else -1], builtinOptions=options)
            found.append(Product(graph, node, letter))
    return found


def test_what_else_reads_a_matrix_finds_it(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 6), batch_size=1), Reads()])
    randomise(model)
    file = export.to_tflite(model, tmp_path / "m.tflite").path
    assert export.verify(model, file).passed
    assert "REDUCE_SUM" not in kinds(file) and "SUM" not in kinds(file)  # folded by the converter, as for any constant


def test_the_converter_sees_no_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the converter's output for several signatures is small, and that the file has each weight once."""
    seen: list[int] = []
    convert = tflite_conversion._converted
    monkeypatch.setattr(tflite_conversion, "_converted", lambda *given: (seen.append(len(c := convert(*given))), c)[1])
    model = tiny("gpt", "llama", vocab_size=8000, tie_embeddings=True)
    result = export.to_tflite(model, tmp_path / "m.tflite", prefill=(2, 4), max_length=8)
    table = 4 * 8000 * model.config.hidden_dim
    assert seen[0] < table / 4
    assert result.bytes < result.weight_bytes + table / 4


@pytest.mark.slow
def test_nothing_is_left_of_arguments(tmp_path: Path) -> None:
    """Check that no unused input or tensor remains, also in a decoder, which does not read the encoder's weights."""
    model = shared("transformer", "marian")
    content = stored(export.to_tflite(model, tmp_path / "m.tflite").path)
    for signature in content.signatureDefs:
        graph = content.subgraphs[signature.subgraphIndex]
        assert {entry.tensorIndex for entry in signature.inputs} == {*graph.inputs}
        used = {int(index) for node in graph.operators for index in (*node.inputs, *node.outputs)}
        assert {*range(len(graph.tensors))} <= used | {*map(int, graph.inputs)}
        assert not any(b"attention_zoo_weight" in tensor.name for tensor in graph.tensors)
    names = [tensor.name for graph in content.subgraphs for tensor in graph.tensors if b"kernel;" in tensor.name]
    assert len(names) == len({*names}) > 0  # AI Edge Quantizer requires unique names


@pytest.mark.slow
def test_buffers_of_large_files_stand_behind_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_zoo.runtime.tflite import flatbuffer

    monkeypatch.setattr(flatbuffer, "TABLES_LIMIT", 10_000)
    model = shared("bert", "backbone")
    file = export.to_tflite(model, tmp_path / "m.tflite").path
    assert len(list(constants(stored(file)))) > 8
    assert export.verify(model, file).passed
