"""Train a GPT from scratch on source code of the standard library, and measure it in bits per byte.

    python examples/train_gpt.py [steps]

Data: the .py files of Python's standard library, of which every tenth is held out; a byte-level BPE of 2,048 tokens is
trained on the others. The model has the architecture of Llama, three blocks of width 128 and 0.8 million parameters.

Takes about three minutes on one core. Expect less than 2.0 bits per byte on the held-out files (1.99 after 500
steps), and a line that looks like Python.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import keras
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import attention_zoo as az

LENGTH, BATCH, VOCABULARY, END = 128, 16, 2048, "<|endoftext|>"


def files() -> tuple[list[str], list[str]]:
    """Return the texts of the files to train on, and of those that are held out."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [text for i, text in enumerate(texts) if i % 10], texts[::10]


def trained_tokenizer(texts: list[str]) -> az.zoo.Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": VOCABULARY, "special_tokens": [END], "initial_alphabet": alphabet, "show_progress": False}
    backend.train_from_iterator(texts, trainers.BpeTrainer(**options))
    return az.zoo.Tokenizer(backend, eos_token=END, pad_token=END, padding_side="left")


def stream(tokenizer: az.zoo.Tokenizer, texts: list[str]) -> np.ndarray:
    """Return the ids of all texts in one row, each followed by the end token."""
    rows = [encoding.ids for encoding in tokenizer.backend.encode_batch(texts)]
    return np.array([i for row in rows for i in (*row, tokenizer.eos_token_id)], "int32")


def main(steps: int) -> None:
    keras.utils.set_random_seed(0)
    train, held_out = files()
    tokenizer = trained_tokenizer(train)
    ids, unseen = stream(tokenizer, train), stream(tokenizer, held_out)
    starts = np.random.default_rng(0).integers(0, len(ids) - LENGTH, (steps * BATCH, 1))
    rows, tiles = ids[starts + np.arange(LENGTH)], unseen[: len(unseen) // LENGTH * LENGTH].reshape(-1, LENGTH)

    llama = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
    size = {"num_layers": 3, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 336, "max_length": LENGTH}
    model = az.create("gpt", vocab_size=VOCABULARY, **llama, **size)
    model.tokenizer = tokenizer
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - 40, warmup_target=3e-3, warmup_steps=40)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1, beta_2=0.98, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["scale", "embeddings"])
    metrics = [az.metrics.BitsPerByte(tokenizer)]
    # Compilation by XLA takes about as long as it saves in so few steps.
    jit = keras.backend.backend() == "jax"
    model.compile(optimizer, az.losses.CausalLM(), weighted_metrics=metrics, jit_compile=jit)
    model.fit(rows, rows, batch_size=BATCH, shuffle=False, verbose=2)

    bits = model.evaluate(tiles, tiles, batch_size=64, verbose=0, return_dict=True)["bits_per_byte"]
    print(f"{bits:.3f} bits per byte on {sum(len(text.encode()) for text in held_out)} bytes of held-out files")
    print(model.generate_text("def __init__(self", max_new_tokens=40, repetition_penalty=1.2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 700)
