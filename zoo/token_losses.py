"""Training with the losses of ``training/losses.py``: their labels, and logits that never exist all at once.

These losses have two methods beside those of Keras: ``labels_of(x, y)``, the labels without those of padding, and
``targets(labels)``, the label of each position. With their argument `chunk_size`, ``fit`` and ``evaluate`` make the
model return the statistics of its logits in place of the logits; see ``layers/vocabulary.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ..layers.vocabulary import statistics_wanted

Tensor = Any


class TokenLosses(keras.Model):
    """Mixin that adapts Keras' training of a model to losses of tokens."""

    @property
    def projects_vocabulary(self) -> bool:
        """Whether the model's output is logits over a vocabulary that can be computed a chunk at a time."""
        return False

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Configure the training as ``keras.Model.compile`` does.

        Raises:
            ValueError: a loss of tokens beside others; one with `chunk_size` for a model without logits over a
                vocabulary, or with metrics of other kinds than those of ``az.metrics``, which would need all logits; or
                a metric that compares other positions than the loss does.
        """
        if len(losses := keras.tree.flatten(loss)) == 1 and hasattr(losses[0], "labels_of"):
            loss = losses[0]  # a list of one, or a dict
        elif any(hasattr(each, "labels_of") for each in losses):
            raise ValueError(f"loss: got a loss of tokens among {len(losses)} losses; accepted: it alone")
        super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, *args, **kwargs)
        loss = _token_loss(self)
        if loss is None:
            return
        for metric in keras.tree.flatten([metrics, weighted_metrics]):
            if metric is not None and hasattr(metric, "shift") and metric.shift != loss.shift:
                raise ValueError(
                    f"metrics: got {metric.name} with shift={metric.shift}; accepted: shift={loss.shift}, as "
                    f"{type(loss).__name__} has"
                )
            if metric is not None and loss.chunk_size is not None and not hasattr(metric, "shift"):
                name = metric if isinstance(metric, str) else getattr(metric, "name", type(metric).__name__)
                raise ValueError(
                    f"metrics: got {name!r} with the chunk_size of {type(loss).__name__}, which computes no logits; "
                    "accepted: metrics of az.metrics, or chunk_size=None"
                )
        if loss.chunk_size is not None and not self.projects_vocabulary:
            head = getattr(self.config, "head", None)
            raise ValueError(
                f"chunk_size: got {loss.chunk_size!r} for {self.name} with head={head!r}; "
                "accepted: None, or a GPT with head='causal_lm' or a BERT with head='masked_lm'"
            )

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as ``keras.Model.fit`` does. Batches of ``az.data`` are told the epoch, and are not shuffled again.

        Raises:
            ValueError: `steps_per_epoch` for such batches. Epochs of Keras would not be theirs: rows would be missing
                in the order of one, and be repeated in that of another.
        """
        source = getattr(x, "dataset", x)  # ``CheckedDataset`` holds the data that the user has given
        if hasattr(source, "epoch_callback"):
            if (steps := kwargs.get("steps_per_epoch")) not in (None, source.num_batches):
                raise ValueError(
                    f"steps_per_epoch: got {steps!r} for data of {source.num_batches} batches an epoch; accepted: "
                    "None, or data.tf_data().repeat() in place of the data"
                )
            if len(args) > 3:
                raise ValueError("fit: got callbacks or shuffle by position; accepted: callbacks=[...] by name")
            given = kwargs.get("callbacks") or []
            if isinstance(given, keras.callbacks.CallbackList):
                given.append(source.epoch_callback())
            else:
                given = [source.epoch_callback(), *(given if isinstance(given, list | tuple) else [given])]
            kwargs |= {"callbacks": given, "shuffle": False}
        return super().fit(x, *args, **kwargs)

    def labels_for_weights(self, x: Any, y: Any, *weights: Any) -> Any:
        """Return `y`, or the ids of the arrays `x` if there are `weights` for labels that the loss takes from them.

        Keras leaves out the weights of samples without labels.
        """
        loss = _token_loss(self)
        if y is not None or loss is None or not loss.shift or all(weight is None for weight in weights):
            return y
        ids = x.get("input_ids") if isinstance(x, Mapping) else x
        return ids if isinstance(ids, np.ndarray) or ops.is_tensor(ids) else None

    def validation_with_labels(self, data: Any) -> Any:
        """Return `data`, the argument `validation_data` of ``fit``, with labels if it has weights but no labels."""
        if not isinstance(data, tuple | list) or len(data) != 3:
            return data
        x, y, weights = data
        return x, self.labels_for_weights(x, y, weights), weights

    def train_step(self, *args: Any) -> Any:
        with self._chunks(args[-1]):
            return super().train_step(*args)

    def test_step(self, *args: Any) -> Any:
        with self._chunks(args[-1]):
            return super().test_step(*args)

    def _chunks(self, data: Any) -> Any:
        """Return the context in which one step on `data` runs."""
        loss = _token_loss(self)
        if loss is None or loss.chunk_size is None:
            return statistics_wanted(None, None)
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        tokens = None if loss.chunk_size == "auto" else loss.chunk_size
        return statistics_wanted(loss.targets(loss.labels_of(x, y)), tokens)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return super().compute_loss(x, self._labels(x, y), y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().compute_metrics(x, self._labels(x, y), y_pred, sample_weight)

    def _labels(self, x: Any, y: Any) -> Any:
        loss = _token_loss(self)
        return y if loss is None else loss.labels_of(x, y)


def _token_loss(model: Any) -> Any:
    """Return the loss of `model` if it is one of tokens, or else None."""
    loss = getattr(model, "loss", None)
    return loss if hasattr(loss, "labels_of") else None
