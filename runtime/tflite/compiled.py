"""Execution of TFLite files with a state, such as a key/value cache, in LiteRT's ``CompiledModel``.

The interpreter has one set of buffers, so that a cache would be copied to NumPy and back for every token. A compiled
model receives its buffers with each call. Every row of a batch can have its own buffers, and nothing is copied.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...signature import Signature, TensorSpec
from ..quiet import quiet
from ..runner import LoadedGraph, running

Array = np.ndarray
# XNNPACK repacks the weights, for each signature separately unless it has a weight cache. This name selects a weight
# cache in memory, which is available on Linux only. A cache file would lie beside the model and could become stale. For
# SmolLM2-135M in float32, the cache reduces memory from 2.1 to 0.9 GB, and a token takes 7 to 10 % longer; in int8 the
# time does not change.
SHARED_WEIGHTS = ":memory" if sys.platform == "linux" else ""


def compiled_graphs(path: Path, threads: int) -> dict[str, CompiledGraph]:
    """Return the signatures of a file by name. They share one copy of the weights.

    Raises:
        RuntimeError: If LiteRT cannot run the file.
    """
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options

    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=SHARED_WEIGHTS)
    with quiet():
        model = CompiledModel.from_file(str(path), environment=_environment(), options=Options(cpu_options=cpu))
        lock = threading.Lock()
        graphs = {name: CompiledGraph(model, name, lock) for name in model.get_signature_list()}
        graph = next(iter(graphs.values()))
        graph.buffer(next(iter(graph.takes)))  # the first one of a process makes LiteRT probe the machine, and log it
    return graphs


@functools.cache
def _environment() -> Any:
    """Return the LiteRT environment, which sets the folder where LiteRT looks for accelerator libraries.

    The folder has none: the CPU needs none, but LiteRT would load those of a GPU if it found them. The environment is
    never destroyed, because LiteRT logs its destruction to standard error, and buffers may outlive their model.
    """
    from ai_edge_litert.environment import Environment, EnvironmentOptions

    nothing = str(Path(__file__).parent)
    environment = Environment.create(options=EnvironmentOptions(nothing, nothing, nothing))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(environment.capsule))
    return environment


class CompiledGraph(LoadedGraph):
    """One signature of a compiled model, on the CPU with XNNPACK.

    The signatures of a file share their working memory, so `lock` is held from writing the inputs until the outputs are
    read. LiteRT also holds the GIL while it computes.
    """

    def __init__(self, model: Any, name: str, lock: threading.Lock) -> None:
        self.model, self.name, self.lock = model, name, lock
        self.takes, self.gives = (
            {name: (tuple(map(int, d["shape"])), np.dtype(d["dtype"])) for name, d in details.items()}
            for details in (model.get_input_tensor_details(name), model.get_output_tensor_details(name))
        )
        self.fed: dict[str, Any] = {}  # buffers of inputs that are not part of the state, reused by every call
        self.found: dict[str, Any] = {}

    def runtime_signature(self) -> Signature:
        def specs(tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(name, dtype.name, shape) for name, (shape, dtype) in tensors.items())

        return Signature(specs(self.takes), specs(self.gives))

    def _call(self, arrays: dict[str, Array]) -> dict[str, Array]:
        state = self.signature.state
        memory = Memory(self, {name: array for name, array in arrays.items() if name in state})
        found = self.advance({name: array for name, array in arrays.items() if name not in state}, memory)
        found |= {state[name]: array for name, array in memory.arrays().items()}
        return {spec.name: found[spec.name] for spec in self.signature.outputs}

    def advance(self, inputs: Mapping[str, Array], memory: Memory) -> dict[str, Array]:
        """Run the graph once, and update the state in `memory`.

        Args:
            inputs: The inputs that are not in `memory`, with the shapes of the file.
            memory: The state of one row.

        Returns:
            The outputs that are not part of the state, by name.

        Raises:
            ValueError: If a value is out of range.
        """
        state = self.signature.state
        for spec in self.signature.inputs:
            if spec.name in inputs:
                spec.check_values(np.asarray(inputs[spec.name]))
        kept = {state[name]: buffer for name, buffer in memory.later.items()}
        with self.lock, running("LiteRT"):
            for name, array in inputs.items():
                if name not in self.fed:
                    self.fed[name] = self.model.create_input_buffer_by_name(self.name, name)
                self.fed[name].write(np.ascontiguousarray(array, self.takes[name][1]))
            for name in self.gives:
                if name not in kept and name not in self.found:
                    self.found[name] = self.model.create_output_buffer_by_name(self.name, name)
            fed = {name: self.fed[name] for name in inputs}
            self.model.run_by_name(self.name, {**fed, **memory.fixed, **memory.now}, {**self.found, **kept})
            found = {name: _read(buffer, *self.gives[name]) for name, buffer in self.found.items()}
        memory.now, memory.later = memory.later, memory.now
        return found

    def buffer(self, name: str, value: Array | None = None) -> Any:
        """Create a buffer for an input, filled with `value`, which is padded with zeros to the shape of the input."""
        shape, dtype = self.takes[name]
        buffer = self.model.create_input_buffer_by_name(self.name, name)
        if value is not None and value.shape != shape:
            value = np.pad(value, [(0, size - given) for size, given in zip(shape, value.shape, strict=True)])
        buffer.write(_zeros(shape, dtype) if value is None else np.asarray(value, dtype))
        return buffer


class Memory:
    """The state of one row, in buffers that LiteRT reads and writes in place.

    A cache with slots has a single buffer: a call writes only the slots of its own tokens, as in LiteRT-LM. Any other
    state is written as a whole while the previous state may still be read, so it has two buffers that alternate.

    Args:
        graph: The signature that uses the state; the other signatures of the file accept it too.
        values: Initial values of the state (default: zeros), and inputs that stay constant, such as the outputs of an
            encoder.
    """

    def __init__(self, graph: CompiledGraph, values: Mapping[str, Array]) -> None:
        self.graph = graph
        dims = {spec.name: spec.dims for spec in graph.signature.inputs}
        self.now = {name: graph.buffer(name, values.get(name)) for name in graph.signature.state}
        self.later = {
            name: buffer if "slots" in dims[name] else graph.buffer(name) for name, buffer in self.now.items()
        }
        self.fixed = {name: graph.buffer(name, value) for name, value in values.items() if name not in self.now}

    def arrays(self) -> dict[str, Array]:
        """Return a copy of the state."""
        return {name: _read(buffer, *self.graph.takes[name]) for name, buffer in self.now.items()}

    def become(self, other: Memory) -> None:
        """Copy the state of `other` into this one."""
        for name, buffer in other.now.items():
            self.now[name].write(_read(buffer, *self.graph.takes[name]))
        self.fixed = other.fixed


@functools.lru_cache(maxsize=4)
def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return zeros that the caches of all layers share: allocating new memory takes longer than copying from this."""
    return np.zeros(shape, dtype)


def _read(buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    return buffer.read(int(np.prod(shape)), dtype).reshape(shape)
