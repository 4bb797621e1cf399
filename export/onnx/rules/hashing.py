"""Hashes of integers, which TensorFlow computes from their decimal texts, and hashes of crossed features."""

from __future__ import annotations

from typing import Any

from ...frontend import hashes
from .base import Call, rule


@rule("StringToHashBucketFast", "StringToHashBucketStrong")
def _bucket(call: Call) -> Any:
    ids = hashes.written(call.inputs[0])
    if ids is None:
        return None
    if call.op.type == "StringToHashBucketStrong":
        return hashes.strong_bucket(ids, call.attr("num_buckets"), call.attr("key"))
    return hashes.fast_bucket(ids, call.attr("num_buckets"))


@rule("SparseToDense")
def _crossed(call: Call) -> Any:
    return hashes.crossed(*call.inputs)
