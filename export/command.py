"""What ``attention-zoo export`` does with its options; their words are in ``cli.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checks import choice
from .precision.options import Precision

FILES = {".onnx": "onnx", ".tflite": "tflite", ".litertlm": "litertlm"}
FOLDERS = ("genai", "huggingface")
SIZES = {  # that a format has a use for
    "tflite": ("sequence_length", "image_size", "prefill", "max_length"),
    "litertlm": ("prefill", "max_length"),
    "genai": ("max_length",),
    "onnx": (),
    "huggingface": (),
}
UNKNOWN = {  # options that it has not
    "onnx": ("stop_tokens",),
    "tflite": ("target", "stop_tokens"),
    "litertlm": ("cache", "target", "image_dtype"),
    "genai": ("cache", "image_dtype"),
    "huggingface": ("cache", "target", "stop_tokens", "image_dtype"),
}


def lengths(words: str | None) -> Any:
    """What ``to_tflite`` takes as `sequence_length`, of "128", "32,128" or "dynamic".

    Raises:
        ValueError: other words.
    """
    if words is None or words == "dynamic":
        return words
    numbers = words.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"sequence_length: got {words!r}; accepted: an integer, several as 32,128, or dynamic")
    return [int(number) for number in numbers] if len(numbers) > 1 else int(words)


def export_as(
    load: Callable[[], Any],
    file: Path,
    to: str | None,
    precision: str,
    details: Mapping[str, Any],
    asked: Mapping[str, Any],
    batch_size: int,
    sizes: Mapping[str, Any],
) -> list[Any]:
    """The results of the files that were written. What cannot be is refused before `load` makes the model.

    Args:
        to: "onnx", "tflite", "litertlm", "genai" or "huggingface"; None for what the name of `file` ends in.
        precision: of the file; for huggingface several with commas between them.
        details: of ``Precision``.
        asked: cache, target, samples, least_cosine, stop_tokens, image_dtype and card, None where nobody asked.
        batch_size, sizes: of a TFLite file; max_length also of a genai folder, that and prefill of a bundle.

    Raises:
        ValueError: an option of another format than `to`.
    """
    from .. import export

    if to is None and file.suffix not in FILES:
        raise ValueError(
            f"file: got {str(file)!r}; accepted: a name that ends in {', '.join(FILES)}, or --to {' or '.join(FOLDERS)}"
        )
    kind = FILES[file.suffix] if to is None else choice("to", to, (*FILES.values(), *FOLDERS))
    names = precision.split(",") if kind == "huggingface" else [precision]
    numbers = [Precision(name, **details) for name in names]
    given = {name: value for name, value in asked.items() if value is not None}
    sized = {name: value for name, value in sizes.items() if value is not None}
    fixed = [*(["batch_size"] if batch_size != 1 else []), *(name for name in sized if name not in SIZES[kind])]
    if fixed and kind == "litertlm":
        raise ValueError(f"{fixed[0]}: got one for a bundle, which takes one text at a time; accepted: none")
    if fixed and kind != "tflite":
        raise ValueError(f"sizes: got static sizes for {kind}, whose dimensions are open; accepted: none")
    for name in UNKNOWN[kind]:
        if name in given:
            raise ValueError(f"{name}: got {given[name]!r} for {kind}; accepted: none")
    model = load()
    if kind == "litertlm":
        return [export.to_litertlm(model, file, precision=numbers[0], **sized, **given)]
    if kind == "tflite":
        return [export.to_tflite(model, file, precision=numbers[0], batch_size=batch_size, **sized, **given)]
    if kind == "genai":
        return [export.to_genai(model, file, precision=numbers[0], **sized, **given)]
    if kind == "huggingface":
        results: Any = export.to_huggingface_onnx(model, file, precision=numbers, **given)
        return results
    return [export.to_onnx(model, file, precision=numbers[0], **given)]
