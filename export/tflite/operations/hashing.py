"""Hashes of integers, which TensorFlow computes from their decimal texts, and hashes of crossed features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...frontend import hashes
from .table import Tensor, rule


@rule("StringToHashBucketFast")
def _fast(input: Tensor, num_buckets: int) -> Tensor | None:
    ids = hashes.written(input)
    return None if ids is None else hashes.fast_bucket(ids, num_buckets)


@rule("StringToHashBucketStrong")
def _strong(input: Tensor, num_buckets: int, key: Sequence[int]) -> Tensor | None:
    ids = hashes.written(input)
    return None if ids is None else hashes.strong_bucket(ids, num_buckets, key)


@rule("SparseToDense")
def _crossed(
    sparse_indices: Tensor, output_shape: Tensor, sparse_values: Tensor, default_value: Tensor, **_: Any
) -> Tensor | None:
    return hashes.crossed(sparse_indices, output_shape, sparse_values, default_value)
