"""Folders of sentence-transformers, with what its own classes compute from texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import transformers as hf

from .common import golden, randomise, seed_of, write_json

TEXT = "sunny rain day by noon all what is gravity a force between masses kind of bread the cat sat on mat"
PAIRS = [
    ("What is gravity?", "A force between masses."),
    ("What is gravity?", "A kind of bread."),
    ("Rain by noon", "The cat sat on the mat, all day, all day, all day."),
    ("Sunny", "Rain"),
]
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def _transformer(folder: Path, cls: type, **config: int) -> Path:
    """Write a BERT of random weights with a WordPiece tokenizer of a few words, and return its folder."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *TEXT.split(" "),
        *".,?",
        *"abcdefghij",
        *(f"##{c}" for c in "aeiounst"),
    ]
    path = folder / "transformer"
    tokenizer = hf.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=32)
    model = cls(hf.BertConfig(vocab_size=len(words), max_position_embeddings=32, **BERT, **config))
    randomise(model, seed_of(folder)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _without(folder: Path, *parts: Path) -> None:
    for part in parts:
        for file in part.iterdir():
            file.unlink()
        part.rmdir()
    for name in ("README.md",):
        (folder / name).unlink(missing_ok=True)


@golden
def sentence_modules(folder: Path) -> None:
    """A cross-encoder with one class, and an encoder with a LayerNorm and a Dense behind its pooling."""
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    plain = _transformer(folder, hf.BertForSequenceClassification, num_labels=1)
    model = CrossEncoder(str(plain), device="cpu")
    model.save_pretrained(str(folder / "cross_encoder"))
    scores = model.predict(PAIRS, batch_size=3)
    ranked = model.rank(PAIRS[0][0], [second for _, second in PAIRS])
    _without(folder / "cross_encoder", plain)

    plain = _transformer(folder, hf.BertModel)
    modules = [Transformer(str(plain)), Pooling(16, "mean"), LayerNorm(16), Dense(16, 6), LayerNorm(6)]
    for module in modules[2:]:
        randomise(module, 3)
    encoder = SentenceTransformer(modules=modules, device="cpu")
    encoder.save_pretrained(str(folder / "layer_norm"))
    embeddings = encoder.encode([first for first, _ in PAIRS])
    _without(folder / "layer_norm", plain)
    places = np.array([one["corpus_id"] for one in ranked])
    np.savez(folder / "st.npz", scores=scores, ranked=places, embeddings=embeddings)
    write_json(folder / "pairs.json", PAIRS)
