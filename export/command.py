"""The command ``attention-zoo export``: which exporter runs, and with what request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checks import choice
from ..needs import named_extras
from .options import Precision
from .request import SUFFIXES, ExportRequest, check_options

FOLDERS = ("genai", "huggingface")


def lengths(words: str | None) -> Any:
    """Return what ``to_tflite`` takes as `sequence_length`, for "128", "32,128" or "dynamic".

    Raises:
        ValueError: other words.
    """
    if words is None or words == "dynamic":
        return words
    numbers = words.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"sequence_length: got {words!r}; accepted: an integer, several as 32,128, or dynamic")
    return [int(number) for number in numbers] if len(numbers) > 1 else int(words)


@named_extras()
def export_as(
    load: Callable[[], Any],
    path: Path,
    to: str | None,
    precision: str,
    details: Mapping[str, Any],
    options: Mapping[str, Any],
) -> list[Any]:
    """Write the files that the command line asks for, and return their results.

    Args:
        load: makes the model. It is called when the options have been checked, since it takes seconds.
        path: a file, or a folder for `to` "genai" or "huggingface".
        to: "onnx", "tflite", "litertlm", "genai" or "huggingface". Default: by the suffix of `path`.
        precision: a name; for huggingface several with commas between them.
        details: fields of ``Precision``.
        options: fields of ``ExportRequest``, None where the command line has none.

    Raises:
        ValueError: an option that the format does not have, or a value that it does not accept.
    """
    format = _format(path, to)
    given = {name: value for name, value in options.items() if value is not None}
    check_options(format, given)
    if format == "huggingface":
        from .bundles.huggingface_onnx import export_huggingface_onnx, requests_for

        requests = requests_for(path, [Precision(name, **details) for name in precision.split(",")], **given)
        return export_huggingface_onnx(load(), requests)
    request = ExportRequest.of(format, path, precision=Precision(precision, **details), **given)
    model = load()
    return [_exporter(format)(model, request)]


def _format(path: Path, to: str | None) -> str:
    if to is not None:
        return choice("to", to, (*SUFFIXES, *FOLDERS))
    formats = {suffix: format for format, suffix in SUFFIXES.items()}
    if path.suffix not in formats:
        raise ValueError(
            f"file: got {str(path)!r}; accepted: a name that ends in {', '.join(formats)}, or --to "
            f"{' or '.join(FOLDERS)}"
        )
    return formats[path.suffix]


def _exporter(format: str) -> Callable[[Any, ExportRequest], Any]:
    """Return the exporter of a format; the others, and what they import, are not needed."""
    if format == "onnx":
        from .onnx.exporter import export_onnx

        return export_onnx
    if format == "tflite":
        from .tflite.exporter import export_tflite

        return export_tflite
    if format == "litertlm":
        from .bundles.litertlm import export_litertlm

        return export_litertlm
    from .bundles.genai import export_genai

    return export_genai
