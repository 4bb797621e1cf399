"""The command ``attention-zoo export``: choose the exporter, and make its request from the command-line options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checks import choice
from ..files import no_empty_folder
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


def sizes_of(given: Iterable[str]) -> dict[str, int]:
    """Parse the options ``--static-shape``, such as "batch=1", to the argument `static_shapes` of ``to_onnx``.

    Raises:
        ValueError: a text has another form, or a dimension occurs twice.
    """
    found: dict[str, int] = {}
    for text in given:
        name, _, size = (part.strip() for part in text.partition("="))
        if not name or not size.isdecimal() or not int(size) or name in found:
            raise ValueError(
                f"static_shape: got {text!r}; accepted: each dimension once with a positive size, as batch=1"
            )
        found[name] = int(size)
    return found


def shapes(given: Iterable[str]) -> dict[str, tuple[tuple[int | None, ...], str | None]]:
    """Parse the options ``--input-signature``, such as "image=1,224,224,3:float32" or "ids=batch,sequence:int32".

    Returns:
        The shape, with None for a word, and the dtype, if there is one, by name of the input.

    Raises:
        ValueError: a text has another form, or an input occurs twice.
    """
    found: dict[str, tuple[tuple[int | None, ...], str | None]] = {}
    for text in given:
        parsed = re.fullmatch(r"\s*([^=]+?)\s*=\s*([^:]*?)\s*(?::\s*(\w+)\s*)?", text)
        sizes = (
            [] if parsed is None else [part.strip() for part in re.split("," if "," in parsed[2] else "x", parsed[2])]
        )
        if (
            parsed is None
            or parsed[1] in found
            or not all(re.fullmatch(r"[1-9]\d*|[a-zA-Z_]\w*|\?", part) for part in sizes)
        ):
            raise ValueError(
                f"input_signature: got {text!r}; accepted: each input once, as image=1,224,224,3:float32, where a word "
                "in place of a size leaves it open"
            )
        found[parsed[1]] = tuple(int(part) if part.isdecimal() else None for part in sizes), parsed[3]
    return found


def signature_of(model: Any, given: Mapping[str, tuple[tuple[int | None, ...], str | None]]) -> Any:
    """Return the `input_signature` of a Keras model with inputs of the `given` shapes and dtypes; None for none.

    Raises:
        ValueError: a name is not that of an input, or a dtype is not accepted.
    """
    if not given:
        return None
    from .frontend.any_keras.call_signature import of_inputs

    return of_inputs(model, given)


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

        with no_empty_folder(path / "any"):
            return export_huggingface_onnx(model, requests)
    request = ExportRequest.of(format, path, precision=Precision(precision, **details), **given)
    model = load()
    request = replace(request, input_signature=signature_of(model, given.get("input_signature", {})))
    with no_empty_folder(path / "any" if format in FOLDERS else path):
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
