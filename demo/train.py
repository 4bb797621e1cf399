"""Training of the four models with ``model.fit``, and their evaluation on held-out data before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .text import (
    GROUPS,
    Paragraph,
    crops,
    encode_sentences,
    framed,
    labelled_sentences,
    mask_tokens,
    paragraph_split,
    stream,
    tiles,
    topic_split,
    topic_texts,
)

SEED = 7

# The architecture with which a small decoder learns fastest.
LLAMA = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
# Without dropout, because a few passes over the text do not overfit.
UNDROPPED = {"dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.05}
MLM_LENGTH = 32


@dataclass(frozen=True)
class Plan:
    """Sizes of the models, and numbers of training steps and batch sizes."""

    vocab_size: int
    gpt: dict[str, Any]
    gpt_steps: int
    bert: dict[str, Any]
    mlm_steps: int
    mlm_batch: int
    classifier_steps: int
    vit: dict[str, Any]
    vit_steps: int


FULL = Plan(
    vocab_size=1024,
    gpt={"num_layers": 3, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 336, "max_length": 128},
    gpt_steps=480,
    bert={"num_layers": 2, "num_heads": 4, "hidden_dim": 128, "max_length": 48},
    mlm_steps=1000,
    mlm_batch=32,
    classifier_steps=240,
    vit={"num_layers": 4, "num_heads": 4, "hidden_dim": 48, "initializer_range": 0.1},
    vit_steps=800,
)
QUICK = Plan(
    vocab_size=1024,
    gpt={"num_layers": 2, "num_heads": 4, "hidden_dim": 96, "intermediate_dim": 256, "max_length": 64},
    gpt_steps=240,
    bert={"num_layers": 2, "num_heads": 4, "hidden_dim": 128, "max_length": 32},
    mlm_steps=256,
    mlm_batch=16,
    classifier_steps=100,
    vit={"num_layers": 2, "num_heads": 4, "hidden_dim": 48, "initializer_range": 0.1},
    vit_steps=240,
)


@dataclass
class Trained:
    """A trained model, its results on held-out data, and the results of its exports."""

    name: str  # base name of its files
    title: str
    model: Any
    metric: str
    before: float
    after: float
    steps: int
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    exports: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.model.family,
            "parameters": self.model.count_params(),
            "metric": {"name": self.metric, "before": self.before, "after": self.after, **self.details},
            "training": {"steps": self.steps, "seconds": round(self.seconds, 1)},
            "config": self.model.config.to_dict(),
            "exports": self.exports,
        }


@contextmanager
def stage(progress: Any, text: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar during the block. Yields a function that sets the number of completed steps."""
    task = progress.add_task(text, total=total)
    yield lambda done: progress.update(task, completed=done)
    progress.update(task, total=total or 1, completed=total or 1)


def train(
    progress: Any,
    title: str,
    model: Any,
    data: tuple[Any, ...],
    test: tuple[Any, ...],
    *,
    batch_size: int,
    rate: float,
) -> tuple[dict[str, float], dict[str, float], int, float]:
    """Compile and train a model, and evaluate it before and after.

    Args:
        progress: the progress display.
        title: name of the model in the display.
        model: the model to train.
        data: (inputs, targets) or (inputs, targets, weights) as NumPy arrays. Training reads them once in this order,
            so the number of steps is the number of batches.
        test: the held-out data, in the same form.
        batch_size: rows per training step.
        rate: the peak learning rate.

    Returns:
        The logs of ``model.evaluate`` before and after training, the number of steps, and the seconds of training.
    """
    import keras

    steps = len(data[1]) // batch_size
    warmup = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - warmup, warmup_target=rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.1, beta_2=0.98, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "scale", "embeddings", "positions"])
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=["accuracy"],
        jit_compile=False,  # compilation takes about as long as it would save in these few steps
    )

    def measure() -> dict[str, float]:
        inputs, targets, *weights = test
        return model.evaluate(
            inputs, targets, sample_weight=weights[0] if weights else None, batch_size=64, verbose=0, return_dict=True
        )

    with stage(progress, f"train {title}", steps) as done:
        before = measure()
        start = time.perf_counter()
        inputs, targets, *weights = data
        model.fit(
            inputs,
            targets,
            sample_weight=weights[0] if weights else None,
            batch_size=batch_size,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: done(batch + 1))],
        )
        seconds = time.perf_counter() - start
        after = measure()
    return before, after, steps, seconds


def seeded(name: str, **config: Any) -> tuple[Any, np.random.Generator]:
    """Return a model and a random generator that do not depend on the models trained before."""
    import keras

    from .. import zoo

    keras.utils.set_random_seed(SEED)
    return zoo.create(name, **config), np.random.default_rng(SEED)


def train_gpt(progress: Any, plan: Plan, tokenizer: Any, paragraphs: Sequence[Paragraph]) -> Trained:
    """Train a GPT to predict the next token, and evaluate it on the text of held-out topics."""
    model, rng = seeded("gpt", vocab_size=plan.vocab_size, **LLAMA, **plan.gpt)
    length, batch_size = model.config.max_length, 8
    train_part, test_part = topic_split(paragraphs)
    rows = crops(stream(tokenizer, topic_texts(train_part)), plan.gpt_steps * batch_size, length + 1, rng)
    texts = topic_texts(test_part)
    held = stream(tokenizer, texts)
    test = tiles(held, length + 1)
    before, after, steps, seconds = train(
        progress,
        "GPT",
        model,
        (rows[:, :-1], rows[:, 1:]),
        (test[:, :-1], test[:, 1:]),
        batch_size=batch_size,
        rate=2e-3,
    )
    bits = len(held) / sum(len(text.encode()) for text in texts) / math.log(2)  # bits per byte for 1 nat per token
    details = {
        "bits_per_byte_before": before["loss"] * bits,
        "bits_per_byte_after": after["loss"] * bits,
        "held_out_topics": sorted({paragraph.topic for paragraph in test_part}),
    }
    perplexity = (math.exp(before["loss"]), math.exp(after["loss"]))
    return Trained("gpt", "GPT, next token", model, "perplexity", *perplexity, steps, seconds, details)


def train_mlm(progress: Any, plan: Plan, tokenizer: Any, paragraphs: Sequence[Paragraph]) -> Trained:
    """Train a BERT as a masked language model, and evaluate it on held-out paragraphs."""
    model, rng = seeded("bert", vocab_size=plan.vocab_size, head="masked_lm", **UNDROPPED, **plan.bert)
    length, batch_size = MLM_LENGTH, plan.mlm_batch
    train_ids, test_ids = (
        stream(tokenizer, [paragraph.folded for paragraph in part]) for part in paragraph_split(paragraphs)
    )
    rows = framed(crops(train_ids, plan.mlm_steps * batch_size, length - 2, rng))
    test = framed(tiles(test_ids, length - 2))

    def masked(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shown, weights = mask_tokens(ids, plan.vocab_size, rng)
        return shown, ids, weights

    test_data = masked(test)
    before, after, steps, seconds = train(
        progress, "BERT, masked tokens", model, masked(rows), test_data, batch_size=batch_size, rate=1e-3
    )
    hidden = test[test_data[2] > 0]
    details = {"majority_baseline": float(np.bincount(hidden).max() / len(hidden))}
    accuracy = (before["accuracy"], after["accuracy"])
    return Trained("bert-mlm", "BERT, masked tokens", model, "accuracy", *accuracy, steps, seconds, details)


def train_classifier(progress: Any, plan: Plan, tokenizer: Any, paragraphs: Sequence[Paragraph], body: Any) -> Trained:
    """Train a BERT to classify sentences by topic, starting from the body of the masked language model.

    It shows how to reuse weights. So short a pretraining does not change the accuracy, which is 0.6 with and without.
    """
    config = {**UNDROPPED, "dropout": 0.1}  # dropout helps here, with few sentences and many epochs
    model, rng = seeded(
        "bert",
        vocab_size=plan.vocab_size,
        head="sequence_classification",
        num_classes=len(GROUPS),
        **config,
        **plan.bert,
    )
    model.transfer_weights(body)
    length, batch_size = model.config.max_length, 32
    parts = []
    for part in labelled_sentences(paragraphs):
        inputs = encode_sentences(tokenizer, [sentence for sentence, _ in part], length)
        parts.append((inputs, np.array([label for _, label in part], "int32")))
    (inputs, labels), test = parts
    order = shuffled(len(labels), plan.classifier_steps * batch_size, rng)
    data = ({name: array[order] for name, array in inputs.items()}, labels[order])
    before, after, steps, seconds = train(
        progress, "BERT, topic of a sentence", model, data, test, batch_size=batch_size, rate=1e-3
    )
    details = {
        "classes": list(GROUPS),
        "majority_baseline": float(np.bincount(test[1]).max() / len(test[1])),
        "train_sentences": len(labels),
        "test_sentences": len(test[1]),
    }
    accuracy = (before["accuracy"], after["accuracy"])
    return Trained("bert-classifier", "BERT, topic", model, "accuracy", *accuracy, steps, seconds, details)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return scikit-learn's handwritten digits: training and test images, then training and test labels.

    Images are (n, 8, 8, 1) float32 from -1 to 1; labels are (n,) int32.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data: Any = load_digits()
    images = (data.images[..., None] / 8.0 - 1.0).astype("float32")
    return train_test_split(
        images, data.target.astype("int32"), test_size=0.25, random_state=SEED, stratify=data.target
    )


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift images, (n, 8, 8, 1), by -1, 0 or 1 pixels along each axis, as data augmentation.

    Along each axis, about two thirds of the images stay in place.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)
    top, left = np.where(rng.random((2, len(images))) < 0.5, 1, rng.integers(0, 3, (2, len(images))))
    side = np.arange(images.shape[1])
    rows, columns = top[:, None, None] + side[:, None], left[:, None, None] + side
    return padded[np.arange(len(images))[:, None, None], rows, columns]


def shuffled(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` indices below `size`, as one random permutation after another."""
    return np.concatenate([rng.permutation(size) for _ in range(count // size + 1)])[:count]


def train_vit(progress: Any, plan: Plan) -> Trained:
    """Train a ViT to classify handwritten digits, and evaluate it on held-out images."""
    model, rng = seeded(
        "vit", image_size=8, patch_size=2, num_channels=1, head="image_classification", num_classes=10, **plan.vit
    )
    batch_size = 64
    images, test_images, labels, test_labels = digits()
    order = shuffled(len(labels), plan.vit_steps * batch_size, rng)
    data = ({"pixel_values": shifted(images[order], rng)}, labels[order])
    before, after, steps, seconds = train(
        progress, "ViT", model, data, ({"pixel_values": test_images}, test_labels), batch_size=batch_size, rate=3e-3
    )
    details = {"train_images": len(labels), "test_images": len(test_labels)}
    accuracy = (before["accuracy"], after["accuracy"])
    return Trained("vit", "ViT, digits", model, "accuracy", *accuracy, steps, seconds, details)
