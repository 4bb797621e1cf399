"""Print the table of expected costs of docs/scaling.md: ``python benchmarks/scaling.py``."""

from __future__ import annotations

from typing import Any

import attention_zoo as az
from attention_zoo.training.costs import ACCELERATORS, Costs, training_costs
from attention_zoo.weights.fill import without_values

SIZES: dict[str, dict[str, Any]] = {
    "GPT-2 124M": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768},
    "GPT-2 355M": {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024},
    "GPT-2 774M": {"num_layers": 36, "num_heads": 20, "hidden_dim": 1280},
    "GPT-2 1.6B": {"num_layers": 48, "num_heads": 25, "hidden_dim": 1600},
    "Llama 2 7B": {
        **{"num_layers": 32, "num_heads": 32, "hidden_dim": 4096, "intermediate_dim": 11008, "vocab_size": 32000},
        **{"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False},
        **{"tie_embeddings": False, "max_length": 4096},
    },
}
DEVICES = (1, 8, 64, 512)
ROWS = 512  # of a step; with 1,024 tokens each half a million tokens, with 4,096 two million


def chosen(model: az.GPT, devices: int, accelerator: str = "a100") -> tuple[Costs, dict[str, Any]] | None:
    """Return the fastest layout of those that fit into nine tenths of the memory, and its costs."""
    memory, group = ACCELERATORS[accelerator].memory, ACCELERATORS[accelerator].group
    found: list[tuple[Costs, dict[str, Any]]] = []
    heads, length = model.config.num_heads, model.config.max_length
    for model_parallel in (n for n in (1, 2, 4, 8) if devices % n == 0 and n <= group and heads % n == 0):
        batch = devices // model_parallel
        for fsdp in (False, True)[: 1 + (batch > 1)]:
            for recompute in (False, True):
                for accumulate in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
                    if ROWS % (batch * accumulate):
                        continue
                    layout = {"batch": batch, "model_parallel": model_parallel, "fsdp": fsdp}
                    layout |= {"recompute": recompute, "accumulate": accumulate}
                    costs = training_costs(model, length=length, rows=ROWS, accelerator=accelerator, **layout)
                    if costs.memory < 0.9 * memory:
                        found.append((costs, layout))
                        break
    return min(found, key=lambda one: sum(one[0].seconds), default=None)


def line(name: str, devices: int, best: tuple[Costs, dict[str, Any]] | None) -> str:
    """Return a line of the table."""
    if best is None:
        return f"| {name} | {devices} | does not fit | | | | |"
    costs, layout = best
    parts = [f"{layout['batch']} × {layout['model_parallel']}"]
    parts += [word for word, on in (("FSDP", layout["fsdp"]), ("recomputed", layout["recompute"])) if on]
    low, high = costs.seconds
    speed = f"{costs.tokens / high / 1e3:,.0f}–{costs.tokens / low / 1e3:,.0f} k"
    times = f"{low:.3g}–{high:.3g} s"
    cells = (name, devices, ", ".join(parts), layout["accumulate"], f"{costs.memory / 1e9:.0f} GB", times, speed)
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    print("| model | devices | layout | accumulated | memory | step | tokens/s |")
    print("|---|---|---|---|---|---|---|")
    for name, fields in SIZES.items():
        with without_values() as seen:
            model = seen(az.GPT(**fields))
            for devices in DEVICES:
                print(line(name, devices, chosen(model, devices)), flush=True)


if __name__ == "__main__":
    main()
