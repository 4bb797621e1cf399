"""The options of an export: one frozen object, which is checked once and passed to every stage.

To add an option, add a field to ``ExportRequest``, its name to ``ACCEPTED`` for each format that has it, and the code
that uses it. The Python functions and the command line make the same object, so their error messages are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import choice, fraction, is_integer, path_like, shown
from ..runtime.graph_names import FOREIGN
from .frontend.card import as_card, own_metadata
from .onnx_versions import FIRST, LAST
from .options import LEAST_COSINE, NAMES, Precision, as_precision
from .targets.table import TARGETS

if TYPE_CHECKING:  # the command line checks a request before it imports Keras, which is slow
    from ..runtime.runner import Runner
    from .frontend.spec import Exportable

SUFFIXES = {"onnx": ".onnx", "tflite": ".tflite", "litertlm": ".litertlm"}  # the other formats are folders
OWN_METADATA = "attention_zoo."
_ALL = ("precision", "samples", "metric", "least_cosine", "card")
_VIEW = ("input_signature", "image_dtype", "image_processor")
_ONNX = ("opset", "custom_metadata")
_SIZES = ("batch_size", "sequence_length", "image_size")
# All options of each format.
ACCEPTED: Mapping[str, tuple[str, ...]] = {
    "onnx": (*_ALL, *_VIEW, *_ONNX, "cache", "data_format", "target", "static_shapes", "index_dtype"),
    "tflite": (*_ALL, *_VIEW, *_SIZES, "cache", "prefill", "max_length"),
    "litertlm": (*_ALL, "prefill", "max_length", "stop_tokens"),
    "genai": (*_ALL, "target", "max_length", "stop_tokens"),
    "huggingface": (*_ALL, *_ONNX, "data_format", "model_type"),
}
# Accepted values of the fields of ``Precision`` that a format restricts, mostly because it lacks the kernels.
PRECISIONS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "onnx": {"activations": (None, "dynamic", "float", "static"), "integer_only": (False,), "rotation": (None, 0)},
    "tflite": {
        "symmetric": (None, True),
        "method": (None, "rtn", "search", "gptq"),
        "reduce_range": (True,),  # the default: no kernel of LiteRT accumulates in 16 bits
        "head": ("int8", "fp32"),
        "embedding": ("int8", "fp32"),
    },
}
TFLITE_BLOCKS = (32, 64, 128, 256)
OF_SEVERAL_GRAPHS = {"method": "'search', 'rtn'", "activations": "'dynamic', 'float'"}


@dataclass(frozen=True, eq=False)
class ExportRequest:
    """The options of one export, checked as far as possible without the model.

    The fields are the arguments of the function of `format`, which documents them: ``to_onnx``, ``to_tflite``,
    ``to_litertlm``, ``to_genai`` or ``to_huggingface_onnx``. Options that the format does not have keep their defaults.

    Raises:
        ValueError: a value is not accepted.
    """

    format: str
    path: Path
    precision: Precision = field(default_factory=Precision)
    input_signature: Any = None
    image_dtype: str | None = None
    image_processor: Any = None
    data_format: str | None = None
    cache: bool | None = None
    target: str | None = None
    opset: int | None = None
    static_shapes: Mapping[str, int] | None = None
    index_dtype: str | None = None
    custom_metadata: Mapping[str, str] | None = None
    batch_size: int | Mapping[str, int] = 1
    sequence_length: Any = None
    image_size: Any = None
    prefill: int | Sequence[int] | None = None
    max_length: int | None = None
    stop_tokens: Any = None
    model_type: str | None = None
    samples: Any = None
    metric: Callable[[Runner], float] | None = None
    least_cosine: float | None = None
    card: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, format: str, path: str | os.PathLike[str], **options: Any) -> ExportRequest:
        """Check the options of one call and return the request.

        Args:
            format: one of the keys of ``ACCEPTED``.
            path: path of the file, or of the folder for "genai" and "huggingface".
            options: fields by name. An option that `format` does not have may only be given with its default value.

        Raises:
            ValueError: `path` has the wrong suffix, `format` does not have an option, or a value is not accepted.
        """
        check_options(format, options)
        if format == "huggingface":
            options = {"data_format": "channels_first", **options}
        place = path_like("path", path)
        if (suffix := SUFFIXES.get(format)) and place.suffix != suffix:
            raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in {suffix}")
        made = {**options, "precision": as_precision(options.get("precision", "fp32")), "path": place}
        return cls(format=format, **{**made, "card": as_card(options.get("card"))})

    def __post_init__(self) -> None:
        self._check_precision()
        choice("target", self.target, (None, *TARGETS))
        choice("cache", self.cache, (None, True, False))
        self._check_onnx()
        formats = ("channels_first", "channels_last")
        choice("data_format", self.data_format, formats if self.format == "huggingface" else (None, *formats[::-1]))
        self._check_accuracy()
        self._check_images()

    def _check_precision(self) -> None:
        numbers = self.precision
        kind = "tflite" if self.format in ("tflite", "litertlm") else "onnx"
        for name, accepted in PRECISIONS[kind].items():
            choice(f"precision.{name}", getattr(numbers, name), accepted)
        if kind == "tflite":
            blocks = (None, *TFLITE_BLOCKS) if numbers.name == "int4" else (None,)
            choice("precision.block_size", numbers.block_size, blocks)

    def _check_onnx(self) -> None:
        if self.opset is not None and not (is_integer(self.opset) and FIRST <= self.opset <= LAST):
            raise ValueError(f"opset: got {self.opset!r}; accepted: an integer from {FIRST} to {LAST}, or None")
        newest = TARGETS[self.target or "standard"].reads
        if self.opset is not None and newest is not None and self.opset > newest:
            raise ValueError(
                f"opset: got {self.opset}, and {self.target} reads opsets up to {newest}; accepted: {FIRST} to "
                f"{newest}, or None"
            )
        choice("index_dtype", self.index_dtype, (None, "int64", "int32"))
        sizes = self.static_shapes
        if sizes is not None and (
            not isinstance(sizes, Mapping)
            or not sizes
            or not all(is_integer(size) and size > 0 for size in sizes.values())
        ):
            raise ValueError(
                f"static_shapes: got {shown(sizes):.80}; accepted: positive sizes by the names of open dimensions, "
                "such as {'batch': 1, 'sequence': 128}"
            )
        own = self.custom_metadata
        if own is not None and (
            not isinstance(own, Mapping)
            or not all(is_text(text) for entry in own.items() for text in entry)
            or any(name.startswith(OWN_METADATA) for name in own)
        ):
            raise ValueError(
                f"custom_metadata: got {shown(own):.80}; accepted: texts by names that do not begin with "
                f"{OWN_METADATA!r}"
            )

    def _check_accuracy(self) -> None:
        given = {"metric": self.metric, "least_cosine": self.least_cosine}
        if self.format not in ("onnx", "tflite"):  # in these, a third-party model is compared on the samples
            given["samples"] = self.samples
        asked = [name for name, value in given.items() if value is not None]
        if self.metric is not None and not callable(self.metric):
            raise ValueError(f"metric: got {self.metric!r:.80}; accepted: a function of a Runner, or None")
        if self.precision.name == "fp32" and asked:
            raise ValueError(
                f"{asked[0]}: got one for 'fp32', whose proof is `verify`; accepted: None, or another precision"
            )
        if self.least_cosine is not None:
            # A NumPy number becomes one of Python's, which the metadata of a file can store.
            object.__setattr__(self, "least_cosine", fraction("least_cosine", self.least_cosine))

    def _check_images(self) -> None:
        choice("image_dtype", self.image_dtype, (None, "float32", "uint8"))
        if self.image_processor is None:
            return
        from ..layers.images import ImageProcessor

        if self.image_dtype != "uint8":
            raise ValueError("image_processor: got one without image_dtype='uint8'; accepted: None")
        if not isinstance(self.image_processor, ImageProcessor | Mapping):
            raise ValueError(
                f"image_processor: got {type(self.image_processor).__name__}; accepted: an ImageProcessor, or what a "
                "preprocessor_config.json says"
            )

    def for_file(self, format: str, path: Path, **changes: Any) -> ExportRequest:
        """Return this request for a file in another format that is part of the export, with `changes` to its options.

        Options that `format` does not have get their default values.
        """
        dropped = {name: DEFAULTS[name] for name in OPTIONS if name not in ACCEPTED[format]}
        return replace(self, **{**dropped, "format": format, "path": path, **changes})

    def view_of(self, model: Any) -> Exportable:
        """Return `model` with the interface of the exporters, and with the requested inputs and layout of images.

        Raises:
            ValueError: the model cannot be exported, or not with these inputs.
        """
        from .frontend.huggingface_view import in_format
        from .frontend.pixels import with_pixels
        from .frontend.spec import exportable

        pixels = with_pixels(exportable(model, self.input_signature), self.image_dtype, self.image_processor)
        return in_format(pixels, self.data_format)

    def metadata_of(self, model: Exportable) -> dict[str, str]:
        """Check the samples, and return the metadata of `model` for any format: tokenizer, end tokens and model card.

        Raises:
            ValueError: the tokenizer does not fit the model, or the samples are not accepted, for example texts without
                a tokenizer.
        """
        from .frontend.spec import texts

        found = texts(model) | own_metadata(self.card)
        if self.samples is not None:
            if self.precision.name == "fp32" and model.family != FOREIGN:
                raise ValueError(
                    f"samples: got one for 'fp32' and a {model.family}, whose inputs are known; accepted: None, "
                    "another precision, or a model that is not of attention_zoo"
                )
            check_samples(self.samples, model.tokenizer)
        return found

    def samples_of(self, model: Exportable) -> Any:
        """The samples on which the float32 file is compared with Keras; None for synthetic inputs."""
        return self.samples if model.family == FOREIGN else None

    def check_calibration(self, graphs: Collection[str]) -> None:
        """Check the model's `graphs` and the samples, if the precision requires calibration data.

        Raises:
            ValueError: the model has several graphs, or there is a single sample, which cannot be split.
        """
        if not (name := self.precision.by_samples):
            return
        if len(graphs) > 1:
            value, accepted = getattr(self.precision, name), OF_SEVERAL_GRAPHS[name]
            raise ValueError(f"precision.{name}: got {value!r} for a model of several graphs; accepted: {accepted}")
        apart(self.samples)

    @property
    def calibration_samples(self) -> Any:
        """The samples for calibration, or None for the built-in ones. A file is never evaluated on these samples."""
        return apart(self.samples)[0] if self.precision.by_samples else None

    @property
    def evaluation_samples(self) -> Any:
        """The samples on which the accuracy is measured, or None for the built-in ones."""
        return apart(self.samples)[1] if self.precision.by_samples else self.samples

    @property
    def accepted_cosine(self) -> float:
        """The lowest accepted cosine similarity between the outputs of the file and those of the float32 file."""
        return LEAST_COSINE[self.precision.name] if self.least_cosine is None else self.least_cosine

    @property
    def blocks_for(self) -> str:
        """The operators that read block-wise quantized weights in ONNX: "onnxruntime" or "standard"."""
        if self.target is None:
            return "onnxruntime"
        target = TARGETS[self.target]
        return "onnxruntime" if target.fallback or "com.microsoft" in target.domains else "standard"


DEFAULTS: Mapping[str, Any] = {
    entry.name: None if entry.name == "card" else entry.default for entry in fields(ExportRequest)
}
OPTIONS = tuple(name for name in DEFAULTS if name not in ("format", "path"))


def requests_for(folder: str | os.PathLike[str], precision: Any, **options: Any) -> list[ExportRequest]:
    """Check the options of one call of ``to_huggingface_onnx`` and return a request for each precision.

    Raises:
        ValueError: there is no precision, or one occurs twice; or as in ``ExportRequest.of``.
    """
    several = [precision] if isinstance(precision, str | Precision) else precision
    if not isinstance(several, list | tuple) or not several:
        raise ValueError(f"precision: got {precision!r}; accepted: one of {list(NAMES)}, or several in a list")
    found = [as_precision(one) for one in several]
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"precision: got {', '.join(twice)} twice; accepted: each once, as each has one file")
    of_float32 = {**options, "samples": None, "metric": None, "least_cosine": None} if len(found) > 1 else options
    return [
        ExportRequest.of("huggingface", folder, precision=one, **(of_float32 if one.name == "fp32" else options))
        for one in found
    ]


def check_options(format: str, options: Mapping[str, Any]) -> None:
    """Check that `format` has all `options` whose values differ from the default.

    Raises:
        ValueError: `format` does not have one of them. The message names the option.
    """
    for name, value in options.items():
        if name in ACCEPTED[format] or value is None or (is_integer(value) and value == DEFAULTS[name]):
            continue
        if format == "litertlm" and name in _SIZES:
            raise ValueError(f"{name}: got one for a bundle, which takes one text at a time; accepted: none")
        if name in (*_SIZES, "prefill", "max_length"):
            raise ValueError(f"{name}: got static sizes for {format}, whose dimensions are open; accepted: none")
        raise ValueError(f"{name}: got {value!r} for {format}; accepted: none")


def check_samples(samples: Any, tokenizer: Any) -> Sequence[Any]:
    """Return the user's samples as a sequence of texts, or of inputs by name.

    Raises:
        ValueError: the samples are of another kind, of both kinds or empty, or are texts without a tokenizer.
    """
    several = [samples] if isinstance(samples, str | Mapping) else samples
    if not isinstance(several, Sequence) or not several:
        raise ValueError(f"samples: got {shown(samples):.80}; accepted: texts, or mappings of inputs by name")
    if all(isinstance(sample, str) for sample in several):
        if tokenizer is None:
            raise ValueError("samples: got texts for a model without a tokenizer; accepted: inputs by name")
        return several
    for sample in several:
        if not isinstance(sample, Mapping):
            raise ValueError(f"samples: got {type(sample).__name__}; accepted: texts, or mappings of inputs by name")
    return several


def apart(samples: Any) -> tuple[Any, Any]:
    """Split the user's samples into two halves, for calibration and for evaluation.

    A single mapping is split by rows. For None, which selects the built-in samples, both halves are None.

    Raises:
        ValueError: there is only one sample, which cannot be split.
    """
    if samples is None:
        return None, None
    if isinstance(samples, Sequence) and not isinstance(samples, str) and len(samples) > 1:
        return samples[::2], samples[1::2]
    if isinstance(samples, Mapping) and _rows(samples) > 1:
        one, other = ({name: value[start::2] for name, value in samples.items()} for start in (0, 1))
        return one, other
    raise ValueError(
        "samples: got one to round by; accepted: several texts, mappings or rows, one half to round by and the other "
        "to measure with, or None"
    )


def is_text(value: Any) -> bool:
    """Return whether a value is a text that is not empty and has an encoding."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _rows(sample: Mapping[str, Any]) -> int:
    """Return the number of rows that all inputs have, or 0 if their numbers differ."""
    lengths = {len(value) if hasattr(value, "__len__") else 0 for value in sample.values()}
    return lengths.pop() if len(lengths) == 1 else 0
