"""A TFLite file with a memory in LiteRT's compiled model, where what is remembered stays in buffers of the runtime.

The interpreter has one set of buffers: there a cache goes to NumPy and back with every token. A compiled model is given
its buffers with each call, those of one row now and those of another in the next, and nothing is copied.
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
from ..runner import LoadedGraph

Array = np.ndarray
# XNNPACK stores weights in an order of its own, for every signature anew unless it has a place for all of them. This
# name stands for one in memory, which it has on Linux; as a file it would lie beside the model and have to fit it. Of
# SmolLM2-135M in float32 that is 0.9 GB for 2.1, and a token takes 7 to 10 % longer; in int8 no longer.
SHARED_WEIGHTS = ":memory" if sys.platform == "linux" else ""


def compiled_graphs(path: Path, threads: int) -> dict[str, CompiledGraph]:
    """The signatures of a file by name, with one copy of its weights.

    Raises:
        RuntimeError: a file that LiteRT does not run.
    """
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options

    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=SHARED_WEIGHTS)
    with quiet():
        model = CompiledModel.from_file(str(path), environment=_environment(), options=Options(cpu_options=cpu))
        lock = threading.Lock()
        graphs = {name: CompiledGraph(model, name, lock) for name in model.get_signature_list()}
        graph = next(iter(graphs.values()))
        graph.buffer(next(iter(graph.takes)))  # the first one of a process makes LiteRT look at the machine again
    return graphs


@functools.cache
def _environment() -> Any:
    """Where LiteRT looks for accelerators: for the CPU it needs none, and would load those of a GPU all the same.

    It is there for good: LiteRT says so on standard error whenever one goes, and buffers may outlive their file.
    """
    from ai_edge_litert.environment import Environment, EnvironmentOptions

    nothing = str(Path(__file__).parent)
    environment = Environment.create(options=EnvironmentOptions(nothing, nothing, nothing))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(environment.capsule))
    return environment


class CompiledGraph(LoadedGraph):
    """A signature of a compiled model, on the CPU with XNNPACK.

    The signatures of a file share their working memory: `lock` is held from feeding one to reading its results. LiteRT
    keeps Python's own lock too while it computes.
    """

    def __init__(self, model: Any, name: str, lock: threading.Lock) -> None:
        self.model, self.name, self.lock = model, name, lock
        self.takes, self.gives = (
            {name: (tuple(map(int, d["shape"])), np.dtype(d["dtype"])) for name, d in details.items()}
            for details in (model.get_input_tensor_details(name), model.get_output_tensor_details(name))
        )
        self.fed: dict[str, Any] = {}  # buffers of what is no memory, for every call
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
        """One call, which moves `memory` on.

        Args:
            inputs: what is not in the memory, of the file's shapes.

        Returns:
            What does not go to the memory.

        Raises:
            ValueError: a value outside its range.
        """
        state = self.signature.state
        for spec in self.signature.inputs:
            if spec.name in inputs:
                spec.check_values(np.asarray(inputs[spec.name]))
        kept = {state[name]: buffer for name, buffer in memory.later.items()}
        with self.lock:
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
        """A new one for an input, with a value, to which zeros are added up to the file's shape."""
        shape, dtype = self.takes[name]
        buffer = self.model.create_input_buffer_by_name(self.name, name)
        if value is not None and value.shape != shape:
            value = np.pad(value, [(0, size - given) for size, given in zip(shape, value.shape, strict=True)])
        buffer.write(_zeros(shape, dtype) if value is None else np.asarray(value, dtype))
        return buffer


class Memory:
    """What is remembered of one row, in buffers that LiteRT reads and writes where they lie.

    A cache with slots has one buffer: a call writes into its own slots and leaves the others as they are, as LiteRT-LM
    has its caches. Any other state is written as a whole while the old one may still be read, so it has two buffers
    that take turns.

    Args:
        graph: that it is for; the other signatures of the file take it too.
        values: of the state, zeros where there are none; and inputs that stay the same, such as an encoder's results.
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
        """The state, copied."""
        return {name: _read(buffer, *self.graph.takes[name]) for name, buffer in self.now.items()}

    def become(self, other: Memory) -> None:
        """Remember what `other` does."""
        for name, buffer in other.now.items():
            self.now[name].write(_read(buffer, *self.graph.takes[name]))
        self.fixed = other.fixed


@functools.lru_cache(maxsize=4)
def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """The same for every layer's cache: memory that is new takes longer than copying from what is there."""
    return np.zeros(shape, dtype)


def _read(buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    return buffer.read(int(np.prod(shape)), dtype).reshape(shape)
