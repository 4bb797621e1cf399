"""Accuracy of a file in reduced precision, compared with the same file in float32.

Needs only NumPy and the file's own runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...generation.search import generate
from ...runtime.runner import LoadedGraph, Runner
from ...signature import BATCHES, Signature, TensorSpec
from ..errors import AccuracyError
from ..options import MOST_DIVERGENCE, MOST_MARGIN_ERROR
from ..request import ExportRequest
from .answers import compare_answers
from .cosine import VECTOR, cosines
from .report import Accuracy
from .samples import random_of, samples_of, takes_texts
from .spread import Spread

Arrays = Mapping[str, np.ndarray]
Outputs = dict[str, tuple[Any, Any, Any]]

NEW_TOKENS = 16


def measure(precise: Runner, rounded: Runner, request: ExportRequest) -> Accuracy:
    """Compare the outputs of `rounded` with those of `precise`, the same model in float32.

    The samples are those of the request, or built-in prose, synthetic images or random tokens.

    Raises:
        ValueError: the model does not accept the samples.
        AccuracyError: outputs are NaN or infinite, or less accurate than the request accepts.
    """
    precision, samples = request.precision.name, request.evaluation_samples
    tokenizer = precise.tokenizer
    graph = _entry(precise)
    signature = _text_signature(graph) if _stepwise(precise) else graph.signature
    told = "built-in prose" if tokenizer is not None else "synthetic inputs"
    told = told if samples is None else "user samples"
    paddings = ("none", "left", "right") if graph.padding is None else ("none", graph.padding)
    inputs = list(samples_of(signature, tokenizer, samples, paddings))
    found = _compared(precise, rounded, inputs, signature)
    random = found
    if takes_texts(signature):  # of which ``verify`` takes random ones, whatever the samples are
        all_paddings = (*paddings, "interior") if graph.padding is None else paddings
        random = _compared(precise, rounded, random_of(signature, all_paddings), signature)
    figures = found.figures()
    written = samples if isinstance(samples, str | list | tuple) and isinstance(samples[0], str) else None
    figures["answers"] = compare_answers(precise, rounded, written)
    if request.metric is not None:
        figures |= {"metric_float32": float(request.metric(precise)), "metric": float(request.metric(rounded))}
    result = Accuracy(
        samples=f"{told}, {len(inputs)} batches",
        least_cosine=request.accepted_cosine,
        spread=random.spread(),
        most_divergence=MOST_DIVERGENCE[precision] if request.least_cosine is None else None,
        most_margin_error=MOST_MARGIN_ERROR[precision] if request.least_cosine is None else None,
        **figures,
    )
    if not result.passed:
        said = "; ".join(f"{name} {value}" for name, value in result.rows())
        raise AccuracyError(
            f"precision: got {precision!r}, with which the file is too far from float32: {said}; accepted: a cosine of "
            f"{result.least_cosine} and more"
            + ("" if result.most_divergence is None else f", a divergence up to {result.most_divergence}")
            + ("" if result.most_margin_error is None else f" and an error of margins up to {result.most_margin_error}")
            + ", another precision, or a lower least_cosine"
        )
    return result


def _compared(precise: Runner, rounded: Runner, inputs: Iterable[Arrays], signature: Signature) -> _Found:
    found = _Found()
    for sample in inputs:
        for part, outputs in _parts(precise, rounded, sample, signature):
            for name, (one, other, valid) in outputs.items():
                found.add(name, one, other, valid)
            if _causal(precise):
                found.add_tokens(part, *outputs["logits"][:2])
    return found


def _entry(runner: Runner) -> LoadedGraph:
    """Return the graph that takes a sample: the encoder where there is one, else the main graph."""
    encoder = next((name for name, role in runner.layout.roles.items() if role == "encoder"), None)
    return runner.graphs[encoder or runner.layout.main]


def _causal(runner: Runner) -> bool:
    """Return whether the runner gives logits for every token of a text."""
    return runner.generates and _entry(runner) is runner.graphs[runner.layout.main]


def _stepwise(runner: Runner) -> bool:
    """Return whether the runner gives logits for only one token at a time."""
    return runner.layout.kind == "litert"


def _text_signature(graph: LoadedGraph) -> Signature:
    """Return the signature of a text for a graph that takes its tokens one by one."""
    tokens = next(spec for spec in graph.signature.inputs if spec.name == "tokens")
    inputs = [
        TensorSpec("input_ids", "int64", ("batch", "sequence"), below=tokens.below),
        TensorSpec("attention_mask", "int64", ("batch", "sequence"), below=2, optional=True, fill=1),
    ]
    return Signature(tuple(inputs), (), limits={"sequence": graph.signature.sizes["slots"]}, sizes={"batch": 1})


def _parts(precise: Runner, rounded: Runner, sample: Arrays, signature: Signature) -> Iterator[tuple[Arrays, Outputs]]:
    """Yield inputs and the outputs for them.

    If the graph takes tokens one by one, every row of a text is run alone: the first half of its tokens fills the
    cache, and the outputs are the logits of the last of these and of all tokens after it.
    """
    if not _stepwise(precise):
        yield sample, _outputs(precise, rounded, sample)
        return
    signature.check_arrays({name: np.asarray(array) for name, array in sample.items()})
    ids = np.asarray(sample["input_ids"])
    masks = sample.get("attention_mask", np.ones_like(ids))
    for row, mask in zip(ids, masks, strict=True):
        text = row[np.asarray(mask) == 1]
        if not len(text):
            continue
        half = max(1, len(text) // 2)
        sides = []
        for runner in (precise, rounded):
            decoder = runner.decoder()
            logits = [decoder.prompt(text[None, :half], np.ones((1, half), "int64"), len(text) - half)]
            logits += [decoder.step(text[i : i + 1]) for i in range(half, len(text))]
            sides.append(np.stack(logits, axis=1))
        yield {"input_ids": text[None, half - 1 :]}, {"logits": (*sides, None)}


def _outputs(precise: Runner, rounded: Runner, sample: Arrays) -> Outputs:
    """Return for every output that is not part of the cache: float32 values, reduced-precision values, and which
    positions count."""
    graph = _entry(precise)
    other = _entry(rounded)
    one, two = graph.run(sample), other.run(sample)
    kept = set(graph.signature.state.values())
    mask = sample.get("attention_mask")
    found = {}
    for spec in graph.signature.outputs:
        if spec.name in kept or one[spec.name].dtype.kind != "f":
            continue
        if spec.dims[-1] in BATCHES and len(spec.dims) > 1:  # products of embeddings, which are outputs too
            continue
        per_token = mask is not None and one[spec.name].ndim >= 3 and one[spec.name].shape[:2] == mask.shape
        found[spec.name] = one[spec.name], two[spec.name], mask == 1 if per_token else None
    if graph is not precise.graphs[precise.layout.main]:
        found["logits"] = *_continued(precise, rounded, sample), None
    return found


def _continued(precise: Runner, rounded: Runner, sample: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (rows, tokens, vocab_size) of both encoder-decoders, fed with the tokens that `precise`
    generates."""
    source = sample["input_ids"] if "input_ids" in sample else sample["input_features"]
    mask = sample.get("attention_mask", np.ones(source.shape if source.ndim == 2 else (len(source), 1), "int64"))
    new = min(NEW_TOKENS, precise.decoder().max_length - 1)
    greedy: Any = precise.decoder()
    greedy.defaults = {}  # greedy decoding, whatever the model's generation config
    written = generate(greedy, source, mask, max_new_tokens=new, stop_tokens=[])[:, 1:]
    sides = []
    for runner in (precise, rounded):
        decoder = runner.decoder()
        logits = [decoder.prompt(source, mask, new)]
        logits += [decoder.step(written[:, i]) for i in range(new - 1)]
        sides.append(np.stack(logits, axis=1))
    return sides[0], sides[1]


@dataclass
class _Found:
    """The results collected from the samples so far."""

    cosines: list[np.ndarray] = field(default_factory=list)
    by_output: dict[str, list[np.ndarray]] = field(default_factory=dict)
    same: list[np.ndarray] = field(default_factory=list)
    divergence: list[np.ndarray] = field(default_factory=list)
    losses: tuple[list[np.ndarray], list[np.ndarray]] = field(default_factory=lambda: ([], []))

    def add(self, name: str, one: np.ndarray, other: np.ndarray, valid: np.ndarray | None) -> None:
        if not np.isfinite(other).all() and np.isfinite(one).all():
            raise AccuracyError(f"precision: {name} has NaN or infinite values, which it does not have in float32")
        if valid is not None:
            one, other = one[valid], other[valid]
        kind = _kind(name, one)
        near = cosines(one, other, centred=kind == "logits").ravel()
        self.cosines.append(near)
        if one.ndim > 1 and one.shape[-1] >= VECTOR:
            self.by_output.setdefault(name, []).append(near)
        if kind:
            p, q = (_log_probabilities(side, kind) for side in (one, other))
            self.same.append((p.argmax(-1) == q.argmax(-1)).ravel())
            self.divergence.append((np.exp(p) * (p - q)).sum(-1).ravel())

    def add_tokens(self, sample: Arrays, one: np.ndarray, other: np.ndarray) -> None:
        ids = sample["input_ids"]
        mask = np.asarray(sample.get("attention_mask", np.ones_like(ids)), bool)
        counted = mask[:, 1:] & mask[:, :-1]
        for side, losses in zip((one, other), self.losses, strict=True):
            told = np.take_along_axis(_log_probabilities(side[:, :-1], "logits"), ids[:, 1:, None], -1)[..., 0]
            losses.append(-told[counted])

    def spread(self) -> dict[str, Spread]:
        """Return by output the spread over all positions. Outputs with short vectors have none."""
        return {name: Spread.of(np.concatenate(parts)) for name, parts in self.by_output.items()}

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "cosine": _mean(self.cosines),
            "lowest_cosine": min(float(part.mean()) for part in self.cosines if part.size),
        }
        if self.same:
            found |= {"agreement": _mean(self.same), "divergence": _mean(self.divergence)}
        if any(part.size for part in self.losses[0]):
            found["perplexity_float32"], found["perplexity"] = (float(np.exp(_mean(side))) for side in self.losses)
        return found


def _mean(parts: Iterable[np.ndarray]) -> float:
    return float(np.concatenate(list(parts)).mean())


def _kind(name: str, values: np.ndarray) -> str:
    """Return "logits" or "probabilities" for an output of classes, and "" for any other output."""
    if values.ndim < 2 or values.shape[-1] < 2 or not values.size:
        return ""
    if name == "logits" or name.endswith("_logits"):
        return "logits"
    sums = values.sum(-1)
    return "probabilities" if (values >= 0).all() and np.allclose(sums, 1, atol=1e-3) else ""


def _log_probabilities(values: np.ndarray, kind: str) -> np.ndarray:
    values = values.astype("float64")
    if kind == "probabilities":  # of quantized outputs, which do not sum to exactly 1
        values = np.maximum(values, 1e-12)
        return np.log(values / values.sum(-1, keepdims=True))
    values = values - values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))
