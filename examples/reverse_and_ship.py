"""Train a recurrent model with attention to reverse sequences, plot its alignment, and export it.

Trains a Seq2Seq (LSTM with additive attention) on rows of up to 12 symbols, plots the attention of one row, exports the
model, and runs it in ONNX Runtime without Keras.

    python examples/reverse_and_ship.py [folder]

Takes about a minute on two cores. Expect a token accuracy above 0.99, an anti-diagonal in alignment.png, and three
rows, each printed with its reversal.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

import attention_zoo as az
from attention_zoo import export, plot

LONGEST, FIRST, SYMBOLS = 12, 3, 20  # ids 0, 1 and 2 are padding, start and end


def rows(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the inputs by name, the targets, and the weights of the targets, which are 0 for padding.

    Sources are (count, 12); targets and their weights are (count, 13), as they end with the end token.
    """
    rng = np.random.default_rng(seed)
    source = rng.integers(FIRST, FIRST + SYMBOLS, (count, LONGEST))
    length = rng.integers(4, LONGEST + 1, (count, 1))
    mask = np.arange(LONGEST) < length
    target = np.zeros((count, LONGEST + 1), int)
    for row, n in enumerate(length[:, 0]):
        target[row, : n + 1] = [*source[row, :n][::-1], 2]
    inputs = {
        "input_ids": np.where(mask, source, 0),
        "attention_mask": mask.astype("int32"),
        "decoder_input_ids": np.concatenate([np.ones((count, 1), int), target[:, :-1]], axis=1),
    }
    return inputs, target, (target > 0).astype("float32")


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    model = az.create("seq2seq", vocab_size=FIRST + SYMBOLS, hidden_dim=96, embedding_dim=48, max_length=32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(4e-3), loss, weighted_metrics=["accuracy"], jit_compile=False)
    x, y, counted = rows(16_000, seed=0)
    model.fit(x, y, sample_weight=counted, batch_size=64, epochs=2, verbose=2)

    unseen, answers, counted = rows(200, seed=1)
    scores = model.evaluate(unseen, answers, sample_weight=counted, verbose=0, return_dict=True)
    print(f"accuracy on unseen rows: {scores['accuracy']:.3f}")

    one = {name: values[:1] for name, values in unseen.items() if name != "decoder_input_ids"}
    plot.alignment(model, one, folder / "alignment.png")
    export.to_onnx(model, folder / "reverse.onnx")  # also writes the encoder, reverse.encoder.onnx
    assert export.verify(model, folder / "reverse.onnx").passed

    runner = export.load(folder / "reverse.onnx")  # does not need Keras or TensorFlow
    written = runner.generate(unseen["input_ids"][:3], unseen["attention_mask"][:3], max_new_tokens=LONGEST + 1)
    for source, row in zip(unseen["input_ids"][:3], written, strict=True):
        print(source[source > 0].tolist(), "->", row[1:][row[1:] > 2].tolist())


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "reverse-output")
    target.mkdir(parents=True, exist_ok=True)
    main(target)
