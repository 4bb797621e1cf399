"""The runner for ONNX files, in ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import brief
from ...generation.decoder import Decoder
from ...needs import named_extras
from ...signature import Signature, TensorSpec
from ..metadata import DIGEST, DIGESTS_BESIDE, FILES, OURS, SIGNATURES, stated
from ..runner import LoadedGraph, Runner, running, usable_cores
from .decoder import FixedCacheDecoder, OnnxDecoder, SharedCacheDecoder


class OnnxGraph(LoadedGraph):
    """One ONNX graph loaded in ONNX Runtime, by default on the CPU."""

    def __init__(self, path: Path, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        with named_extras():
            import onnxruntime

        known = onnxruntime.get_available_providers()
        wanted = ["CPUExecutionProvider"] if providers is None else providers
        if isinstance(wanted, str) or not wanted or any(name not in known for name in wanted):
            raise ValueError(f"providers: got {providers!r}; accepted: some of {known}")

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None or usable_cores() < (os.cpu_count() or 1):
            options.intra_op_num_threads = threads or usable_cores()  # the default counts every core of the machine
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=list(wanted))
        except Exception as error:  # ONNX Runtime raises different classes for different defects of a file
            reason = brief(error)
            raise ValueError(f"path: ONNX Runtime cannot read {path}: {reason}; accepted: an ONNX model") from error
        self.names = [node.name for node in self.session.get_outputs()]
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.inputs = list(self.session.get_inputs())
        if SIGNATURES in self.metadata:  # in third-party files, all weights may be overridable initializers
            self.inputs += self.session.get_overridable_initializers()
        self.dtypes = {node.name: _numpy_dtype(node.type) for node in self.inputs}

    def runtime_signature(self) -> Signature:
        def spec(node: Any) -> TensorSpec:
            dims = tuple(d if isinstance(d, int) else str(d or f"{node.name}_{i}") for i, d in enumerate(node.shape))
            return TensorSpec(node.name, _numpy_dtype(node.type), dims)

        return Signature(tuple(map(spec, self.inputs)), tuple(map(spec, self.session.get_outputs())))

    def _call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with running("ONNX Runtime"):
            return dict(zip(self.names, self.session.run(self.names, self.feeds(arrays)), strict=True))

    def run_values(self, values: dict[str, Any]) -> dict[str, Any]:
        """Run the graph on ONNX Runtime values, which are neither checked nor copied."""
        with running("ONNX Runtime"):
            return dict(zip(self.names, self.session.run_with_ort_values(self.names, values), strict=True))

    def feeds(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays cast to the dtypes of the graph's inputs."""
        return {name: np.asarray(array, self.dtypes[name], order="C") for name, array in arrays.items()}


class OnnxRunner(Runner):
    """The runner for an ONNX file, in ONNX Runtime. If the file names an encoder file, that is loaded too.

    The attributes and methods are those of ``Runner``.

    Args:
        path: The ONNX file. Its encoder file, if any, must be in the same folder.
        threads: The number of CPU threads. Default: ONNX Runtime's own choice, limited to the cores that this process
            may use.
        providers: Names of ONNX Runtime's execution providers in order of priority. Default: the CPU.

    Raises:
        ValueError: If ONNX Runtime cannot read a file, if the encoder file is missing or belongs to another export, if
            the metadata is damaged, or if a provider is not available.
        ImportError: If ONNX Runtime is not installed.
    """

    format = "onnx"

    def __init__(self, path: Path, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        self.opened_with = (path.absolute(), threads, providers)
        main = OnnxGraph(path, threads, providers)
        beside, signatures = _files_beside(path, main.metadata), stated(path, main.metadata, SIGNATURES, dict)
        digests = stated(path, main.metadata, DIGESTS_BESIDE, dict)
        graphs: dict[str, LoadedGraph] = {}
        files = {path: main.metadata}
        for name, file in beside.items():
            if not (path.parent / file).is_file():
                raise ValueError(f"path: {path} needs {file} beside it, which is not there; accepted: both files")
            graphs[name] = other = OnnxGraph(path.parent / file, threads, providers)
            if (known := digests.get(name)) and known != other.metadata.get(DIGEST):
                raise ValueError(f"path: {path} was exported with another {file} than the one beside it; {OURS}")
            files[path.parent / file] = other.metadata
            signatures |= stated(path, other.metadata, SIGNATURES, dict)
        graphs[next((name for name in signatures if name not in beside), "model")] = main
        metadata = {**main.metadata, SIGNATURES: json.dumps(signatures)}
        super().__init__(path, graphs, metadata)
        self.files = files

    def decoder(self) -> Decoder:
        if self.layout.kind != "dynamic":
            return super().decoder()
        graphs = {self.layout.roles[name]: graph for name, graph in self.graphs.items()}
        kind = OnnxDecoder if self._main.padding is None else SharedCacheDecoder
        kind = FixedCacheDecoder if "past_sequence" in self._main.signature.sizes else kind
        return kind(graphs, self._config, self.generation_defaults)


def _files_beside(path: Path, metadata: dict[str, str]) -> dict[str, str]:
    files = stated(path, metadata, FILES, dict)
    if bad := [file for file in files.values() if not isinstance(file, str) or Path(file).name != file]:
        raise ValueError(f"path: {path} names {bad}; accepted: files in its own folder")
    return files


def _numpy_dtype(onnx_type: str) -> str:
    """Convert ONNX Runtime's name of a type, such as "tensor(int64)", to a NumPy dtype name, such as "int64"."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
