"""Construction of a model from a third-party config and the tensors of its file, by the rules of a dialect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from .. import checks
from ..weights.fill import FirstValues, fill, has_own_output
from ..weights.rules import Dialect
from ..weights.tensors import Tensors
from .base import ZooModel
from .config import Config
from .special_ids import without_outside_ids


def build_model(
    cls: type[ZooModel],
    dialect: Dialect,
    raw: Mapping[str, Any],
    tensors: Tensors,
    dtype: Any,
    sentences: dict[str, Any],
    overrides: dict[str, Any],
    where: Path,
) -> ZooModel:
    """Return the model of the class `cls` with the values of `tensors`.

    Args:
        cls: the family's class.
        dialect: the names and layouts of the file.
        raw: the third-party config.
        tensors: the file.
        dtype: a Keras dtype policy, or None for the global one.
        sentences: config fields that the files of sentence-transformers specify.
        overrides: config fields that replace those of the file. With a `head`, only the body has to be in the file.
        where: the file of the config, for messages.

    Raises:
        ValueError: the config has an entry that is not supported, or the tensors do not fit it.
    """
    try:
        values = {**dialect.config(raw, tensors.shapes), **sentences}
        known = "head" in cls.config_class.__dataclass_fields__
        if known and "head" not in sentences:
            values["head"] = overrides["head"] if "head" in overrides else dialect.head(raw)
        if not known:
            dialect.head(raw)  # raises for classes that are not of this family
        if values.get("head") is not None:
            values.pop("pooler", None)  # applies to models without a head only
        values |= _tie(dialect, raw, values, tensors, where)
        values = without_outside_ids(cls.config_class, values, f"path: {where}") | overrides
        # For these fields None is a value; for all others it means the default.
        none = ("head", *(k for k in values if k.endswith("_token_id")))
        config = cls.config_class.from_dict({k: v for k, v in values.items() if v is not None or k in none})
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"path: {where} lacks or mistypes a field: {error!r}; accepted: a config as saved") from error
    except ValueError as error:
        raise ValueError(f"path: {where}: {_in_their_words(str(error), dialect)}") from error
    check_sizes(config, tensors, where)
    policy = None if dtype is None else keras.dtype_policies.get(dtype)
    new_head = known and "head" in overrides
    with FirstValues() as later:
        try:
            model = cls(config, dtype=policy)
        except ValueError as error:
            raise ValueError(f"path: {where}: {_in_their_words(str(error), dialect)}") from error
        fresh = fill(model, dialect, tensors, new_head=new_head, later=later)
    warn_of_new_head(fresh, where.parent)
    return model


def _tie(
    dialect: Dialect, raw: Mapping[str, Any], values: Mapping[str, Any], tensors: Tensors, where: Path
) -> dict[str, bool]:
    """Return `tie_embeddings` for a file with an output projection whose config ties it to the embedding table.

    A projection that differs from the table is used, as in transformers 5; earlier versions used the table. There is a
    warning in this case, except for T5, where transformers 5 writes `tie_word_embeddings: true` for every model.
    """
    if dialect.output is None or values.get("head", "") is None or raw.get("tie_word_embeddings") is False:
        return {}
    stated = any(entry.ours == "tie_embeddings" for entry in dialect.fields)
    if stated and values.get("tie_embeddings") is not True:
        return {}
    own = has_own_output(dialect, tensors)
    if own and stated:
        message = f"{where}: tie_word_embeddings is true, but {dialect.output} differs from the embedding table"
        checks.warn(f"{message}; the model uses both, as in transformers 5")
    return {"tie_embeddings": not own}


def _in_their_words(message: str, dialect: Dialect) -> str:
    """Replace the config field in an error message by the entry of the third-party config that it was read from."""
    ours, _, rest = message.partition(":")
    theirs = next((entry.theirs for entry in dialect.fields if entry.ours == ours), ours)
    return message if theirs == ours else f"{theirs} (our {ours}):{rest}"


def check_sizes(config: Config, tensors: Tensors, where: Path) -> None:
    """Check that the sizes in the config are not far larger than the tensors of the file.

    Building a model of such sizes could exhaust the memory. Sizes that are wrong by less are allowed here: the model is
    built without values, and ``fill`` reports every tensor that does not fit.
    """
    held = sum(math.prod(shape) for shape in tensors.shapes.values())
    deep = config.depth > max(8, len(tensors.shapes))
    wanted = 0 if deep else config.least_parameters()  # which takes time and memory for each layer
    if deep or wanted > 4 * held + 2**22:
        sizes = ", ".join(f"{name}={value}" for name, value in config.sizes().items())
        numbers = "more layers than tensors" if deep else f"at least {wanted} numbers"
        raise ValueError(
            f"path: {where}: got {sizes}, {numbers}; accepted: the sizes of the tensors of "
            f"{tensors.where}, which hold {held} in {len(tensors.shapes)}"
        )


def warn_of_new_head(fresh: list[str], folder: Path) -> None:
    """Warn that the weights `fresh` of a new head keep their initial values."""
    if fresh:
        checks.warn(f"{folder} has no such head: {', '.join(fresh)} keep their initial values")
