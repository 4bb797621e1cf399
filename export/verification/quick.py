"""The check of every export before its file appears: the first cases of the plan, in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.runner import Runner
from ...zoo.base import ZooModel
from ..errors import ExportError
from ..frontend.spec import Exportable
from .any_keras import FINITE
from .cases import SHORT, Case, example
from .comparison import TOLERANCE, Check
from .plan import plan
from .reference import Reference


def quick_check(model: Exportable, runner: Runner, samples: Any = None) -> float:
    """Return the maximum difference from Keras in the first cases of the plan.

    The difference is relative to the largest magnitude of an output.

    Args:
        model: the model.
        runner: the runner of the float32 file.
        samples: inputs for a third-party model, in place of synthetic ones; see ``plan``.

    Raises:
        ExportError: a difference is larger than rounding errors explain, or a value is not finite.
        ValueError: the model itself computes different results with and without a cache, or does not accept `samples`
            or any drawn inputs.
    """
    checks: list[Check] = []
    for part in plan(model, runner, quick=True, samples=samples):
        checks += part.check(part.cases[: part.quick], TOLERANCE)
    for check in checks:
        if not check.passed or check.difference is None:
            if isinstance(model, ZooModel):
                _explain(model, runner)
            if check.name.endswith(FINITE):
                raise ExportError(f"the exported file cannot be compared with Keras: {check.name}: {check.detail}")
            drawn = not isinstance(model, ZooModel) and samples is None
            hint = ". The inputs were drawn: for a model that never gets such values, samples= takes others" * drawn
            raise ExportError(f"the exported file differs from Keras: {check.name}: {check.detail}{hint}")
    return max(check.difference or 0.0 for check in checks)


def _explain(model: ZooModel, runner: Runner) -> None:
    """Raise a ValueError if not the file but the model is at fault: its call differs from its own decoder graph."""
    if not runner.layout.generates or "encoder" in runner.layout.roles.values():
        return
    graph = model.graphs("dynamic")["decoder"]
    inputs = example(graph.signature, Case(2, min(SHORT, model.config.max_length), 0, "left"))
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    ours, theirs = Reference(model, model.by_name), Reference(model, graph.function)
    one, other = ours.exact(given)["logits"], theirs.exact(inputs)["logits"]
    valid = inputs["attention_mask"] == 1
    apart = float(np.abs(one - other)[valid].max())
    if apart > 1e-6 * float(np.abs(one[valid]).max()):
        raise ValueError(
            f"model: got a {type(model).__name__} whose call computes something else than its hidden_states and head, "
            f"of which a decoder with a cache is made ({apart:.1e} apart); accepted: cache=False, or a class that "
            "overrides those"
        )
