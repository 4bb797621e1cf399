"""Run the files that the demo exported as an application would: from text to text, without TensorFlow and Keras.

    make demo && python examples/run_exported.py demo-output

Takes a few seconds and requires only NumPy, tokenizers and onnxruntime (or ai-edge-litert for --format tflite). Prints
continuations of two prompts by the GPT, and the classes of two sentences with their probabilities.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from attention_zoo import export

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, nargs="?", default=Path("demo-output"))
parser.add_argument("--format", choices=["onnx", "tflite"], default="onnx")
arguments = parser.parse_args()
GROUPS = ("statements", "expressions", "data model", "built-in types", "debugger")

gpt = export.load(arguments.folder / f"gpt.{arguments.format}")
for prompt in ("The class statement", "An exception is"):
    print(f"{prompt} …{gpt.generate_text(prompt, max_new_tokens=20)!r}")

classifier = export.load(arguments.folder / f"bert-classifier.{arguments.format}")
assert classifier.tokenizer is not None
for sentence in ("The loop ends when the break statement is executed.", "Print the stack trace at the breakpoint."):
    logits = classifier.run(classifier.tokenizer(sentence))["logits"][0]
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{sentence} → {GROUPS[logits.argmax()]} ({chances.max():.2f})")
assert not {"tensorflow", "keras"} & set(sys.modules)
