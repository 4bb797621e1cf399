"""Train your own model of Keras layers and layers of this package, export it, and run it without TensorFlow.

    python examples/own_model.py

The data are scikit-learn's handwritten digits (8 × 8 pixels). The model has a Keras convolution, two Transformer blocks
of this package over the pixels, and two heads: the digit, and whether it is even. Training takes about half a minute on
two cores. Expect an accuracy of about 0.96 on held-out digits, a passed verification of the ONNX and the TFLite file,
and the predictions of both files, which are computed in a separate process without Keras and TensorFlow.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from attention_zoo import export, layers

RUN = """
import sys
import numpy as np
from attention_zoo import export

images = np.load(sys.argv[1])
for file in sys.argv[2:]:
    digits = export.load(file).run({"pixels": images})["digit"].argmax(axis=-1)
    print(file.rpartition("/")[2], *digits)
assert not {"tensorflow", "keras"} & set(sys.modules)
"""


def build() -> keras.Model:
    """Build the model: from pixels, (batch, 8, 8, 1), to logits, (batch, 10) for the digit and (batch, 2) for even."""
    pixels = keras.Input((8, 8, 1), name="pixels")
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(pixels)
    x = keras.layers.Reshape((64, 32))(x)  # one token per pixel
    x = x + layers.SinusoidalPositions2D(32, columns=8)(keras.ops.expand_dims(keras.ops.arange(64), 0))
    for number in range(2):
        x = layers.TransformerBlock(num_heads=4, intermediate_dim=64, norm_epsilon=1e-6, name=f"block_{number}")(x)
    x = keras.layers.Flatten()(keras.layers.Dense(8)(x))
    return keras.Model(pixels, [keras.layers.Dense(10, name="digit")(x), keras.layers.Dense(2, name="even")(x)])


def main() -> None:
    """Train, export and verify the model, and run the files."""
    keras.utils.set_random_seed(0)
    data = load_digits()
    pixels, digits = (data.images[..., None] / 16).astype("float32"), data.target
    train, test, train_digits, test_digits = train_test_split(pixels, digits, test_size=0.25, random_state=0)

    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", {"digit": loss, "even": loss}, metrics={"digit": "accuracy"})
    model.fit(train, {"digit": train_digits, "even": 1 - train_digits % 2}, batch_size=32, epochs=12, verbose=0)
    results = model.evaluate(test, {"digit": test_digits, "even": 1 - test_digits % 2}, verbose=0, return_dict=True)
    print(f"accuracy {results['digit_accuracy']:.3f} on {len(test)} digits")

    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/digits.onnx", f"{folder}/digits.tflite"]
        export.to_onnx(model, files[0])
        export.to_tflite(model, files[1])
        for file in files:
            report = export.verify(model, file)
            print(f"{Path(file).name}: {'passed' if report.passed else 'FAILED'}, {len(report.checks)} checks")
        np.save(f"{folder}/images.npy", test[:10])
        command = [sys.executable, "-c", RUN, f"{folder}/images.npy", *files]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")
    print("labels", *test_digits[:10])


if __name__ == "__main__":
    main()
