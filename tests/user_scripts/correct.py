"""A user's script, which trains, saves, exports, verifies and generates. pyright finds no error in it."""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import attention_zoo as az
from attention_zoo import export, layers

folder = Path(tempfile.mkdtemp())
ids = np.random.default_rng(0).integers(3, 97, (8, 12))
labels = np.arange(8) % 3

bert = az.create(
    "bert-base",
    num_layers=1,
    num_heads=2,
    hidden_dim=32,
    vocab_size=97,
    head="sequence_classification",
    num_classes=3,
    dropout=0,
)
bert.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
bert.fit({"input_ids": ids}, labels, verbose=0)
bert.save(folder / "bert.keras")
az.save(bert, folder / "bert")
tagger = az.load(folder / "bert", head="token_classification", num_classes=5)
print(tagger.task, tagger.count_params())

result = export.to_onnx(bert, folder / "bert.onnx")
print(result.path.name, result.bytes, f"{result.greatest_difference:.1e}", result.warnings)
mobile = export.to_tflite(bert, folder / "bert.tflite", sequence_length=12)
report = export.verify(bert, result.path)
assert report.passed, report.to_markdown()
runner = export.load(mobile.path, threads=1)
classes: list[int] = runner.run({"input_ids": ids})["logits"].argmax(axis=-1).tolist()
print(classes, [spec.name for spec in runner.signature.inputs])

sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32}
gpt = az.create("gpt", vocab_size=1000, max_length=64, position="rotary", **sizes)
continued = gpt.generate(ids[:2], max_new_tokens=4, temperature=0.8, top_p=0.9, seed=1)
export.to_onnx(gpt, folder / "gpt.onnx", precision=export.Precision("int8"), least_cosine=0.9)
again = export.load(folder / "gpt.onnx").generate(ids[:2], max_new_tokens=4)
assert continued.shape == again.shape == (2, 16)

tokenizer = az.Tokenizer.load(sys.argv[1])
for piece in gpt.stream_text("Once upon a time", tokenizer=tokenizer, max_new_tokens=4):
    print(piece.upper())
print(len(tokenizer.encode("Once upon a time").ids))

attention = layers.MultiHeadAttention(num_heads=4, num_kv_heads=2)
assert attention(keras.ops.ones((1, 5, 32))).shape == (1, 5, 32)
