"""The runner for TFLite files. Requires ``ai_edge_litert``, but neither TensorFlow nor Keras."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import brief
from ...generation.decoder import Decoder, GraphDecoder
from ...needs import named_extras
from ...signature import Signature, TensorSpec
from ..buckets import decoder_of
from ..graph_names import STATIC
from ..metadata import SIGNATURES, stated
from ..quiet import quiet
from ..runner import LoadedGraph, Runner, running, usable_cores
from .bounds import check_model
from .compiled import compiled_graphs
from .decoder import EncodedDecoder, LiteRTDecoder
from .flatbuffer import tflite_metadata


class TFLiteGraph(LoadedGraph):
    """One signature of a TFLite file in LiteRT's interpreter, on the CPU with XNNPACK.

    The signatures share the buffers of the interpreter, so `lock` is held from writing inputs until outputs are read.
    """

    def __init__(self, interpreter: Any, name: str, lock: threading.Lock) -> None:
        self.lock = lock
        self.runner = interpreter.get_signature_runner(name)
        self.details = self.runner.get_input_details()

    def runtime_signature(self) -> Signature:
        def specs(details: dict[str, Any]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(name, np.dtype(d["dtype"]).name, tuple(int(n) for n in d["shape"]))
                for name, d in details.items()
            )

        return Signature(specs(self.details), specs(self.runner.get_output_details()))

    def _call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {name: np.ascontiguousarray(a, self.details[name]["dtype"]) for name, a in arrays.items()}
        with self.lock, running("LiteRT"):
            return self.runner(**feeds)


class TFLiteRunner(Runner):
    """The runner for a TFLite file, in LiteRT on the CPU.

    A file of this package with a state, such as a key/value cache, runs in ``CompiledModel``. Any other file runs in
    the interpreter, which supports dynamic shapes and releases the GIL while it computes. The attributes and methods
    are those of ``Runner``; the names of the graphs are those of the signatures.

    Args:
        path: The TFLite file.
        threads: The number of CPU threads. Default: all cores that this process may use.

    Raises:
        ValueError: If LiteRT cannot read the file, the file has no signature, or its metadata is damaged.
        ImportError: If ``ai_edge_litert`` is not installed.
    """

    format = "tflite"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        with named_extras():
            from ai_edge_litert.interpreter import Interpreter

        check_model(path)  # before LiteRT, which would end the process
        self.opened_with = (path.absolute(), threads)
        cores = threads or usable_cores()
        graphs: dict[str, LoadedGraph]
        try:
            interpreter = Interpreter(model_path=str(path), num_threads=cores)  # validates the file
            names = list(interpreter.get_signature_list())
            if not names:
                raise ValueError("it has no signature")
            metadata = tflite_metadata(path)
            stored = stated(path, metadata, SIGNATURES, dict).values()
            if any(isinstance(signature, dict) and signature.get("state") for signature in stored):
                graphs = {**compiled_graphs(path, cores)}
            else:
                with quiet():  # LiteRT logs that it uses XNNPACK
                    interpreter.allocate_tensors()
                lock = threading.Lock()
                graphs = {name: TFLiteGraph(interpreter, name, lock) for name in names}
        except (ValueError, RuntimeError) as error:
            if isinstance(error, ValueError) and "; accepted: " in str(error):
                raise
            raise ValueError(f"path: LiteRT cannot read {path}: {brief(error)}; accepted: a TFLite model") from error
        super().__init__(path, graphs, metadata)

    @property
    def generates(self) -> bool:
        """Whether ``generate`` is available: third-party files do not declare which tensors are their state."""
        return super().generates and (self.layout.kind == "plain" or bool(self.signature.state))

    def decoder(self) -> Decoder:
        graphs: Any = self.graphs
        if self.layout.kind == "plain" or not self.generates:
            return super().decoder()
        if self.layout.kind == "litert":
            return LiteRTDecoder(graphs, self._config, self.generation_defaults)
        kind = EncodedDecoder if self.signature.sizes["batch"] == 1 else GraphDecoder
        configs = self._config, self.generation_defaults
        return decoder_of(graphs, lambda part: kind({STATIC[name]: part[name] for name in part}, *configs))
