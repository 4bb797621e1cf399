"""Batches of rows for ``fit``: shuffled by seed and epoch, divided among processes, resumable within an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from ...checks import integer, positive_integer, shown

Array = np.ndarray
Batch = tuple[dict[str, Array], Array]


class TokenBatches(keras.utils.PyDataset):
    """Batches of rows of tokens: ``model.fit(batches, epochs=3)``.

    The order of the rows, and every random choice in them, follows from `seed`, the epoch and the row alone: not from
    the number of processes, workers or calls. ``fit`` of this package's models tells the batches which epoch it is in,
    and does not let Keras shuffle them a second time; other models need
    ``fit(batches, shuffle=False, callbacks=[batches.epoch_callback()])``.

    ``len(batches)`` is the number of batches in an epoch, and ``for inputs, labels in batches`` yields the rest of the
    current epoch and moves on to the next one.

    Args:
        number: number of rows.
        batch_size: rows of a batch, in this process.
        shuffle: whether each epoch has another order; otherwise it is that of the rows.
        seed: an integer of at least 0.
        shard: (index, count): this process takes every count-th batch, so that all have the same number.
        drop_remainder: leave out the last batch of an epoch if it is not full. Always so with several shards.
        workers, use_multiprocessing, max_queue_size: as for ``keras.utils.PyDataset``.

    Raises:
        ValueError: an argument is not accepted, or the rows do not make one batch for each shard.
    """

    def __init__(
        self,
        number: int,
        *,
        batch_size: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        drop_remainder: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.number = number
        self.batch_size = positive_integer("batch_size", batch_size)
        self.shuffle = bool(shuffle)
        self.seed = integer("seed", seed)
        if not isinstance(shard, tuple | list) or len(shard) != 2:
            raise ValueError(f"shard: got {shown(shard)}; accepted: a pair (index, count)")
        count = positive_integer("shard", shard[1])
        self.shard = integer("shard", shard[0], below=count), count
        whole = bool(drop_remainder) or count > 1
        together = self.batch_size * count
        self.total = number // together if whole else -(-number // together)
        if not self.total:
            raise ValueError(
                f"batch_size: got {batch_size} for {number} rows and {count} shards; accepted: at most the rows of a "
                f"shard, {number // count}"
            )
        self._epoch, self._start, self._running = 0, 0, False
        self._order: tuple[int, Array] = (-1, np.zeros(0, "int64"))

    def rows(self, numbers: Array, epoch: int) -> Batch:
        """Return the inputs and labels of the rows with these `numbers` in `epoch`."""
        raise NotImplementedError

    def generator(self, epoch: int, row: int) -> np.random.Generator:
        """Return the generator of the random choices within `row` in `epoch`."""
        return np.random.default_rng((self.seed, 1, epoch, row))

    def order(self, epoch: int) -> Array:
        """Return the numbers of all rows in the order of `epoch`."""
        if not self.shuffle:
            return np.arange(self.number)
        known, order = self._order
        if known != epoch:
            order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.number)
            self._order = (epoch, order)  # one assignment: worker threads may be reading it
        return order

    def batch(self, epoch: int, index: int) -> Batch:
        """Return batch `index` of `epoch`."""
        own, count = self.shard
        first = (index * count + own) * self.batch_size
        return self.rows(self.order(epoch)[first : first + self.batch_size], epoch)

    @property
    def num_batches(self) -> int:
        """The number of batches of an epoch; within ``fit``, of what remains of a resumed epoch."""
        return self.total - (self._start if self._running else 0)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self.num_batches:
            raise IndexError(f"batch: got {index}; accepted: 0 to {self.num_batches - 1}")
        return self.batch(self._epoch, index + (self._start if self._running else 0))

    def __iter__(self) -> Iterator[Batch]:
        while self._start < self.total:
            self._start += 1
            yield self.batch(self._epoch, self._start - 1)
        self._epoch, self._start = self._epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`, or continue it where ``load_state_dict`` or ``for`` left off."""
        if integer("epoch", epoch) != self._epoch:
            self._epoch, self._start = int(epoch), 0

    def rewind(self) -> None:
        """Go back to the beginning of the current epoch."""
        self._start = 0

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Serve the rest of a resumed epoch, rather than the whole epoch, within the block."""
        self._running = True
        try:
            yield
        finally:
            self._running = False

    def state_dict(self, steps: int = 0) -> dict[str, int]:
        """Return the position as numbers for JSON, for ``load_state_dict`` of the same data in another process.

        Args:
            steps: batches of the current epoch that ``fit`` has trained on since the epoch began or was resumed.
                Batches may be prepared ahead, so only the training knows this number. ``for`` counts by itself.
        """
        position = self._start + integer("steps", steps)
        epoch, batch = self._epoch + position // self.total, position % self.total
        return {"epoch": epoch, "batch": batch, **self._identity()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue after the batches that ``state_dict`` counted. ``fit`` then needs ``initial_epoch=state["epoch"]``.

        Within an epoch of ``fit``, where ``az.callbacks.Resume`` calls this, the epoch is that of ``fit``: the state of
        another one, such as the end of the one before, changes nothing.

        Raises:
            ValueError: the state of other data, or of another seed, batch size or number of shards.
        """
        known = {name: state.get(name) for name in self._identity()}
        if known != self._identity():
            raise ValueError(f"state: got {known}; accepted: that of the same data, {self._identity()}")
        epoch = integer("epoch", state.get("epoch"))
        start = integer("batch", state.get("batch"), below=self.total)
        if not self._running or epoch == self._epoch:
            self._epoch, self._start = epoch, start

    def _identity(self) -> dict[str, int]:
        """Return what two data sets must share for a position in one to mean the same in the other."""
        return {
            "seed": self.seed,
            "rows": self.number,
            "batch_size": self.batch_size,
            "shards": self.shard[1],
            "shuffle": int(self.shuffle),
        }

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Return the callback by which ``fit`` tells the epoch; models of this package add it themselves."""
        return _Epochs(self)

    def tf_data(self) -> Any:
        """Return a ``tf.data.Dataset`` of these batches. A pass over it is the rest of an epoch, as with ``for``."""
        import tensorflow as tf

        def spec(array: Array) -> Any:
            return tf.TensorSpec((None, *array.shape[1:]), tf.as_dtype(array.dtype))

        signature = keras.tree.map_structure(spec, self.batch(0, 0))
        return tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)


class _Epochs(keras.callbacks.Callback):
    """Tells batches the epoch of ``fit``."""

    def __init__(self, batches: TokenBatches) -> None:
        super().__init__()
        self.batches = batches
        self._block: Any = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._end()
        self.batches.set_epoch(epoch)
        self._block = self.batches.training()
        self._block.__enter__()

    def on_train_end(self, logs: Any = None) -> None:
        self._end()
        self.batches.rewind()

    def _end(self) -> None:
        if self._block is not None:
            self._block.__exit__(None, None, None)
            self._block = None
