"""Static activation ranges for a TFLite file, measured at export, for all operators or only those with weights.

The quantization itself is done by Google's AI Edge Quantizer. A range covers all values that occurred. The quantizer's
default, a moving average, cuts off rare large values, which transformers depend on: DINOv2's matrix multiplications
with 16-bit activations have a cosine of 0.9998 with float32 this way, and of 0.998 with the average.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ....runtime.runner import Runner
from ....runtime.tflite.flatbuffer import opcode, operators
from ...options import Precision
from .weights import FLOAT32, multiplies_weights

DIVISORS = ("MAXIMUM", "ADD", "SQRT", "RESHAPE", "BROADCAST_TO", "SUM", "SQUARE")  # of a norm or a count
MASKED = -1e8  # float32; lower values mark keys that are masked
# What replaces a masked score. The range of the scores reaches down to here and is divided into 8-bit or 16-bit steps.
# A score that is lower than another by so much has no weight in the softmax, which has steps of 1/256 with 8 bits, and
# a lookup table that ends at e^-10 with 16 bits.
BOUNDS = {"static": -40.0, "static16": -100.0}


def bound_masks(model: Any, precision: Precision) -> None:
    """Raise the constants of a ``ModelT`` that mask scores to the lowest value that an integer range can hold beside
    scores."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    floats = {tensor.buffer for tensor in tensors if tensor.type == FLOAT32}
    bound = np.float32(BOUNDS[str(precision.activations)])
    for index in sorted(floats):
        buffer = model.buffers[index]
        if buffer.data is None or not len(buffer.data):
            continue
        values = np.asarray(buffer.data, "uint8").view("float32")
        if (values < MASKED).any():
            buffer.data = np.where(values < MASKED, bound, values).view("uint8")


def check_loops(model: Any, precision: Precision) -> None:
    """Check that a ``ModelT`` has no loop, as recurrent layers have, since no range can be measured inside of it.

    Raises:
        ValueError: the model has a loop.
    """
    if any(operator == "WHILE" for _, _, operator in operators(model)):
        said = f"precision.activations: got {precision.activations!r} for a model with a loop of a recurrent layer"
        raise ValueError(f"{said}, inside which no range can be measured; accepted: 'dynamic', 'float'")


def check_products(model: Any, precision: Precision) -> None:
    """Check that all operators of a ``ModelT`` can be integers, if the precision asks for that.

    Raises:
        ValueError: an operator multiplies two weights, which the quantizer cannot round.
    """
    if precision.integer_only and any(multiplies_weights(model, *each) for each in operators(model)):
        raise ValueError(
            "precision.integer_only: got True for a model that multiplies weights by weights, as disentangled "
            "attention does; accepted: False"
        )


def calls_of(runner: Runner, samples: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, np.ndarray]]]:
    """Return the inputs of the calls that `samples` need, in the dtypes of the file, by the name of its only signature.

    Where there is an attention mask, one more call has half of it set to zero, so that its range is 0 to 1 for any
    samples.
    """
    ((name, graph),) = runner.graphs.items()
    dtypes = {spec.name: spec.dtype for spec in graph.runtime_signature().inputs}

    def calls() -> Iterator[dict[str, np.ndarray]]:
        for sample in samples:
            yield from graph.calls(sample)

    found = [{key: np.ascontiguousarray(a, dtypes[key]) for key, a in call.items()} for call in calls()]
    masks = [key for key in found[0] if key.endswith("attention_mask")]
    if masks:
        halves = {key: np.arange(found[0][key].shape[-1]) < found[0][key].shape[-1] // 2 for key in masks}
        found.append({**found[0], **{key: found[0][key] * half for key, half in halves.items()}})
    return {name: found}


def activations(precision: Precision) -> Any:
    """Return the quantizer's configuration for activations."""
    from ai_edge_quantizer import qtyping

    bits = 16 if precision.activations == "static16" else 8
    return qtyping.TensorQuantizationConfig(num_bits=bits, symmetric=bits == 16)


def every_operator(made: Any, model: Any, rule: tuple[Any, Any]) -> None:
    """Let a ``Quantizer`` of a ``ModelT`` quantize every operator that it can.

    Exceptions are a matrix multiplication whose first operand is constant, for which there is no kernel, and a division
    with the operators that compute its divisor, which may be smaller than a quantization step.
    """
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    made.update_quantization_recipe(".*", TFLOperationName.ALL_SUPPORTED, *rule)
    makers = {(id(graph), int(i)): (node, operator) for graph, node, operator in operators(model) for i in node.outputs}
    floats = set()
    for graph, node, operator in operators(model):
        first = model.buffers[graph.tensors[node.inputs[0]].buffer].data if len(node.inputs) else None
        if operator == "BATCH_MATMUL" and first is not None and len(first):
            floats.add(int(node.outputs[0]))
        if operator == "DIV":
            floats.add(int(node.outputs[0]))
            left = [int(node.inputs[1])]
            while left:
                maker, name = makers.get((id(graph), index := left.pop()), (None, ""))
                if name in DIVISORS:
                    floats.add(index)
                    left += map(int, maker.inputs)
    if floats:
        (graph,) = model.subgraphs
        names = "|".join(re.escape(graph.tensors[index].name.decode()) for index in sorted(floats))
        made.update_quantization_recipe(
            f"^(?:{names});$", TFLOperationName.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE
        )


def name_outputs(model: Any) -> None:
    """Let the signatures of a quantized ``ModelT`` name the outputs of their graphs.

    Where an operator reads an output, the quantizer dequantizes it for both, and leaves the integers in the signature.
    """
    floats = {
        (id(graph), int(node.inputs[0])): int(node.outputs[0])
        for graph, node, operator in operators(model)
        if operator == "DEQUANTIZE"
    }
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        returned = {int(index) for index in graph.outputs}
        for entry in signature.outputs:
            index = int(entry.tensorIndex)
            if index not in returned:
                entry.tensorIndex = floats.get((id(graph), index), index)


def floats_outside(model: Any) -> None:
    """Give the signatures of a quantized ``ModelT`` float inputs and outputs, quantized after an input and dequantized
    before an output.

    The quantizer's own option for this leaves operators with integers on one side only.
    """
    from ai_edge_litert import schema_py_generated as schema

    integers = (schema.TensorType.INT8, schema.TensorType.INT16)
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        entries = (*signature.inputs, *signature.outputs)
        for entry in entries:
            index = entry.tensorIndex
            inner = graph.tensors[index]
            if inner.type not in integers or inner.quantization is None or inner.quantization.scale is None:
                continue
            outer, node = copy.copy(inner), schema.OperatorT()
            outer.name, outer.type, outer.quantization = inner.name + b"_float", FLOAT32, None
            graph.tensors.append(outer)
            entry.tensorIndex = len(graph.tensors) - 1
            if entry in signature.inputs:
                node.opcodeIndex = opcode(model, schema.BuiltinOperator.QUANTIZE, 1)
                node.inputs, node.outputs = [entry.tensorIndex], [index]
                graph.operators.insert(0, node)
                graph.inputs = [entry.tensorIndex if place == index else place for place in graph.inputs]
            else:
                node.opcodeIndex = opcode(model, schema.BuiltinOperator.DEQUANTIZE, 2)
                node.inputs, node.outputs = [index], [entry.tensorIndex]
                graph.operators.append(node)
                graph.outputs = [entry.tensorIndex if place == index else place for place in graph.outputs]


def ranges(made: Any, content: bytes, calls: Mapping[str, Iterable[Mapping[str, np.ndarray]]], threads: int) -> Any:
    """Return the smallest and largest values over all calls of the tensors that a ``Quantizer`` is to quantize."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(made.get_quantization_recipe())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors")  # which the calibrator uses
        found = calibrator.Calibrator(content, num_threads=threads, qsv_update_func=qsv_utils.min_max_update)
    found.calibrate({name: [dict(call) for call in several] for name, several in calls.items()}, recipe)
    return found.get_model_qsvs()
