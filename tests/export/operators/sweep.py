"""Export of operator cases, one or several in a model, and comparison of the file's outputs with those of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ops_values import Case

from attention_zoo import export
from attention_zoo.export.errors import ExportError


@keras.saving.register_keras_serializable()
class Operators(keras.layers.Layer):
    """Calls the function of every case on its inputs; the outputs are flat."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__(name="operators")
        self.cases = cases

    def call(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            f"result_{i}_{k}": output
            for i, case in enumerate(self.cases)
            for k, output in enumerate(
                keras.tree.flatten(case.function(*(inputs[f"input_{i}_{j}"] for j in range(len(case.inputs)))))
            )
        }


def model_of(cases: Sequence[Case], batch: int | None) -> keras.Model:
    """Return a Functional model of the cases, whose batch size is open if `batch` is None."""
    inputs = {
        f"input_{i}_{j}": keras.Input(
            batch_shape=(batch and len(array), *array.shape[1:]), dtype=str(array.dtype), name=f"input_{i}_{j}"
        )
        for i, case in enumerate(cases)
        for j, array in enumerate(case.inputs)
    }
    return keras.Model(inputs, Operators(cases)(inputs))


def arrays_of(cases: Sequence[Case]) -> dict[str, np.ndarray]:
    return {f"input_{i}_{j}": array for i, case in enumerate(cases) for j, array in enumerate(case.inputs)}


def expected(case: Case) -> list[np.ndarray]:
    """Return what Keras computes, outside of any model."""
    results = (case.reference or case.function)(*(keras.ops.convert_to_tensor(array) for array in case.inputs))
    return [np.asarray(keras.ops.convert_to_numpy(result)) for result in keras.tree.flatten(results)]


def problem(case: Case, actual: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> str:
    """Return how the outputs of a file differ from those of Keras, or ""."""
    if len(actual) != len(wanted):
        return f"{len(actual)} outputs; expected {len(wanted)}"
    for in_file, in_keras in zip(actual, wanted, strict=True):
        if in_file.shape != in_keras.shape:
            return f"shape {in_file.shape}; expected {in_keras.shape}"
        exact = in_keras.dtype.kind in "iub"
        got, want = (value.astype("int64" if exact else "float64") for value in (in_file, in_keras))
        if exact:
            wrong = got != want
        else:
            with np.errstate(invalid="ignore"):
                near = np.abs(got - want) <= case.atol + case.rtol * np.abs(want)
            wrong = ~((got == want) | (np.isnan(got) & np.isnan(want)) | (np.isfinite(want) & near))
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0]) if wrong.ndim else ()
            return f"{int(wrong.sum())} of {wrong.size} values differ, such as {got[place]} for {want[place]}"
    return ""


def run(to: Callable[..., Any], cases: Sequence[Case], path: Path, batch: int | None) -> list[str]:
    """Export a model of the cases with `to`, run the file, and return the problem of each case, or ""."""
    model = model_of(cases, batch)
    to(model, path)
    runner = export.load(path)
    outputs = runner.run(arrays_of(cases))
    found = []
    for i, case in enumerate(cases):
        names = sorted((n for n in outputs if n.startswith(f"result_{i}_")), key=lambda n: int(n.rpartition("_")[2]))
        found.append(problem(case, [np.asarray(outputs[name]) for name in names], expected(case)))
    return found


def outcome(to: Callable[..., Any], case: Case, path: Path, batch: int | None) -> str:
    """Return "" if the file is right, the message of a one-line refusal after "refused: ", or what is wrong."""
    try:
        return run(to, [case], path, batch)[0]
    except (ExportError, ValueError) as error:
        return f"refused: {error}" if "\n" not in str(error) else f"several lines: {error}"


def batch_of(case: Case, form: str) -> int | None:
    return len(case.inputs[0]) if case.fixed or form == "tflite" else None


def groups(cases: Iterable[Case], form: str, size: int = 24) -> list[list[Case]]:
    """Return the cases in lists of those that have the same batch size."""
    by_batch: dict[Any, list[Case]] = {}
    for case in cases:
        by_batch.setdefault((len(case.inputs[0]), batch_of(case, form)), []).append(case)
    return [found[i : i + size] for found in by_batch.values() for i in range(0, len(found), size)]
