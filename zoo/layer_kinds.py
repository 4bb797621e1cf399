"""Config fields of models whose layers differ from each other, such as in the range of their attention."""

from __future__ import annotations

from typing import Any

from .. import checks
from .config import field

FULL, SLIDING = "full_attention", "sliding_attention"  # Hugging Face's names
KINDS = (FULL, SLIDING)


def layer_types() -> Any:
    """Declare a field with the kind of each layer, a tuple of "full_attention" and "sliding_attention", or None.

    None means that all layers are of the same kind: sliding if the config has a `sliding_window`, or else full.
    """

    def check(config: Any, name: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or len(value) != config.num_layers or not set(value) <= set(KINDS):
            raise ValueError(f"{name}: got {value!r}; accepted: {config.num_layers} of {list(KINDS)}, or None")
        return tuple(value)

    return field(None, check)


def indices(**options: Any) -> Any:
    """Declare a field with the indices of some of the layers, a tuple in ascending order."""

    def check(config: Any, name: str, value: Any) -> tuple[int, ...]:
        layers: list[Any] = list(map(checks.plain, value)) if isinstance(value, list | tuple) else [None]
        known = all(checks.is_integer(layer) and 0 <= layer < config.num_layers for layer in layers)
        if not known or len(set(layers)) < len(layers):
            raise ValueError(f"{name}: got {value!r}; accepted: different numbers from 0 to {config.num_layers - 1}")
        return tuple(sorted(layers))

    return field((), check, **options)
