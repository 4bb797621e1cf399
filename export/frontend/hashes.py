"""TensorFlow's hashes of integers, as TensorFlow operations that every format has.

TensorFlow hashes the decimal text of an integer. The runtimes have no strings, so the bytes of the text are computed
from the digits. They do not have all operations on 64 bits either, so everything is composed of multiplications and
additions of int64, which wrap, and of bits, which are booleans along the last axis: bit i of x is 1 where x · 2⁶³⁻ⁱ is
negative. Signed integers stand for unsigned ones of the same bits.

Sources: FarmHash (``farmhashna::Hash64``), SipHash-2-4, and ``FingerprintCat64`` of TensorFlow's ``fingerprint.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Tensor = Any
# The weight of each byte of a text, and what is added to their sum.
Word = tuple[Sequence[int], int]

DIGITS = {"int8": 3, "uint8": 3, "int16": 5, "uint16": 5, "int32": 10, "uint32": 10, "int64": 19}  # the most, by dtype
K0, K1, K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F  # of FarmHash
MULTIPLIER = 0xC6A4A7935BD1E995  # of FingerprintCat64
SIPHASH = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def written(texts: Tensor) -> Tensor | None:
    """Return the integers whose decimal texts these are, or None if they are other texts."""
    import tensorflow as tf

    op = tf.convert_to_tensor(texts).op
    if op.type != "AsString" or op.inputs[0].dtype.name not in DIGITS or op.get_attr("width") > 0:
        return None
    return op.inputs[0]


def crossed(indices: Tensor, shape: Tensor, values: Tensor, default: Tensor) -> Tensor | None:
    """Return the dense form of a sparse tensor that consists of the hashes of crossed integers of dense tensors, as
    ``tf.sparse.cross_hashed`` gives it. Return None if it consists of something else."""
    import tensorflow as tf

    op, *others = (tf.convert_to_tensor(tensor).op for tensor in (indices, shape, values))
    if op.type != "SparseCross" or any(other is not op for other in others) or not op.get_attr("hashed_output"):
        return None
    columns = list(op.inputs)  # of sparse tensors there would be three each
    if op.get_attr("N") or any(one.dtype != tf.int64 or one.shape.rank != 2 or not one.shape[1] for one in columns):
        return None
    return crossed_bucket(columns, op.get_attr("num_buckets"), op.get_attr("hash_key"))


def fast_bucket(ids: Tensor, buckets: int) -> Tensor:
    """Return ``tf.strings.to_hash_bucket_fast(tf.as_string(ids), buckets)`` for integers of any shape, as int64."""
    return _by_element(lambda x: _bucket(_farmhash(x, DIGITS[ids.dtype.name]), buckets), ids)


def strong_bucket(ids: Tensor, buckets: int, key: Sequence[int]) -> Tensor:
    """Return ``tf.strings.to_hash_bucket_strong(tf.as_string(ids), buckets, key)`` for integers of any shape, as
    int64."""
    return _by_element(lambda x: _bucket(_siphash(x, DIGITS[ids.dtype.name], key), buckets), ids)


def crossed_bucket(columns: Sequence[Tensor], buckets: int, key: int) -> Tensor:
    """Return the values of ``tf.sparse.cross_hashed`` for dense integers, as int64 (batch, combinations).

    Args:
        columns: int64 tensors (batch, features), whose numbers of features are known. The result has a value for each
            combination of a feature of every column. Those of the last column vary fastest.
        buckets: their number, or 0 for almost all numbers of 63 bits.
        key: the integer that the hash starts from.
    """
    import tensorflow as tf

    count = 1
    result = tf.zeros_like(columns[0][:, :1]) + tf.constant(_signed(key), tf.int64)  # (batch · combinations, 1)
    for column in columns:
        features = int(column.shape[1])
        before = tf.tile(tf.reshape(result, [-1, count, 1]), [1, 1, features])
        after = tf.tile(tf.reshape(column, [-1, 1, features]), [1, count, 1])
        count *= features
        result = _joined(tf.reshape(before, [-1, 1]), tf.reshape(after, [-1, 1]))
    return tf.reshape(_bucket(result, buckets or 2**63 - 1), [-1, count])


def _by_element(function: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """Call a function of int64 (count, 1) with all `ids`, and return its result in their shape."""
    import tensorflow as tf

    open_sizes = ids.shape.rank is None or sum(size is None for size in ids.shape) > 1
    shape = tf.shape(ids) if open_sizes else [-1 if size is None else size for size in ids.shape]
    return tf.reshape(function(tf.reshape(tf.cast(ids, tf.int64), [-1, 1])), shape)


def _bucket(number: Tensor, buckets: int) -> Tensor:
    """Return the remainder of unsigned 64-bit numbers."""
    import tensorflow as tf

    rest = tf.math.floormod(number, tf.constant(buckets, tf.int64))
    more = 2**64 % buckets  # an unsigned number from 2⁶³ on is larger by 2⁶⁴ than the signed one
    if not more:
        return rest
    added = tf.where(rest >= buckets - more, rest - (buckets - more), rest + more)
    return tf.where(number < 0, added, rest)


# ---- 64 bits ---------------------------------------------------------------------------------------------------------


def _signed(number: int) -> int:
    """Return the signed integer with the lowest 64 bits of a number."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def _constant(numbers: Iterable[Any]) -> Tensor:
    """Return 64-bit numbers, in nested lists, as a tensor."""
    import tensorflow as tf

    return tf.constant(np.vectorize(_signed, otypes=["int64"])(np.array(numbers, object)))


def _bits(x: Tensor, turn: int | Sequence[int] = 0, shift: int = 0) -> Tensor:
    """Return the bits (…, 64) of numbers (…, 1), from the lowest on.

    Args:
        x: the numbers.
        turn: rotate them to the right by so many bits, or by one of these for each entry of the axis before the last.
        shift: shift them to the right by so many bits.
    """

    def factors(turn: int) -> list[int]:
        places = [i + shift if shift else (i + turn) % 64 for i in range(64)]
        return [2 ** (63 - place) if place < 64 else 0 for place in places]

    moved = x * _constant(factors(turn) if isinstance(turn, int) else [factors(one) for one in turn])
    return moved < 0


def _number(bits: Tensor, turn: int | Sequence[int] = 0) -> Tensor:
    """Return the numbers (…, 1) of bits (…, 64), rotated to the right as by ``_bits``.

    Both halves are summed alone: ONNX Runtime sums int64 in floating point, which is exact below 2⁵³.
    """
    import tensorflow as tf

    places = (np.arange(64) - np.reshape(turn, (-1, 1))) % 64
    places = places[0] if isinstance(turn, int) else places

    def half(first: int) -> Tensor:
        inside = (places >= first) & (places < first + 32)
        powers = tf.constant(np.where(inside, 1 << places % 32, 0).astype("int64"))
        return tf.reduce_sum(tf.where(bits, powers, tf.zeros((), tf.int64)), axis=-1, keepdims=True)

    return half(0) + half(32) * 2**32


def _turned(x: Tensor, turn: int) -> Tensor:
    return _number(_bits(x, turn))


def _mixed(x: Tensor) -> Tensor:
    """Return the bits of x ^ (x >> 47)."""
    import tensorflow as tf

    return tf.not_equal(_bits(x), _bits(x, shift=47))


# ---- texts -----------------------------------------------------------------------------------------------------------


def _words(x: Tensor, digits: int, of_length: Callable[[int], list[Word]]) -> tuple[Tensor, list[Tensor]]:
    """Return the lengths (count, 1) of the decimal texts of `x` (count, 1), and weighted sums of their bytes, each
    (count, 1).

    Args:
        x: integers of at most `digits` digits.
        digits: their number.
        of_length: returns the words of texts of a length.
    """
    import tensorflow as tf

    powers = [10**k for k in range(digits)]
    negative = x < 0
    below = tf.where(negative, x, -x)  # minus the magnitude, which the lowest integer has too
    minus = tf.cast(negative, tf.int32)
    count = tf.reduce_sum(tf.cast(below <= _constant([-p for p in powers[1:]]), tf.int32), axis=-1, keepdims=True)
    # A digit is the number of multiples of its power of ten that it and the lower digits reach. The highest is first.
    rest = tf.concat([below, tf.math.floormod(below, _constant([-p for p in powers[:0:-1]]))], axis=-1)
    multiples = _constant([[-i * p for i in range(1, 10)] for p in powers[::-1]])
    digit = tf.reduce_sum(tf.cast(tf.expand_dims(rest, -1) <= multiples, tf.int64), axis=-1)  # (count, digits)

    lengths = range(1, digits + 2)
    weights, added = [], []  # by length; by number of digits, without and with a minus sign
    for length in lengths:
        found = [([0] * digits + [*word])[-digits:] for word, _ in of_length(length)]
        weights.append([[one >> half & 0xFFFFFFFF for one in word] for half in (0, 32) for word in found])
    for sign in (0, 1):
        for length in range(1 + sign, digits + 1 + sign):
            # "-" is three characters before "0", which its digit is taken for
            added.append([more + ord("0") * sum(word) - sign * 3 * word[0] for word, more in of_length(length)])
    length = count + 1 + minus
    products = tf.expand_dims(digit, 1) * _rows(weights, length - 1)
    halves = tf.reduce_sum(products, axis=-1)  # exact in floating point; see ``_number``
    size = len(weights[0]) // 2
    sums = halves[:, :size] + halves[:, size:] * 2**32 + _rows(added, count + minus * digits)
    return length, _columns(sums)


def _rows(table: Sequence[Any], index: Tensor) -> Tensor:
    """Return the rows of a table at indices (count, 1)."""
    import tensorflow as tf

    return tf.gather(_constant(table), tf.reshape(index, [-1]))


def _columns(x: Tensor) -> list[Tensor]:
    return [x[:, i : i + 1] for i in range(int(x.shape[1]))]


def _fetched(start: int, size: int, length: int, factor: int = 1) -> list[int]:
    """Return the weights of a text's bytes in a little-endian number of `size` bytes from `start` on."""
    return [factor * 256 ** (i - start) if 0 <= i - start < size else 0 for i in range(length)]


# ---- FarmHash --------------------------------------------------------------------------------------------------------


def _farm_words(length: int) -> list[Word]:
    """Return the words of the first and last bytes, and of the second and the last but one eight bytes."""
    if length < 4:
        first = _fetched(0, 1, length)
        first[length // 2] += 256
        return [(first, 0), (_fetched(length - 1, 1, length, 4), length), *_nothing(length, 2)]
    if length < 8:
        return [(_fetched(0, 4, length, 8), length), (_fetched(length - 4, 4, length), 0), *_nothing(length, 2)]
    ends: list[Word] = [(_fetched(start, 8, length), 0) for start in (0, length - 8)]
    if length < 17:
        return [*ends, *_nothing(length, 2)]
    return [*ends, *((_fetched(start, 8, length), 0) for start in (8, length - 16))]


def _nothing(length: int, count: int) -> list[Word]:
    return [([0] * length, 0)] * count


def _farm_factors(length: int) -> list[int]:
    """Return the factors of the first bytes, of the last bytes, and of the hash."""
    if length < 4:
        return [K2, K0, K2]
    factor = K2 + 2 * length
    return [K1, factor, factor] if length > 16 else [1, 1, factor]


def _farmhash(x: Tensor, digits: int) -> Tensor:
    """Return ``farmhashna::Hash64`` of the decimal texts of integers (count, 1). It has a branch for each of 1 to 3, 4
    to 7, 8 to 16, and 17 to 32 bytes."""
    import tensorflow as tf

    needed = 4 if digits + 1 > 16 else 2
    length, (first, last, *middle) = _words(x, digits, lambda length: _farm_words(length)[:needed])
    factors = _rows([_farm_factors(length) for length in range(1, digits + 2)], length - 1)
    of_first, of_last, factor = _columns(factors)
    short_u, short_v = u, v = first * of_first, last * of_last
    if digits + 1 >= 8:
        a = first + _signed(K2)
        u = tf.where(length < 8, u, _turned(last, 37) * factor + a)
        v = tf.where(length < 8, v, (_turned(a, 25) + last) * factor)
    if middle:
        second, before_last = middle
        more = _turned(short_u + second, 43) + _turned(short_v, 30) + before_last * _signed(K2)
        u = tf.where(length < 17, u, more)
        v = tf.where(length < 17, v, short_u + _turned(second + _signed(K2), 18) + short_v)
    v_bits = _bits(v)
    different = _number(tf.not_equal(_bits(u), v_bits))
    both = _number(tf.not_equal(v_bits, _mixed(different * factor))) * factor
    return _number(_mixed(tf.where(length < 4, different, both))) * factor


# ---- SipHash-2-4 -----------------------------------------------------------------------------------------------------


def _siphash(x: Tensor, digits: int, key: Sequence[int]) -> Tensor:
    """Return SipHash-2-4 of the decimal texts of integers (count, 1).

    Of the four numbers of its state, each round adds and mixes two and two. They are one tensor (count, 2, 1) of the
    first and the third, and one of the second and the fourth.
    """
    import tensorflow as tf

    def block(number: int, length: int) -> Word:
        end = length * 2**56 if number == length // 8 else 0  # the last byte of the last block
        return _fetched(8 * number, 8, length), end

    blocks = (digits + 1) // 8 + 1
    length, words = _words(x, digits, lambda length: [block(i, length) for i in range(blocks)])
    v = [key[i % 2] ^ number for i, number in enumerate(SIPHASH)]
    sums = tf.zeros_like(x)[:, None] + _constant([[v[0]], [v[2]]])
    others = tf.zeros_like(x)[:, None] + _constant([[v[1]], [v[3]]])
    for i, word in enumerate(words):
        before = tf.expand_dims(tf.concat([tf.zeros_like(word), word], axis=1), -1)  # for the last of the four numbers
        after = tf.expand_dims(tf.concat([word, tf.zeros_like(word)], axis=1), -1)  # for the first
        new, other = _rounds(sums, _number(tf.not_equal(_bits(others), _bits(before))), 2)
        new = _number(tf.not_equal(_bits(new), _bits(after)))
        inside = length[:, None] >= 8 * i
        sums, others = (new, other) if not i else (tf.where(inside, new, sums), tf.where(inside, other, others))
    end = tf.not_equal(_bits(sums), _bits(_constant([[0], [0xFF]])))
    sums, others = _rounds(_number(end), others, 4)
    left = tf.not_equal(_bits(sums), _bits(others))
    return _number(tf.not_equal(left[:, 0], left[:, 1]))


def _rounds(sums: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the state after `count` rounds; see ``_siphash``. The rotations of the source are to the left."""
    import tensorflow as tf

    for turns, of_sums in (((13, 16), (32, 0)), ((21, 17), (0, 32))) * count:
        sums += others
        bits = _bits(sums)
        others = _number(tf.not_equal(_bits(others, [-turn for turn in turns]), bits))
        others = tf.reverse(others, [1])
        sums = _number(bits, of_sums)
    return sums, others


# ---- crossed features ------------------------------------------------------------------------------------------------


def _joined(one: Tensor, other: Tensor) -> Tensor:
    """Return ``FingerprintCat64`` of two numbers, each (count, 1)."""
    import tensorflow as tf

    factor = _signed(MULTIPLIER)
    bits = tf.not_equal(_bits(one), _bits(_constant([factor])))
    bits = tf.not_equal(bits, _bits(_number(_mixed(other * factor)) * factor))
    return _number(_mixed(_number(_mixed(_number(bits) * factor)) * factor))
