"""Run an exported file with NumPy in and out. Needs the file's own runtime, and neither TensorFlow nor Keras.

runner = export.load("bert.onnx")
runner.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..zoo.signature import Signature, TensorSpec

METADATA_KEY = "attention_zoo"


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Runner:
    """A runner for an ``.onnx`` or ``.tflite`` file.

    Args:
        path: a file of ours, or any other of these formats (whose inputs are then checked by shape only).
        threads: CPU threads. Default: the runtime's choice (ONNX Runtime) or every core (LiteRT).

    Raises:
        ValueError: no such file, another suffix, or a file the runtime cannot read.
        ImportError: the runtime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path: got {path}, which is not a file; accepted: an .onnx or .tflite file")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads: got {threads!r}; accepted: a positive integer or None")
    formats = {".onnx": OnnxRunner, ".tflite": TFLiteRunner}
    if path.suffix not in formats:
        raise ValueError(f"path: got {path.name}; accepted: a name that ends in {' or '.join(formats)}")
    return formats[path.suffix](path, threads)


class Runner:
    """One exported file, ready to run.

    Attributes:
        path, format: of the file.
        metadata: what the file says of itself: family, config, signature.
        signature: names, dtypes, dimensions and limits of its inputs and outputs.
    """

    format: str

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self.path = path
        self.metadata = metadata
        text = metadata.get("attention_zoo.signature")
        self.signature = self._own_signature(text) if text else self.runtime_signature()

    def _own_signature(self, text: str) -> Signature:
        accepted = "accepted: a file as attention_zoo.export writes it"
        try:
            signature = Signature.from_json(text)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"path: the signature in {self.path} cannot be read: {error}; {accepted}") from error
        found = self.runtime_signature()
        for side in ("inputs", "outputs"):
            stated, actual = ({spec.name for spec in getattr(s, side)} for s in (signature, found))
            if stated != actual:
                raise ValueError(f"path: {self.path} states {side} {sorted(stated)}, has {sorted(actual)}; {accepted}")
        return signature

    def runtime_signature(self) -> Signature:
        """Inputs and outputs as the runtime reports them: for our files too, less than `signature`."""
        raise NotImplementedError

    def _call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of the runtime, with arrays of the dtypes and sizes it wants."""
        raise NotImplementedError

    def run(self, inputs: Mapping[str, Any] | np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name.

        Args:
            inputs: arrays by name, or the first input bare. `attention_mask` is all ones and `token_type_ids` all
                zeros when left out. Where the file has a static shape, shorter sequences are padded on the right and
                the outputs cut again, and a larger batch is run in pieces.

        Raises:
            ValueError: a name, dtype, rank, size or value that the model does not accept, before anything runs.
        """
        named = inputs if isinstance(inputs, Mapping) else {self.signature.inputs[0].name: inputs}
        arrays = {name: np.asarray(value) for name, value in named.items() if value is not None}
        self.signature.check_arrays(arrays)
        first = self.signature.inputs[0]
        given = dict(zip(first.dims, arrays[first.name].shape, strict=True))
        for spec in self.signature.inputs:
            if spec.name not in arrays:
                shape = [given.get(dim, dim) for dim in spec.dims]
                arrays[spec.name] = np.full(shape, spec.fill)
        return self._call_static(arrays, given) if self.signature.sizes else self._call(arrays)

    def _call_static(self, arrays: dict[str, np.ndarray], given: dict[Any, int]) -> dict[str, np.ndarray]:
        """Run a file of static shapes: pad, run piece by piece, cut."""
        sizes = self.signature.sizes
        for dim, size in sizes.items():
            if dim == "sequence" and given[dim] > size:
                raise ValueError(f"inputs: got sequence of {given[dim]}; accepted: at most {size}, as exported")
            if dim not in ("batch", "sequence") and given[dim] != size:
                raise ValueError(f"inputs: got {dim} of {given[dim]}; accepted: {size}, as exported")
        rows = sizes.get("batch", given["batch"])
        pieces = []
        for start in range(0, given["batch"], rows):
            piece = {}
            for spec in self.signature.inputs:
                part = arrays[spec.name][start : start + rows]
                widths = [(0, size - n) for size, n in zip(self._static(spec), part.shape, strict=True)]
                piece[spec.name] = np.pad(part, widths)  # zeros: also the mask's "not there"
            pieces.append(self._call(piece))
        outputs = {}
        for spec in self.signature.outputs:
            joined = np.concatenate([piece[spec.name] for piece in pieces])
            cut = tuple(slice(given.get(dim)) if isinstance(dim, str) else slice(None) for dim in spec.dims)
            outputs[spec.name] = joined[cut]
        return outputs

    def _static(self, spec: TensorSpec) -> list[int]:
        return [int(size) for size in self.signature.shape(spec)]

    def generate(
        self, input_ids: Any, attention_mask: Any = None, *, max_new_tokens: int = 32, stop_token: int | None = None
    ) -> np.ndarray:
        """Continue each row with the likeliest token, again and again (greedy).

        Args:
            input_ids: (batch, prompt) integers.
            attention_mask: (batch, prompt), 1 = keep; padding may be on either side.
            max_new_tokens: how many.
            stop_token: stop when every row has produced it; rows that are done repeat it.

        Returns:
            (batch, prompt + new) int64 ids.

        Raises:
            ValueError: not a causal language model, or more tokens than it has positions for.
        """
        outputs = self.signature.outputs
        causal = '"head": "causal_lm"' in self.metadata.get("attention_zoo.config", "")
        if not causal or outputs[0].name != "logits":
            raise ValueError(f"path: {self.path.name} is no causal language model; accepted: an exported GPT")
        ids = np.asarray(input_ids)
        self.signature.check_arrays({"input_ids": ids})
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
        self.signature.check_arrays({"input_ids": ids, "attention_mask": mask})
        if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
            raise ValueError(f"max_new_tokens: got {max_new_tokens!r}; accepted: an integer of at least 0")
        limit = min(n for n in (self.signature.limits.get("sequence"), self.signature.sizes.get("sequence")) if n)
        if ids.shape[1] + max_new_tokens > limit:
            raise ValueError(
                f"max_new_tokens: got {max_new_tokens} after {ids.shape[1]} tokens; accepted: {limit} together"
            )
        if not mask.any(axis=1).all():
            raise ValueError("attention_mask: got a row without any token; accepted: at least one 1 in each")
        rows, done = np.arange(len(ids)), np.zeros(len(ids), bool)
        for _ in range(max_new_tokens):
            logits = self.run({"input_ids": ids, "attention_mask": mask})["logits"]
            last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)  # the last token that is not padding
            token = logits[rows, last].argmax(axis=-1)
            if stop_token is not None:
                token = np.where(done, stop_token, token)
                done |= token == stop_token
            ids = np.concatenate([ids, token[:, None]], axis=1)
            mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
            if done.all():
                break
        return ids.astype("int64")


class OnnxRunner(Runner):
    """An ONNX file in ONNX Runtime, on the CPU."""

    format = "onnx"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes differ by what is wrong with the file
            raise ValueError(f"path: ONNX Runtime cannot read {path}: {error}; accepted: an ONNX model") from error
        self.dtypes = {node.name: _numpy_dtype(node.type) for node in self.session.get_inputs()}
        self.names = [node.name for node in self.session.get_outputs()]
        super().__init__(path, dict(self.session.get_modelmeta().custom_metadata_map))

    def runtime_signature(self) -> Signature:
        def spec(node: Any) -> TensorSpec:
            dims = tuple(d if isinstance(d, int) else str(d or f"{node.name}_{i}") for i, d in enumerate(node.shape))
            return TensorSpec(node.name, _numpy_dtype(node.type), dims)

        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        return Signature(tuple(map(spec, inputs)), tuple(map(spec, outputs)))

    def _call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {name: np.ascontiguousarray(array, self.dtypes[name]) for name, array in arrays.items()}
        return dict(zip(self.names, self.session.run(self.names, feeds), strict=True))


class TFLiteRunner(Runner):
    """A TFLite file in LiteRT's interpreter, on the CPU with XNNPACK."""

    format = "tflite"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self.interpreter = Interpreter(model_path=str(path), num_threads=threads or os.cpu_count())
            self.interpreter.allocate_tensors()
            self.runner = self.interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"path: LiteRT cannot read {path}: {error}; accepted: a TFLite model") from error
        self.details = self.runner.get_input_details()
        super().__init__(path, _tflite_metadata(path))

    def runtime_signature(self) -> Signature:
        def specs(details: dict[str, Any]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(name, np.dtype(d["dtype"]).name, tuple(int(n) for n in d["shape"]))
                for name, d in details.items()
            )

        return Signature(specs(self.details), specs(self.runner.get_output_details()))

    def _call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {name: np.ascontiguousarray(a, self.details[name]["dtype"]) for name, a in arrays.items()}
        return self.runner(**feeds)


def _numpy_dtype(onnx_type: str) -> str:
    """ "tensor(int64)" to "int64"."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _flatbuffer(path: Path) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAsModel(np.memmap(path, dtype=np.uint8, mode="r"), 0)


def _tflite_metadata(path: Path) -> dict[str, str]:
    model = _flatbuffer(path)
    for i in range(model.MetadataLength()):
        if model.Metadata(i).Name() == METADATA_KEY.encode():
            return json.loads(bytes(model.Buffers(model.Metadata(i).Buffer()).DataAsNumpy()))
    return {}


def tflite_operators(path: Path) -> list[str]:
    """The operator of every node; custom ones as "CUSTOM: name"."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = _flatbuffer(path)
    kinds = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the old field holds codes below 127
        custom = code.CustomCode()
        kinds.append(f"CUSTOM: {custom.decode()}" if custom else names[builtin])
    return [
        kinds[graph.Operators(i).OpcodeIndex()]
        for graph in (model.Subgraphs(j) for j in range(model.SubgraphsLength()))
        for i in range(graph.OperatorsLength())
    ]
