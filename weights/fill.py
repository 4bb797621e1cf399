"""Tensors into a model, and a model's tensors out of it, as a dialect names them.

Every weight must be filled and every tensor of the file used or on the dialect's list of what it may ignore; shapes are
compared before the first byte is read, and then one tensor is in memory at a time.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .rules import Dialect, Rule, weight_name
from .tensors import PORTION, SHOWN, Shape, Tensors
from .transforms import Transform


@dataclass(frozen=True)
class _Match:
    """Which tensor goes where."""

    plan: list[tuple[str, Rule, list[Any]]]  # the tensor's name, its rule, our variables
    copies: list[tuple[str, str]]  # names of tensors that must be equal
    unused: dict[str, str]  # names of weights that nobody asks for, by how the dialect calls them
    fresh: list[str]  # weights that keep what they were initialised with


@contextmanager
def without_values() -> Iterator[Callable[[Any], Any]]:
    """Models made in this block, and given to its function, never get values: they are for looking at.

        with without_values() as seen:
            parameters = seen(GPT(config)).count_params()

    Keras remembers every variable that was made in a ``StatelessScope`` and gives it a value when any such scope ends,
    which may be much later; here they are scalars by then.
    """
    import keras

    made: list[Any] = []

    def seen(model: Any) -> Any:
        made.append(model)
        return model

    with keras.StatelessScope():
        try:
            yield seen
        finally:
            for variable in (variable for model in made for variable in model.variables):
                variable._shape, variable._initializer = (), _zeros


class FirstValues:
    """Variables of models made in its block get no value before its end, and then those that ``fill`` has for them::

        with FirstValues() as later:
            model = GPT(config)
            fill(model, dialect, tensors, later=later)

    No random numbers are drawn to be overwritten, and no second copy of the model is ever in memory. Keras puts
    initialising off itself, in a ``StatelessScope``; what is done here is to exchange the initialisers in between.
    """

    def __enter__(self) -> FirstValues:
        import keras

        self.errors: list[Exception] = []
        self.done: list[Callable[[], None]] = []
        self.refused: list[Any] = []  # variables of a model that its file does not fit
        self.scope = keras.StatelessScope()
        self.scope.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:  # Keras initialises what it has put off in any case: nothing worth the time
            for variable in self.refused:
                variable._shape, variable._initializer = (), _zeros
        self.scope.__exit__(*raised)
        if raised[0] is None:
            if self.errors:
                raise self.errors[0]
            for call in self.done:
                call()

    def first_value(self, values: _Values, index: int) -> Callable[..., Any]:
        """An initialiser. A file that is damaged gives zeros, so that Keras ends what it began, and then an error."""

        import keras

        def initializer(shape: Shape, dtype: Any = None, **_: Any) -> Any:
            try:
                return _tensor(values.take(index), dtype)
            except Exception as error:
                self.errors.append(error)
                return keras.ops.zeros(shape, dtype=dtype)

        return initializer


def _zeros(shape: Shape, dtype: Any = None) -> Any:
    import keras

    return keras.ops.zeros(shape, dtype)


class _Values:
    """What one tensor of a file is for one or more variables; read when the first asks and kept until the last did."""

    def __init__(
        self, tensors: Tensors, name: str, transform: Transform, shapes: Sequence[Shape], strange: list[str]
    ) -> None:
        self.tensors, self.name, self.transform, self.shapes, self.strange = tensors, name, transform, shapes, strange
        self.parts: dict[int, np.ndarray] = {}

    def take(self, index: int) -> np.ndarray:
        if index not in self.parts:
            array = self.tensors.read(self.name)
            if not _finite(array):
                self.strange.append(self.name)
            self.parts = dict(enumerate(self.transform.load(array, self.shapes)))
        return self.parts.pop(index)


def _tensor(array: np.ndarray, dtype: Any) -> Any:
    """A tensor of the backend's. TensorFlow copies an array twice on the way and lets go of one copy at its next
    operation, so it gets large ones in portions, each with such an operation; whoever calls should not keep `array`."""
    import keras

    def tensor(part: np.ndarray) -> Any:
        made = keras.ops.convert_to_tensor(_fitting(part, dtype), dtype=dtype)
        return keras.ops.reshape(made, part.shape)

    rows = max(1, PORTION // max(1, array[:1].nbytes)) if array.ndim else 1
    if array.nbytes <= PORTION or rows >= len(array):
        return tensor(array)
    parts = [tensor(array[start : start + rows]) for start in range(0, len(array), rows)]
    del array
    return keras.ops.concatenate(parts)


def _finite(array: np.ndarray) -> bool:
    """A sum takes no memory; it may be infinite for finite float64."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum(dtype="float64")) or np.isfinite(array).all())


def _warn_of_strange(where: str, names: Sequence[str]) -> None:
    if names:
        warnings.warn(f"{where}: not every number is finite in {list(names[:SHOWN])}", stacklevel=4)


def fill(
    model: Any, dialect: Dialect, tensors: Tensors, *, new_head: bool = False, later: FirstValues | None = None
) -> list[str]:
    """Give every weight of `model` its value from `tensors`.

    Args:
        later: the model was made in this block, at whose end the values are read. Default: at once.
        new_head: the model has another head than the file: what is the head's own stays as it was initialised, and
            the file's head is not read.

    Returns:
        Names of the weights of a new head.

    Raises:
        ValueError: tensors that are missing, that nothing wants, or of another shape or dtype, by name. Nothing is
            changed then, but for a tensor that turns out to be damaged when it is read.
    """
    if later is not None:
        later.refused = list(model.weights)
    match = _match(model, dialect, tensors, new_head)
    for name, other in match.copies:
        if not np.array_equal(tensors.read(name), tensors.read(other)):
            raise ValueError(
                f"path: {tensors.where} does not fit its config, which ties {name} to {other}: their values differ; "
                "accepted: equal ones, or a config that does not tie them"
            )
    model.unused = {short: tensors.read(name) for short, name in match.unused.items()}
    strange: list[str] = []
    for name, rule, variables in match.plan:
        values = _Values(tensors, name, rule.transform, [tuple(v.shape) for v in variables], strange)
        for index, variable in enumerate(variables):
            if later is None:
                assign(variable, values.take(index))
            else:
                variable._initializer = later.first_value(values, index)
    if later is not None:
        later.done.append(lambda: _warn_of_strange(tensors.where, strange))
    else:
        _warn_of_strange(tensors.where, strange)
    return match.fresh


def _match(model: Any, dialect: Dialect, tensors: Tensors, new_head: bool) -> _Match:
    problems, plan, fresh = [], [], []
    theirs: dict[str, str] = {}
    for name in tensors.shapes:
        if (short := dialect.normalise(name)) in theirs:
            problems.append(f"{name} and {theirs[short]} are the same tensor")
        theirs[short] = name
    left = dict(theirs)
    for short, rule, variables in dialect.plan(model):
        expected = rule.transform.shape([tuple(v.shape) for v in variables])
        name = left.pop(short, None)
        if name is not None and tensors.shapes[name] == expected:
            plan.append((name, rule, variables))
        elif new_head and all(model.of_head(weight_name(v)) for v in variables):
            fresh += [weight_name(v) for v in variables]
        elif name is None:
            problems.append(f"missing {short}")
        else:
            problems.append(f"{name} has shape {tensors.shapes[name]} for {expected}")
    copies = [(name, theirs[dialect.tied[s]]) for s, name in left.items() if dialect.tied.get(s) in theirs]
    may_stay = {name for name, _ in copies}
    unused = {} if new_head else {s: n for s, n in left.items() if any(re.search(p, s) for p in dialect.unused)}
    may_stay |= set(unused.values())
    for short, name in left.items():
        if any(re.search(pattern, short) for pattern in (*dialect.ignored, *dialect.unused)):
            may_stay.add(name)
        if new_head and dialect.prefix and not name.startswith(dialect.prefix):
            may_stay.add(name)  # the file's own head
    problems += [f"surplus {name}" for name in left.values() if name not in may_stay]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"path: {tensors.where} does not fit its config: {'; '.join(problems[:SHOWN])}{more}")
    return _Match(plan, copies, unused, fresh)


def assign(variable: Any, array: np.ndarray) -> None:
    """`array`, of any float dtype and any strides, to `variable`."""
    variable.assign(_fitting(array, variable.dtype))


def _fitting(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Whole in memory, and of a dtype from which every backend makes `dtype`."""
    import keras

    wanted = keras.backend.standardize_dtype(dtype)
    if str(array.dtype) != wanted:
        array = array.astype("float32" if wanted == "bfloat16" else wanted)  # the backend rounds to bfloat16
    return np.ascontiguousarray(array)


def collect(model: Any, dialect: Dialect) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of `model` by the names of `dialect`, without its prefix for the body."""
    import keras

    alone = model.config.to_dict().get("head", "none") in dialect.headless
    for short, rule, variables in dialect.plan(model):
        arrays = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
        name = short if rule.outside or alone else dialect.prefix + short
        yield name, np.ascontiguousarray(rule.transform.save(arrays))
    for short, array in model.unused.items():
        outside = next((outside for pattern, outside in dialect.unused.items() if re.search(pattern, short)), None)
        if outside is not None:  # else it is of another kind of checkpoint
            yield short if outside or alone else dialect.prefix + short, array
