"""What a file says of itself, and what is in it. Needs the file's own runtime only."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from .loading import load
from .runtime import STOP_TOKENS, TOKENIZER_FILES, Runner, tflite_operators


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Family, config, size, graphs and operators of an ``.onnx`` or ``.tflite`` file, ours or another's.

    Returns:
        JSON's types: ``name``, ``format``, ``bytes`` (weights beside it included), ``files``, ``family`` (None of
        others' files), ``config``, ``graphs`` (inputs and outputs by name of the graph) and ``operators``, how many of
        each (of an ONNX file empty where the package onnx is not installed); ``tokenizer``, the names of its files that
        are in it, and ``stop_tokens``.

    Raises:
        ValueError: no such file, another suffix, or a file the runtime cannot read.
        ImportError: the runtime is not installed.
    """
    runner = load(path)
    beside = json.loads(runner.metadata.get("attention_zoo.files", "{}")).values()
    names = dict.fromkeys([runner.path.name, *beside])
    files = [runner.path.with_name(name) for name in names]
    files += [data for file in files if (data := file.with_name(f"{file.name}.data")).is_file()]
    graphs = {name: graph.signature.to_dict() for name, graph in runner.graphs.items()}
    return {
        "name": str(path),
        "format": runner.format,
        "bytes": sum(file.stat().st_size for file in files),
        "files": [str(file) for file in files],
        "family": runner.metadata.get("attention_zoo.family"),
        "config": json.loads(runner.metadata.get("attention_zoo.config", "{}")),
        "tokenizer": [name for name, key in TOKENIZER_FILES.items() if key in runner.metadata],
        "stop_tokens": json.loads(runner.metadata.get(STOP_TOKENS, "[]")),
        "graphs": {name: {"inputs": raw["inputs"], "outputs": raw["outputs"]} for name, raw in graphs.items()},
        "operators": dict(Counter(_operators(runner, files)).most_common()),
    }


def _operators(runner: Runner, files: list[Path]) -> list[str]:
    if runner.format == "tflite":
        return tflite_operators(runner.path)
    try:
        import onnx
    except ImportError:  # a runtime alone can read everything else
        return []
    models = [onnx.load(file, load_external_data=False) for file in files if file.suffix == ".onnx"]
    return [f"{node.domain}.{node.op_type}".lstrip(".") for model in models for node in model.graph.node]
