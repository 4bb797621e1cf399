"""Tensors by name, and the rules that turn another library's into ours: nothing is ever unpickled or executed.

A dialect is a table: for every tensor of a checkpoint our weights' names and a transform that can be undone. Read one
way it loads, read the other way it saves, so that the two cannot disagree::

    DIALECT = Dialect(rules=(
        *linear("layers.{i}.self_attn.q_proj", "block_{i}/attention/query"),   # (out, in) there, (in, out) here
        Rule("norm.weight", "final_norm/scale"),
    ), ...)

Every weight of the model must be filled and every tensor of the file used or on the dialect's list of what it may
ignore; shapes are compared before the first byte is read, and then one tensor is in memory at a time.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Shape = tuple[int, ...]
SHOWN = 8  # problems in one message
PORTION = 2**22  # bytes read at a time


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path`, renamed to it when the block ends well and removed when it does not."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are for their owner only
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


# Where tensors come from.


class Tensors(Protocol):
    """Named tensors somewhere, read one by one."""

    where: str  # for messages

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    def read(self, name: str) -> np.ndarray:
        """One tensor, of whatever floating-point dtype it has.

        Raises:
            ValueError: it is damaged, or not of floating point.
        """
        ...


FLOATS = ("F64", "F32", "F16", "BF16")


class SafetensorsFiles:
    """The tensors of ``model.safetensors``, or of the shards that ``model.safetensors.index.json`` lists.

    Raises:
        ValueError: no such file, a damaged one, an index that names a file elsewhere or that its shards contradict.
    """

    def __init__(self, folder: Path) -> None:
        self.shapes: dict[str, Shape] = {}
        self.homes: dict[str, Path] = {}
        self.dtypes: dict[str, str] = {}
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        self.where = str(single if single.exists() or not index.is_file() else index)
        listed = None if self.where == str(single) else _read_index(index)
        for file in [single] if listed is None else sorted({folder / shard for shard in listed.values()}):
            with _opened(file) as tensors:
                _check_names(file)
                for name in tensors.keys():  # noqa: SIM118 (it has no __iter__)
                    view = tensors.get_slice(name)
                    if name in self.homes:
                        raise ValueError(f"path: {file} has {name}, which {self.homes[name].name} has; accepted: one")
                    self.homes[name] = file
                    self.shapes[name], self.dtypes[name] = tuple(view.get_shape()), view.get_dtype()
        if listed is not None and set(listed) != set(self.homes):
            strange = sorted(set(listed) ^ set(self.homes))
            raise ValueError(f"path: {index} and its files differ in {strange[:SHOWN]}; accepted: the same tensors")
        for name, shard in (listed or {}).items():
            if self.homes[name].name != shard:
                has = self.homes[name].name
                raise ValueError(f"path: {index} says that {shard} has {name}; accepted: {has}, which has it")

    def read(self, name: str) -> np.ndarray:
        if self.dtypes[name] not in FLOATS:
            raise ValueError(f"path: {self.homes[name]}: {name} is of {self.dtypes[name]}; accepted: {list(FLOATS)}")
        import ml_dtypes  # noqa: F401 (makes bfloat16 a dtype that NumPy knows)

        shape, itemsize = self.shapes[name], 8 if self.dtypes[name] == "F64" else 4
        rows = max(1, PORTION // (itemsize * max(1, math.prod(shape[1:]))))
        if not shape or rows >= shape[0]:
            with _opened(self.homes[name]) as tensors:
                return tensors.get_tensor(name)
        whole: Any = None
        for start in range(0, shape[0], rows):  # pages of a file that is open count as memory in use
            with _opened(self.homes[name]) as tensors:
                part = tensors.get_slice(name)[start : min(start + rows, shape[0])]
            whole = np.empty(shape, part.dtype) if whole is None else whole
            whole[start : start + rows] = part
        return whole


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ValueError(f"path: {file} cannot be read: no such file; accepted: a safetensors file")
    try:
        with safe_open(file, framework="numpy") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: {file} cannot be read: {error}; accepted: a safetensors file") from error


def _check_names(file: Path) -> None:
    """No name twice, which the format forbids and its library takes without a word. The header is known to be good."""
    with file.open("rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
    names = Counter(name for name, _ in json.loads(header, object_pairs_hook=list))
    if twice := sorted(name for name, times in names.items() if times > 1):
        raise ValueError(f"path: {file} has {twice[:SHOWN]} twice; accepted: each tensor once")


def _read_index(index: Path) -> dict[str, str]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
        raise ValueError(f"path: {index} has no weight_map from tensors to files; accepted: an index as it is saved")
    if outside := sorted({shard for shard in listed.values() if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard)}):
        raise ValueError(f"path: {index} names {outside[:SHOWN]}; accepted: names of .safetensors files beside it")
    return listed


LARGEST_JSON = 2**24  # bytes; parsed, they can take thirty times as much. The index of the largest models has half


def read_json(file: Path, kind: type = dict) -> Any:
    """An object from a JSON file, or with `kind` a list.

    Raises:
        ValueError: no such file, one of more than 16 MiB, not JSON, or something else than an object.
    """
    accepted = "accepted: a JSON object" if kind is dict else "accepted: a JSON list"
    try:
        size = file.stat().st_size
        raw = json.loads(file.read_text(encoding="utf-8")) if size <= LARGEST_JSON else None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"path: {file} is not JSON: {error}; {accepted}") from error
    if size > LARGEST_JSON:
        raise ValueError(f"path: {file} has {size} bytes; {accepted} of at most {LARGEST_JSON}")
    if not isinstance(raw, kind):
        raise ValueError(f"path: {file} holds a {type(raw).__name__}; {accepted}")
    return raw


# Transforms, each with its inverse.


@dataclass(frozen=True)
class Transform:
    """Between one tensor of theirs and one or more of ours.

    Attributes:
        load: their array, and the shapes of ours, to our arrays.
        save: our arrays to theirs.
        shape: their shape, of ours.
    """

    load: Callable[[np.ndarray, Sequence[Shape]], list[np.ndarray]]
    save: Callable[[Sequence[np.ndarray]], np.ndarray]
    shape: Callable[[Sequence[Shape]], Shape]


def permuted(*axes: int) -> Transform:
    """Axis i here is axis ``axes[i]`` there."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Transform(
        lambda theirs, _: [theirs.transpose(axes)],
        lambda ours: ours[0].transpose(back),
        lambda shapes: tuple(shapes[0][axis] for axis in back),
    )


def joined(axis: int, *, transposed: bool = False) -> Transform:
    """Several of ours, perhaps each transposed, one behind the other along `axis` there."""

    def turn(array: np.ndarray) -> np.ndarray:
        return array.T if transposed else array

    def load(theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        sizes = [(shape[::-1] if transposed else shape)[axis] for shape in shapes]
        return [turn(part) for part in np.split(theirs, np.cumsum(sizes)[:-1], axis=axis)]

    def shape(shapes: Sequence[Shape]) -> Shape:
        turned = [list(shape[::-1] if transposed else shape) for shape in shapes]
        turned[0][axis] = sum(part[axis] for part in turned)
        return tuple(turned[0])

    return Transform(load, lambda ours: np.concatenate([turn(array) for array in ours], axis=axis), shape)


def paired_rows(heads: int) -> Transform:
    """A transposed kernel, or a bias, of a projection to heads whose features stand in pairs for rotary positions, as
    GGUF files of Llama have them (0, D/2, 1, D/2 + 1, …), where ours and Hugging Face's stand in halves."""

    def load(theirs: np.ndarray, _: Sequence[Shape]) -> list[np.ndarray]:
        rows, *columns = theirs.shape
        return [theirs.reshape(heads, rows // heads // 2, 2, *columns).swapaxes(1, 2).reshape(rows, *columns).T]

    def save(ours: Sequence[np.ndarray]) -> np.ndarray:
        rows, *columns = ours[0].T.shape
        return ours[0].T.reshape(heads, 2, rows // heads // 2, *columns).swapaxes(1, 2).reshape(rows, *columns)

    return Transform(load, save, lambda shapes: shapes[0][::-1])


SAME = Transform(lambda theirs, _: [theirs], lambda ours: ours[0], lambda shapes: shapes[0])
TRANSPOSED = permuted(1, 0)
ROW = Transform(lambda theirs, _: [theirs[0]], lambda ours: ours[0][None], lambda shapes: (1, *shapes[0]))


# Rules and dialects.


@dataclass(frozen=True)
class Rule:
    """One tensor of theirs. ``{i}`` in both names is the number of a layer; a rule whose weights a model does not have
    asks for nothing."""

    theirs: str
    ours: str | tuple[str, ...]
    transform: Transform = SAME
    head: bool = False  # stands outside the body, and another head may do without
    new: bool = False  # stands in the body, and another head may need it where the file has none

    @property
    def names(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def linear(theirs: str, ours: str, *, head: bool = False) -> tuple[Rule, Rule]:
    """torch's Linear, whose kernel is (out, in)."""
    kernel = Rule(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED, head)
    return kernel, Rule(f"{theirs}.bias", f"{ours}/bias", head=head)


def layer_norm(theirs: str, ours: str, *, head: bool = False) -> tuple[Rule, Rule]:
    """torch's LayerNorm."""
    return Rule(f"{theirs}.weight", f"{ours}/gamma", head=head), Rule(f"{theirs}.bias", f"{ours}/beta", head=head)


REQUIRED: Any = object()


@dataclass(frozen=True)
class Field:
    """One entry of their config and the field of ours that it fills; `default` is what they take without it."""

    theirs: str
    ours: str
    default: Any = REQUIRED


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Dialect:
    """How one kind of checkpoint names its config and its tensors.

    Attributes:
        fields: entries of their config that are a field of ours under another name.
        fixed: fields of ours that every model of this kind has.
        demanded: entries of their config that we know in one value only; absent means that value.
        read, write: the rest of the config, from (their config, names of their tensors) and from ours.
        rules: see ``Rule``. Names are those of a model without a head.
        prefix: stands before the names of the body, but not in files of the body alone.
        aliases: pattern to replacement for names that other versions write.
        ignored: patterns of names that may be left over: buffers, and heads that nobody asks for.
        tied: names that may be there a second time, and what they then must equal.
        headless: which ``head`` of ours has such a file of the body alone.
        heads: the name of their class by our ``head``; the first is what a config without one means.
        other_classes: further classes of theirs, and the ``head`` that reads them.
    """

    fields: tuple[Field, ...]
    rules: tuple[Rule, ...] | Callable[[Any], tuple[Rule, ...]]
    heads: Mapping[str | None, str] = field(default_factory=dict)
    other_classes: Mapping[str, str | None] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    demanded: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Mapping[str, Any], Collection[str]], dict[str, Any]] = _nothing
    write: Callable[[Any], dict[str, Any]] = _nothing
    prefix: str = ""
    headless: tuple[str | None, ...] = (None, "sentence_embedding")
    aliases: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)

    def head(self, raw: Mapping[str, Any]) -> str | None:
        """The ``head`` that their config asks for.

        Raises:
            ValueError: a class that no head of ours reads.
        """
        named = raw.get("architectures") or [next(iter(self.heads.values()))]
        classes = {cls: head for head, cls in self.heads.items()} | dict(self.other_classes)
        if named[0] not in classes:
            raise ValueError(f"architectures: got {named}; accepted: {sorted(classes)}, or a head given to load")
        return classes[named[0]]

    def config(self, raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        """Fields of our config, but for the head, of theirs.

        Raises:
            ValueError: an entry that is missing, or one that asks for what this model cannot do.
        """
        named = raw.get("architectures")
        if named is not None and not (isinstance(named, list) and all(isinstance(cls, str) for cls in named)):
            raise ValueError(f"architectures: got {named!r}; accepted: a list of names of classes")
        for name, value in self.demanded.items():
            if (given := raw.get(name)) is not None and given != value:
                raise ValueError(f"{name}: got {given!r}; accepted: {value!r}")
        values = dict(self.fixed)
        for entry in self.fields:
            value = raw.get(entry.theirs)
            value = entry.default if value is None else value
            if value is REQUIRED:
                raise ValueError(f"{entry.theirs}: not in the config; accepted: a value")
            values[entry.ours] = value
        return {**values, **self.read(raw, names)}

    def foreign(self, config: Any) -> dict[str, Any]:
        """Their config, of ours."""
        mine = config.to_dict()
        values = {entry.theirs: mine[entry.ours] for entry in self.fields}
        values["architectures"] = [self.heads[mine.get("head")]]
        return {**self.demanded, **values, **self.write(config)}

    def plan(self, model: Any) -> list[tuple[str, Rule, list[Any]]]:
        """Every tensor of theirs that this model has, by its name without prefix, with its rule and our variables."""
        variables = by_name(model)
        found = []
        for rule in self.rules(model.config) if callable(self.rules) else self.rules:
            for number in _layers(rule.names[0], variables):
                wanted = [name.replace("{i}", number) for name in rule.names]
                if wanted[0] in variables:
                    item = rule.theirs.replace("{i}", number), rule, [variables[name] for name in wanted]
                    found.append(item)
        unruled = set(variables) - {weight_name(v) for _, _, group in found for v in group}
        if unruled:
            raise ValueError(f"model: got weights {sorted(unruled)[:SHOWN]}, for which this kind of file has no name")
        return found

    def normalise(self, name: str) -> str:
        """A name without its prefix and in today's spelling."""
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.aliases.items():
            name = re.sub(pattern, replacement, name)
        return name


def weight_name(variable: Any) -> str:
    """A weight's name without its model's: "block_0/attention/query/kernel", the same in every process."""
    return variable.path.partition("/")[2]


def by_name(model: Any) -> dict[str, Any]:
    """Every weight of a model by its name."""
    return {weight_name(variable): variable for variable in model.weights}


def _layers(name: str, variables: Collection[str]) -> list[str]:
    """The numbers that ``{i}`` stands for."""
    if "{i}" not in name:
        return [""]
    pattern = re.compile(re.escape(name).replace(re.escape("{i}"), r"(\d+)"))
    return [match[1] for known in variables if (match := pattern.fullmatch(known))]


@dataclass(frozen=True)
class _Match:
    """Which tensor goes where."""

    plan: list[tuple[str, Rule, list[Any]]]  # the tensor's name, its rule, our variables
    copies: list[tuple[str, str]]  # names of tensors that must be equal
    fresh: list[str]  # weights that keep what they were initialised with


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
        self.scope = keras.StatelessScope()
        self.scope.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.scope.__exit__(*raised)
        if raised[0] is None:
            if self.errors:
                raise self.errors[0]
            for call in self.done:
                call()

    def first_value(self, values: _Values, place: int) -> Callable[..., Any]:
        """An initialiser. A file that is damaged gives zeros, so that Keras ends what it began, and then an error."""

        import keras

        def initializer(shape: Shape, dtype: Any = None, **_: Any) -> Any:
            try:
                return _tensor(values.take(place), dtype)
            except Exception as error:
                self.errors.append(error)
                return keras.ops.zeros(shape, dtype=dtype)

        return initializer


class _Values:
    """What one tensor of a file is for one or more variables; read when the first asks and kept until the last did."""

    def __init__(
        self, tensors: Tensors, name: str, transform: Transform, shapes: Sequence[Shape], strange: list[str]
    ) -> None:
        self.tensors, self.name, self.transform, self.shapes, self.strange = tensors, name, transform, shapes, strange
        self.parts: dict[int, np.ndarray] = {}

    def take(self, place: int) -> np.ndarray:
        if place not in self.parts:
            array = self.tensors.read(self.name)
            if not _finite(array):
                self.strange.append(self.name)
            self.parts = dict(enumerate(self.transform.load(array, self.shapes)))
        return self.parts.pop(place)


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


def _tell_strange(where: str, names: Sequence[str]) -> None:
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
    match = _match(model, dialect, tensors, new_head)
    for name, other in match.copies:
        if not np.array_equal(tensors.read(name), tensors.read(other)):
            raise ValueError(
                f"path: {tensors.where} does not fit its config, which ties {name} to {other}: their values differ; "
                "accepted: equal ones, or a config that does not tie them"
            )
    strange: list[str] = []
    for name, rule, variables in match.plan:
        values = _Values(tensors, name, rule.transform, [tuple(v.shape) for v in variables], strange)
        for place, variable in enumerate(variables):
            if later is None:
                assign(variable, values.take(place))
            else:
                variable._initializer = later.first_value(values, place)
    if later is not None:
        later.done.append(lambda: _tell_strange(tensors.where, strange))
    else:
        _tell_strange(tensors.where, strange)
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
        elif new_head and (rule.head or rule.new):
            fresh += [weight_name(v) for v in variables]
        elif name is None:
            problems.append(f"missing {short}")
        else:
            problems.append(f"{name} has shape {tensors.shapes[name]} for {expected}")
    copies = [(name, theirs[dialect.tied[s]]) for s, name in left.items() if dialect.tied.get(s) in theirs]
    may_stay = {name for name, _ in copies}
    for short, name in left.items():
        if any(re.search(pattern, short) for pattern in dialect.ignored):
            may_stay.add(name)
        if new_head and dialect.prefix and not name.startswith(dialect.prefix):
            may_stay.add(name)  # the file's own head
    problems += [f"surplus {name}" for name in left.values() if name not in may_stay]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(f"path: {tensors.where} does not fit its config: {'; '.join(problems[:SHOWN])}{more}")
    return _Match(plan, copies, fresh)


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

    for short, rule, variables in dialect.plan(model):
        arrays = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
        alone = model.config.to_dict().get("head", "none") in dialect.headless
        yield short if rule.head or alone else dialect.prefix + short, np.ascontiguousarray(rule.transform.save(arrays))


def save_tensors(arrays: Mapping[str, np.ndarray], file: Path, metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all."""
    import safetensors.numpy

    with written(file) as temporary:
        safetensors.numpy.save_file(dict(arrays), temporary, metadata=metadata)
