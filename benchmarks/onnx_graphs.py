"""Compare the graphs of ONNX files with those that Keras' own ``model.export`` writes of the same models.

    python benchmarks/onnx_graphs.py

For each model it prints, as a Markdown table, the nodes, the bytes, the ``Transpose`` nodes and the initializers of the
file of this package in opset 17 and in opset 23, and of Keras' file. Nodes and initializers in the bodies of loops and
branches are included. The bytes of this package include metadata (signature, config, digests) and the shapes of all
values. Nothing is timed, and all weights are random.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import onnx
from any_keras_models import randomise
from keras import layers as L

import attention_zoo as az
from attention_zoo import export

OPSETS = (17, 23)
PACKAGES = ("attention-zoo", "keras", "tensorflow", "tf2onnx", "onnx")
SMALL: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "vocab_size": 100, "max_length": 64}


def mobilenet() -> Any:
    return keras.applications.MobileNetV2(weights=None)


def lstm() -> Any:
    x = keras.Input((32, 16), name="series")
    return keras.Model(x, L.LSTM(64)(x))


def gru() -> Any:
    x = keras.Input((32, 16), name="series")
    return keras.Model(x, L.Bidirectional(L.GRU(64))(x))


def convnet() -> Any:
    x = keras.Input((32, 32, 3), name="image")
    y = L.MaxPooling2D()(L.Conv2D(16, 3, activation="relu")(x))
    y = L.MaxPooling2D()(L.Conv2D(32, 3, activation="relu")(y))
    return keras.Model(x, L.Dense(10)(L.Flatten()(y)))


MODELS: dict[str, Callable[[], Any]] = {
    "MobileNetV2, 224 px, 1,000 classes": mobilenet,
    "LSTM, 64 units, 32 steps of 16": lstm,
    "Bidirectional GRU, 64 units, 32 steps of 16": gru,
    "Convnet, two convolutions, 32 px": convnet,
    "BERT, 2 layers of 32": lambda: az.create("bert-base", **SMALL, intermediate_dim=64),
    "GPT-2, 2 layers of 32, no cache": lambda: az.create("gpt2", **SMALL),
}


def graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and the graphs in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def counted(file: Path) -> list[str]:
    """Return opset, nodes, bytes, Transpose nodes and initializers of a file as the cells of a table."""
    model = onnx.load(file)
    nodes = [node.op_type for graph in graphs(model.graph) for node in graph.node]
    # Keras' exporter writes some of the weights as Constant nodes, which are initializers in all but name.
    weights = sum(len(graph.initializer) for graph in graphs(model.graph)) + nodes.count("Constant")
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    numbers = (len(nodes) - nodes.count("Constant"), file.stat().st_size, nodes.count("Transpose"), weights)
    return [str(opset), *(f"{number:,}" for number in numbers)]


def measure(model: Any) -> dict[str, list[str]]:
    """Export a model with both exporters, and return the cells of the files by exporter."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        single: dict[str, Any] = {"cache": False} if hasattr(model, "signature") else {}
        for opset in OPSETS:
            export.to_onnx(model, path, opset=opset, **single)
            found[f"attention_zoo, opset {opset}"] = counted(path)
        try:
            model.export(str(path), format="onnx", verbose=False)
            found["Keras"] = counted(path)
        except Exception as error:
            found[f"Keras: {type(error).__name__}"] = ["-"] * 5
    return found


def main() -> None:
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), "\n")
    print("| model | file | opset | nodes | bytes | Transpose | initializers |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, build in MODELS.items():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = build()
        randomise(model)
        for whose, cells in measure(model).items():
            print(f"| {' | '.join([name, whose, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
