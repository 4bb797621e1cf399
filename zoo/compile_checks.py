"""Warnings of ``compile`` about losses, metrics, optimizers and dtypes with which a model would not learn as meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from .. import checks
from ..finetuning.optimizers import innermost
from ..weights.rules import weight_name

HALF = ("float16", "bfloat16")
_OF_PROBABILITIES = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
_ACCURACY_CLASSES = (keras.metrics.SparseCategoricalAccuracy, keras.metrics.Accuracy)
_ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy")


def warn_of_compiled(model: Any, metrics: Any) -> None:
    """Issue a ``UserWarning`` for each argument of ``compile`` that does not fit `model`, with `metrics` as given."""
    _warn_of_dtype(model)
    _warn_of_losses(model)
    _warn_of_accuracy(model, metrics)
    _warn_of_shift(model, metrics)
    _warn_of_other_metrics(model, metrics)
    _warn_of_muon(model)


def _warn_of_dtype(model: Any) -> None:
    dtype = next((v.dtype for v in model.trainable_variables if v.dtype in HALF), None)
    if dtype == "bfloat16":
        checks.warn(
            "dtype: got 'bfloat16' weights, which round away steps below 1/256 of a weight, so that most of them never "
            "move; accepted for training: 'mixed_bfloat16'"
        )
    elif dtype is not None:
        checks.warn(
            f"dtype: got {dtype!r} weights, in which gradients and the epsilon of Adam underflow, and losses become "
            "NaN; accepted for training: 'mixed_float16'"
        )


def _warn_of_losses(model: Any) -> None:
    if not any(spec.name.startswith("logits") for spec in model.signature.outputs):
        return
    functions = {getattr(keras.losses, name): name for name in _OF_PROBABILITIES}
    for loss in _parts(model.loss):
        found = keras.losses.get(loss) if isinstance(loss, str) else loss
        name = functions.get(found) if callable(found) and not isinstance(found, keras.losses.Loss) else None
        if name is not None or getattr(found, "from_logits", None) is False:
            shown = repr(loss) if isinstance(loss, str) else name or type(found).__name__
            checks.warn(
                f"loss: got {shown}, which takes the model's logits for probabilities; accepted: a loss with "
                "from_logits=True, such as keras.losses.SparseCategoricalCrossentropy(from_logits=True)"
            )
            return


def _warn_of_accuracy(model: Any, metrics: Any) -> None:
    ignored = next((c for loss in _parts(model.loss) if (c := getattr(loss, "ignore_class", None)) is not None), None)
    for metric in _parts(metrics):
        if ignored is not None and (
            metric in _ACCURACIES if isinstance(metric, str) else type(metric) in _ACCURACY_CLASSES
        ):
            checks.warn(
                f"metrics: got {metric if isinstance(metric, str) else type(metric).__name__!r}, which counts the "
                f"labels {ignored} that the loss ignores as mistakes; accepted: az.metrics.MaskedAccuracy(shift=False)"
            )
            return


def _warn_of_shift(model: Any, metrics: Any) -> None:
    """Warn of metrics that compare with the next label beside Keras' losses, which compare with that in its place."""
    losses = [keras.losses.get(loss) if isinstance(loss, str) else loss for loss in _parts(model.loss)]
    if not losses or any(getattr(loss, "__module__", "").partition(".")[0] != "keras" for loss in losses):
        return
    if (metric := next((m for m in _parts(metrics) if getattr(m, "shift", False)), None)) is not None:
        checks.warn(
            f"metrics: got {metric.name!r} with shift=True, which compares with the label after that of the loss; "
            "accepted: shift=False, or az.losses.CausalLM"
        )


def _warn_of_other_metrics(model: Any, metrics: Any) -> None:
    """Warn of Keras' metrics beside a loss of tokens: they do not shift labels, and count those that have none."""
    loss: Any = model.loss
    for metric in _parts(metrics) if hasattr(loss, "labels_of") else ():
        if isinstance(metric, str | keras.metrics.MeanMetricWrapper):
            checks.warn(
                f"metrics: got {metric if isinstance(metric, str) else type(metric).__name__!r} with "
                f"{type(loss).__name__}, whose labels Keras' metrics do not shift, and of which they count the ignored "
                f"ones too; accepted: those of az.metrics, such as az.metrics.MaskedAccuracy(shift={loss.shift})"
            )
            return


def _warn_of_muon(model: Any) -> None:
    optimizer = innermost(model.optimizer)
    if not isinstance(optimizer, keras.optimizers.Muon):
        return
    adam = optimizer._should_use_adamw
    heads = [v for v in model.trainable_variables if model.of_head(weight_name(v)) and not adam(v)]
    if layers := sorted({weight_name(v).partition("/")[0] for v in heads}):
        checks.warn(
            f"optimizer: got Muon for the output layers {layers}; accepted: keras.optimizers.Muon("
            f"…, exclude_layers={layers}), which trains them with AdamW"
        )


def _parts(values: Any) -> Iterator[Any]:
    """Yield the losses or metrics in an argument of ``compile``, which may be nested."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from _parts(value)
    elif values is not None:
        yield values
