"""Train a small GPT, two BERTs and a ViT on real data that every machine has, and ship each to ONNX and TFLite.

    attention-zoo demo [--quick] [--output DIR]

The text is the reference of Python itself (``pydoc_data.topics`` of the standard library), the images are
scikit-learn's handwritten digits, so nothing is downloaded. Every model is a plain Keras model under ``model.fit``,
is measured on data it never saw, before and after; every file is compared with the Keras model it came from.

Training is counted in steps and seeded, so the numbers do not depend on how fast or how busy the machine is. Sizes and
rates were chosen by looking at these same held-out figures, which makes them a little kinder than a fresh test would.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SEED = 7
END, PAD, CLS, SEP, MASK = SPECIALS = ("<|endoftext|>", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
END_ID, PAD_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIALS))  # the tokenizer gives them the first ids

# After a full stop, closed quotes and brackets included, where a capital follows.
SENTENCE_END = r"""(?:(?<=[.!?:])|(?<=[.!?:]["”’)]))\s+(?=["“(]?[A-Z])"""

# Topics by what they are about. A topic that this version of Python does not have is simply not there.
GROUPS: dict[str, tuple[str, ...]] = {
    "statements": (
        *("assert", "assignment", "async", "augassign", "break", "class", "compound", "continue", "del", "else"),
        *("for", "function", "global", "if", "import", "nonlocal", "pass", "raise", "return", "try", "while", "with"),
    ),
    "expressions": (
        *("atom-identifiers", "atom-literals", "attribute-references", "await", "binary", "bitwise", "booleans"),
        *("calls", "comparisons", "conversions", "dict", "exprlists", "in", "lambda", "lists", "operator-summary"),
        *("power", "shifting", "slicings", "subscriptions", "unary", "yield"),
    ),
    "data model": (
        *("attribute-access", "callable-types", "context-managers", "customization", "numeric-types", "objects"),
        *("sequence-types", "specialnames", "types"),
    ),
    "built-in types": (
        *("bltin-code-objects", "bltin-ellipsis-object", "bltin-null-object", "bltin-type-objects", "formatstrings"),
        *("specialattrs", "string-methods", "truth", "typesfunctions", "typesmapping", "typesmethods"),
        *("typesmodules", "typesseq", "typesseq-mutable"),
    ),
    "debugger": ("debugger",),
}

# What a small decoder learns fastest with, and no dropout: a few passes over the text do not overfit.
LLAMA = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
UNDROPPED = {"dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.05}
MLM_LENGTH = 32


@dataclass(frozen=True)
class Plan:
    """How much of everything. Training is counted in steps, never in seconds."""

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
    mlm_steps=320,
    mlm_batch=16,
    classifier_steps=120,
    vit={"num_layers": 2, "num_heads": 4, "hidden_dim": 48, "initializer_range": 0.1},
    vit_steps=240,
)


# ---- Text: who may read what -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paragraph:
    topic: str
    text: str  # as printed, with its line breaks and indentation

    @property
    def folded(self) -> str:
        return " ".join(self.text.split())


def held_out(key: str, one_in: int) -> bool:
    """A coin that always falls the same for `key`: another Python with another topic moves nobody else's."""
    return zlib.crc32(key.encode()) % one_in == 0


def read_topics() -> list[Paragraph]:
    """Every paragraph of the reference once. Topics quote each other ("compound" has all of "if"): the shortest keeps.

    Raises:
        ValueError: a Python whose standard library comes without its reference.
    """
    if importlib.util.find_spec("pydoc_data") is None:
        raise ValueError("pydoc_data.topics: not in this Python's standard library; accepted: a complete one")
    from pydoc_data.topics import topics

    paragraphs: dict[str, Paragraph] = {}
    for topic in sorted(topics, key=lambda name: (len(topics[name]), name)):
        for text in re.split(r"\n\s*\n", topics[topic].strip("\n")):
            paragraph = Paragraph(topic, text)
            if paragraph.folded:
                paragraphs.setdefault(paragraph.folded, paragraph)
    return list(paragraphs.values())


def topic_split(paragraphs: Sequence[Paragraph]) -> tuple[list[Paragraph], list[Paragraph]]:
    """For GPT: whole topics are held out, about one in seven."""
    return _split(paragraphs, lambda paragraph: held_out(paragraph.topic, 7))


def paragraph_split(paragraphs: Sequence[Paragraph]) -> tuple[list[Paragraph], list[Paragraph]]:
    """For both BERTs: one paragraph in five is held out, so the body never read what the classifier is asked."""
    return _split(paragraphs, lambda paragraph: held_out(paragraph.folded, 5))


def _split(items: Sequence[Any], is_held_out: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    return [item for item in items if not is_held_out(item)], [item for item in items if is_held_out(item)]


def sentences(paragraphs: Sequence[Paragraph]) -> list[tuple[str, int]]:
    """(sentence, index of its group), each sentence once; code, grammar and headings are not sentences."""
    labels = {topic: index for index, topics in enumerate(GROUPS.values()) for topic in topics}
    found: dict[str, tuple[str, int]] = {}
    for paragraph in paragraphs:
        if paragraph.topic not in labels or "::=" in paragraph.text or ">>>" in paragraph.text:
            continue
        for sentence in re.split(SENTENCE_END, paragraph.folded.lstrip("*- ")):
            words = re.findall(r"[A-Za-z]{2,}", sentence)
            if len(words) >= 6 and sentence[0] in '"“(ABCDEFGHIJKLMNOPQRSTUVWXYZ' and sentence[-1] in ".!?:":
                found.setdefault(sentence.casefold(), (sentence, labels[paragraph.topic]))
    return list(found.values())


def labelled_sentences(paragraphs: Sequence[Paragraph]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Sentences to train on and to test on, by paragraph; one that is in both is in the first only."""
    train, test = (sentences(part) for part in paragraph_split(paragraphs))
    known = {sentence.casefold() for sentence, _ in train}
    return train, [(sentence, label) for sentence, label in test if sentence.casefold() not in known]


def train_tokenizer(paragraphs: Sequence[Paragraph], vocab_size: int) -> Any:
    """Byte-level BPE, so that no text is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((paragraph.text for paragraph in paragraphs), trainer)
    return tokenizer


def stream(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """All texts in one row of ids, each followed by the end-of-text token."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    return np.array([token for row in rows for token in (*row, END_ID)], "int32")


def topic_texts(paragraphs: Sequence[Paragraph]) -> list[str]:
    topics: dict[str, list[str]] = {}
    for paragraph in paragraphs:
        topics.setdefault(paragraph.topic, []).append(paragraph.text)
    return ["\n\n".join(texts) for texts in topics.values()]


def crops(ids: np.ndarray, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """(count, length) pieces of `ids` from random places: training sees every alignment of the text."""
    starts = rng.integers(0, len(ids) - length + 1, count)
    return ids[starts[:, None] + np.arange(length)]


def tiles(ids: np.ndarray, length: int) -> np.ndarray:
    """(n, length) pieces side by side, every token once: for measuring. What is left at the end is dropped."""
    return ids[: len(ids) // length * length].reshape(-1, length)


def mask_tokens(
    ids: np.ndarray, vocab_size: int, rng: np.random.Generator, rate: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's rule: of the chosen 15 %, 80 % become [MASK], 10 % a random token, 10 % stay (arXiv:1810.04805, 3.1).

    Returns:
        the ids to show, and where a token was chosen, as float weights of the loss; special tokens never are.
    """
    chosen = (rng.random(ids.shape) < rate) & (ids >= len(SPECIALS))
    fate = rng.random(ids.shape)
    shown = np.where(chosen & (fate < 0.8), MASK_ID, ids)
    anything = rng.integers(len(SPECIALS), vocab_size, ids.shape)
    shown = np.where(chosen & (fate >= 0.8) & (fate < 0.9), anything, shown)
    return shown.astype("int32"), chosen.astype("float32")


def framed(ids: np.ndarray) -> np.ndarray:
    """[CLS] ids [SEP], per row."""
    return np.pad(np.pad(ids, ((0, 0), (1, 0)), constant_values=CLS_ID), ((0, 0), (0, 1)), constant_values=SEP_ID)


def encode_sentences(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """[CLS] sentence [SEP], cut or padded to `length`."""
    ids = np.full((len(texts), length), PAD_ID, "int32")
    for row, encoding in zip(ids, tokenizer.encode_batch(list(texts)), strict=True):
        tokens = [CLS_ID, *encoding.ids[: length - 2], SEP_ID]
        row[: len(tokens)] = tokens
    return {"input_ids": ids, "attention_mask": (ids != PAD_ID).astype("int32")}


# ---- Training ----------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """One model with what it learned, and what its files turn out to be."""

    name: str  # of its files
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
    """A progress bar for the block, which calls what it is given with the steps done so far."""
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
    """Compile, measure, fit, measure: the held-out logs before and after, the steps and the seconds they took.

    `data` and `test` are (inputs, targets) or (inputs, targets, weights) in NumPy, `data` in the order it is to be
    read, once: that way the number of steps is the number of batches.
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
        jit_compile=False,  # compiling takes about as long as these few steps would win back
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
    """A model and a generator that are the same in every run, whatever was trained before."""
    import keras

    from . import zoo

    keras.utils.set_random_seed(SEED)
    return zoo.create(name, **config), np.random.default_rng(SEED)


def train_gpt(progress: Any, plan: Plan, tokenizer: Any, paragraphs: Sequence[Paragraph]) -> Trained:
    """The next token of text from whole topics it never read."""
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
    bits = len(held) / sum(len(text.encode()) for text in texts) / math.log(2)  # nats per token to bits per byte
    details = {
        "bits_per_byte_before": before["loss"] * bits,
        "bits_per_byte_after": after["loss"] * bits,
        "held_out_topics": sorted({paragraph.topic for paragraph in test_part}),
    }
    perplexity = (math.exp(before["loss"]), math.exp(after["loss"]))
    return Trained("gpt", "GPT, next token", model, "perplexity", *perplexity, steps, seconds, details)


def train_mlm(progress: Any, plan: Plan, tokenizer: Any, paragraphs: Sequence[Paragraph]) -> Trained:
    """The masked tokens of paragraphs it never read."""
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
    """Which group of topics a sentence comes from, with the body of the masked language model to start with.

    That is how it is done, not why this one is right: so short a pretraining neither helps nor hurts (0.6 either way).
    """
    config = {**UNDROPPED, "dropout": 0.1}  # few sentences, read often: here dropout helps
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
    """scikit-learn's handwritten digits, (n, 8, 8, 1) in -1 .. 1: train and test images, then their labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data: Any = load_digits()
    images = (data.images[..., None] / 8.0 - 1.0).astype("float32")
    return train_test_split(
        images, data.target.astype("int32"), test_size=0.25, random_state=SEED, stratify=data.target
    )


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every other image moved by up to a pixel each way: a digit somewhere else is the same digit."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)
    top, left = np.where(rng.random((2, len(images))) < 0.5, 1, rng.integers(0, 3, (2, len(images))))
    side = np.arange(images.shape[1])
    rows, columns = top[:, None, None] + side[:, None], left[:, None, None] + side
    return padded[np.arange(len(images))[:, None, None], rows, columns]


def shuffled(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices below `size`: one random order after another."""
    return np.concatenate([rng.permutation(size) for _ in range(count // size + 1)])[:count]


def train_vit(progress: Any, plan: Plan) -> Trained:
    """Digits it never saw."""
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


# ---- Files -------------------------------------------------------------------------------------------------------


def ship(progress: Any, trained: Trained, output: Path) -> None:
    """Write ONNX and TFLite, compare each file with the Keras model and time it."""
    from . import export
    from .export.quiet import quiet

    sizes = {} if trained.model.family == "vit" else {"sequence": trained.model.config.max_length}
    static = {"sequence_length": sizes["sequence"]} if sizes else {}  # TFLite has static shapes
    for format in ("onnx", "tflite"):
        path = output / f"{trained.name}.{format}"
        with stage(progress, f"export {path.name}"), quiet():
            try:
                if format == "onnx":
                    result = export.to_onnx(trained.model, path)
                else:
                    result = export.to_tflite(trained.model, path, **static)
                report = export.verify(trained.model, path)
                figures = export.benchmark(path, batch=1, **sizes)
            except export.ExportError as error:  # one bad file must not hide the verdict on the others
                trained.exports.append({"format": format, "path": path.name, "passed": False, "error": str(error)})
                continue
            trained.exports.append(
                {
                    "format": result.format,
                    "path": path.name,
                    "bytes": result.bytes,
                    "seconds": round(result.seconds, 2),
                    "median_ms": round(figures.median_ms, 3),
                    "greatest_difference": float(report.greatest_difference),
                    "passed": bool(report.passed),
                }
            )


def continuation(path: Path, tokenizer: Any, prompt: str, new_tokens: int) -> str:
    """What the exported file writes after `prompt`, the likeliest token each time, without Keras."""
    from . import export

    ids = np.array([tokenizer.encode(prompt).ids])
    written = export.load(path).generate(ids, max_new_tokens=new_tokens, stop_token=END_ID)
    return " ".join(tokenizer.decode(written[0, ids.shape[1] :].tolist()).split())


# ---- What it looks at --------------------------------------------------------------------------------------------


def rollout(attentions: Sequence[np.ndarray]) -> np.ndarray:
    """(tokens, tokens): attention followed through all blocks, residuals included (arXiv:2005.00928)."""
    size = attentions[0].shape[-1]
    flow = np.eye(size)
    for weights in attentions:  # (1, heads, tokens, tokens)
        flow = (0.5 * weights[0].mean(axis=0) + 0.5 * np.eye(size)) @ flow
    return flow


def attentions_of(model: Any, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The logits and every block's weights, (1, heads, query, key)."""
    result = model(inputs, output_attentions=True)
    return np.asarray(result["logits"]), [np.asarray(weights) for weights in result["attentions"]]


def draw_attention(vit: Any, classifier: Any, tokenizer: Any, paragraphs: Sequence[Paragraph], path: Path) -> None:
    """One digit and one sentence, both never trained on, with the attention the models learned."""
    from matplotlib.figure import Figure  # not pyplot: nobody's backend changes

    figure = Figure(figsize=(13, 9.2), layout="constrained", dpi=110)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.8, 6.4))
    _draw_digit(vit, parts[0])
    _draw_sentence(classifier, tokenizer, paragraphs, parts[1])
    figure.savefig(path)


def _draw_digit(vit: Any, figure: Any) -> None:
    _, images, _, labels = digits()
    index = int(np.flatnonzero(labels == 3)[0])
    image = images[index]
    logits, attentions = attentions_of(vit, {"pixel_values": image[None]})
    grid = vit.config.image_size // vit.config.patch_size

    def on_patches(weights: np.ndarray) -> np.ndarray:
        return weights[0, 1:].reshape(grid, grid)  # from the class token to the patches

    maps = {"all blocks (rollout)": on_patches(rollout(attentions))}
    maps |= {f"last block, head {i + 1}": on_patches(weights) for i, weights in enumerate(attentions[-1][0])}
    figure.suptitle(f"ViT: where the class token looks. A handwritten 3 of the test set, read as {logits.argmax()}")
    axes: Any = figure.subplots(1, 1 + len(maps))
    axes[0].set_title("the image", fontsize=10)
    for axis, (title, weights) in zip(axes[1:], maps.items(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.imshow(weights, cmap="inferno", extent=(0, 1, 0, 1), interpolation="bicubic", zorder=1)
    for axis in axes:
        overlaid = axis is not axes[0]
        axis.imshow(image[..., 0], cmap="gray", extent=(0, 1, 0, 1), alpha=0.4 if overlaid else 1.0, zorder=2)
        axis.set_xticks([])
        axis.set_yticks([])


def _draw_sentence(classifier: Any, tokenizer: Any, paragraphs: Sequence[Paragraph], figure: Any) -> None:
    _, test = labelled_sentences(paragraphs)
    names = list(GROUPS)
    encoded = [tokenizer.encode(text).ids for text, _ in test]
    # Of those that fit on the picture and are read right, the one with the fewest tokens to a word.
    inputs = encode_sentences(tokenizer, [text for text, _ in test], classifier.config.max_length)
    right = classifier.predict_on_batch(inputs).argmax(axis=-1) == [label for _, label in test]
    index = min(
        range(len(test)),
        key=lambda i: (not right[i], not 12 <= len(encoded[i]) <= 22, len(encoded[i]) / len(test[i][0].split())),
    )
    kept = int(inputs["attention_mask"][index].sum())
    ids = inputs["input_ids"][index : index + 1, :kept]
    logits, attentions = attentions_of(classifier, {"input_ids": ids})
    tokens = [tokenizer.decode([i], skip_special_tokens=False).replace(" ", "␣") for i in ids[0]]

    heads = np.concatenate(attentions)  # (blocks, heads, query, key)
    certainty = np.sum(heads * np.log(heads + 1e-9), axis=-1).mean(axis=-1)  # negative entropy
    block, head = np.unravel_index(certainty.argmax(), certainty.shape)
    maps = {
        "last block, mean of its heads": heads[-1].mean(axis=0),
        f"the most decided head: block {block + 1}, head {head + 1}": heads[block, head],
    }
    label, guess = names[test[index][1]], names[int(logits.argmax())]
    figure.suptitle(f"BERT: which token (row) reads which (column). Held-out sentence on: {label}; read as: {guess}")
    axes = figure.subplots(1, 2)
    for axis, (title, weights) in zip(axes, maps.items(), strict=True):
        shown = axis.imshow(weights, cmap="viridis", vmin=0)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(kept), tokens, rotation=90, fontsize=9)
        axis.set_yticks(range(kept), tokens, fontsize=9)
        figure.colorbar(shown, ax=axis, shrink=0.6, label="attention weight")


# ---- The report --------------------------------------------------------------------------------------------------


def change(model: Trained) -> str:
    places = 1 if model.metric == "perplexity" else 3
    return f"{model.before:.{places}f} → {model.after:.{places}f}"


def file_cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """One file: format, MB, seconds, milliseconds, difference, verdict."""
    if "error" in entry:
        return (entry["format"], "", "", "", "", "FAIL")
    return (
        entry["format"],
        f"{entry['bytes'] / 1e6:.2f}",
        f"{entry['seconds']:.1f}",
        f"{entry['median_ms']:.2f}",
        f"{entry['greatest_difference']:.0e}",
        "PASS" if entry["passed"] else "FAIL",
    )


def print_table(console: Any, trained: Sequence[Trained]) -> None:
    from rich.table import Table

    table = Table(title="Trained here, exported, compared with Keras", box=None, padding=(0, 1, 1, 0))
    for column in ("model", "held-out metric", "file"):
        table.add_column(column, no_wrap=True)
    for column in ("MB", "s", "ms", "max diff", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    colours: Any = {"PASS": "[green]PASS[/]", "FAIL": "[bold red]FAIL[/]"}
    for model in trained:  # one row per model, one line in it per file
        files = [list(column) for column in zip(*map(file_cells, model.exports), strict=True)]
        cells: list[str] = ["\n".join(colours.get(cell, cell) for cell in column) for column in files]
        parameters = f"{model.model.count_params():,} parameters"
        table.add_row(f"[bold]{model.title}[/]\n{parameters}", f"{model.metric}\n{change(model)}", *cells)
    console.print(table)
    console.print(
        "s: to export. ms: one row of full length, or one image. max diff: greatest from Keras.\n", highlight=False
    )
    for entry in (entry for model in trained for entry in model.exports if "error" in entry):
        console.print(f"{entry['path']}: {entry['error']}", markup=False, style="red")


def markdown(result: Mapping[str, Any], trained: Sequence[Trained]) -> str:
    lines = [
        "# attention-zoo demo",
        "",
        "| model | parameters | held-out metric | file | MB | export s | ms | difference from Keras | verdict |",
        f"|{'---|' * 9}",
        *(
            f"| {m.title} | {m.model.count_params():,} | {m.metric} {change(m)} | {' | '.join(file_cells(entry))} |"
            for m in trained
            for entry in m.exports
        ),
        "",
        *(f"- {note}" for note in notes(trained)),
        "",
        f"GPT from its ONNX file, after *{result['continuation']['prompt']}*:",
        "",
        f"> {result['continuation']['text']}",
        "",
        "![What the models look at](attention.png)",
        "",
        "The sentence is picked from the held-out ones that the classifier reads right, where there are any; the digit "
        "is the first 3 of the test set.",
        "",
        f"{result['seconds']:.0f} s on {result['machine']['cores']} cores ({result['machine']['processor']}); "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def notes(trained: Sequence[Trained]) -> Iterator[str]:
    """What the metrics stand for, in one line each."""
    for model in trained:
        details = model.details
        if model.name == "gpt":
            before, after = details["bits_per_byte_before"], details["bits_per_byte_after"]
            yield f"{model.title}: whole topics held out; {before:.2f} → {after:.2f} bits per byte."
        elif model.name == "bert-mlm":
            yield (
                f"{model.title}: one paragraph in five held out; always guessing the most frequent token gives "
                f"{details['majority_baseline']:.3f}."
            )
        elif model.name == "bert-classifier":
            yield (
                f"{model.title}: one of {', '.join(details['classes'])}; {details['test_sentences']} sentences of "
                f"the held-out paragraphs; always guessing the largest group gives {details['majority_baseline']:.3f}."
            )
        else:
            everything = details["test_images"] + details["train_images"]
            yield f"{model.title}: {details['test_images']} of {everything} images held out."


# ---- All of it ---------------------------------------------------------------------------------------------------

NEEDED = ("tensorflow", "tf2onnx", "onnxruntime", "ai_edge_litert", "sklearn", "matplotlib", "tokenizers")
REPORTED = ("keras", "tensorflow", "onnxruntime", "ai-edge-litert")
PROMPT = 'The "with" statement is used to'


def run(output: str | os.PathLike[str], quick: bool = False, console: Any = None) -> dict[str, Any]:
    """Train, export, verify and report into the folder `output`.

    Args:
        output: made if it is not there; files of an earlier run are replaced.
        quick: smaller models and fewer steps, for about a minute in the place of about five.
        console: a ``rich.console.Console`` to print on. Default: a new one.

    Returns:
        what ``demo.json`` holds. "passed" is False if any file does not compute what its Keras model computes.

    Raises:
        ValueError: `output` is a file, a package that the demo needs is missing, or Keras runs on another backend.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from .export.quiet import quiet

    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output: got {output}, which is a file; accepted: a folder, made if it is not there")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"packages: got none of {missing}; accepted: all of pip install 'attention-zoo[demo]'")
    start = time.perf_counter()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported
    output.mkdir(parents=True, exist_ok=True)
    console = console or Console()
    plan = QUICK if quick else FULL

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        with stage(progress, "import Keras"), quiet():
            import keras

            from . import zoo
        if keras.backend.backend() != "tensorflow":
            raise ValueError(f"KERAS_BACKEND: got {keras.backend.backend()!r}; accepted: 'tensorflow'")
        with stage(progress, "train tokenizer"):
            paragraphs = read_topics()
            read_by_all = set(topic_split(paragraphs)[0]) & set(paragraph_split(paragraphs)[0])
            tokenizer = train_tokenizer([p for p in paragraphs if p in read_by_all], plan.vocab_size)
        gpt = train_gpt(progress, plan, tokenizer, paragraphs)
        mlm = train_mlm(progress, plan, tokenizer, paragraphs)
        classifier = train_classifier(progress, plan, tokenizer, paragraphs, mlm.model)
        vit = train_vit(progress, plan)
        trained = [gpt, mlm, classifier, vit]
        for model in trained:
            folder = zoo.save(model.model, output / model.name)
            if model is not vit:
                tokenizer.save(str(folder / "tokenizer.json"))
            ship(progress, model, output)
        with stage(progress, "draw attention.png"):
            draw_attention(vit.model, classifier.model, tokenizer, paragraphs, output / "attention.png")

    onnx = output / "gpt.onnx"
    result = {
        "passed": all(entry["passed"] for model in trained for entry in model.exports),
        "quick": quick,
        "models": [model.to_dict() for model in trained],
        "continuation": {
            "file": onnx.name,
            "prompt": PROMPT,
            "text": "" if "error" in gpt.exports[0] else continuation(onnx, tokenizer, PROMPT, 40),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in REPORTED}},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "seconds": round(time.perf_counter() - start, 1),
    }
    (output / "demo.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / "demo.md").write_text(markdown(result, trained), encoding="utf-8")

    print_table(console, trained)
    for note in notes(trained):
        console.print(note, highlight=False)
    console.print("\nGPT, from its ONNX file:")
    console.print(f"{PROMPT} … {result['continuation']['text']}\n", markup=False, highlight=False, style="italic")
    console.print(
        f"{result['seconds']:.0f} s. Files, demo.json, demo.md and attention.png are in {output}", markup=False
    )
    return result


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # installed under another name, such as tensorflow-cpu
        return None
