"""The base classes that run exported files with NumPy arrays as inputs and outputs.

The subpackages ``onnx``, ``tflite`` and ``litertlm`` contain the runner of each format. Running a file requires its own
runtime, but neither TensorFlow nor Keras.

runner = export.load("bert.onnx")
runner.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..checks import INT32, brief, is_integer, shown
from ..generation.decoder import Decoder, RecomputingDecoder
from ..generation.defaults import obeyed
from ..generation.search import GenerateOptions, generate
from ..generation.text_generation import TextGenerating, end_tokens
from ..signature import Signature, TensorSpec, as_array
from ..text.pairs import PairScoring
from ..text.tokenizer import Tokenizer
from .buckets import main_graph
from .graph_names import layout_of
from .metadata import (
    CONFIG,
    FAMILY,
    GENERATION,
    OURS,
    PADDING,
    PRECISION,
    SIGNATURES,
    STOP_TOKENS,
    TOKENIZER_FILES,
    stated,
)


def _optional_size(value: Any) -> bool:
    return value is None or (is_integer(value) and 0 < value < INT32)


def _optional_ids(value: Any) -> bool:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return all(is_integer(number) and abs(number) < INT32 for number in ids)


# The entries of a config that are used here, with what is accepted.
USED = {
    **dict.fromkeys(("max_length", "vocab_size", "decoder_vocab_size"), ("a positive integer", _optional_size)),
    "eos_token_id": ("token ids", _optional_ids),
    **{
        name: ("a token id", lambda value: not isinstance(value, list) and _optional_ids(value))
        for name in ("pad_token_id", "decoder_start_token_id")
    },
    **dict.fromkeys(("head", "score_activation"), ("a name", lambda value: value is None or isinstance(value, str))),
}


def usable_cores() -> int:
    """Return the number of cores that this process may use. More threads than that would wait for each other."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def running(runtime: str) -> Iterator[None]:
    """Turn an error of a runtime, such as one about a damaged graph, into a ValueError of one line."""
    try:
        yield
    except Exception as error:  # the classes of native libraries have no common base
        if isinstance(error, ValueError) and "; accepted: " in str(error):
            raise
        reason = brief(error)
        raise ValueError(f"inputs: {runtime} cannot compute the graph: {reason}; accepted: valid files") from error


class LoadedGraph:
    """One graph of a file, with the names and dimensions from its metadata, run on NumPy arrays."""

    signature: Signature
    padding: str | None = None  # the only accepted padding side; None if any is accepted

    def runtime_signature(self) -> Signature:
        """Return the inputs and outputs as the runtime reports them, without the limits that the metadata declares."""
        raise NotImplementedError

    def _call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call the runtime once, with arrays of valid sizes, which are cast to the graph's dtypes."""
        raise NotImplementedError

    def run(self, inputs: Mapping[str, Any] | np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name; see ``Runner.run``."""
        named = inputs if isinstance(inputs, Mapping) else {self.signature.inputs[0].name: inputs}
        arrays = self.complete(named)
        given = self._sizes(arrays)
        self._check_rows(given.get("batch"))
        found = [self._call(piece) for piece in self._pieces(arrays)]
        if not self.signature.sizes:
            return found[0]
        outputs = {}
        for spec in self.signature.outputs:
            parts = [piece[spec.name] for piece in found]
            joined = np.concatenate(parts) if spec.dims[:1] == ("batch",) else parts[0]
            cut = tuple(slice(given.get(dim)) if isinstance(dim, str) else slice(None) for dim in spec.dims)
            outputs[spec.name] = joined[cut]
        return outputs

    def _check_rows(self, given: int | None) -> None:
        """Raise a ValueError if the graph has another number of rows, and an output is not made of these rows."""
        rows = self.signature.sizes.get("batch", given)
        others = [spec.name for spec in self.signature.outputs if spec.dims[:1] != ("batch",)]
        if given != rows and others:
            raise ValueError(
                f"inputs: got batch of {given}; accepted: {rows}, as exported, since {others[0]!r} is not computed row "
                f"by row. Export with batch_size={given}"
            )

    def calls(self, inputs: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the arrays of each call of the runtime that ``run`` would make for these inputs."""
        return self._pieces(self.complete(inputs))

    def complete(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Check the inputs, and add default values for those that were omitted."""
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
        """Return the sizes of the dimensions of these arrays, by name of the dimension."""
        given: dict[Any, int] = {}
        for spec in self.signature.inputs:
            if spec.name in arrays:
                given.update(zip(spec.dims, arrays[spec.name].shape, strict=True))
        return given

    def _pieces(self, arrays: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the arrays unchanged or, for a graph of static shapes, split into batches and padded to its sizes."""
        sizes, padded, given = self.signature.sizes, self.signature.padded, self._sizes(arrays)
        for dim, size in sizes.items():
            if dim in padded and given.get(dim, size) > size:
                raise ValueError(f"inputs: got {dim} of {given[dim]}; accepted: at most {size}, as exported")
            if dim not in ("batch", *padded) and given.get(dim, size) != size:
                raise ValueError(f"inputs: got {dim} of {given[dim]}; accepted: {size}, as exported")
        if not sizes:
            yield arrays
            return
        total = given.get("batch", 1)
        rows = sizes.get("batch", total)
        for start in range(0, total, rows):
            piece = {}
            for spec in self.signature.inputs:
                part = arrays[spec.name]
                part = part[start : start + rows] if spec.dims[:1] == ("batch",) else part
                pairs = zip(self.signature.shape(spec), part.shape, strict=True)
                widths = [(0, 0 if isinstance(n, str) else n - m) for n, m in pairs]
                # The padding is zeros, which mark it in a mask.
                piece[spec.name] = np.pad(part, widths) if part.ndim else part
            yield piece


def _check_padding(mask: np.ndarray | None) -> None:
    if mask is not None and ((np.diff(mask.astype("int8"), axis=1) > 0).any() or not mask[:, 0].all()):
        raise ValueError(
            "attention_mask: got rows with padding in front of a token; accepted: padding on the right, since this "
            "file counts a row's tokens from its first column. `generate` takes either side."
        )


class Runner(TextGenerating, PairScoring):
    """A loaded model file, ready to run: a single graph, or a decoder with its encoder or its prefill graphs.

    ``load`` returns the runner for a file. Several threads may use one runner: ONNX Runtime executes their calls
    concurrently; LiteRT, which has one set of buffers per file, executes them one after another. A runner is pickled as
    its path and opened anew by the process that unpickles it.

    Attributes:
        path: The path of the file.
        format: "onnx", "tflite" or "litertlm".
        metadata: The metadata of the file, such as family, config and signatures; see ``metadata.py`` for the keys.
        graphs: The graphs by name; see ``graph_names.py``.
        layout: The mapping from these graphs to the graphs of the model.
        files: The metadata of every file that belongs to the model, by path.
        tokenizer: The tokenizer that the model was exported with, or None. It can be replaced by assignment.
        signature: Names, dtypes, dimensions and limits of the inputs and outputs of the graph that ``run`` runs.
        generates: Whether ``generate`` is available.
        stop_tokens: Ids of the tokens that end a text.
        precision: "fp32", "fp16", "int8" or "int4".
        precision_details: The details of a precision other than float32.

    Raises:
        ValueError: If the metadata of the file is damaged or does not match its graphs.
    """

    format: str
    opened_with: tuple[Any, ...]  # the absolute path, and the other arguments

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a runner as its path and options. Unpickling opens the file anew, also in another process."""
        own = self.__dict__
        assigned = {"tokenizer": own["tokenizer"]} if own.get("tokenizer", own) is not own.get("_stored", own) else None
        return (type(self), self.opened_with) if assigned is None else (type(self), self.opened_with, assigned)

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
        """Run the graph once: the only graph of the file, or one step of its decoder.

        In a file with static shapes, shorter sequences are padded on the right and the outputs cropped accordingly, and
        a larger batch is run in several calls. Of several exported lengths, the shortest that fits is used.

        Args:
            inputs: Arrays by name, or the first input alone. If omitted, `attention_mask` is all ones,
                `token_type_ids` is all zeros and a key/value cache is empty.

        Returns:
            The outputs by name, with the dtypes and shapes that `signature` declares.

        Raises:
            ValueError: If a name, dtype, rank, size or value is not accepted. This is checked before anything runs.
        """
        return self._main.run(inputs)

    def _outputs_of(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.run(inputs)

    def _score_activation(self) -> str | None:
        return self._config.get("score_activation")

    def _most_tokens(self) -> int | None:
        sizes = [graph.signature.sizes.get("sequence") for graph in self.graphs.values()]
        return None if None in sizes else max(map(int, sizes))  # pyright: ignore[reportArgumentType]

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]) -> np.ndarray:
        """Generate a continuation of each row, with the same tokens as ``generate`` of the Keras model.

        Args:
            input_ids: (batch, prompt) integers, or the mapping that a tokenizer returns. For texts, see
                ``generate_text``.
            attention_mask: (batch, prompt), 1 = token, 0 = padding. Prompts of different lengths may be padded on
                either side. Default: all ones.
            options: The options of ``generation.search.generate``, such as `max_new_tokens` and `temperature`. The
                default of an option is that of the exported model's generation config, if it has one.

        Returns:
            (batch, prompt + new) int64 ids; for an encoder-decoder (batch, 1 + new) ids, which begin with the start
            token.

        Raises:
            ValueError: If the model does not generate, if an option or input is not accepted, or if there are more
                tokens than the file supports.
        """
        return generate(self.decoder(), input_ids, attention_mask, **options)

    @property
    def generates(self) -> bool:
        """Whether the file supports ``generate``."""
        return self.layout.generates or self._config.get("head") == "causal_lm"

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        found = {name: self.metadata[key] for name, key in TOKENIZER_FILES.items() if key in self.metadata}
        if not found:
            return None
        try:
            self._stored = Tokenizer.from_files(found)
            return self._stored
        except (ValueError, KeyError) as error:
            raise ValueError(f"path: the tokenizer in {self.path} cannot be read: {brief(error)}; {OURS}") from error

    @property
    def stop_tokens(self) -> list[int]:
        """Ids of the tokens that end a text: the end tokens of the config, the generation config and the tokenizer."""
        own = stated(self.path, self.metadata, STOP_TOKENS, list)
        return end_tokens(own, self._config.get("eos_token_id"), getattr(self.tokenizer, "eos_token_id", None))

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """The defaults of ``generate``: the generation config of the exported model, in transformers' words.

        The "tokenizer" is added if the generation config has stop strings.
        """
        raw = stated(self.path, self.metadata, GENERATION, dict)
        tokenizer = self.tokenizer if "stop_strings" in raw else None
        found, _ = obeyed(raw, self._vocab_size, texts=tokenizer is not None)
        return found | ({"tokenizer": tokenizer} if "stop_strings" in found else {})

    @property
    def precision(self) -> str:
        """The precision of the file: "fp32", "fp16", "int8" or "int4"."""
        return self.precision_details.get("name", "fp32")

    @property
    def precision_details(self) -> dict[str, Any]:
        """How the file was quantized, for information only. Empty for a float32 file."""
        return stated(self.path, self.metadata, PRECISION, dict)

    @property
    def _vocab_size(self) -> int | None:
        return self._config.get("decoder_vocab_size") or self._config.get("vocab_size")

    @property
    def _config(self) -> dict[str, Any]:
        config = stated(self.path, self.metadata, CONFIG, dict)
        for name, (accepted, fits) in USED.items():
            if not fits(config.get(name)):
                raise ValueError(
                    f"path: the config in {self.path} has {name} {shown(config[name])}; accepted: {accepted}"
                )
        return config

    def decoder(self) -> Decoder:
        """Return the decoder that computes the logits for ``generate``.

        Here it is one for a graph without a key/value cache, which processes the whole sequence again at each step.

        Raises:
            ValueError: If the file does not support ``generate``.
        """
        if not self.generates:
            raise ValueError(
                f"path: {self.path.name} does not generate; accepted: an exported GPT, or a Transformer or Seq2Seq "
                "exported with its cache"
            )
        return RecomputingDecoder(self._main, self._config, self.generation_defaults)


def _own_signature(path: Path, declared: Any, found: Signature) -> Signature:
    """Return the signature declared in the metadata, or `found`, the one that the runtime reports, if there is none.

    Raises:
        ValueError: If the declared signature is damaged, or its names differ from those that the runtime reports.
    """
    if declared is None:
        return found
    try:
        signature = Signature.from_dict(declared)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"path: the signature in {path} cannot be read: {brief(error)}; {OURS}") from error
    for side in ("inputs", "outputs"):
        names, actual = ({spec.name: s.shape(spec) for spec in getattr(s, side)} for s in (signature, found))
        if names.keys() != actual.keys():
            raise ValueError(f"path: {path} states {side} {sorted(names)!r:.200}, has {sorted(actual)!r:.200}; {OURS}")
        for name, shape in names.items():
            if len(shape) != len(actual[name]):
                raise ValueError(f"path: {path} states {name} {shape}, has {actual[name]}; {OURS}")
    return signature
