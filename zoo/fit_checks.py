"""Checks of the data of ``fit``, ``evaluate`` and ``predict`` that Keras would not make, and weights of classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from ..signature import Signature


def checked_data(x: Any, signature: Signature) -> Any:
    """Return the data `x` with checks of the inputs in it, if it is a generator or a dataset of Keras.

    Raises:
        ValueError: `x` has ragged tensors.
    """
    values = x.values() if isinstance(x, Mapping) else [x]
    specs = keras.tree.flatten(getattr(x, "element_spec", None))
    if any(type(value).__name__ in ("RaggedTensor", "RaggedTensorSpec") for value in (*values, *specs)):
        raise ValueError("x: got ragged tensors; accepted: rows of one length, as dataset.padded_batch makes them")
    if isinstance(x, keras.utils.PyDataset) and not isinstance(x, CheckedDataset):
        return CheckedDataset(x, signature)
    if inspect.isgenerator(x):
        return _checked_batches(x, signature)
    return x


class CheckedDataset(keras.utils.PyDataset):
    """A ``PyDataset`` that checks the inputs of each batch, as the arrays that are passed to ``fit`` are checked.

    Args:
        dataset: the dataset.
        signature: of the model.
    """

    def __init__(self, dataset: Any, signature: Signature) -> None:
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self.dataset = dataset
        self.signature = signature

    def __getitem__(self, index: int) -> Any:
        return _checked_batch(self.dataset[index], self.signature)

    @property
    def num_batches(self) -> int | None:
        return self.dataset.num_batches

    def on_epoch_begin(self) -> None:
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.dataset.on_epoch_end()


def _checked_batches(batches: Any, signature: Signature) -> Iterator[Any]:
    for batch in batches:
        yield _checked_batch(batch, signature)


def _checked_batch(batch: Any, signature: Signature) -> Any:
    x = batch[0] if isinstance(batch, tuple) and batch else batch
    inputs = x if isinstance(x, Mapping) else {signature.inputs[0].name: x}
    arrays = {str(name): value for name, value in inputs.items() if isinstance(value, np.ndarray)}
    signature.check_arrays(arrays, complete=len(arrays) == len(inputs))
    return batch


def weights_of_tokens(class_weight: Mapping[int, float], x: Any, y: Any, sample_weight: Any) -> Any:
    """Return the weight of every label in `y`, (batch, sequence), or None if Keras can apply `class_weight` itself.

    Keras takes labels of two dimensions for one-hot rows and would use the weight of the position of the largest id.

    Raises:
        ValueError: the labels are not an array, or there are weights of samples as well.
    """
    if isinstance(y, np.ndarray) and (y.ndim < 2 or y.shape[-1] == 1 or y.dtype.kind == "f"):
        return None
    if not isinstance(y, np.ndarray) or y.ndim != 2 or sample_weight is not None:
        given = "a dataset" if y is None else type(y).__name__
        given = "sample_weight too" if sample_weight is not None else f"labels in {given}"
        raise ValueError(
            f"class_weight: got {given} for a model with labels of tokens; accepted: labels (batch, sequence) as an "
            "array, or sample_weight of that shape in its place"
        )
    known, places = np.unique(y, return_inverse=True)
    weights = np.array([class_weight.get(int(label), 1.0) for label in known], "float32")
    return weights[places].reshape(y.shape)
