"""Training on more than one device: what Keras' trainers need from a model with integer inputs, and early refusals.

Keras has two engines for several devices. On TensorFlow, ``tf.distribute`` strategies run the training step once for
each replica. On JAX, ``keras.distribution`` places the rows of every batch and the weights on the devices of a mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from ..checks import is_integer
from ..finetuning.optimizers import innermost


class Distributed(keras.Model):
    """Mixin of every model for training under ``tf.distribute`` strategies and ``keras.distribution``."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build losses and metrics from the first batch of the first replica; the model is built already.

        Keras' own method builds from the mean over the replicas, in which ids are floats and masks cannot be added up,
        and which ``MultiWorkerMirroredStrategy`` cannot form outside of its step.
        """
        strategy = getattr(self, "_distribute_strategy", None)
        if strategy is not None and iterator is not None:
            parts = strategy.experimental_local_results
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(lambda value: parts(value)[0], next(batches))
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)  # pyright: ignore[reportAttributeAccessIssue]

    def train_step(self, *arguments: Any) -> Any:
        return self._averaged(super().train_step(*arguments))

    def test_step(self, *arguments: Any) -> Any:
        return self._averaged(super().test_step(*arguments))

    def _averaged(self, logs: Any) -> Any:
        """Return the results of a step in a form of which Keras can form the mean over the workers.

        Under ``MultiWorkerMirroredStrategy`` it does so along the first axis, which numbers do not have.
        """
        strategy = getattr(self, "_distribute_strategy", None)
        if strategy is None or not getattr(strategy.extended, "_in_multi_worker_mode", bool)():
            return logs
        return keras.tree.map_structure(lambda value: keras.ops.expand_dims(value, 0), logs)

    def check_replicas(self) -> None:
        """Check that the optimizer can be applied under the current ``tf.distribute`` strategy.

        Raises:
            ValueError: it accumulates gradients over several steps, which Keras cannot do in a replica.
        """
        strategy = getattr(self, "_distribute_strategy", None)
        steps = getattr(innermost(self.optimizer), "gradient_accumulation_steps", None)
        if strategy is not None and steps and type(strategy).__name__ != "OneDeviceStrategy":
            raise ValueError(
                f"optimizer: got gradient_accumulation_steps={steps} under {type(strategy).__name__}, where Keras "
                "cannot apply it; accepted: None, as a larger batch is divided over the replicas"
            )

    def check_fit(self, x: Any, arguments: Mapping[str, Any]) -> None:
        """Check the layouts of the weights, and the batches of a call of ``fit`` with the other `arguments`."""
        layouts: Any = getattr(keras.distribution.distribution(), "_layout_map", None)
        if hasattr(layouts, "check_model"):
            layouts.check_model(self)
        size, rows, validation = arguments.get("batch_size"), rows_of(x), arguments.get("validation_data")
        share = arguments.get("validation_split") or 0.0
        if rows is not None and share and validation is None:
            check_batches(rows - int(rows * (1.0 - share)), arguments.get("validation_batch_size") or size)
            rows = int(rows * (1.0 - share))
        check_batches(rows, size)
        if isinstance(validation, tuple | list) and validation:
            size = arguments.get("validation_batch_size") or size
            check_batches(rows_of(validation[0]), size, "validation_data")

    @contextmanager
    def whole_batches(self) -> Iterator[None]:
        """Keep the model sound when data that cannot be checked beforehand give a batch that JAX cannot divide."""
        try:
            yield
        except ValueError as error:
            if type(error).__name__ != "IndivisibleError":
                raise
            if hasattr(self, "jax_state_sync"):  # Keras moved the weights out of the model for the time of the epoch
                self.jax_state_sync()
            raise ValueError(
                f"x: got a batch whose rows the {replicas()} devices that share one do not divide; accepted: batches "
                "of a multiple, such as those of dataset.batch(size, drop_remainder=True)"
            ) from error

    def predict_padded(self, x: Any, batch_size: Any, predict: Callable[[Any], Any]) -> Any:
        """Return ``predict(x)``; if the devices do not divide the rows, rows are added for it and cut off again."""
        rows, outputs = rows_of(x), self.signature.outputs  # pyright: ignore[reportAttributeAccessIssue]
        if rows is None or not rows or not (more := -rows % replicas()) or any(o.dims[0] != "batch" for o in outputs):
            check_batches(rows, batch_size)
            return predict(x)
        padded = keras.tree.map_structure(lambda array: np.concatenate([array, np.repeat(array[-1:], more, 0)]), x)
        check_batches(rows + more, batch_size)
        return keras.tree.map_structure(lambda array: array[:rows], predict(padded))


def rows_of(x: Any) -> int | None:
    """Return the number of rows of NumPy data, or None for other data."""
    arrays = list(x.values()) if isinstance(x, Mapping) else [x]
    if not arrays or not all(isinstance(array, np.ndarray) and array.ndim for array in arrays):
        return None
    return len(arrays[0])


def check_batches(rows: int | None, batch_size: Any, argument: str = "x") -> None:
    """Check that every batch can be divided over the devices that share one under ``keras.distribution``.

    Args:
        rows: the number of rows of NumPy data; None for other data, which are not checked.
        batch_size: the argument of ``fit``; None for Keras' default of 32.
        argument: the name of the data in the message.

    Raises:
        ValueError: the devices do not divide a batch. JAX would raise an error in the middle of an epoch.
    """
    parts = replicas()
    size = 32 if batch_size is None else batch_size
    if not rows or parts == 1 or not is_integer(size) or size < 1:
        return
    if size % parts and rows > size:
        raise ValueError(f"batch_size: got {size}, which {parts} devices share; accepted: a multiple of {parts}")
    last = rows % size or min(size, rows)
    if last % parts:
        kept = rows - last % parts
        accepted = f"{kept} or {kept + parts} rows" if kept else f"{parts} rows"
        raise ValueError(
            f"{argument}: got {rows} rows in batches of {size}; the last batch of {last} is not divided by the {parts} "
            f"devices that share one; accepted: {accepted}"
        )


def replicas() -> int:
    """Return the number of parts into which ``keras.distribution`` divides the batches that this process provides."""
    distribution: Any = keras.distribution.distribution()
    if distribution is None or keras.backend.backend() != "jax":
        return 1
    return max(1, distribution.num_model_replicas // distribution.num_processes)
