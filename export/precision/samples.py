"""Samples for measuring the accuracy of a file and for calibration. Requires NumPy only.

These are the user's samples, or else built-in prose, synthetic images or random tokens. Prose and images with a natural
spectrum are used where possible, because the accuracy of quantized weights matters for inputs like those that the model
was trained on, about which random tokens and white noise say little.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ...runtime.inputs import example_inputs
from ...signature import BATCHES, Signature
from ..request import check_samples

Arrays = dict[str, np.ndarray]

ROW = 128  # tokens
DRAWS = 8  # random samples
LENGTHS = (64, 12, 5)  # tokens of random samples
CALIBRATION_ROWS = 64
PADDINGS = ("none", "left", "right")
PROSE = (
    "The lighthouse on the northern cape was built in 1874, after three ships had been lost there in a single winter. "
    "Its keeper, a retired sailor, wrote down the weather every morning for thirty-one years, and his notebooks are "
    "now kept in the museum of the town. They are the longest record of wind and temperature on that coast.",
    "To make bread, mix five hundred grams of flour with three hundred and fifty millilitres of warm water, a spoon "
    "of salt and a little yeast. Knead the dough for ten minutes, until it is smooth. Let it rest under a cloth for "
    "an hour, shape it, and bake it in a hot oven until the crust is brown and the bottom sounds hollow.",
    "Plants take in carbon dioxide through small openings in their leaves. With the energy of sunlight they turn it, "
    "together with water, into sugar and oxygen. At night, when there is no light, they breathe as animals do: they "
    "use oxygen and give off carbon dioxide.",
    "The court decided that the contract was not valid, because one of the parties had signed it before reading the "
    "last two pages. The judge explained that a signature is a promise to keep to the text, but only to a text that "
    "could have been known. Both sides have four weeks to appeal.",
    "In the second half the visitors played with more courage. They pressed early, won the ball in midfield and "
    "scored twice within six minutes. The home team changed its goalkeeper, but it was too late: the match ended "
    "three to one.",
    "A function that calls itself is called recursive. Every recursive function needs a case in which it does not "
    "call itself, or it never ends. The factorial of a number, for example, is that number times the factorial of the "
    "number below it, and the factorial of zero is one.",
    "She had not been in the house since her grandmother died. The clock in the hall still showed ten past four, and "
    "the smell of apples came from the cellar as it always had. On the kitchen table somebody had left a letter with "
    "her name on it.",
    "Prices rose by 2.3 percent in the last quarter, less than most economists had expected. Energy became cheaper, "
    "while rents and food cost more than a year ago. The central bank will decide in September whether interest rates "
    "stay where they are.",
)


def samples_of(
    signature: Signature, tokenizer: Any, given: Any = None, paddings: Sequence[str] = PADDINGS
) -> Iterator[Arrays]:
    """Yield the samples on which the accuracy is measured, as inputs by name.

    Args:
        signature: of the graph.
        tokenizer: the model's tokenizer, or None.
        given: the user's samples: texts, inputs by name, or a sequence of either. None: built-in prose if there is a
            tokenizer and the graph takes ids; otherwise synthetic images or random inputs.
        paddings: kinds of padding of random inputs, which take turns; see ``runtime.inputs.padded_mask``.

    Raises:
        ValueError: `given` is not accepted; see ``check_samples``.
    """
    return _default(signature, tokenizer, paddings) if given is None else _given(given, signature, tokenizer)


def calibration_of(
    signature: Signature, tokenizer: Any, given: Any = None, paddings: Sequence[str] = ("none",)
) -> Iterator[Arrays]:
    """Yield calibration data, as inputs by name.

    The arguments are those of ``samples_of``. The default samples are different ones: for texts, the documentation that
    comes with Python; for images and random inputs, other seeds.
    """
    if given is not None:
        return _given(given, signature, tokenizer)
    if tokenizer is None or not takes_texts(signature):
        return _default(signature, None, paddings, first=DRAWS)
    topics = importlib.import_module("pydoc_data.topics").topics
    return islice(_texts(signature, tokenizer, [topics[name] for name in sorted(topics)]), CALIBRATION_ROWS)


def random_of(signature: Signature, paddings: Sequence[str]) -> Iterator[Arrays]:
    """Yield random texts like those of ``verify``: long and short ones, since the first tokens of a text are the least
    accurate ones of many language models, with each of `paddings`.

    Args:
        signature: of a graph that takes texts.
        paddings: as in ``samples_of``.
    """
    for length in LENGTHS:
        yield from islice(_default(signature, None, paddings, length=length), len(paddings))


def _default(
    signature: Signature, tokenizer: Any, paddings: Sequence[str], first: int = 0, length: int = LENGTHS[0]
) -> Iterator[Arrays]:
    """Yield prose if there is a tokenizer and the graph takes ids; otherwise images with a natural spectrum and random
    inputs of up to `length` tokens, with `paddings` in turn and seeds from `first` on."""
    if tokenizer is not None and takes_texts(signature):
        yield from _texts(signature, tokenizer, PROSE)
        return
    sizes: dict[str, Any] = {"batch": 2, **signature.examples, **signature.defaults, **signature.sizes}
    limit = min([length, *(signature.limits.get(dim, length) for dim in ("sequence", "source", "target"))])
    for spec in signature.inputs:
        for dim in spec.dims:
            if isinstance(dim, str) and dim not in signature.sums:
                sizes.setdefault(dim, 2 if dim in BATCHES else limit)
    for dim in {"sequence", "source", "target"} - {*signature.sizes}:
        sizes[dim] = limit if dim in sizes else sizes.get(dim, limit)
    images = any(len(spec.dims) == 4 and spec.name not in signature.state for spec in signature.inputs)
    sizes |= {"batch": signature.sizes.get("batch", 1 if images else 2), "past_sequence": 0}
    for seed in range(first, first + (DRAWS // 2 if images else DRAWS)):
        inputs = example_inputs(signature, sizes, padding=paddings[seed % len(paddings)], seed=seed)
        inputs = {name: array for name, array in inputs.items() if name not in signature.state}
        for spec in signature.inputs:
            if len(spec.dims) == 4 and spec.name in inputs and spec.dtype.startswith(("float", "uint8")):
                spread = 255 if spec.dtype == "uint8" else spec.spread
                picture = pictures(inputs[spec.name].shape, seed)
                picture = picture if spread is None else np.clip(picture / 4 + 0.5, 0, 1) * spread
                inputs[spec.name] = picture.astype(spec.dtype)
        yield inputs


def takes_texts(signature: Signature) -> bool:
    """Return whether a graph takes the ids of texts and no images beside them."""
    names = {spec.name for spec in signature.inputs}
    return "input_ids" in names and all(spec.dims[1:-1] != ("height", "width") for spec in signature.inputs)


def _texts(signature: Signature, tokenizer: Any, texts: Sequence[str]) -> Iterator[Arrays]:
    """Yield the texts as rows of at most `ROW` tokens, one per call. If the graph has a mask and takes batches, also
    yield one batch of the first four rows, padded on the right."""
    length = min(ROW, *(signature.limits.get(dim, ROW) for dim in ("sequence", "source")))
    length = min([length, *(signature.sizes.get(dim, length) for dim in ("sequence", "source"))])
    rows = []
    for text in texts:
        ids = np.asarray(tokenizer(text)["input_ids"]).ravel()
        rows += [ids[start : start + length] for start in range(0, len(ids), length)]
    rows = [row for row in rows if len(row) > 1]
    masked = any(spec.name == "attention_mask" for spec in signature.inputs)
    for row in rows:
        yield _ids(row[None], np.ones((1, len(row)), "int64"), masked)
    if masked and signature.sizes.get("batch", 2) > 1 and len(rows) > 1:
        some = rows[:4]
        width = max(map(len, some))
        ids = np.stack([np.pad(row, (0, width - len(row))) for row in some])
        yield _ids(ids, np.stack([np.arange(width) < len(row) for row in some]).astype("int64"), masked)


def _ids(ids: np.ndarray, mask: np.ndarray, masked: bool) -> Arrays:
    return {"input_ids": ids, "attention_mask": mask} if masked else {"input_ids": ids}


def pictures(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return random images (batch, height, width, channels) float32 with a mean of 0 and a standard deviation of 1.

    Their amplitude spectrum falls as 1 / frequency, like that of natural images (Field 1987).
    """
    rng = np.random.default_rng(seed)
    batch, height, width, channels = shape
    spectrum = rng.normal(size=(batch, height, width, channels)) + 1j * rng.normal(
        size=(batch, height, width, channels)
    )
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    falling = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    images = np.fft.ifft2(spectrum * falling[None, :, :, None], axes=(1, 2)).real
    images -= images.mean(axis=(1, 2), keepdims=True)
    return (images / np.maximum(images.std(axis=(1, 2), keepdims=True), 1e-6)).astype("float32")


def _given(samples: Any, signature: Signature, tokenizer: Any) -> Iterator[Arrays]:
    found = check_samples(samples, tokenizer)
    if isinstance(found[0], str):
        yield from _texts(signature, tokenizer, found)
        return
    for sample in found:
        yield {name: np.asarray(value) for name, value in sample.items()}
