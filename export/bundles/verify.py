"""Verification of files, and of the folders and bundles that other engines read: ``verify`` finds out which it is."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...needs import named_extras
from ...runtime.litertlm.runner import content, section, sections
from ...runtime.loading import load
from ...text.vocabularies import FILE
from ..frontend.inference import one_at_a_time
from ..frontend.spec import decoder_graphs, ends_of, exportable
from ..request import ExportRequest
from ..verification.comparison import Check
from ..verification.verify import Asked, Opened, VerifyReport, opened
from .genai import CONFIG_FILE, MODEL_FILE, settings_of
from .genai_tokenizer import genai_files
from .litertlm import SECTIONS, engine_prompts, metadata_of

SHOWN = 4  # differences listed in a message
FLAGS = ("supports_thinking", "supports_function_calling")
LENGTH = 60  # characters of a value in a message


@one_at_a_time
def verify(
    model: Any,
    path: str | os.PathLike[str],
    *,
    tolerance: float | None = None,
    input_signature: Any = None,
    samples: Any = None,
    precision: str | None = None,
    least_cosine: float | None = None,
    stop_tokens: Any = None,
    max_length: int | None = None,
) -> VerifyReport:
    """Compare an exported file, folder or bundle with the model it was made from, in the file's own runtime.

    The reference is ``model(...)`` itself, computed in float32 whatever its dtype policy is, so that overridden methods
    and replaced layers are compared too. The checks are:

    - names and dimensions of the inputs and outputs, the digest of the file, config and tokenizer;
    - weights, as they are stored: float32 and float16 bit by bit, integers as those nearest to the model's weight, with
      scales that their weights need;
    - for a file in another precision than float32, its float32 twin, the same graphs with the weights of the model,
      which must satisfy the rules of a float32 file in all of the comparisons below; then the file itself;
    - texts in batches of 1 and 3 with lengths from 1 to the maximum, without padding, with padding on the right, on the
      left and between tokens, and with a row without any token. The lengths of a large model are limited to those that
      take seconds, which is reported. A TFLite file is checked with its static shapes;
    - images of three sizes;
    - for a model that generates: prompts and decode steps up to the last slot of the key/value cache, which the file
      fills itself, and greedy decoding;
    - for any other Keras model: values of every kind (negative, zero, large and tiny numbers, integers of the whole
      range where nothing limits them, ids up to the last one, rows of padding) and sizes, as far as Keras accepts
      them; and every padding if an input is a mask. NaN and infinities are right where Keras has them too;
    - that two runs with the same inputs give the same outputs;
    - for a folder of ``to_genai``: genai_config.json and the tokenizer files, and ``model.onnx``;
    - for a bundle of ``to_litertlm``: its sections, its tokenizer, its metadata with the end tokens, the chat template
      and the prompt prefixes, and the TFLite file inside.

    Args:
        model: the model that the file was exported from.
        path: path of an ``.onnx``, ``.tflite`` or ``.litertlm`` file, or of a folder of ``to_genai``.
        tolerance: the largest accepted difference, relative to the largest magnitude of an output. A larger difference
            is accepted if the same model in float64 shows that it comes from rounding; see ``comparison.py``. Default:
            2e-5 for a float32 file. For another precision, the mean cosine similarity over the positions of every row
            must be high enough instead: 1 - cosine may be up to three times 1 - `least_cosine`. Single positions are
            held to what the export measured, with a margin for other processors and one of 20 as an exception; see
            docs/verification.md.
        input_signature: the `input_signature` of the export, if there was one.
        samples: for a model that is not of this package: inputs by name, or a list of such mappings, which are compared
            in place of synthetic inputs. For models that only accept or only make sense for particular values.
        precision: the precision that the file must have: "fp32", "fp16", "int8" or "int4". Default: the one that it
            says it has, which its stored weights must show.
        least_cosine: the `least_cosine` of the export, if there was one. What the file says of its accuracy can only
            make its limits stricter. Default: 0.999 for fp16, 0.97 for int8 and 0.9 for int4.
        stop_tokens, max_length: those of ``to_genai`` or ``to_litertlm``, if there were some.

    Returns:
        The ``VerifyReport``. A failed check does not raise an error; see `passed`.

    Raises:
        ValueError: the file does not exist or cannot be read, the model could not have been exported, `tolerance` is
            not a positive number, or another argument is not accepted.
    """
    start = time.perf_counter()
    asked = Asked(tolerance, input_signature, samples, precision, least_cosine)
    with _opened(model, Path(path), asked, {"stop_tokens": stop_tokens, "max_length": max_length}) as whole:
        return whole.file.report(Path(path), whole.format, start, (*whole.own, *whole.file.checks()))


@one_at_a_time
def first_fault(model: Any, path: str | os.PathLike[str]) -> Check | None:
    """Return the first check that fails, other than that of a file's digest, or None. The rest is not computed."""
    with _opened(model, Path(path), Asked(), {}) as whole:
        found = itertools.chain(whole.own, whole.file.checks())
        return next((check for check in found if not check.passed and check.name != "bytes"), None)


@dataclass(frozen=True)
class _Whole:
    """A file, folder or bundle to be compared.

    Attributes:
        format: "onnx", "tflite", "genai" or "litertlm".
        file: the ONNX or TFLite file, or the one inside.
        own: the checks of a folder or bundle beside those of its file.
    """

    format: str
    file: Opened
    own: Iterable[Check] = ()


@contextmanager
def _opened(model: Any, path: Path, asked: Asked, options: Mapping[str, Any]) -> Iterator[_Whole]:
    """Open what is at `path`. `options` are those of ``to_genai`` and ``to_litertlm`` that ``verify`` takes too."""
    if path.is_dir():
        if missing := [name for name in (CONFIG_FILE, MODEL_FILE) if not (path / name).is_file()]:
            raise ValueError(f"path: got {path} without {' and '.join(missing)}; accepted: a folder of to_genai")
        model = exportable(model)
        yield _Whole("genai", opened(model, path / MODEL_FILE, asked), _of_genai(model, path, options))
    elif path.suffix == ".litertlm" and path.is_file():
        model, bundle = exportable(model), load(path)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.tflite"
            part = section(path, "TFLiteModel")
            with path.open("rb") as source, file.open("wb") as target:
                source.seek(part.begin)
                shutil.copyfileobj(_Part(source, part.end - part.begin), target)
            slots = load(file).decoder().max_length
            yield _Whole("litertlm", opened(model, file, asked), _of_litertlm(model, path, bundle, slots, options))
    else:
        if given := [name for name, value in options.items() if value is not None]:
            value = options[given[0]]
            raise ValueError(f"{given[0]}: got {value!r} for {path.name}; accepted: None, or a folder or a bundle")
        file = opened(model, path, asked)
        yield _Whole(file.runner.format, file)


def _of_genai(model: Any, folder: Path, own: Mapping[str, Any]) -> Iterator[Check]:
    ends = ends_of(model, own.get("stop_tokens"), "which GenAI needs")
    shared = load(folder / MODEL_FILE)._main.padding is not None  # the file has ONNX Runtime's own attention
    signature = decoder_graphs(model)["decoder"].signature
    expected = json.loads(json.dumps(settings_of(model, signature, ends, own.get("max_length"), shared)))
    try:
        found = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        found["model"]["decoder"]["session_options"] = expected["model"]["decoder"]["session_options"]  # of the device
    except (ValueError, KeyError, TypeError, RecursionError):
        yield Check("settings", False, None, f"{CONFIG_FILE} cannot be read")
    else:
        yield _same("settings", _flat(expected), _flat(found))
    files = {} if model.tokenizer is None else genai_files(model.tokenizer)
    stored = {name: file.read_bytes() for name in _TEXTS if (file := folder / name).is_file()}
    wrong = [n for n in sorted({*files, *stored}) if files.get(n, "").encode() != stored.get(n, b"")]
    detail = f"differs in: {', '.join(wrong)}" if wrong else "matches the model"
    yield Check("tokenizer of the folder", not wrong, None, detail)


_TEXTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def _of_litertlm(model: Any, path: Path, bundle: Any, slots: int, own: Mapping[str, Any]) -> Iterator[Check]:
    from google.protobuf.json_format import MessageToDict

    kinds = [part.kind for part in sections(path)]
    purpose = section(path, "TFLiteModel").model_type
    right = sorted(kinds) == sorted(SECTIONS) and purpose == "tf_lite_prefill_decode"
    yield Check("sections", right, None, f"{', '.join(kinds)}; the model is for {purpose}")
    if model.tokenizer is None:
        yield Check("tokenizer of the bundle", False, None, "the model has none")
        return
    try:
        vocabulary = zlib.decompress(content(path, "HF_Tokenizer_Zlib")[8:])
    except (zlib.error, ValueError):
        vocabulary = b""
    same = vocabulary == model.tokenizer.to_files(indent=False)[FILE].encode()
    yield Check("tokenizer of the bundle", same, None, "matches the model" if same else f"{FILE} differs")
    with named_extras():
        request = ExportRequest.of("litertlm", path, **own)
        expected, _ = metadata_of(model, *engine_prompts(model, request), slots)
    sides = [MessageToDict(message, preserving_proto_field_name=True) for message in (expected, bundle.said)]
    for flag in FLAGS:  # which the builder writes
        if sides[1].get(flag) is False:
            del sides[1][flag]
    if any("strftime_now" in template for template in model.tokenizer.chat_templates.values()):
        for side in sides:  # they hold the date of the export
            side.pop("jinja_prompt_template", None)
            side.pop("prompt_templates", None)
    yield _same("settings", *map(_flat, sides))


class _Part:
    """The next bytes of an open file, as a file of its own."""

    def __init__(self, source: Any, size: int) -> None:
        self.source, self.left = source, size

    def read(self, size: int = -1) -> bytes:
        found = self.source.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(found)
        return found


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping, whose names have the form "model.decoder.filename".

    Empty ones stay: a message without fields may be one of several alternatives.
    """
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        return {name: value}
    found: dict[str, Any] = {}
    for key, inner in items:
        found |= _flat(inner, f"{name}.{key}".lstrip("."))
    return found


def _same(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Check:
    def told(side: Mapping[str, Any], key: str) -> Any:
        return (type(side[key]), side[key]) if key in side else None  # True is not 1

    wrong = sorted(key for key in {*ours, *theirs} if told(ours, key) != told(theirs, key))
    said = [f"{key} is {_short(theirs.get(key))}, expected {_short(ours.get(key))}" for key in wrong[:SHOWN]]
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return Check(name, not wrong, None, "; ".join(said) + more or "matches the model")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= LENGTH else f"{shown[:LENGTH]}…"
