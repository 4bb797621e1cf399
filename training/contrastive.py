"""Contrastive losses of embeddings, and the model that embeds the texts of a pair with one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from ..checks import positive_number

Tensor = Any
FAR = -1e9  # added to the score of a candidate that does not count


@keras.saving.register_keras_serializable(package="attention_zoo")
class MultipleNegativesRanking(keras.losses.Loss):
    """Cross-entropy of finding the partner of each embedding among those of the whole batch (in-batch negatives).

    The score of two embeddings is `scale` times their cosine similarity, and a softmax over all candidates of the batch
    gives the loss of each row (Henderson et al. 2017, arXiv:1705.00652, section 4.4; van den Oord et al. 2018,
    arXiv:1807.03748). It is called MultipleNegativesRankingLoss in sentence-transformers, and InfoNCE elsewhere.

    `y_pred` is (batch, 2 or more, dim): the anchor, its partner, and further texts that are no partners of any row
    (hard negatives). `y_true` is (batch,): rows with the same number have the same meaning, and their partners do not
    count against each other; the number -1 is that of no other row. ``PairedEncoder`` gives such outputs.

    Args:
        scale: factor of the cosines, the inverse of the temperature.
        symmetric: add the loss of finding the anchor of each partner, and halve the sum (CLIP; arXiv:2103.00020).
        reduction, name: as in ``keras.losses.Loss``.

    Raises:
        ValueError: a `scale` that is not positive; when called, `y_pred` of another shape.
    """

    def __init__(
        self,
        scale: float = 20.0,
        symmetric: bool = False,
        reduction: str = "sum_over_batch_size",
        name: str = "multiple_negatives_ranking",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.scale, self.symmetric = positive_number("scale", scale), bool(symmetric)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each row, (batch,) float32."""
        y_pred = ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) != 3 or y_pred.shape[1] < 2:
            raise ValueError(f"y_pred: got shape {tuple(y_pred.shape)}; accepted: (batch, 2 or more, dim)")
        embeddings = ops.normalize(ops.cast(y_pred, "float32"), axis=-1, order=2, epsilon=1e-12)
        anchors, partners = embeddings[:, 0], embeddings[:, 1]
        groups = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        own = ops.eye(ops.shape(groups)[0], dtype="bool")
        same = ops.logical_and(groups[:, None] == groups[None], groups[:, None] >= 0)
        excluded = ops.cast(ops.logical_and(same, ops.logical_not(own)), "float32") * FAR
        scores = self.scale * ops.matmul(anchors, ops.transpose(partners)) + excluded
        loss = -_diagonal(ops.log_softmax(self._with_negatives(scores, embeddings), axis=-1), own)
        if self.symmetric:
            loss = (loss - _diagonal(ops.log_softmax(ops.transpose(scores), axis=-1), own)) / 2
        return loss

    def _with_negatives(self, scores: Tensor, embeddings: Tensor) -> Tensor:
        """Append the scores with the hard negatives of all rows, if there are any."""
        if embeddings.shape[1] == 2:
            return scores
        negatives = ops.reshape(embeddings[:, 2:], (-1, embeddings.shape[-1]))
        further = self.scale * ops.matmul(embeddings[:, 0], ops.transpose(negatives))
        return ops.concatenate([scores, further], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale, "symmetric": self.symmetric, "reduction": self.reduction, "name": self.name}


def _diagonal(scores: Tensor, own: Tensor) -> Tensor:
    """Return the entries of `scores` (batch, batch or more) at which `own` (batch, batch) is True, (batch,)."""
    return ops.sum(ops.where(own, scores[:, : ops.shape(own)[0]], 0.0), axis=-1)


@keras.saving.register_keras_serializable(package="attention_zoo")
class PairedEncoder(keras.Model):
    """One encoder for all parts of a pair (a bi-encoder), for training with ``MultipleNegativesRanking``.

    The inputs are those of the encoder, each with the name of the part in front: "anchor.input_ids",
    "positive.input_ids", …; ``tokenize`` makes them from texts. Training it trains the encoder, which is used alone
    afterwards.

    Args:
        encoder: a model that returns embeddings (batch, dim), or a dict with one "sentence_embedding".
        parts: names of the parts, in the order of the output.

    A call returns (batch, parts, dim) in the dtype of the encoder's output.

    Raises:
        ValueError: fewer than two `parts`.
    """

    def __init__(self, encoder: Any, parts: Sequence[str] = ("anchor", "positive"), **options: Any) -> None:
        super().__init__(**options)
        self.encoder, self.parts = encoder, tuple(parts)
        if len(self.parts) < 2:
            raise ValueError(f"parts: got {list(parts)}; accepted: two or more names")

    def call(self, inputs: Mapping[str, Tensor], training: bool | None = None) -> Tensor:
        found = []
        for part in self.parts:
            own = {name.partition(".")[2]: x for name, x in inputs.items() if name.partition(".")[0] == part}
            result = self.encoder(own, training=training)
            found.append(result["sentence_embedding"] if isinstance(result, Mapping) else result)
        return ops.stack(found, axis=1)

    def tokenize(self, *texts: Sequence[str], **options: Any) -> dict[str, Any]:
        """Return the inputs for lists of texts, one list for each part, encoded by the encoder's tokenizer.

        Args:
            texts: lists of the same length.
            options: of the tokenizer, such as `max_length`.

        Raises:
            ValueError: another number of lists than parts, or lists of unequal length.
        """
        if len(texts) != len(self.parts):
            raise ValueError(f"texts: got {len(texts)} lists; accepted: {len(self.parts)}, for {list(self.parts)}")
        if len(sizes := {len(part) for part in texts}) > 1:
            raise ValueError(f"texts: got lists of {sorted(sizes)} texts; accepted: lists of one length")
        encoded = [
            (part, self.encoder.tokenizer(list(own), **options)) for part, own in zip(self.parts, texts, strict=True)
        ]
        return {f"{part}.{name}": array for part, arrays in encoded for name, array in arrays.items()}

    def get_config(self) -> dict[str, Any]:
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder, "parts": list(self.parts)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PairedEncoder:
        encoder = keras.saving.deserialize_keras_object(config.pop("encoder"), custom_objects=custom_objects)
        return cls(encoder, **config)
