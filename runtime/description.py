"""Description of a file: its metadata and its contents. Requires the file's own runtime only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..signature import Signature, TensorSpec
from .digests import changed_files
from .litertlm.description import describe_bundle, model_in
from .litertlm.runner import LiteRTLMRunner
from .loading import load
from .metadata import CARD, CONFIG, FAMILY, FILES, STOP_TOKENS, TASK, TOKENIZER_FILES, stated
from .onnx.versions import least_runtime as onnx_runtime
from .runner import Runner
from .tflite.flatbuffer import least_runtime, tflite_operators
from .tflite.suitability import from_dict, suitability


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe an ``.onnx``, ``.tflite`` or ``.litertlm`` file of this package or of a third party.

    Args:
        path: The file.

    Returns:
        A dictionary of JSON types: ``name`` (the path), ``format``, ``bytes`` (with external weights), ``files``,
        ``family`` (None for a third-party file), ``unchanged`` (whether the files match the SHA-256 in their metadata;
        None if they have none), ``task`` (a Hugging Face task name such as "text-generation", or None),
        ``card`` (texts by field), ``config``, ``precision`` (None for a third-party file), ``tokenizer`` (names
        of the tokenizer files that it contains), ``stop_tokens`` (ids), ``graphs`` (``inputs`` and ``outputs`` of each
        graph by name, with their ``dims`` and the ``shape`` that they have in the file) and ``operators`` (the number
        of nodes by operator; empty for an ONNX file if the package onnx is not installed). For an ONNX file also
        ``opset``, ``ir_version`` and ``least_runtime``, the first version of ONNX Runtime that reads it. For a TFLite
        file also ``suitability``, as in ``ExportResult``, and ``least_runtime``, the oldest runtime that knows all its
        operators or None; for a LiteRT-LM bundle also the keys of ``describe_bundle``.

    Raises:
        ValueError: If the file does not exist, has another suffix or cannot be read by the runtime.
        ImportError: If the runtime is not installed.
    """
    runner = load(path)
    beside = stated(runner.path, runner.metadata, FILES, dict).values()
    names = dict.fromkeys([runner.path.name, *beside])
    files = [runner.path.with_name(name) for name in names]
    files += [data for file in files if (data := file.with_name(f"{file.name}.data")).is_file()]
    family = runner.metadata.get(FAMILY)
    changed = None if runner.format == "litertlm" else changed_files(runner.files)
    facts = {
        "name": str(path),
        "format": runner.format,
        "bytes": sum(file.stat().st_size for file in files),
        "files": [str(file) for file in files],
        "family": family,
        "unchanged": None if changed is None else not changed,
        "task": runner.metadata.get(TASK),
        "card": stated(runner.path, runner.metadata, CARD, dict),
        "config": stated(runner.path, runner.metadata, CONFIG, dict),
        "precision": runner.precision if family else None,
        "tokenizer": [name for name, key in TOKENIZER_FILES.items() if key in runner.metadata],
        "stop_tokens": stated(runner.path, runner.metadata, STOP_TOKENS, list),
    }
    if isinstance(runner, LiteRTLMRunner):
        signatures, operators = model_in(runner)
        opset = ir_version = None
        facts |= describe_bundle(runner)
    else:
        signatures = {name: graph.signature for name, graph in runner.graphs.items()}
        operators, opset, ir_version = _operators(runner, files)
    if runner.format == "tflite":
        facts["suitability"] = asdict(suitability(runner.path))
        facts["least_runtime"] = least_runtime(runner.path)
    if opset is not None:
        facts |= {"opset": opset, "ir_version": ir_version, "least_runtime": onnx_runtime(opset, operators)}
    graphs = {
        name: {"inputs": _tensors(s, s.inputs), "outputs": _tensors(s, s.outputs)} for name, s in signatures.items()
    }
    return facts | {"graphs": graphs, "operators": dict(Counter(operators).most_common())}


def _tensors(signature: Signature, specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [asdict(spec) | {"shape": list(signature.shape(spec))} for spec in specs]


def _operators(runner: Runner, files: list[Path]) -> tuple[list[str], int | None, int | None]:
    """Return the operators of a file, and for an ONNX file its opset and its IR version, if the package onnx is
    installed."""
    if runner.format == "tflite":
        return tflite_operators(runner.path), None, None
    try:
        import onnx
    except ImportError:  # everything else can be read with the runtime alone
        return [], None, None
    models = [onnx.load(file, load_external_data=False) for file in files if file.suffix == ".onnx"]
    names = [f"{node.domain}.{node.op_type}".lstrip(".") for model in models for node in model.graph.node]
    opsets = [entry.version for model in models for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return names, max(opsets, default=None), max(model.ir_version for model in models)


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the result of ``describe`` as table rows: a heading and a text."""
    found = [("companion file", name) for name in facts["files"][1:]]
    found += list(facts["card"].items())
    if facts["unchanged"] is not None:
        found.append(("SHA-256", "matches" if facts["unchanged"] else "does not match: changed after the export"))
    found += [(name, str(value)) for name, value in facts["config"].items()]
    found += [("precision", facts["precision"])] if facts["precision"] else []
    found += _bundle_rows(facts) if "sections" in facts else _text_rows(facts)
    for name, graph in facts["graphs"].items():
        found += tensor_rows(graph, f"{name}: ")
    if facts.get("opset"):
        found.append(("opset", f"{facts['opset']}, IR {facts['ir_version']}"))
    if facts.get("least_runtime"):
        found.append(("oldest runtime", facts["least_runtime"]))
    if "suitability" in facts:
        suited = from_dict(facts["suitability"])
        found += [*suited.rows(), *suited.details()]
    counts = facts["operators"]
    return [*found, ("operators", f"{sum(counts.values())}: {', '.join(f'{k} {n}' for k, n in counts.items())}")]


def tensor_rows(graph: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return table rows for the inputs and outputs of a graph. The tensors of a key/value cache share one row."""
    found = []
    for side in ("inputs", "outputs"):
        specs = [spec for spec in graph[side] if "." not in spec["name"] and "kv_cache" not in spec["name"]]
        for spec in specs:
            dims = ", ".join(_dim(*pair) for pair in zip(spec["dims"], spec.get("shape", spec["dims"]), strict=True))
            optional = ", optional" if spec["optional"] else ""
            found.append((f"{before}{side[:-1]} {spec['name']}", f"{spec['dtype']} ({dims}){optional}"))
        if rest := [spec for spec in graph[side] if spec not in specs]:
            found.append((f"{before}{side}", f"{len(rest)} cache tensors, starting with {rest[0]['name']}"))
    return found


def _dim(dim: Any, size: Any) -> str:
    """Return the name of a dimension, its size in the file, or both."""
    return str(dim) if dim == size else f"{dim} {size}"


def _text_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, ", ".join(map(str, facts[name]))) for name in ("tokenizer", "stop_tokens") if facts[name]]


def _bundle_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for part in facts["sections"]:
        purpose = f", {part['model_type']}" if part["model_type"] else ""
        found.append((f"section {part['kind']}", f"{part['bytes'] / 1e3:,.1f} kB{purpose}"))
    found.append(("context length", f"{facts['max_tokens']} tokens"))
    if facts["vocabulary"] is not None:
        found.append(("vocabulary size", str(facts["vocabulary"])))
    if facts["start_text"] is not None:
        found.append(("start token", repr(facts["start_text"])))
    found.append(("stop tokens", ", ".join(map(repr, facts["stop_texts"])) or "none"))
    for role, affixes in facts["prompts"].items():
        found.append((f"{role} message", f"{affixes['prefix']!r} … {affixes['suffix']!r}"))
    return [*found, ("chat template", "yes" if facts["chat_template"] else "no")]
