"""What the accuracy of a file is told in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Accuracy:
    """How near a file comes to itself in float32.

    Attributes:
        samples: on what it was measured.
        cosine: mean, over positions, of the angle between outputs; of logits, without what all classes share.
        lowest_cosine: of a whole sample.
        agreement: how often the likeliest class or token is the same; None of outputs that are no classes.
        divergence: mean Kullback-Leibler divergence from float32, in nats; as `agreement`.
        perplexity, perplexity_float32: of the samples' own tokens, of a causal language model.
        metric, metric_float32: what the caller's function gave.
        least_cosine, most_divergence: what was asked for; None for no rule.
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
    least_cosine: float | None = None
    most_divergence: float | None = None

    @property
    def passed(self) -> bool:
        near = self.least_cosine is None or self.cosine >= self.least_cosine
        return near and (self.most_divergence is None or (self.divergence or 0.0) <= self.most_divergence)

    def rows(self) -> list[tuple[str, str]]:
        """For tables: names and figures."""
        found = [("cosine with float32", f"{self.cosine:.5f} (of one sample at least {self.lowest_cosine:.5f})")]
        if self.agreement is not None:
            found.append(("same likeliest", f"{self.agreement:.1%}, divergence {self.divergence:.4f} nats"))
        if self.perplexity is not None:
            found.append(("perplexity", f"{self.perplexity:.2f}, in float32 {self.perplexity_float32:.2f}"))
        if self.metric is not None:
            found.append(("metric", f"{self.metric:.4g}, in float32 {self.metric_float32:.4g}"))
        return [*found, ("measured on", self.samples)]

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2)
