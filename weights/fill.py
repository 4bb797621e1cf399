"""Assignment of a file's tensors to a model's weights, and the reverse, with the names of a dialect.

Every weight must get a value, and every tensor of the file must be used or be one that the dialect may ignore. Shapes
are compared before any tensor is read. Then the tensors are read one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks
from .placement import empty, layout_of, placed, whole
from .rules import Dialect, Rule, weight_name
from .tensors import PORTION, SHOWN, Shape, Tensors


@dataclass(frozen=True)
class _Match:
    """The assignment of tensors to weights."""

    plan: list[tuple[list[str], Rule, list[Any]]]  # names of tensors in the file, their rule, the model's variables
    copies: list[tuple[str, str]]  # names of tensors that must be equal
    unused: dict[str, str]  # name in the dialect -> name in the file, for weights that the model does not use
    fresh: list[str]  # names of weights that keep their initial values
    spare: list[str]  # names of tensors of further layers, or of a head that the model does not have


@contextmanager
def without_values() -> Iterator[Callable[[Any], Any]]:
    """Create models whose weights never get values, to inspect their shapes without the memory.

    Every model created in the block must be passed to the function that the block gets::

        with without_values() as seen:
            parameters = seen(GPT(config)).count_params()

    Keras keeps a list of all variables that were created in a ``StatelessScope`` and initializes them when any such
    scope ends, which may be much later. Before that, this function replaces their shapes by those of scalars.
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
                empty(variable)


class FirstValues:
    """Context manager that initializes the variables of a model with the values of a file, at the end of its block::

        with FirstValues() as later:
            model = GPT(config)
            fill(model, dialect, tensors, later=later)

    So no random values are drawn only to be overwritten, and there is never a second copy of the model in memory. Keras
    itself defers initialization in a ``StatelessScope``; ``fill`` replaces the initializers before the scope ends.
    """

    def __enter__(self) -> FirstValues:
        import keras

        self.errors: list[Exception] = []
        self.done: list[Callable[[], None]] = []
        self.refused: list[Any] = []  # variables of a model whose file may turn out not to fit
        self.scope = keras.StatelessScope()
        self.scope.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:  # Keras initializes deferred variables even after an error: make it cheap
            for variable in self.refused:
                empty(variable)
        self.scope.__exit__(*raised)
        if raised[0] is None:
            if self.errors:
                raise self.errors[0]
            for call in self.done:
                call()

    def first_value(self, values: _Values, index: int, variable: Any) -> Callable[..., Any]:
        """Return an initializer for `variable` that reads part `index` of `values`.

        If the file is damaged, it returns zeros, so that Keras can finish, and the error is raised at the end.
        """

        import keras

        # Keras gives large variables the layout as an argument if there is one, and else makes them on one device.
        def initializer(shape: Shape, dtype: Any = None, layout: Any = None, **_: Any) -> Any:
            try:
                if (layout := layout_of(variable)) is not None:
                    return placed(_fitting(values.take(index), dtype), dtype, layout)
                return _tensor(values.take(index), dtype)
            except Exception as error:
                self.errors.append(error)
                return keras.ops.zeros(shape, dtype=dtype)

        return initializer


class _Values:
    """The values of one or more variables from one tensor of a file, or from one tensor for each slice.

    The tensors are read when the first value is taken, and their parts are kept until they are taken.
    """

    def __init__(
        self, tensors: Tensors, names: Sequence[str], rule: Rule, shapes: Sequence[Shape], strange: list[str]
    ) -> None:
        self.tensors, self.names, self.rule, self.shapes, self.strange = tensors, names, rule, shapes, strange
        self.parts: dict[int, np.ndarray] = {}

    def take(self, index: int) -> np.ndarray:
        if index not in self.parts:
            self.parts = dict(enumerate(self.rule.load(self._arrays(), self.shapes)))
        return self.parts.pop(index)

    def _arrays(self) -> Iterator[np.ndarray]:
        for name in self.names:
            array = self.tensors.read(name)
            if not _finite(array):
                self.strange.append(name)
            yield array


def _tensor(array: np.ndarray, dtype: Any) -> Any:
    """Convert `array` to a tensor of the Keras backend; callers should not keep a reference to `array`.

    TensorFlow copies an array twice during conversion and frees one copy only at its next operation. Large arrays are
    therefore converted in portions, each followed by an operation. For an array that is the transpose of one in memory,
    as most kernels are, this is a transposition by the backend, which is several times as fast as a copy by NumPy.
    """
    import keras

    # In PyTorch, a transposed tensor would be no more contiguous than the array.
    turned = array.ndim == 2 and array.T.flags.c_contiguous and not array.flags.c_contiguous
    turned = turned and keras.backend.backend() != "torch"
    source = array.T if turned else array

    def tensor(part: np.ndarray) -> Any:
        made = keras.ops.convert_to_tensor(_fitting(part, dtype), dtype=dtype)
        return keras.ops.transpose(made) if turned else keras.ops.reshape(made, part.shape)

    rows = max(1, PORTION // max(1, source[:1].nbytes)) if source.ndim else 1
    if source.nbytes <= PORTION or rows >= len(source):
        return tensor(source)
    parts = [tensor(source[start : start + rows]) for start in range(0, len(source), rows)]
    del array, source
    return keras.ops.concatenate(parts, axis=1 if turned else 0)


def _finite(array: np.ndarray) -> bool:
    """Return whether all values are finite.

    The sum, which needs no extra memory, is checked first. It can overflow for finite float64 values.
    """
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum(dtype="float64")) or np.isfinite(array).all())


def _warn_of_strange(where: str, names: Sequence[str]) -> None:
    if names:
        checks.warn(f"{where}: not every number is finite in {list(names[:SHOWN])}")


def fill(
    model: Any, dialect: Dialect, tensors: Tensors, *, new_head: bool = False, later: FirstValues | None = None
) -> list[str]:
    """Assign every weight of `model` its value from `tensors`, and the values it does not use to ``model.unused``.

    Args:
        model: a built model of attention_zoo.
        dialect: the names and layouts of the file.
        tensors: the file.
        new_head: the model has another head than the file. Weights of the head that have no matching tensor keep their
            initial values, and the file's own head is not read.
        later: the block in which the model was created; values are read at its end. Default: read them immediately.

    Returns:
        Names of the weights of a new head that keep their initial values.

    Raises:
        ValueError: tensors, listed by name, are missing, not expected or of another shape, or copies of a tied weight
            differ. The model is unchanged then. A tensor that is damaged or not floating-point is found only when it
            is read, and leaves the model partly changed.
    """
    if later is not None:
        later.refused = list(model.weights)
    dialect = dialect.of(tensors.shapes)
    match = _match(model, dialect, tensors, new_head)
    for name, other in match.copies:
        if not np.array_equal(tensors.read(name), tensors.read(other)):
            raise ValueError(
                f"path: {tensors.where}: the values of {name} and {other} differ; accepted: equal values, as the model "
                "has one weight for both"
            )
    if match.spare:
        checks.warn(
            f"{tensors.where}: {len(match.spare)} tensors are not used, as the config has fewer layers or no head: "
            f"{', '.join(match.spare[:SHOWN])}"
        )
    model.unused = {short: tensors.read(name) for short, name in match.unused.items()}
    strange: list[str] = []
    for names, rule, variables in match.plan:
        values = _Values(tensors, names, rule, [tuple(v.shape) for v in variables], strange)
        for index, variable in enumerate(variables):
            if later is None:
                assign(variable, values.take(index))
            else:
                variable._initializer = later.first_value(values, index, variable)
    if later is not None:
        later.done.append(lambda: _warn_of_strange(tensors.where, strange))
    else:
        _warn_of_strange(tensors.where, strange)
    return match.fresh


def has_own_output(dialect: Dialect, tensors: Tensors) -> bool:
    """Return whether the file has an output projection that differs from the tensor it could be tied to."""
    names = {dialect.normalise(name): name for name in tensors.shapes}
    pair = [names.get(short) for short in (dialect.output, dialect.tied.get(dialect.output or "")) if short]
    if len(pair) < 2 or None in pair:
        return False
    one, other = map(str, pair)
    return tensors.shapes[one] == tensors.shapes[other] and not np.array_equal(tensors.read(one), tensors.read(other))


def _is_spare(model: Any, dialect: Dialect, short: str) -> bool:
    """Return whether a tensor belongs to a layer beyond those of `model`, or to a head while `model` has none."""
    headless = model.config.to_dict().get("head", "none") is None
    weights = [weight_name(v) for v in model.weights]
    for rule in dialect.all_rules(model.config):
        theirs, several, _ = rule.theirs.partition("{i}")
        if not several:
            if headless and rule.outside and short == theirs:
                return True
            continue
        number = re.match(r"\d+(?=\.)", short.removeprefix(theirs)) if short.startswith(theirs) else None
        ours = rule.names[0].partition("{i}")[0]
        if number and not any(re.match(f"{re.escape(ours)}{int(number[0])}/", name) for name in weights):
            return any(name.startswith(ours) for name in weights) or (headless and rule.outside)
    return False


def _originals(dialect: Dialect, short: str) -> Iterator[str]:
    """Yield the name of the tensor that `short` is a copy of, and that of which this is a copy, and so on."""
    while short in dialect.tied:
        short = dialect.tied[short]
        yield short


WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DistributedDataParallel", "base_model.model.": "PEFT"}


def _check_names(tensors: Tensors) -> None:
    """Check that the names are not those of a model in a wrapper, which transformers does not find either."""
    if adapters := [name for name in tensors.shapes if ".lora_A." in name]:
        raise ValueError(
            f"path: {tensors.where}: got LoRA adapters, such as {adapters[0]}; accepted: merged weights, as "
            "merge_and_unload of PEFT returns them"
        )
    for prefix, writer in WRAPPERS.items():
        if tensors.shapes and all(name.startswith(prefix) for name in tensors.shapes):
            raise ValueError(
                f"path: {tensors.where}: got names that begin with {prefix!r}, which {writer} adds to those of the "
                "model; accepted: the names of the model without it"
            )


def _match(model: Any, dialect: Dialect, tensors: Tensors, new_head: bool) -> _Match:
    problems, plan, fresh = [], [], []
    _check_names(tensors)
    theirs: dict[str, str] = {}
    for name in tensors.shapes:
        if (short := dialect.normalise(name)) in theirs:
            problems.append(f"{name} and {theirs[short]} are the same tensor")
        theirs[short] = name
    left = dict(theirs)
    for short, rule, variables in dialect.plan(model):
        shapes: list[Shape] = [tuple(v.shape) for v in variables]
        expected, found = rule.shape(shapes), list[str]()
        for one in rule.tensors(short, shapes):
            name = _taken(left, dialect, one)
            if name is not None and tensors.shapes[name] == expected:
                found.append(name)
            elif new_head and all(model.of_head(weight_name(v)) for v in variables):
                fresh += [weight_name(v) for v in variables]
            elif name is not None:
                problems.append(f"{name} has shape {tensors.shapes[name]} for {expected}")
            elif not rule.optional:
                tie = f", which the config does not tie to {dialect.tied[one]}" if one == dialect.output else ""
                problems.append(f"missing {one}{tie}")
        if len(found) == len(rule.tensors(short, shapes)):
            plan.append((found, rule, variables))
    spare = [name for short, name in left.items() if _is_spare(model, dialect, short)]
    own_head = {name for s, name in left.items() if new_head and _outside(model, dialect, s, name)}
    not_tied = own_head if "tie_embeddings" in model.config.unused_fields() else set[str]()
    copies = [
        (name, theirs[original])
        for short, name in left.items()
        if (original := next((one for one in _originals(dialect, short) if one in theirs), None)) is not None
        and name not in (*spare, *not_tied)
    ]
    may_stay = {*spare, *own_head, *(name for name, _ in copies)}
    unused = {} if new_head else {s: n for s, n in left.items() if any(re.search(p, s) for p in dialect.unused)}
    may_stay |= set(unused.values())
    for short, name in left.items():
        if any(re.search(pattern, short) for pattern in (*dialect.ignored, *dialect.unused)):
            may_stay.add(name)
    problems += [f"surplus {name}" for name in left.values() if name not in may_stay]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"path: {tensors.where} does not fit its config: {'; '.join(problems[:SHOWN])}{more}")
    return _Match(plan, copies, unused, fresh, spare)


def _taken(left: dict[str, str], dialect: Dialect, short: str) -> str | None:
    """Remove a tensor from `left`, or its copy if the file has it under the name of a tied tensor only."""
    copies = (copy for copy in dialect.tied if copy in left and short in _originals(dialect, copy))
    return left.pop(short if short in left else next(copies, ""), None)


def _outside(model: Any, dialect: Dialect, short: str, name: str) -> bool:
    """Return whether a tensor is outside of the body: it has no prefix or, without any prefixes, its rule says so."""
    if dialect.prefix:
        return not name.startswith(dialect.prefix)
    return any(rule.outside and rule.theirs == short for rule in dialect.all_rules(model.config))


def assign(variable: Any, array: np.ndarray) -> None:
    """Assign `array`, of any floating-point dtype and any strides, to `variable`."""
    array = _fitting(array, variable.dtype)
    layout = layout_of(variable)
    variable.assign(array if layout is None else placed(array, variable.dtype, layout))


def _fitting(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return `array` contiguous in memory, in a dtype that every backend can convert to `dtype`."""
    import keras

    wanted = keras.backend.standardize_dtype(dtype)
    if str(array.dtype) != wanted:
        array = array.astype("float32" if wanted == "bfloat16" else wanted)  # the backend casts to bfloat16
    return np.asarray(array, order="C")  # unlike ascontiguousarray, keeps 0-D


def collect(model: Any, dialect: Dialect) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name in `dialect` and the value of every tensor of `model`, with the weights in ``model.unused``.

    Names have the dialect's prefix, unless the weight is outside of the body or the model's head is a headless one.
    """
    alone = model.config.to_dict().get("head", "none") in dialect.headless
    for short, rule, variables in dialect.plan(model):
        arrays = [whole(variable) for variable in variables]
        name = short if rule.outside or alone else dialect.prefix + short
        for one, array in zip(rule.tensors(name, [a.shape for a in arrays]), rule.save(arrays), strict=True):
            yield one, np.asarray(array, order="C")
    for short, array in model.unused.items():
        outside = next((outside for pattern, outside in dialect.unused.items() if re.search(pattern, short)), None)
        if outside is not None:  # None: it comes from another kind of checkpoint
            yield short if outside or alone else dialect.prefix + short, array
