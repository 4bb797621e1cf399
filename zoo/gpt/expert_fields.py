"""The fields of ``GPTConfig`` for mixtures of experts: their checks, and the arguments of each block's layer."""

from __future__ import annotations

from typing import Any

from ...layers.experts import CLAMPED
from ...layers.feedforward import GATED


def has_experts(config: Any) -> bool:
    return config.num_experts is not None


def check_experts(config: Any) -> None:
    """Check the fields of experts together. Raises ValueError."""
    if not has_experts(config):
        if config.activation == CLAMPED:
            raise ValueError(
                f"activation: got {CLAMPED!r} without experts; accepted: num_experts, or another activation"
            )
        return
    if config.activation not in (*GATED, CLAMPED):
        raise ValueError(f"activation: got {config.activation!r} with experts; accepted: {[*GATED, CLAMPED]}")
    plain = [name for name in ("dense_layers", "shared_expert_dim") if getattr(config, name)]
    if config.activation == CLAMPED and plain:
        raise ValueError(f"{plain[0]}: got a value with {CLAMPED!r}, which only experts have; accepted: none")
    if config.experts_per_token > config.num_experts:
        most = config.num_experts
        raise ValueError(f"experts_per_token: got {config.experts_per_token}; accepted: from 1 to num_experts={most}")


def sparse_layers(config: Any) -> list[int]:
    """Return the numbers of the blocks with experts."""
    return [i for i in range(config.num_layers) if has_experts(config) and i not in config.dense_layers]


def experts_of(config: Any, layer: int) -> dict[str, Any] | None:
    """Return the arguments of the ``MixtureOfExperts`` of block `layer`, or None for a plain feed-forward network."""
    sparse = sparse_layers(config)
    if layer not in sparse:
        return None
    return {
        "num_experts": config.num_experts,
        "experts_per_token": config.experts_per_token,
        "intermediate_dim": config.expert_intermediate_dim,
        "router_bias": config.router_bias,
        "normalize": config.normalize_experts,
        "shared_dim": config.shared_expert_dim,
        "router_loss": config.router_loss / len(sparse),
    }
