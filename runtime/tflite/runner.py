"""Run a TFLite file with NumPy in and out. Needs ``ai_edge_litert``, and neither TensorFlow nor Keras."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from ...generation.decoder import GraphDecoder
from ...generation.search import Decoder
from ...needs import named_extras
from ...signature import Signature, TensorSpec
from ..buckets import decoder_of
from ..graph_names import STATIC
from ..metadata import SIGNATURES, stated
from ..quiet import quiet
from ..runner import LoadedGraph, Runner, usable_cores
from .compiled import compiled_graphs
from .decoder import EncodedDecoder, LiteRTDecoder
from .flatbuffer import tflite_metadata


class TFLiteGraph(LoadedGraph):
    """A signature of a TFLite file in LiteRT's interpreter, on the CPU with XNNPACK.

    An interpreter is one set of buffers that the signatures share: `lock` is held from feeding it to reading it.
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
        with self.lock:
            return self.runner(**feeds)


class TFLiteRunner(Runner):
    """A TFLite file in LiteRT: one of ours that has a memory in its compiled model, any other in its interpreter, which
    takes shapes that are open and lets Python go on while it computes."""

    format = "tflite"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        with named_extras():
            from ai_edge_litert.interpreter import Interpreter

        cores = threads or usable_cores()
        graphs: dict[str, LoadedGraph]
        try:
            interpreter = Interpreter(model_path=str(path), num_threads=cores)  # which reads a file with care
            names = list(interpreter.get_signature_list())
            if not names:
                raise ValueError("it has no signature")
            metadata = tflite_metadata(path)
            if any(signature.get("state") for signature in stated(path, metadata, SIGNATURES, dict).values()):
                graphs = {**compiled_graphs(path, cores)}
            else:
                with quiet():  # LiteRT greets
                    interpreter.allocate_tensors()
                lock = threading.Lock()
                graphs = {name: TFLiteGraph(interpreter, name, lock) for name in names}
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"path: LiteRT cannot read {path}: {error}; accepted: a TFLite model") from error
        super().__init__(path, graphs, metadata)

    @property
    def generates(self) -> bool:
        """Others' files do not say which of their tensors are the memory."""
        return super().generates and (self.layout.kind == "plain" or bool(self.signature.state))

    def decoder(self) -> Decoder:
        graphs: Any = self.graphs
        if self.layout.kind == "plain" or not self.generates:
            return super().decoder()
        if self.layout.kind == "litert":
            return LiteRTDecoder(graphs, self._config)
        kind = EncodedDecoder if self.signature.sizes["batch"] == 1 else GraphDecoder
        return decoder_of(graphs, lambda part: kind({STATIC[name]: part[name] for name in part}, self._config))
