"""Run an exported file with NumPy in and out, and an ONNX file in ONNX Runtime; ``tflite_runner.py`` has the others.

Needs the file's own runtime, and neither TensorFlow nor Keras.

runner = export.load("bert.onnx")
runner.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..generation.decoder import RecomputingDecoder
from ..generation.search import Decoder, generate
from ..generation.text_generation import TextGenerating, end_tokens
from ..signature import Signature, TensorSpec, as_array
from ..text.tokenizer import Tokenizer
from .buckets import main_graph
from .graph_names import layout_of
from .metadata import (
    CONFIG,
    FAMILY,
    OURS,
    PADDING,
    PRECISION,
    SIGNATURES,
    STOP_TOKENS,
    TOKENIZER_FILES,
    stated,
)


def usable_cores() -> int:
    """Cores that this process may use: with more threads than these, threads wait for each other."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LoadedGraph:
    """One graph of a file: names and dimensions as its metadata has them, and arrays in and out."""

    signature: Signature
    padding: str | None = None  # the side that it may be on; None for any

    def runtime_signature(self) -> Signature:
        """Inputs and outputs as the runtime reports them: for our files too, less than `signature`."""
        raise NotImplementedError

    def _call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of the runtime, with arrays of the dtypes and sizes it wants."""
        raise NotImplementedError

    def run(self, inputs: Mapping[str, Any] | np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name; see ``Runner.run``."""
        named = inputs if isinstance(inputs, Mapping) else {self.signature.inputs[0].name: inputs}
        arrays = self.complete(named)
        found = [self._call(piece) for piece in self._pieces(arrays)]
        given = self._sizes(arrays)
        if not self.signature.sizes or "batch" not in given:
            return found[0]
        outputs = {}
        for spec in self.signature.outputs:
            parts = [piece[spec.name] for piece in found]
            joined = np.concatenate(parts) if spec.dims[:1] == ("batch",) else parts[0]
            cut = tuple(slice(given.get(dim)) if isinstance(dim, str) else slice(None) for dim in spec.dims)
            outputs[spec.name] = joined[cut]
        return outputs

    def calls(self, inputs: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of each call of the runtime that ``run`` makes of these inputs."""
        return self._pieces(self.complete(inputs))

    def complete(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Inputs checked, and what was left out filled in."""
        arrays = {name: as_array(name, value) for name, value in inputs.items() if value is not None}
        self.signature.check_arrays(arrays)
        if self.padding is not None:
            _check_padding(arrays.get("attention_mask"))
        given = self._sizes(arrays)
        for spec in self.signature.inputs:
            if spec.name not in arrays:
                sizes = {**self.signature.defaults, **self.signature.sizes, **given}
                for dim, parts in self.signature.sums.items():
                    sizes[dim] = sum(sizes[part] for part in parts)
                arrays[spec.name] = np.full([int(sizes.get(dim, dim)) for dim in spec.dims], spec.fill, spec.dtype)
                given.update(zip(spec.dims, arrays[spec.name].shape, strict=True))
        return arrays

    def _sizes(self, arrays: Mapping[str, np.ndarray]) -> dict[Any, int]:
        """Of the dimensions that these arrays have, by name."""
        given: dict[Any, int] = {}
        for spec in self.signature.inputs:
            if spec.name in arrays:
                given.update(zip(spec.dims, arrays[spec.name].shape, strict=True))
        return given

    def _pieces(self, arrays: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """As they are; for a graph of static shapes in as many rows as it takes, and padded."""
        sizes, padded, given = self.signature.sizes, self.signature.padded, self._sizes(arrays)
        for dim, size in sizes.items():
            if dim in padded and given.get(dim, size) > size:
                raise ValueError(f"inputs: got {dim} of {given[dim]}; accepted: at most {size}, as exported")
            if dim not in ("batch", *padded) and given.get(dim, size) != size:
                raise ValueError(f"inputs: got {dim} of {given[dim]}; accepted: {size}, as exported")
        if not sizes or "batch" not in given:
            yield arrays
            return
        rows = sizes.get("batch", given["batch"])
        for start in range(0, given["batch"], rows):
            piece = {}
            for spec in self.signature.inputs:
                part = arrays[spec.name]
                part = part[start : start + rows] if spec.dims[:1] == ("batch",) else part
                pairs = zip(self.signature.shape(spec), part.shape, strict=True)
                widths = [(0, 0 if isinstance(n, str) else n - m) for n, m in pairs]
                piece[spec.name] = np.pad(part, widths)  # zeros: also the mask's "not there"
            yield piece


def _check_padding(mask: np.ndarray | None) -> None:
    if mask is not None and ((np.diff(mask.astype("int8"), axis=1) > 0).any() or not mask[:, 0].all()):
        raise ValueError(
            "attention_mask: got rows with padding in front of a token; accepted: padding on the right, since this "
            "file counts a row's tokens from its first column. `generate` takes either side."
        )


class Runner(TextGenerating):
    """An exported model, ready to run: one graph, or a decoder and what belongs to it.

    Several threads may use one runner. ONNX Runtime then works on all their calls at once; LiteRT, which has one set of
    buffers to work in, takes them in turn.

    Attributes:
        path, format: of the file.
        metadata: what the file says of itself: family, config, signatures.
        graphs: by name; see ``graph_names.py``.
        files: all that belong together, each with what it says of itself.
        tokenizer: the one that the model was exported with, or None; another may be put in its place.
        signature: names, dtypes, dimensions and limits of the graph that ``run`` runs.
    """

    format: str

    def __init__(self, path: Path, graphs: Mapping[str, LoadedGraph], metadata: dict[str, str]) -> None:
        self.path, self.graphs, self.metadata = path, dict(graphs), metadata
        self.files: dict[Path, dict[str, str]] = {path: metadata}
        signatures = stated(path, metadata, SIGNATURES, dict)
        for name, graph in self.graphs.items():
            graph.signature = _own_signature(path, signatures.get(name), graph.runtime_signature())
            graph.padding = stated(path, metadata, PADDING, str) or None
        ordered = [name for name in signatures if name in self.graphs] or list(self.graphs)
        self.layout = layout_of(ordered, metadata.get(FAMILY))
        self._main = main_graph(self.graphs, self.layout.main)
        self.signature = self._main.signature

    def __repr__(self) -> str:
        def named(specs: Iterable[TensorSpec], apart: Collection[str]) -> str:
            shown = [f"{s.name} ({', '.join(map(str, s.dims))})" for s in specs if s.name not in apart]
            return ", ".join([*shown, *([f"a state of {len(apart)} tensors"] if apart else [])])

        family = self.metadata.get(FAMILY, "not of attention_zoo")
        own = self.signature
        inputs, outputs = named(own.inputs, own.state), named(own.outputs, set(own.state.values()))
        return f"<{type(self).__name__} {self.path} ({family}, {', '.join(self.graphs)}): {inputs} -> {outputs}>"

    def run(self, inputs: Mapping[str, Any] | np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, of the only graph or of one step of the decoder.

        Args:
            inputs: arrays by name, or the first input bare. `attention_mask` is all ones, `token_type_ids` all zeros
                and a cache empty when left out. Where the file has a static shape, shorter sequences are padded on
                the right and the outputs cut again, and a larger batch is run in pieces. Of several lengths the
                shortest that has room is taken.

        Raises:
            ValueError: a name, dtype, rank, size or value that the model does not accept, before anything runs.
        """
        return self._main.run(inputs)

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> np.ndarray:
        """Continue each row: the options of ``generation.search.generate``, and the same tokens as the Keras model's
        ``generate``.

        Args:
            input_ids: (batch, prompt) integers, or what a tokenizer gives, a mapping; texts go to ``generate_text``.
            attention_mask: (batch, prompt), 1 = keep; prompts of unequal lengths are padded on either side.

        Returns:
            (batch, prompt + new) int64 ids; of an encoder-decoder (batch, 1 + new), behind its start token.

        Raises:
            ValueError: a file of a model that does not generate, an option or input that is not accepted, or more
                tokens than the file has room for.
        """
        return generate(self.decoder(), input_ids, attention_mask, **options)

    @property
    def generates(self) -> bool:
        """Is this a file that ``generate`` can be asked of?"""
        return self.layout.generates or self._config.get("head") == "causal_lm"

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        found = {name: self.metadata[key] for name, key in TOKENIZER_FILES.items() if key in self.metadata}
        if not found:
            return None
        try:
            return Tokenizer.from_files(found)
        except (ValueError, KeyError) as error:
            raise ValueError(f"path: the tokenizer in {self.path} cannot be read: {error}; {OURS}") from error

    @property
    def stop_tokens(self) -> list[int]:
        """Ids of the end tokens of config, generation config and tokenizer: any of them ends a text."""
        own = stated(self.path, self.metadata, STOP_TOKENS, list)
        return end_tokens(own, self._config.get("eos_token_id"), getattr(self.tokenizer, "eos_token_id", None))

    @property
    def precision(self) -> str:
        """Of the file's numbers: "fp32", "fp16", "int8" or "int4"."""
        return self.precision_details.get("name", "fp32")

    @property
    def precision_details(self) -> dict[str, Any]:
        """How a file came to its numbers, which need not be known to run it; empty of one in float32."""
        return stated(self.path, self.metadata, PRECISION, dict)

    @property
    def _vocab_size(self) -> int | None:
        return self._config.get("vocab_size")

    @property
    def _config(self) -> dict[str, Any]:
        return stated(self.path, self.metadata, CONFIG, dict)

    def decoder(self) -> Decoder:
        """What gives ``generate`` its logits; of a graph without a memory."""
        if not self.generates:
            raise ValueError(
                f"path: {self.path.name} does not generate; accepted: an exported GPT, or a Transformer or Seq2Seq "
                "exported with its cache"
            )
        return RecomputingDecoder(self._main, self._config)


def _own_signature(path: Path, declared: Any, found: Signature) -> Signature:
    """The signature of the metadata, which must have the names that the runtime finds; `found` where there is none."""
    if declared is None:
        return found
    try:
        signature = Signature.from_dict(declared)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"path: the signature in {path} cannot be read: {error}; {OURS}") from error
    for side in ("inputs", "outputs"):
        names, actual = ({spec.name for spec in getattr(s, side)} for s in (signature, found))
        if names != actual:
            raise ValueError(f"path: {path} states {side} {sorted(names)}, has {sorted(actual)}; {OURS}")
    return signature
