"""Train a BERT from scratch as a masked language model.

    python examples/train_bert.py [steps]

Data: the paragraphs of Python's own reference (``pydoc_data.topics``), of which every fifth is held out; a byte-level
BPE of 1,024 tokens is trained on the others. 15 % of the tokens are masked as in the paper. The model has two blocks of
width 128.

Takes about 80 seconds on one core. Expect about 0.12 of the masked tokens of held-out paragraphs to be right, five
times the share of the most frequent token; more steps improve it.
"""

from __future__ import annotations

import sys

import keras
import numpy as np

import attention_zoo as az
from attention_zoo.demo import text

LENGTH, BATCH, VOCABULARY = 32, 32, 1024


def main(steps: int) -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    train, held_out = text.paragraph_split(text.read_topics())
    tokenizer = text.train_tokenizer(train, VOCABULARY)
    ids, unseen = (text.stream(tokenizer, [paragraph.folded for paragraph in part]) for part in (train, held_out))
    rows = text.framed(text.crops(ids, steps * BATCH, LENGTH - 2, rng))
    tests = text.framed(text.tiles(unseen, LENGTH - 2))
    x, chosen = text.mask_tokens(rows, VOCABULARY, rng)
    unseen_x, asked = text.mask_tokens(tests, VOCABULARY, rng)
    # -100 is the label of the tokens that were not chosen.
    y, answers = np.where(chosen > 0, rows, -100), np.where(asked > 0, tests, -100)

    size = {"num_layers": 2, "num_heads": 4, "hidden_dim": 128, "max_length": LENGTH, "initializer_range": 0.05}
    model = az.create("bert", vocab_size=VOCABULARY, head="masked_lm", dropout=0.0, attention_dropout=0.0, **size)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps * 9 // 10, warmup_target=1e-3, warmup_steps=steps // 10)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1, beta_2=0.98, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "embeddings", "positions"])
    metrics = [az.metrics.MaskedAccuracy(shift=False)]
    jit = keras.backend.backend() == "jax"
    model.compile(optimizer, az.losses.TokenCrossEntropy(), metrics=metrics, jit_compile=jit)
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=2)

    accuracy = model.evaluate(unseen_x, answers, batch_size=64, verbose=0, return_dict=True)["accuracy"]
    usual = np.bincount(tests[asked > 0]).max() / (asked > 0).sum()
    print(f"{accuracy:.3f} of {(asked > 0).sum()} masked tokens are right; the most frequent token: {usual:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 800)
