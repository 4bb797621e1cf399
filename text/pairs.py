"""Scores of pairs of texts, for every model or runner with a tokenizer whose head is ``sequence_classification``.

Examples:
    model.predict_pairs([("What is gravity?", "A force between masses."), ("What is gravity?", "A kind of bread.")])
    runner.rank("What is gravity?", documents, top_k=3)  # of a reranker: the best documents first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import checks


class PairScoring:
    """Base class that adds ``predict_pairs`` and ``rank`` to models and runners.

    Attributes:
        tokenizer: the tokenizer, or None.
    """

    tokenizer: Any

    def _outputs_of(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Return the outputs by name for one batch of inputs."""
        raise NotImplementedError

    def _most_tokens(self) -> int | None:
        """Return the longest row that can be computed, or None if only the tokenizer has a limit."""
        return None

    def predict_pairs(
        self,
        pairs: Any,
        *,
        batch_size: int = 32,
        activation: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> np.ndarray:
        """Score pairs of texts, as ``CrossEncoder.predict`` of sentence-transformers does.

        Args:
            pairs: pairs of texts, or a single pair.
            batch_size: number of pairs in one call of the model. Pairs of similar length are computed together.
            activation: the function of the logits: "sigmoid", or "linear" for the logits themselves. Default: the
                model's `score_activation`, or if that is None, the sigmoid for a single class and none for several.
            prompt, prompt_name: as in ``Tokenizer.__call__``: a text in front of the first text of each pair.

        Returns:
            float32 (pairs,), or (pairs, classes) if there are several classes; without the first axis for a single
            pair.

        Raises:
            ValueError: no tokenizer, a model of another head, pairs of another type, or another activation.
        """
        single = isinstance(pairs, list | tuple) and len(pairs) == 2 and all(isinstance(text, str) for text in pairs)
        rows = [pairs] if single else pairs
        rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
        if not isinstance(rows, list | tuple) or not rows or not all(map(_is_pair, rows)):
            got = next((row for row in rows if not _is_pair(row)), rows) if isinstance(rows, list | tuple) else rows
            raise ValueError(f"pairs: got {got!r:.80}; accepted: a list of pairs of texts, or one pair")
        checks.positive_integer("batch_size", batch_size)
        if activation is not None:
            checks.choice("activation", activation, ("sigmoid", "linear"))
        if self.tokenizer is None:
            raise ValueError("tokenizer: got None; accepted: a model with a tokenizer")
        order = sorted(range(len(rows)), key=lambda i: -sum(map(len, rows[i])))
        scores: Any = None
        for start in range(0, len(rows), batch_size):
            some = order[start : start + batch_size]
            found = self._scores([rows[i] for i in some], activation, prompt=prompt, prompt_name=prompt_name)
            scores = np.empty((len(rows), *found.shape[1:]), "float32") if scores is None else scores
            scores[some] = found
        scores = scores[:, 0] if scores.shape[1] == 1 else scores
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        activation: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents by their scores for a query, as ``CrossEncoder.rank`` of sentence-transformers does.

        Args:
            query: the query.
            documents: the texts to rank.
            top_k: number of documents to return. Default: all.
            return_documents: whether to return the texts as well.
            batch_size, activation, prompt, prompt_name: as in ``predict_pairs``.

        Returns:
            For each document, the one with the highest score first, its index "corpus_id", its "score" and, with
            `return_documents`, its "text".

        Raises:
            ValueError: as in ``predict_pairs``, or the model has several classes.
        """
        if not isinstance(query, str):
            raise ValueError(f"query: got {type(query).__name__}; accepted: a text")
        if isinstance(documents, str) or not hasattr(documents, "__iter__"):
            raise ValueError(f"documents: got {type(documents).__name__}; accepted: a list of texts")
        if top_k is not None:
            checks.positive_integer("top_k", top_k)
        texts = list(documents)
        if not texts:
            return []
        pairs = [(query, text) for text in texts]
        scores = self.predict_pairs(
            pairs, batch_size=batch_size, activation=activation, prompt=prompt, prompt_name=prompt_name
        )
        if scores.ndim > 1:
            raise ValueError(f"model: got one of {scores.shape[1]} classes; accepted: one with a single score")
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [
            {"corpus_id": int(i), "score": float(scores[i]), **({"text": texts[i]} if return_documents else {})}
            for i in best
        ]

    def _score_activation(self) -> str | None:
        """Return the config field `score_activation`, or None if it is not set."""
        raise NotImplementedError

    def _scores(self, pairs: Sequence[Any], activation: str | None, **prompts: Any) -> np.ndarray:
        """Return the scores of one batch, (pairs, classes)."""
        first, second = ([str(pair[i]) for pair in pairs] for i in (0, 1))
        limits = [n for n in (self._most_tokens(), self.tokenizer.model_max_length) if n is not None]
        inputs = self.tokenizer(first, second, max_length=min(limits) if limits else None, **prompts)
        outputs = self._outputs_of(inputs)
        if "logits" not in outputs or np.ndim(outputs["logits"]) != 2:
            raise ValueError(f"model: got outputs {sorted(outputs)}; accepted: head='sequence_classification'")
        logits = np.asarray(outputs["logits"], "float32")
        chosen = self._score_activation() if activation is None else activation
        if chosen is None:
            chosen = "sigmoid" if logits.shape[1] == 1 else "linear"
        if activation is None and "scores" in outputs:
            return np.asarray(outputs["scores"], "float32")
        return logits if chosen == "linear" else np.exp(-np.logaddexp(0, -logits))


def _is_pair(row: Any) -> bool:
    return isinstance(row, list | tuple) and len(row) == 2 and all(isinstance(text, str) for text in row)
