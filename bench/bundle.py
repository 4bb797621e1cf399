"""A LiteRT-LM bundle in its engine, timed from outside: how long a prompt takes, and when the tokens behind it come.

The engine has a benchmark of its own, which starts it anew for every run and feeds the prompt twice where there is a
template for it. Here it is started once, and what it is given is a text of exactly so many tokens.
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
    """As ``Subject``. Its call is one token of an answer, behind as many as the first of the cache lengths."""

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
        # Where a prompt is taken in pieces, the last of them must fit as a whole.
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
        """Until the first token of an answer is there."""
        text = self._text(length)

        def call() -> None:
            list(self._times(text, 1))

        call()
        return pace(length, 1, length, timed(call, repeats, seconds=SECONDS))

    def _tokens(self, length: int, repeats: int) -> list[float]:
        """Milliseconds of each token behind a prompt, but for the first ones: `repeats`, or as many as there come."""
        steps = min(repeats + WARM, self.lengths.longest - length)
        times = list(self._times(self._text(length), steps))
        return times[min(WARM, len(times) - 1) :]

    def _times(self, text: str, steps: int) -> Iterator[float]:
        """Milliseconds between tokens.

        Raises:
            ValueError: a prompt that the engine has no room for, or behind which the model says nothing.
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
        """One that the engine makes `length` tokens of, its own start token among them."""
        start = len(self.runner.said.start_token.token_ids.ids)

        def tokens(end: int) -> int:
            return start + len(self.engine.tokenize(text[:end]))

        text = WORDS * (1 + length // 10)  # a sentence is at least ten tokens
        low, high = 0, len(text)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if tokens(middle) >= length else (middle + 1, high)
        # A word that is half there may be more tokens than the whole one.
        near = (end for end in range(low, min(low + 20, len(text))) if tokens(end) == length)
        end = next(near, None)
        if end is None:
            raise ValueError(f"prompt_lengths: got {length}, and found no text of so many tokens; accepted: another")
        return text[:end]
