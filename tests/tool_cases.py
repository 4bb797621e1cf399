"""Exported files with inputs and Keras' outputs, on which tests run the tools of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
from keras import layers

from attention_zoo import export
from helpers import close, inputs_for, numpy, run, shared

PADDED = 3  # columns of padding on the left of the second row

Arrays = Mapping[str, np.ndarray]
Tool = Callable[[Path, Path], Any]  # reads the first file and writes the second


def case_of(name: str, opset: int, path: Path) -> Case:
    """Export a model of ``CONVOLUTIONS``, or a tiny model such as "gpt-llama"."""
    return convolution(name, opset, path) if name in CONVOLUTIONS else transformer(name, opset, path)


# ---- models with convolutions ----------------------------------------------------------------------------------------


def mobilenet() -> Any:
    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classifier_activation=None, classes=10)


def residual() -> Any:
    x = keras.Input((16, 16, 8), name="image")
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(y))
    return keras.Model(x, layers.Dense(5)(layers.ReLU()(layers.Add()([x, y]))))


def over(layer: Any) -> Any:
    x = keras.Input((16, 16, 8), name="image")
    return keras.Model(x, layers.Dense(5)(layers.ReLU()(layer(x))))


def text() -> Any:
    x = keras.Input((None,), dtype="int32", name="tokens")
    y = layers.Conv1D(32, 5, padding="same", activation="relu")(layers.Embedding(100, 32)(x))
    return keras.Model(x, layers.Dense(3)(layers.GlobalMaxPooling1D()(y)))


def video() -> Any:
    x = keras.Input((8, 16, 16, 3), name="video")
    return keras.Model(x, layers.Dense(3)(layers.MaxPooling3D(2)(layers.Conv3D(8, 3, activation="relu")(x))))


def unet() -> Any:
    x = keras.Input((None, None, 3), name="image")
    down = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    deep = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(down)
    up = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(deep)
    return keras.Model(x, layers.Conv2D(1, 1, name="mask")(layers.Concatenate()([down, up])))


CONVOLUTIONS: dict[str, Callable[[], Any]] = {
    "mobilenet": mobilenet,
    "residual": residual,
    "separable": lambda: over(layers.SeparableConv2D(16, 3, padding="same")),
    "depthwise": lambda: over(layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "dilated": lambda: over(layers.Conv2D(16, 3, dilation_rate=2, padding="same")),
    "grouped": lambda: over(layers.Conv2D(16, 3, groups=4, padding="same")),
    "transposed": lambda: over(layers.Conv2DTranspose(16, 3, strides=2, padding="same")),
    "text": text,
    "video": video,
    "unet": unet,
}


def with_statistics(model: Any) -> Any:
    """Draw what Keras initializes with constants: biases, and the scales and statistics of normalizations."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        name = variable.path.rpartition("/")[2]
        if "variance" in name or name == "gamma":
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif len(variable.shape) < 2:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


# ---- exported files --------------------------------------------------------------------------------------------------


class Case:
    """Exported files of a model: one, or a decoder and its encoder, with inputs and the outputs of Keras."""

    def __init__(self, files: list[Path], given: list[dict[str, np.ndarray]], expected: Arrays) -> None:
        self.files, self.given, self.expected = files, given, expected

    def through(self, tool: Tool) -> list[Path]:
        """Run a tool on every file, and return what it writes."""
        made = [file.parent / "made" / file.name for file in self.files]
        made[0].parent.mkdir(exist_ok=True)
        for file, target in zip(self.files, made, strict=True):
            target.unlink(missing_ok=True)
            tool(file, target)
        return made

    def cosine(self, files: list[Path]) -> float:
        """Return the least cosine similarity of an output of `files` with that of Keras."""
        return min(cosine(found, self.expected[name]) for name, found in self.outputs(files).items())

    def equal(self, files: list[Path], atol: float) -> None:
        """Check that `files` compute what Keras computes."""
        for name, found in self.outputs(files).items():
            close(found, self.expected[name], atol, name)

    def outputs(self, files: list[Path]) -> dict[str, np.ndarray]:
        """Return the outputs of `files` that Keras has too, without the cache of a decoder."""
        _, found = self.chain(files, self.given[0])[-1]
        return {name: found[name] for name in self.expected}

    def feeds(self, source: Path) -> list[dict[str, np.ndarray]]:
        """Return calibration data for one of the files."""
        at = len(self.files) - 1 - self.files.index(source)
        return [self.chain(self.files, given)[at][0] for given in self.given]

    @staticmethod
    def chain(files: list[Path], given: Arrays) -> list[tuple[Any, dict[str, np.ndarray]]]:
        """Run an encoder and the decoder after it, or a single file; return inputs and outputs of each."""
        runs, known, batch = [], dict(given), len(next(iter(given.values())))
        for file in reversed(files):
            session = opened(file)
            feeds = {node.name: value_for(node, known, batch) for node in session.get_inputs()}
            names = [node.name for node in session.get_outputs()]
            found = {name: np.asarray(value) for name, value in zip(names, session.run(None, feeds), strict=True)}
            runs.append((feeds, found))
            known |= found | {"encoder_attention_mask": known.get("attention_mask")}
        return runs


def opened(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def value_for(node: Any, known: Mapping[str, Any], batch: int) -> np.ndarray:
    """Return the value of an input of a file: the known one, or an empty cache."""
    dtype = {"float": "float32"}.get(kind := node.type[len("tensor(") : -1], kind)
    if node.name in known:
        return np.asarray(known[node.name]).astype(dtype)
    assert node.name.startswith("past_key_values"), node.name
    return np.zeros([batch if size == "batch" else 0 if isinstance(size, str) else size for size in node.shape], dtype)


def padded(model: Any, family: str, seed: int) -> dict[str, np.ndarray]:
    """Return inputs of which the second row is padded on the left."""
    given = inputs_for(model, np.random.default_rng(seed))
    if "input_ids" in given and family != "clip":
        mask = np.ones_like(given["input_ids"])
        mask[1, :PADDED] = 0
        given["attention_mask"] = mask
    if family == "seq2seq":  # its decoder computes one step per call
        given["decoder_input_ids"] = given["decoder_input_ids"][:, :1]
    return given


def transformer(name: str, opset: int, path: Path) -> Case:
    family, _, variant = name.partition("-")
    model = shared(family, variant)
    result = export.to_onnx(model, path, opset=opset)
    given = [padded(model, family, seed) for seed in range(3)]
    return Case([path, *(file for file in result.files if file != path)], given, run(model, given[0]))


def convolution(name: str, opset: int, path: Path) -> Case:
    keras.utils.set_random_seed(0)
    model = with_statistics(CONVOLUTIONS[name]())
    export.to_onnx(model, path, opset=opset)
    (node,), output = opened(path).get_inputs(), opened(path).get_outputs()[0].name
    rng, sizes = np.random.default_rng(1), [4, *(size if isinstance(size, int) else 12 for size in node.shape[1:])]
    drawn = [rng.integers(0, 100, sizes) if "int" in node.type else rng.normal(size=sizes) for _ in range(3)]
    given = [{node.name: values.astype("int32" if "int" in node.type else "float32")} for values in drawn]
    return Case([path], given, {output: numpy(model(given[0][node.name]))})


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    a, b = found.astype("float64").ravel(), expected.astype("float64").ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
