"""The report on the accuracy of a file in reduced precision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from .spread import Spread


@dataclass(frozen=True)
class Answer:
    """The greedy answers to one prompt, in float32 and in reduced precision.

    Attributes:
        prompt: the question or the text.
        float32, rounded: the two answers, of at most 20 tokens each.
        equal: how many tokens at the beginning of the float32 answer the other file chooses too.
        tokens: number of tokens of the float32 answer.
        margin: at the first token that differs, the log-probability by which float32 prefers its own token to the
            other, in nats; None if all tokens are equal.
    """

    prompt: str
    float32: str
    rounded: str
    equal: int
    tokens: int
    margin: float | None = None

    def __str__(self) -> str:
        return f"{self.prompt!r}: float32 {self.float32!r}, here {self.rounded!r} (margin {self.margin:.2f} nats)"


@dataclass(frozen=True)
class Answers:
    """The answers of a file to several prompts, relative to the same file in float32.

    Attributes:
        each: the answers.
        margin_error: root mean square, over the tokens of all float32 answers, of the error of the difference between
            the log-probabilities of float32's two most likely tokens, in nats. Tokens that are closer to each other
            than this may change places.
    """

    each: tuple[Answer, ...]
    margin_error: float

    @property
    def different(self) -> list[Answer]:
        return [answer for answer in self.each if answer.margin is not None]

    @property
    def equal(self) -> int:
        """The number of answers all of whose tokens are those of float32."""
        return len(self.each) - len(self.different)


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a file, relative to the same file in float32.

    Attributes:
        samples: a description of the samples.
        cosine: cosine similarity of the outputs, as a mean over positions; logits are centered first.
        lowest_cosine: the lowest mean of an output on one batch of samples.
        agreement: how often the most likely class or token is the same; None without an output of classes.
        divergence: mean Kullback-Leibler divergence from float32, in nats; None without an output of classes.
        perplexity, perplexity_float32: of a causal language model on the tokens of the samples.
        metric, metric_float32: what the custom metric returned.
        answers: greedy answers of a text model to built-in questions; None for other models.
        least_cosine, most_divergence, most_margin_error: the thresholds; None for no threshold.
        spread: by output, how much the positions of random inputs differ in this, which the file's metadata keeps.
    """

    samples: str
    cosine: float
    lowest_cosine: float
    agreement: float | None = None
    divergence: float | None = None
    perplexity: float | None = None
    perplexity_float32: float | None = None
    metric: float | None = None
    metric_float32: float | None = None
    answers: Answers | None = None
    least_cosine: float | None = None
    most_divergence: float | None = None
    most_margin_error: float | None = None
    spread: Mapping[str, Spread] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        near = self.least_cosine is None or self.cosine >= self.least_cosine
        near = near and (self.most_divergence is None or (self.divergence or 0.0) <= self.most_divergence)
        error = 0.0 if self.answers is None else self.answers.margin_error
        return near and (self.most_margin_error is None or error <= self.most_margin_error)

    @property
    def warnings(self) -> list[str]:
        """One sentence if answers differ from those in float32, with the one of which float32 was the surest."""
        if self.answers is None or not self.answers.different:
            return []
        surest = max(self.answers.different, key=lambda answer: answer.margin or 0.0)
        count = f"{len(self.answers.different)} of {len(self.answers.each)}"
        return [f"{count} answers differ from float32's, most clearly the one to {surest}"]

    def rows(self) -> list[tuple[str, str]]:
        """Return the figures as rows of a table: name and formatted value."""
        found = [("cosine with float32", f"{self.cosine:.5f} (lowest mean of one sample {self.lowest_cosine:.5f})")]
        if self.agreement is not None:
            found.append(("argmax agreement", f"{self.agreement:.1%}, KL divergence {self.divergence:.4f} nats"))
        if self.perplexity is not None:
            found.append(("perplexity", f"{self.perplexity:.2f}, in float32 {self.perplexity_float32:.2f}"))
        if self.answers is not None:
            said = f"{self.answers.equal} of {len(self.answers.each)} equal to float32's"
            found.append(("answers", f"{said}, error of margins {self.answers.margin_error:.3f} nats"))
        if self.spread:
            name, worst = min(self.spread.items(), key=lambda item: -item[1].worst)
            found.append(("lowest cosine", f"{1 - worst.worst:.5f}, of {worst.positions} positions of {name}"))
        if self.metric is not None:
            found.append(("metric", f"{self.metric:.4g}, in float32 {self.metric_float32:.4g}"))
        return [*found, ("measured on", self.samples)]

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "passed": self.passed, "warnings": self.warnings}, indent=2)
