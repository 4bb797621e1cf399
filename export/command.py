"""The command ``attention-zoo export``: choose the exporter, and make its request from the command-line options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..checks import choice
from ..needs import named_extras
from .options import Precision
from .request import SUFFIXES, ExportRequest, check_options, requests_for

FOLDERS = ("genai", "huggingface")


def lengths(words: str | None) -> Any:
    """Parse the option ``--sequence-length`` ("128", "32,128" or "dynamic") to the argument of ``to_tflite``.

    Raises:
        ValueError: `words` is anything else.
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
    """Write the requested files and return the ``ExportResult`` of each.

    Args:
        load: returns the model. It is called after the options have been checked, since loading takes seconds.
        path: path of a file, or of a folder if `to` is "genai" or "huggingface".
        to: "onnx", "tflite", "litertlm", "genai" or "huggingface". Default: the format with the suffix of `path`.
        precision: name of a precision; for "huggingface" several names may be given, separated by commas.
        details: fields of ``Precision``, by name.
        options: fields of ``ExportRequest``, by name. Options that are None are left out.

    Raises:
        ValueError: the format does not have an option, or does not accept its value.
    """
    format = _format(path, to)
    given = {name: value for name, value in options.items() if value is not None}
    check_options(format, given)
    if format == "huggingface":
        requests = requests_for(path, [Precision(name, **details) for name in precision.split(",")], **given)
        model = load()  # before the exporter, which would import Keras with its log messages
        from .bundles.huggingface_onnx import export_huggingface_onnx

        return export_huggingface_onnx(model, requests)
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
    """Return the exporter of a format. The other exporters and their dependencies are not imported."""
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
