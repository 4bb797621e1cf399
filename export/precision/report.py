"""The report on the accuracy of a file in reduced precision."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


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
        least_cosine, most_divergence: the thresholds; None for no threshold.
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
        """Return the figures as rows of a table: name and formatted value."""
        found = [("cosine with float32", f"{self.cosine:.5f} (lowest mean of one sample {self.lowest_cosine:.5f})")]
        if self.agreement is not None:
            found.append(("argmax agreement", f"{self.agreement:.1%}, KL divergence {self.divergence:.4f} nats"))
        if self.perplexity is not None:
            found.append(("perplexity", f"{self.perplexity:.2f}, in float32 {self.perplexity_float32:.2f}"))
        if self.metric is not None:
            found.append(("metric", f"{self.metric:.4g}, in float32 {self.metric_float32:.4g}"))
        return [*found, ("measured on", self.samples)]

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2)
