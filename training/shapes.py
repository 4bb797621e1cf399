"""Models without values, for what follows from their config and the shapes of their weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..weights.fill import without_values
from ..zoo.base import ZooModel
from ..zoo.config import Config
from ..zoo.creation import create
from ..zoo.loading import load
from ..zoo.registry import families, family_names, list_models


@contextmanager
def model_of_shapes(model: Any, overrides: Mapping[str, Any]) -> Iterator[ZooModel]:
    """Yield a model whose weights have shapes but no values, for use within the block; or `model` itself.

    Args:
        model: a name that ``create`` knows, the path of a folder that ``load`` reads (no weights are read), a config,
            or a model.
        overrides: config fields, if `model` is a name or a path.

    Raises:
        ValueError: another `model`, or `overrides` beside a config or a model.
    """
    if isinstance(model, ZooModel | Config) and overrides:
        raise ValueError(f"model: got one with {sorted(overrides)}; accepted: fields beside a name or a path only")
    if isinstance(model, ZooModel):
        yield model
        return
    with without_values() as seen:
        if isinstance(model, Config):
            cls = next(cls for cls in families().values() if cls.config_class is type(model))
            yield seen(cls(model))
        elif isinstance(model, str) and model in (*family_names(), *list_models()):
            yield seen(create(model, **overrides))
        elif isinstance(model, str | os.PathLike) and not str(model).endswith(".keras"):
            yield seen(load(model, **overrides))
        else:
            raise ValueError(f"model: got {model!r}; accepted: a name, a path of a folder, a config or a model")


def numbers_of_a_token(variable: Any, config: Any) -> float:
    """Return how many numbers of a matrix a token is multiplied by: of experts, those of the chosen ones."""
    number = float(math.prod(variable.shape))
    if getattr(config, "num_experts", None) and len(variable.shape) == 3 and variable.name.endswith("_kernel"):
        number *= config.experts_per_token / config.num_experts
    return number


def attention_width(config: Any) -> int:
    """Return the number of features of all heads together, which scores and their weighted sum are computed from."""
    return config.num_heads * (getattr(config, "head_dim", None) or config.hidden_dim // config.num_heads)
