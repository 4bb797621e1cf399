"""All the variables that ``fit`` changes, as arrays: weights, states of seed generators, optimizer and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from ...weights.placement import layout_of, placed, whole


def variables_of(model: Any, *, metrics: bool = True) -> dict[str, Any]:
    """Return every variable that training changes, by a name that is the same in another process.

    Args:
        model: a compiled Keras model. Its optimizer is built if it has not been yet.
        metrics: also return the variables of the metrics. Keras creates those of ``compile(metrics=…)`` in the first
            step, with the TensorFlow backend.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    groups = {"model": model.variables, "optimizer": optimizer.variables}
    if metrics:
        groups["metrics"] = model.metrics_variables
    found: dict[str, Any] = {}
    known: set[int] = set()
    for group, variables in groups.items():
        for variable in variables:
            if id(variable) not in known:  # paths are not unique: two seed generators can have the same
                known.add(id(variable))
                found[f"{group}/{len(found)}"] = variable
    return found


def snapshot(model: Any, *, metrics: bool = True) -> dict[str, np.ndarray]:
    """Return copies of the values of ``variables_of(model)``, whole also if other processes hold parts of them."""
    variables = variables_of(model, metrics=metrics)
    return {name: np.array(whole(variable), order="C", copy=True) for name, variable in variables.items()}


def restore(model: Any, values: Mapping[str, np.ndarray], *, metrics: bool = True) -> None:
    """Assign `values`, which ``snapshot`` returned for such a model.

    Args:
        model: the compiled model.
        values: arrays by name.
        metrics: also assign the variables of the metrics; otherwise `values` may have them nevertheless.

    Raises:
        ValueError: the variables of the model have other names or shapes; no variable is changed then.
    """
    variables = variables_of(model, metrics=metrics)
    given = {name: value for name, value in values.items() if metrics or not name.startswith("metrics/")}
    ours = {name: tuple(variable.shape) for name, variable in variables.items()}
    theirs = {name: tuple(value.shape) for name, value in given.items()}
    if ours != theirs:
        name = next(name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name))
        raise ValueError(
            f"model: got {variables[name].path if name in variables else 'nothing'} of shape {ours.get(name)} where "
            f"the saved state has {theirs.get(name)}; accepted: the model, optimizer and metrics that wrote it"
        )
    for name, variable in variables.items():
        # A copy, because JAX uses the memory of an array as it is, and a training step then writes to it.
        array, layout = np.array(given[name], copy=True), layout_of(variable)
        variable.assign(array if layout is None else placed(array, variable.dtype, layout))


def steps_of(model: Any) -> int:
    """Return the number of steps that the optimizer has taken, which goes on in a resumed run."""
    return int(ops.convert_to_numpy(model.optimizer.iterations))
