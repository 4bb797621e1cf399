"""Where a file begins to differ: the first layer of the model whose output is nowhere in the file.

A copy of the file returns every value that it computes. They are matched with the outputs of the layers by their
numbers, since converters name, join and reorder operations as they like. Some outputs have no counterpart in a correct
file either. The place of a fault is therefore the first layer whose output is missing although those of all earlier
layers of its class are found, or at the latest the one after the last layer whose output is found.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np

from ...runtime.graph_names import is_prefill
from ...runtime.inputs import example_inputs, is_mask
from ...runtime.quiet import quiet
from ...runtime.runner import Runner
from ..frontend.any_keras.model import Foreign
from ..frontend.graphs import model_graphs
from ..frontend.inference import inference
from ..frontend.spec import Exportable
from .any_keras import example_sizes
from .cases import SHORT, TEXT
from .states import slot_inputs

Array = np.ndarray
Layers = list[tuple[str, type, Array]]

NEAR = 2e-4  # relative to the largest magnitude: far more than rounding, and far less than a fault
LEAST = 16  # numbers: fewer agree by accident
MOST_BYTES = 1_000_000_000  # of the weights of a model whose values are all held in memory


def first_difference(model: Exportable, runner: Runner, near: float = NEAR) -> str:
    """Return the name of the first layer whose output differs in a float32 file, or "" if none is found.

    Args:
        model: the model.
        runner: of the file. Its graphs are run a few times.
        near: the largest difference of equal outputs, relative to their largest magnitude.
    """
    if 4 * sum(int(np.prod(weight.shape)) for weight in model.weights) > MOST_BYTES:
        return ""
    for name, inputs in _examples(model, runner):
        function = model_graphs(model, runner.graphs)[name].function
        values = _in_onnx(runner, inputs) if runner.format == "onnx" else _in_tflite(runner, name, inputs)
        layers = _in_keras(model, function, inputs)
        if is_prefill(name):  # the file does not compute what only the logits need
            last = model.blocks[-1].path  # pyright: ignore[reportAttributeAccessIssue]
            layers = layers[: next((i for i, (path, *_) in enumerate(layers) if path.startswith(last)), None)]
        if found := _first_missing(layers, values, near):
            return found
    return ""


def _examples(model: Exportable, runner: Runner) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield graphs and inputs: of the main graph, also with padding or at the end of a cache, and of prefill graphs."""
    for name in [runner.layout.main, *filter(is_prefill, runner.graphs)]:
        loaded = runner.graphs[name]
        signature, sizes = loaded.signature, example_sizes(loaded.signature)
        yield name, loaded.complete(example_inputs(signature, sizes))
        if runner.layout.kind == "litert":  # with all tokens that a window may hide
            yield name, slot_inputs(signature, sizes["slots"] - sizes["sequence"])
        if any(map(is_mask, signature.inputs)) and loaded.padding is None and not isinstance(model, Foreign):
            sizes |= {dim: SHORT for dim in TEXT if dim in sizes and dim not in signature.sizes}
            yield name, loaded.complete(example_inputs(signature, sizes, padding="left"))


def _first_missing(layers: Layers, values: Iterable[Array], near: float) -> str:
    """Return the name of the first layer whose output is not among the values of the file, or ""."""
    by_size: dict[int, list[Array]] = defaultdict(list)
    for value in values:
        by_size[value.size].append(value)
    found = [any(_alike(output, other, near) for other in by_size[output.size]) for *_, output in layers]
    last = max((place for place, same in enumerate(found) if same), default=-1)
    known: dict[type, bool] = {}  # whether all outputs of a class were found so far
    for place, ((path, kind, _), same) in enumerate(zip(layers, found, strict=True)):
        if place > last or (not same and known.get(kind)):
            return path
        known[kind] = same and known.get(kind, True)
    return ""


def _in_keras(model: Exportable, function: Callable[[Any], Any], inputs: Mapping[str, Array]) -> Layers:
    """Return the name, the class and each output of every layer, in the order in which they are complete."""
    found: Layers = []
    with inference(model), _recorded(found):
        function({name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()})
    return found


@contextmanager
def _recorded(found: Layers) -> Iterator[None]:
    call = keras.layers.Layer.__call__

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(layer, *args, **kwargs)
        nothing = isinstance(layer, keras.layers.Dropout)  # which has no name of its own either
        for output in () if nothing else keras.tree.flatten(outputs):
            if hasattr(output, "shape") and "float" in keras.backend.standardize_dtype(output.dtype):
                array = np.asarray(keras.ops.convert_to_numpy(output), "float32")
                if array.size >= LEAST and np.ptp(array) > 0:
                    found.append((str(getattr(layer, "path", None) or layer.name), type(layer), array))
        return outputs

    with mock.patch.object(keras.layers.Layer, "__call__", called):
        yield


def _alike(one: Array, other: Array, near: float) -> bool:
    """Return whether two arrays hold the same numbers, also with heads and positions in the other order."""
    limit = near * float(np.abs(one).max())
    sides = [one]
    sides += [np.swapaxes(one, i, i + 1) for i in range(one.ndim - 1) if one.ndim > 2]
    return any(np.abs(side.reshape(-1) - other.reshape(-1)).max() <= limit for side in sides)


def _in_onnx(runner: Runner, inputs: Mapping[str, Array]) -> Iterable[Array]:
    """Return every float that the graph computes."""
    import onnx_ir as ir

    from ...runtime.onnx.runner import OnnxGraph

    model: Any = ir.load(runner.path)
    outputs = {value.name for value in model.graph.outputs}
    for node in model.graph:
        for value in node.outputs:
            if value.name and value.name not in outputs and value.dtype == ir.DataType.FLOAT:
                model.graph.outputs.append(value)
    with tempfile.TemporaryDirectory() as folder:
        ir.save(model, file := Path(folder) / "m.onnx")
        graph = OnnxGraph(file)
        arrays = graph.session.run(graph.names, graph.feeds(inputs))
    return [np.asarray(array) for array in arrays if np.asarray(array).dtype.kind == "f"]


def _in_tflite(runner: Runner, name: str, inputs: Mapping[str, Array]) -> Iterable[Array]:
    """Return every float that the graph of a signature computes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with quiet():
        interpreter: Any = Interpreter(
            model_path=str(runner.path),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        call = interpreter.get_signature_runner(name)
        details = call.get_input_details()
        call(**{key: np.asarray(value, details[key]["dtype"]) for key, value in inputs.items()})
        graph = call._subgraph_index
        found = []
        for tensor in interpreter.get_tensor_details(graph):
            if tensor["dtype"] == np.float32:
                try:
                    found.append(np.array(interpreter.get_tensor(tensor["index"], graph)))
                except ValueError:  # it holds no numbers
                    continue
    return found
