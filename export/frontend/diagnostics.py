"""Readable errors for failed conversions, which name the layer and the source line that an operation comes from.

The messages of the converters themselves are pages long.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ExportError

# Files in a traceback, mostly of Keras and TensorFlow, that do not show where the model creates an operation.
MACHINERY = re.compile(
    r"/(tensorflow|optree|wrapt)/|/keras/src/(backend|ops|utils|trainers|tree|random)/"
    r"|/keras/src/(layers/layer|models/functional|models/sequential|ops/function|ops/operation)\.py|/unittest/|/contextlib\.py|^<"
)
HERE = f"{Path(__file__).parents[1]}{os.sep}"  # the folder export/, whose own frames are skipped
PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"


def one_line(error: BaseException, length: int = 200) -> str:
    """Return the beginning of an error message on one line, without terminal escape sequences."""
    return " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(error)).split())[:length]


def cause(error: BaseException, length: int = 300) -> str:
    """Return the message of an error of Keras, TensorFlow or a converter on one line: the layer that failed and why,
    without the arguments that Keras lists and the stack that TensorFlow appends."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    where = re.match(r"Exception encountered when calling (.+?)\.\s*\n", text)
    text = text[where.end() :] if where else text
    text = re.split(r"\n\s*(?:Arguments received by|Stack trace for op definition|Original stack trace)", text)[0]
    text = re.sub(r"Graph execution error:\s*", "", text)
    text = re.sub(r"Detected at node .+? defined at \(most recent call last\):.*?\n(?=\S)", "", text, flags=re.DOTALL)
    text = re.sub(r" for '\{\{node [^}]+\}\} = .*", "", text, flags=re.DOTALL)
    text = re.sub(r"\{\{function_node \S+\}\}\s*", "", text)
    text = re.sub(r"\s*\[Op:\w+\]( name:\s*\S*)?", "", text)
    words = one_line(Exception(text), length).strip("' \"")
    kind = type(error).__name__
    if isinstance(error, KeyError | IndexError | AttributeError | TypeError | NotImplementedError) or not words:
        words = f"{kind}: {words}"
    return f"{where[1]}: {words}" if where else words


def is_plain(error: Exception) -> bool:
    """Return whether an error was made for users: of one line, and of a class that the exporters document."""
    text = str(error)
    known = isinstance(error, ValueError | ImportError | OSError | ExportError | MemoryError)
    return known and "\n" not in text and "\x1b" not in text and not isinstance(error, UnicodeError)


def explained(error: BaseException) -> str:
    """Return why third-party code failed, on one line, with the last source line outside of that code."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not MACHINERY.search(frame.filename) and not frame.filename.startswith(PACKAGE)
    ]
    users = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    line = f" ({users[-1].filename}:{users[-1].lineno})" if users else ""
    return f"{cause(error)}{line}"


def place(op: Any) -> str:
    """Return the layer and the source line that created a TensorFlow operation."""
    scope = "/".join(re.sub(r"_\d+$", "", part) for part in op.name.split("/")[:-1])
    frames = [
        frame for frame in op.traceback if not MACHINERY.search(frame.filename) and not frame.filename.startswith(HERE)
    ]
    line = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"
    return f"layer {scope!r} ({line})" if scope else line


def captured_tables(traced: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the keys and values of the tables of numbers that a trace looks up in, by the name of the placeholder."""
    import tensorflow as tf

    arguments = len(traced.graph.inputs) - len(traced.captured_inputs)
    found = {}
    for external, placeholder in zip(traced.captured_inputs, traced.graph.inputs[arguments:], strict=True):
        readers = placeholder.consumers()
        found_in = [reader.type == "LookupTableFindV2" for reader in readers]
        if placeholder.dtype.name != "resource" or not readers or not all(found_in):
            continue
        keys, values = readers[0].inputs[1].dtype, readers[0].outputs[0].dtype
        if keys.is_integer and (values.is_integer or values == tf.float32):
            content = tf.raw_ops.LookupTableExportV2(table_handle=external, Tkeys=keys, Tvalues=values)
            found[placeholder.op.name] = (content.keys.numpy(), content.values.numpy())
    return found


def captured_constants(traced: Any, tables: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Return the arrays that a trace captured in addition to its arguments, in order, each under a generated name.

    Args:
        traced: the trace.
        tables: names of placeholders of tables, which are left out.

    Raises:
        ExportError: the trace captured a variable or a lookup table that Keras does not track.
    """
    arguments = len(traced.graph.inputs) - len(traced.captured_inputs)
    found: dict[str, np.ndarray] = {}
    for external, placeholder in zip(traced.captured_inputs, traced.graph.inputs[arguments:], strict=True):
        if placeholder.op.name in tables:
            continue
        if placeholder.dtype.name in ("resource", "variant"):
            reader = next(iter(placeholder.consumers()), placeholder.op)
            raise ExportError(
                f"{place(reader)} reads a tf.Variable or a table that is no weight of the model: use add_weight, or "
                "compute it before the model"
            )
        found[f"constant_{len(found)}"] = external.numpy()
    return found


def unsupported(proto: Any, traced: Any) -> None:
    """Raise an ExportError for a node of `proto` that is not an ONNX operator. tf2onnx leaves such nodes in the graph
    for operations that it cannot convert."""
    import onnx

    for node in proto.graph.node:
        if node.domain == "" and not onnx.defs.has(node.op_type):
            raise ExportError(f"{node.op_type} has no ONNX operator: {_where(traced.graph, node.op_type, node.name)}")


def _where(graph: Any, kind: str, name: str = "") -> str:
    ops = [op for op in graph.get_operations() if op.type == kind]
    named = [op for op in ops if op.name == name]
    return place((named or ops)[0]) if ops else f"made for {name or kind}"


def refused(error: Exception, graphs: list[Any]) -> str:
    """Summarize an error of the TFLite converter in one line: the operations without a built-in operator, and where
    they come from.

    Args:
        error: raised by the converter; its message is pages long.
        graphs: the TensorFlow graphs that were converted.
    """
    text = str(error)
    kinds = dict.fromkeys(re.findall(r"'?tf\.(\w+)'? op is neither a custom op nor a flex op", text))
    kinds |= dict.fromkeys(re.findall(r"^\s*tf\.(\w+)\(", text, re.MULTILINE))
    ops = [op for graph in graphs for op in _operations(graph)]
    places = [f"{kind} in {place(op)}" for kind in kinds for op in [o for o in ops if o.type == kind][:1]]
    if places:
        return f"LiteRT has no built-in operator for {'; '.join(places)}"
    if kinds:
        return f"LiteRT has no built-in operator for {', '.join(kinds)}"
    if reason := re.search(r"error: (?:loc\(.*\): )?'(tfl?)\.(\w+)' op ([^\n]+)", text):
        named = re.search(r'fused\["(\w+):", "([^"@]+)', text)
        at = [op for op in ops if named and (op.type, op.name) == named.groups()]
        at += [op for op in ops if op.type == reason[2]]
        where = f"{at[0].type} in {place(at[0])}" if at else reason[2]
        return f"the TFLite converter refused {where}: {reason[3].strip()}"
    return f"the TFLite converter refused the model: {one_line(error, 300)}"


def _operations(graph: Any) -> list[Any]:
    """Return the operations of a graph, with those of the functions that it calls, such as the bodies of loops."""
    found = []
    for op in graph.get_operations():
        found.append(op)
        for name in ("f", "body", "cond", "then_branch", "else_branch"):
            if name in op.node_def.attr and op.node_def.attr[name].HasField("func"):
                inner = graph._get_function(op.node_def.attr[name].func.name)
                found += _operations(inner.graph) if getattr(inner, "graph", None) is not None else []
    return found
