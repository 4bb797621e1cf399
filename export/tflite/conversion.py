"""Conversion of a Keras model's graphs to the objects of a TFLite file, by TensorFlow's converter.

The converter copies every weight several times for every signature, and folds and compares the copies. Matrices that
only matrix multiplications and lookups read are therefore arguments of the traced functions, which ``arguments.py``
turns into constants afterwards. A weight that anything else reads is a constant from the beginning, which the converter
may fold.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from ...layers import functional as F
from ...runtime.quiet import quiet
from ...runtime.tflite.flatbuffer import share_buffers, unpacked
from ...signature import Graph
from ..errors import ExportError
from ..frontend.any_keras.layers import keras_lowered
from ..frontend.any_keras.model import Foreign
from ..frontend.diagnostics import place, refused
from ..frontend.inference import FileWeights, reading
from ..frontend.spec import input_specs
from .arguments import as_constants
from .operations import replaced
from .operators import LOWERINGS
from .packing import Alike, Joint

Tensor = Any

ARGUMENT = "attention_zoo_weight_{}"  # differs from the names of a model's inputs
PRODUCTS = ("MatMul", "BatchMatMulV2")
ACTIVATIONS = ("Relu", "Relu6", "Maximum", "Minimum")  # operations that the converter takes for a fused activation
FUSED = frozenset({"Erf", "Erfc"})  # have no operators of their own, but the converter recognizes GELU by them


def convert(stored: FileWeights, graphs: Mapping[str, Graph], alike: Alike) -> tuple[Any, Joint]:
    """Convert the graphs to one ``ModelT`` with a signature for each. Its matrices are fetched when it is written.

    Args:
        alike: returns whether weights of these names will have the same precision.

    Returns:
        The ``ModelT``, and the names of the matrices that were joined into one, by the name of the joint matrix.

    Raises:
        ExportError: the converter failed, or the model reads a variable that is not one of its weights.
    """
    ranks = (2,) if isinstance(stored.model, Foreign) else (2, 3)  # the kernels of experts are stacked
    matrices = [n for n, v in stored.variables.items() if len(v.shape) in ranks and stored.dtype(n) == "float32"]
    kept = FUSED
    traced, variables = _traced(stored, graphs, matrices, kept)
    zeros = {id(v.handle) for v in variables if v.shape.rank == 1 and not v.numpy().any()}
    others = {matrices[i] for function in traced.values() for i in _others(function.graph, zeros)}
    fitting = sorted(set(matrices) - others)
    if len(fitting) < len(matrices):
        matrices = fitting
        traced, variables = _traced(stored, graphs, matrices, kept)
    try:
        content = _converted(traced, variables)
    except ExportError:
        if not any(op.type in FUSED for function in traced.values() for op in function.graph.get_operations()):
            raise
        content = _converted(*_traced(stored, graphs, matrices, frozenset()))
    model = unpacked(content)
    arguments = {ARGUMENT.format(i): name for i, name in enumerate(matrices)}
    joint = as_constants(model, stored, arguments, None if isinstance(stored.model, Foreign) else alike)
    share_buffers(model)
    return model, joint


def _traced(
    stored: FileWeights, graphs: Mapping[str, Graph], matrices: Sequence[str], kept: frozenset[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Return a concrete function of every graph, with `matrices` as its last arguments, and the variables that they
    read. The operations `kept` are not replaced."""
    import tensorflow as tf

    others = {name: variable for name, variable in stored.variables.items() if name not in set(matrices)}
    changed = {n: tf.Variable(tf.constant(stored.value(n)), trainable=False) for n in stored.changed if n in others}
    shapes = {name: tuple(stored.variables[name].shape) for name in matrices}
    flat = [(math.prod(shape[:-1]), shape[-1]) for shape in shapes.values()]
    arguments = [tf.TensorSpec(shape, name=ARGUMENT.format(i)) for i, shape in enumerate(flat)]
    ours = not isinstance(stored.model, Foreign)

    def traced(graph: Graph) -> Any:
        names = [spec.name for spec in graph.signature.inputs]

        def function(*tensors: Tensor) -> dict[str, Tensor]:
            given = dict(zip(matrices, tensors[len(names) :], strict=True))
            given = {n: x if len(shapes[n]) == 2 else tf.reshape(x, shapes[n]) for n, x in given.items()}
            values = {**changed, **given}
            foreign = nullcontext() if ours else keras_lowered(stored.model._flatten_layers())
            with replaced(kept), F.lowering(LOWERINGS), reading(values, stored), foreign:
                return graph.function(dict(zip(names, tensors[: len(names)], strict=True)))

        specs = input_specs(graph.signature, "int32" if ours else None)
        return tf.function(function, autograph=False, jit_compile=False).get_concrete_function(*specs, *arguments)

    values = {n: v if isinstance(v, tf.Variable) else v.value for n, v in others.items()}
    return {name: traced(graph) for name, graph in graphs.items()}, [changed.get(n, v) for n, v in values.items()]


def _others(graph: Any, zeros: Collection[int]) -> set[int]:
    """Return the indices of the matrices that are used otherwise than by multiplication from the right and by
    lookups.

    Args:
        graph: the trace.
        zeros: the ids of the handles of biases that are zero. The converter drops their addition, and then an
            activation after it, unless the matrix is a constant.
    """
    lookups = {f.signature.name for f in graph.as_graph_def().library.function if "_implements" in f.attr}
    nothing = {id(inner) for outer, inner in graph.captures if id(outer) in zeros}

    def loses(product: Any) -> bool:
        """Return whether the converter drops an activation after a product of two matrices."""
        waiting = [product] if product.shape.rank == 2 else []
        for tensor in waiting:
            for reader in tensor.consumers():
                if reader.type in ACTIVATIONS:
                    return True
                added = [other.op for other in reader.inputs if other is not tensor]
                adds = reader.type in ("AddV2", "BiasAdd")
                read = adds and any(op.type == "ReadVariableOp" and id(op.inputs[0]) in nothing for op in added)
                if read or reader.type == "Identity":
                    waiting.append(reader.outputs[0])
        return False

    def fits(reader: Any, tensor: Any) -> bool:
        if reader.type == "Reshape" and not reader.outputs[0].consumers():  # lookups read the rows of stacked kernels
            return True
        if reader.type in PRODUCTS:
            right = reader.inputs[1] is tensor and reader.inputs[0] is not tensor
            return right and not loses(reader.outputs[0])
        return "PartitionedCall" in reader.type and reader.get_attr("f").name in lookups

    found = [tensor for tensor in graph.inputs if tensor.op.name.startswith(ARGUMENT.format(""))]
    return {i for i, tensor in enumerate(found) if not all(fits(reader, tensor) for reader in tensor.consumers())}


def _check_resources(function: Any, variables: list[Any]) -> None:
    """Raise an ExportError if a trace reads a variable or a table that is none of `variables`."""
    known = {id(variable.handle) for variable in variables}
    for outer, inner in function.graph.captures:
        if inner.dtype.name in ("resource", "variant") and id(outer) not in known:
            reader = next(iter(inner.consumers()), inner.op)
            raise ExportError(
                f"{place(reader)} reads a tf.Variable or a table that is no weight of the model: use add_weight, or "
                "compute it before the model"
            )


def _converted(traced: Mapping[str, Any], variables: list[Any]) -> bytes:
    import tensorflow as tf

    # If the module held the Keras model instead, the weights would not be frozen, and the file would compute NaN.
    module: Any = tf.Module()
    module.weights = variables
    for function in traced.values():
        _check_resources(function, variables)
    with tempfile.TemporaryDirectory() as folder, quiet():
        # Custom gradients would be traced for every lookup.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures=dict(traced), options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(traced))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.canonicalizing_inf_as_min_max_float = False  # an infinite mask is no large number
        converter._experimental_use_buffer_offset = True  # else it unpacks the file twice to find equal buffers
        try:
            return converter.convert()
        except Exception as error:  # the converter has its own error types, with pages of MLIR
            raise ExportError(refused(error, [function.graph for function in traced.values()])) from error
