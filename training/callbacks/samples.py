"""Texts that a model writes while it is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from ...checks import positive_integer
from .state import steps_of


class TextSamples(keras.callbacks.Callback):
    """Let the model continue prompts in the course of training, and print what it wrote.

    It does not change the training: generation draws from NumPy generators of its own. It works with every backend;
    with JAX, a callback of your own must generate with ``self.model``, which has its weights there, and not with a
    model of an outer scope.

    Args:
        prompts: the texts to continue, or conversations (lists of messages) to answer. The model needs a tokenizer.
        every: "epoch", or a number of steps.
        write: called with each line, by default ``print``.
        file: also append each sample to this file, as one JSON object per line: "step", "prompt" and "text".
        options: of ``generate_text``: ``max_new_tokens`` (default: 32), ``temperature``, ``seed``, …

    Attributes:
        samples: a list of (step, texts) of the last ``fit``. Steps are those of the optimizer, which a resumed run
            counts on.

    Raises:
        ValueError: no prompts; in ``fit``, a model that does not generate, or has no tokenizer.
    """

    def __init__(
        self,
        prompts: str | Sequence[Any],
        every: str | int = "epoch",
        *,
        write: Callable[[str], Any] = print,
        file: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not self.prompts:
            raise ValueError("prompts: got none; accepted: texts, or conversations")
        self.every = None if every == "epoch" else positive_integer("every", every)
        self.write, self.file = write, None if file is None else Path(file)
        self.options = {"max_new_tokens": 32, **options}
        self.samples: list[tuple[int, list[str]]] = []
        self._last = 0  # the step of the last sample

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        if not getattr(model, "generates", False) or getattr(model, "tokenizer", None) is None:
            raise ValueError(f"model: got {model.name}; accepted: one that generates text, with a tokenizer")
        self.samples, self._last = [], steps_of(model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The number stays the same while ``Resume`` passes over the batches that were trained on.
        if self.every is not None and (step := steps_of(self.model)) % self.every == 0 and step != self._last:
            self._sample(step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.every is None:
            self._sample(steps_of(self.model))

    def _sample(self, step: int) -> None:
        model = self.model  # with JAX, this gives the variables of the model their current values
        texts = [_continued(model, prompt, self.options) for prompt in self.prompts]
        self.samples.append((step, texts))
        self._last = step
        for prompt, text in zip(self.prompts, texts, strict=True):
            asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            self.write(f"step {step}: {asked} → {text}")
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("a", encoding="utf-8") as lines:
                    print(json.dumps({"step": step, "prompt": prompt, "text": text}), file=lines)


def _continued(model: Any, prompt: Any, options: dict[str, Any]) -> str:
    return " ".join(model.generate_text(prompt, **options).split())
