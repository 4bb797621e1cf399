"""The measurement of a LiteRT-LM bundle in its engine: time of prefill, and times between generated tokens.

The engine's own benchmark restarts the engine for every run, and processes the prompt twice if there is a template for
it. Here the engine is started once, and receives texts with exactly the requested number of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..runtime.litertlm.description import model_in
from ..runtime.litertlm.runner import LiteRTLMRunner
from .figures import Pace
from .generating import CACHES, FEWEST_STEPS, PROMPTS, SECONDS, Lengths, fitting, pace
from .subject import Subject
from .timing import WARM, clock, timed

WORDS = "Once upon a time there was a small machine that read every book in the library, from the first to the last. "
GREEDY = {"top_k": 1, "top_p": 1.0, "temperature": 1.0, "seed": 0}


class Bundle(Subject):
    """A ``Subject`` for bundles. Its call is one generated token, after the first of the cache lengths."""

    def check(self, sizes: Mapping[str, int | None]) -> None:
        for name, size in sizes.items():
            if size is not None:
                raise ValueError(f"{name}: got {size} for a bundle, which takes one text at a time; accepted: None")

    def open(self) -> None:
        self.runner: LiteRTLMRunner = LiteRTLMRunner(Path(self.path), self.threads)
        self.engine = self.runner.engine

    def prepare(
        self, sizes: Mapping[str, int | None], prompt_lengths: list[int] | None, cache_lengths: list[int] | None
    ) -> None:
        self.shapes = {"tokens": [1, 1]}
        slots = self.runner.decoder().max_length
        # The engine processes a prompt in chunks of the prefill sizes, and the last one must fit completely.
        pieces = [int(name.split("_")[1]) for name in model_in(self.runner)[0] if re.fullmatch(r"prefill_\d+", name)]
        roomy = slots - slots % max(pieces, default=1) - 1
        self.lengths = Lengths(
            0,
            slots - 1,
            fitting("prompt_lengths", prompt_lengths, PROMPTS, slots - 1, roomy),
            fitting("cache_lengths", cache_lengths, CACHES, slots - 1, roomy - FEWEST_STEPS),
        )

    def time(self, repeats: int, lengths: Lengths) -> tuple[list[float], list[Pace], list[Pace]]:
        written = [(length, self._tokens(length, repeats)) for length in lengths.caches]
        calls = written[0][1] if written else self._tokens(1, repeats)
        taken = [self._prefill(length, repeats) for length in lengths.prompts]
        return calls, taken, [pace(length, 1, 1, times) for length, times in written]

    def _prefill(self, length: int, repeats: int) -> Pace:
        """Time the prefill of a prompt, up to the first generated token."""
        text = self._text(length)

        def call() -> None:
            list(self._times(text, 1))

        call()
        return pace(length, 1, length, timed(call, repeats, seconds=SECONDS))

    def _tokens(self, length: int, repeats: int) -> list[float]:
        """Return the times in milliseconds of `repeats` tokens after a prompt, or as many as are generated.

        The first tokens are not included.
        """
        steps = min(repeats + WARM, self.lengths.longest - length)
        times = list(self._times(self._text(length), steps))
        return times[min(WARM, len(times) - 1) :]

    def _times(self, text: str, steps: int) -> Iterator[float]:
        """Yield the times between generated tokens, in milliseconds.

        Raises:
            ValueError: If the prompt is too long for the engine, or the model generates no token.
        """
        import litert_lm

        session = self.engine.create_session(
            apply_prompt_template=False, max_output_tokens=steps, sampler_config=litert_lm.SamplerConfig(**GREEDY)
        )
        begun = False
        try:
            session.run_prefill([text])
            last = clock()
            for _ in session.run_decode_async():
                now = clock()
                begun = True
                yield 1e3 * (now - last)
                last = now
        except RuntimeError as error:
            raise ValueError(f"path: LiteRT-LM stopped in {self.path}: {error}; accepted: shorter prompts") from error
        finally:
            session.cancel_process()
            session.close()
        if not begun:
            raise ValueError(f"path: got {self.path}, which ends at once; accepted: a model that answers")

    def _text(self, length: int) -> str:
        """Return a text that the engine tokenizes to `length` tokens, including its own start token."""
        start = len(self.runner.said.start_token.token_ids.ids)

        def tokens(end: int) -> int:
            return start + len(self.engine.tokenize(text[:end]))

        text = WORDS * (1 + length // 10)  # a sentence has at least ten tokens
        low, high = 0, len(text)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if tokens(middle) >= length else (middle + 1, high)
        # An incomplete word may have more tokens than the whole word.
        near = (end for end in range(low, min(low + 20, len(text))) if tokens(end) == length)
        end = next(near, None)
        if end is None:
            raise ValueError(f"prompt_lengths: got {length}, and found no text of so many tokens; accepted: another")
        return text[:end]
