"""How a third-party model is called: its nested arguments, and a name for every input and output tensor."""

from __future__ import annotations

import inspect
import itertools
import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from .... import checks
from ....signature import TensorSpec

Tensor = Any
ACCEPTED = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
HOW = "accepted: input_signature=keras.InputSpec(shape, dtype), nested as the model is called, None for an open size"
AUTOMATIC = re.compile(r"(keras_tensor|input_layer)(_\d+)?")  # Keras' numbered names of unnamed inputs


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call.

    Attributes:
        structure: the positional and the keyword arguments, nested as in the call; the leaves are specs.
        leaves: the specs by name, in order.
    """

    structure: tuple[list[Any], dict[str, Any]]
    leaves: tuple[tuple[str, Any], ...]


def called_with(
    model: Any, input_signature: Any, parameters: list[str] | None = None, *, open_batch: bool = True
) -> Arguments:
    """Return the arguments of a call of `model`, as `input_signature` declares them or as the model was built.

    Args:
        model: a Keras model or layer, or a function.
        input_signature: see ``AnyModel``.
        parameters: names of the arguments of a function; those of a model are read from its ``call``.
        open_batch: whether the batch of a Sequential model is open, as in Keras' own export. Without an ``Input``, the
            model has the batch size of its first call.

    Raises:
        ValueError: neither `input_signature` nor the model declares the inputs, or the dtype of one is not accepted.
    """
    function = model.call if parameters is None else model
    parameters = list(inspect.signature(function).parameters) if parameters is None else parameters
    kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
    parameters = [name for name in parameters if name not in ("training", "mask")]
    first = parameters[0] if parameters else "inputs"
    functional = as_functional(model)
    inputs = None if functional is None else functional._inputs_struct
    structure: tuple[list[Any], dict[str, Any]]
    if input_signature is None:
        opened = isinstance(model, keras.Sequential) and functional is not None and open_batch
        structure = ([_open_batch(inputs) if opened else inputs], {}) if functional is not None else _as_built(model)
    elif inputs is not None:
        whole = [input_signature]
        if isinstance(input_signature, list | tuple) and len(input_signature) == 1 and not isinstance(inputs, list):
            whole = list(input_signature)  # Keras also accepts a single input in a list
        structure = (whole, {})
    elif isinstance(input_signature, dict) and _are_arguments(input_signature, parameters, kinds):
        structure = ([], dict(input_signature))
    elif isinstance(input_signature, list | tuple) and (
        1 <= len(input_signature) <= len(parameters) or _several(kinds, first)
    ):
        structure = (list(input_signature), {})
    else:
        structure = ([input_signature], {})
    structure = keras.tree.map_structure(_spec, structure)
    paths = keras.tree.flatten_with_path(structure)
    declared = [one.name for one in keras.tree.flatten(inputs)] if inputs is not None else []
    declared = declared if len(declared) == len(paths) else [None] * len(paths)
    found = []
    for (path, leaf), name_in_model in zip(paths, declared, strict=True):
        where, key, *inner = path
        own = (leaf.name or name_in_model) if not any(isinstance(part, str) for part in inner) else None
        own = None if AUTOMATIC.fullmatch(own or "") else own
        outer = [] if where == 0 and (inner or len(structure[0]) == 1) else [key]
        name = own or _joined([*outer, *inner]) or first
        name = f"{first}_{name}" if name.isdigit() else name
        found.append((unique(_plain(name), [other for other, _ in found]), leaf))
    if not found:
        raise ValueError(
            f"input_signature: got {' '.join(repr(input_signature).split()):.80}, without any tensor; {HOW}"
        )
    return Arguments(structure, tuple(found))


def of_inputs(model: Any, given: Mapping[str, tuple[tuple[int | None, ...], str | None]]) -> Any:
    """Return an `input_signature` from shapes and dtypes by names of inputs, such as those of a command line.

    Args:
        model: a Keras model. For a Functional or Sequential one, inputs that are not `given` stay as they are.
        given: the shape of an input, with None for an open size, and its dtype; None for the dtype that the model
            declares, or float32.

    Raises:
        ValueError: a name is not that of an input, or a dtype is not accepted.
    """
    if bad := {str(dtype) for _, dtype in given.values() if dtype is not None and dtype not in ACCEPTED}:
        raise ValueError(f"input_signature: got dtypes {sorted(bad)}; accepted: {list(ACCEPTED)}")
    functional = as_functional(model)
    if functional is None:
        return {name: keras.InputSpec(shape=shape, dtype=dtype or "float32") for name, (shape, dtype) in given.items()}
    own = called_with(model, None).leaves
    names = [name for name, _ in own]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"input_signature: got {unknown}; accepted: {names}")
    specs = []
    for name, leaf in own:
        shape, dtype = given.get(name, (leaf.shape, None))
        specs.append(keras.KerasTensor(shape, dtype=dtype or leaf.dtype, name=leaf.name))
    return keras.tree.pack_sequence_as(functional._inputs_struct, specs)


def as_functional(model: Any) -> Any:
    """Return the Functional model that `model` is, or that a Sequential model consists of; otherwise None."""
    if isinstance(model, keras.Sequential):
        return model._functional if model.built else None
    return model if hasattr(model, "_outputs_struct") else None


def _open_batch(inputs: Any) -> Any:
    return keras.tree.map_structure(
        lambda one: keras.KerasTensor((None, *one.shape[1:]), dtype=one.dtype, name=one.name) if one.shape else one,
        inputs,
    )


def _several(kinds: Mapping[str, Any], name: str) -> bool:
    """Return whether the argument `name` is ``*name``, for any number of inputs."""
    return kinds.get(name) is inspect.Parameter.VAR_POSITIONAL


def _are_arguments(named: Mapping[str, Any], parameters: Sequence[str], kinds: Mapping[str, Any]) -> bool:
    """Return whether the keys of an input_signature are names of arguments, and not those of a dict as an argument."""
    if {*named} <= {*parameters}:
        return True
    return parameters[0] in named and inspect.Parameter.VAR_KEYWORD in kinds.values()


def _as_built(model: Any) -> tuple[list[Any], dict[str, Any]]:
    shapes = getattr(model, "_build_shapes_dict", None)
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"input_signature: got none for the function {model.__name__}; {HOW}")
    if not shapes:
        state = "was not built" if not model.built else "does not say what it takes"
        raise ValueError(
            f"model: got {type(model).__name__} {model.name!r}, which {state}; accepted: one that was "
            f"called, or an input_signature. {HOW}"
        )
    arguments = {
        name: parameter
        for name, parameter in inspect.signature(model.call).parameters.items()
        if name not in ("training", "mask")
    }
    first, *others = arguments
    given = {name: shape for name, shape in shapes.items() if shape is not None}
    specs = {name.removesuffix("_shape"): _of_shapes(shape, model.input_dtype) for name, shape in given.items()}
    if len(specs) > 1:
        return [], specs
    _warn_of_others(model, {name: arguments[name] for name in others if name not in specs})
    only = next(iter(specs.values()))
    if arguments[first].kind is inspect.Parameter.VAR_POSITIONAL:
        return list(only) if isinstance(only, list) else [only], {}
    return [only], {}


def _warn_of_others(model: Any, others: Mapping[str, inspect.Parameter]) -> None:
    """Say that arguments are left out: Keras records the shape of the first one only.

    Raises:
        ValueError: the call cannot do without one of them.
    """
    tensors = [
        name
        for name, parameter in others.items()
        if (parameter.default is None or parameter.default is parameter.empty)
        and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if missing := [name for name in tensors if _is_needed(others[name])]:
        raise ValueError(
            f"input_signature: got none for {type(model).__name__} {model.name!r}, of whose arguments Keras records "
            f"the first, but not {missing}; accepted: input_signature={{name: keras.InputSpec(shape, dtype)}} of all"
        )
    if tensors and not type(model).__module__.startswith("keras."):
        checks.warn(
            f"{type(model).__name__} {model.name!r} is exported without its optional arguments {tensors}; "
            "input_signature={name: keras.InputSpec(shape, dtype)} of all arguments adds them"
        )


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL


def _of_shapes(shape: Any, dtype: str) -> Any:
    if isinstance(shape, dict):
        return {name: _of_shapes(inner, dtype) for name, inner in shape.items()}
    if all(isinstance(size, int | None) for size in shape):
        return keras.InputSpec(shape=(None, *shape[1:]), dtype=dtype)
    return [_of_shapes(inner, dtype) for inner in shape]


@dataclass(frozen=True)
class _Leaf:
    name: str | None
    dtype: str
    shape: tuple[int | None, ...]


def _spec(leaf: Any) -> _Leaf:
    """Return the shape and dtype of a tensor or of a spec of any type."""
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None or getattr(shape, "rank", 0) is None:
        raise ValueError(f"input_signature: got {' '.join(repr(leaf).split()):.80}; {HOW}")
    name = getattr(leaf, "name", None)
    dtype = getattr(dtype, "name", dtype)
    if dtype == "string":
        raise ValueError(
            f"input_signature: got {name or 'an input'} of texts; accepted: numbers. Tokenize outside of the model, "
            "and export what follows"
        )
    if dtype not in ACCEPTED:
        raise ValueError(f"input_signature: got {name or 'an input'} of dtype {dtype!r}; accepted: {list(ACCEPTED)}")
    return _Leaf(name, str(dtype), tuple(None if size is None else int(size) for size in shape))


def flat_specs(arguments: Arguments) -> tuple[TensorSpec, ...]:
    """Return the specs of the tensors in order. An open dimension has a provisional name, made of the input's name and
    the axis: see ``probing.named_dimensions``. A float of any precision is float32 in a file."""
    return tuple(
        TensorSpec(
            name,
            "float32" if "float" in leaf.dtype else leaf.dtype,
            tuple(
                size if size is not None else "batch" if axis == 0 else f"{name}:{axis}"
                for axis, size in enumerate(leaf.shape)
            ),
        )
        for name, leaf in arguments.leaves
    )


def as_integers(arguments: Arguments, names: Collection[str]) -> Arguments:
    """Return the arguments with int32 as the dtype of some inputs."""
    leaves = tuple((name, replace(leaf, dtype="int32") if name in names else leaf) for name, leaf in arguments.leaves)
    structure: Any = keras.tree.pack_sequence_as(arguments.structure, [leaf for _, leaf in leaves])
    return Arguments(structure, leaves)


def declared_results(model: Any, taken: set[str]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Return the dtypes and shapes of the outputs that a Functional or Sequential model declares, by name."""
    found = _named(model, as_functional(model)._outputs_struct, taken)
    opened = isinstance(model, keras.Sequential)
    shapes = {name: (None, *one.shape[1:]) if opened else tuple(one.shape) for name, one in found.items()}
    return {name: (keras.backend.standardize_dtype(found[name].dtype), shape) for name, shape in shapes.items()}


def result_names(model: Any, results: Any, taken: set[str]) -> dict[str, Tensor]:
    """Return the tensors of `results` by name."""
    return {name: keras.ops.convert_to_tensor(leaf) for name, leaf in _named(model, results, taken).items()}


def _named(model: Any, results: Any, taken: set[str]) -> dict[str, Any]:
    """Return the leaves of `results`, named by the keys of dicts, by the last layers of a Functional model, or by
    number."""
    leaves = [(path, leaf) for path, leaf in keras.tree.flatten_with_path(results) if leaf is not None]
    names = [_joined(path) for path, _ in leaves]
    structure = getattr(getattr(model, "_functional", None) or model, "_outputs_struct", None)
    if structure is not None and all(name.replace(".", "").isdigit() or not name for name in names):
        names = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(structure)]
    found: dict[str, Tensor] = {}
    for own, (_, leaf) in zip(names, leaves, strict=True):
        name = f"output_{own or 0}" if own.replace(".", "").isdigit() or not own else _plain(own)
        name = f"{name}_output" if name in taken else name
        found[unique(name, found)] = leaf
    return found


def _joined(path: Any) -> str:
    return ".".join(str(part) for part in path)


def _plain(name: str) -> str:
    """Replace the characters that TensorFlow does not accept in a name."""
    name = re.sub(r"[^A-Za-z0-9_.]", "_", name)
    name = f"{name}_" if keyword.iskeyword(name) else name
    return name if name[:1].isalnum() else f"input{name}"


def unique(name: str, taken: Collection[str]) -> str:
    """Return `name`, with a number appended if it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    return name if name not in taken else next(other for other in numbered if other not in taken)
