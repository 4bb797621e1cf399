"""Faults that are planted in exported files, folders and bundles, in every format and precision. ``verify`` must find
each of them.

    python tests/faults.py [format [precision]]     # prints the tables of docs/verification.md

A fault is planted in a correct file, or in an exporter whose own check is disabled. A fault counts as found if a check
other than that of the digest fails, and as placed if that check names the layer, the weight or the output.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

from planted.bundles import BUNDLES, FOLDERS, rewrite_bundle
from planted.fault import ALL, FORMATS, PRECISIONS, Fault
from planted.files import FILE_FAULTS, rewrite
from planted.graphs import GRAPHS
from planted.numbers import NUMBERS

from attention_zoo import export
from attention_zoo.export.bundles.verify import first_fault
from attention_zoo.export.onnx import exporter as onnx_exporter
from attention_zoo.export.tflite import exporter as tflite_exporter
from attention_zoo.runtime.tflite.runner import TFLiteRunner

FAULTS: dict[str, Fault] = {
    **NUMBERS,
    **FILE_FAULTS,
    **GRAPHS,
    **{name: replace(fault, formats=("genai",)) for name, fault in FOLDERS.items()},
    **{name: replace(fault, formats=("litertlm",)) for name, fault in BUNDLES.items()},
}
INSIDE = {"genai": "onnxruntime", "litertlm": "tflite"}  # the format of the file in a folder or bundle


class Planting:
    """Correct files, and copies of them with faults, in a folder.

    The file in a folder for GenAI or in a bundle is the one that is also exported alone, so that one export serves
    both, and TFLite files of a model in all precisions are made from one conversion.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[Callable[[], Any], Any] = {}
        self.sound: dict[Any, Path] = {}
        self.faulty: dict[Any, Path] = {}
        self.converted: dict[Any, Any] = {}

    def model(self, fault: Fault) -> Any:
        """Return the correct model."""
        if fault.model not in self.models:
            self.models[fault.model] = fault.model()
        return self.models[fault.model]

    def planted(self, name: str, format: str, precision: str) -> Path:
        """Return the path of a file, folder or bundle with this fault."""
        fault = FAULTS[name]
        model = self.model(fault)
        alone = self._inside(format, model)
        if fault.exporting is not None:
            file = self._faulty(name, fault, alone, precision)
        elif fault.changing is not None:
            file = self._copy(self.exported(fault, alone, precision), "file")
            fault.changing(model, file)
        else:
            file = self.exported(fault, alone, precision)
        if format == alone:
            return file
        whole = self._copy(self.exported(fault, format, precision), "whole")
        if fault.folder is not None:
            fault.folder(whole)
        elif format == "genai":
            shutil.copy(file, whole / "model.onnx")
        elif fault.bundle is not None:
            rewrite_bundle(whole, fault.bundle)
        else:
            rewrite_bundle(whole, lambda contents: setattr(contents, "file", file))
        return whole

    def exported(self, fault: Fault, format: str, precision: str) -> Path:
        """Return the path of the correct export in a format, which is made and verified once for each model."""
        key = (fault.model, fault.cache, format, precision)
        if key not in self.sound:
            model = self.model(fault)
            path = self._export(model, fault, format, precision, f"sound{len(self.sound)}", None)
            if fault.exporting is None:
                assert (wrong := first_fault(model, path)) is None, (format, precision, wrong)
            self.sound[key] = path
        return self.sound[key]

    def _inside(self, format: str, model: Any) -> str:
        if format == "genai" and not str(model.config.position).startswith("rotary"):
            return "onnx"
        return INSIDE.get(format, format)

    def _faulty(self, name: str, fault: Fault, format: str, precision: str) -> Path:
        """Return the file of an export with a fault, whose metadata is that of a correct one."""
        key = (name, format, precision)
        if key not in self.faulty:
            model = self.model(fault)
            config = json.dumps(model.config.to_dict())
            file = self._export(model, fault, format, precision, f"faulty{len(self.faulty)}", fault.exporting)
            rewrite(file, lambda entries: entries.update({"attention_zoo.config": config}))
            self.faulty[key] = file
        return self.faulty[key]

    def _copy(self, path: Path, name: str) -> Path:
        """Copy a correct file, with the file of its encoder, or a folder, to the folder `name`."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path.parent, target)
        return target / path.name

    def _export(self, model: Any, fault: Fault, format: str, precision: str, name: str, exporting: Any) -> Path:
        """Export a model without the exporters' own comparison with Keras."""
        options: dict[str, Any] = {"precision": precision, "least_cosine": None if precision == "fp32" else 0.0}
        (self.folder / name).mkdir()
        suffix = {"onnx": ".onnx", "onnxruntime": ".onnx", "genai": ""}.get(format, f".{format}")
        path = self.folder / name / f"m{suffix}"
        key = (fault.model, fault.cache, exporting)
        with ExitStack() as stack:
            for exporter in (onnx_exporter, tflite_exporter):
                stack.enter_context(mock.patch.object(exporter, "quick_check", lambda *_: 0.0))
            plain = tflite_exporter._in_float32
            once = lambda *args: self._once(key, plain, *args)  # noqa: E731
            stack.enter_context(mock.patch.object(tflite_exporter, "_in_float32", once))
            stack.enter_context(nullcontext() if exporting is None else exporting(model))
            if format in INSIDE:
                to: Any = export.to_genai if format == "genai" else export.to_litertlm
                to(model, path, **options, **({"prefill": 16} if format == "litertlm" else {}))
            elif format == "tflite":
                sizes: dict[str, Any] = {"prefill": 16} if fault.cache and model.generates else {}
                if not sizes and "height" not in model.signature.limits:
                    sizes = {} if fault.cache else {"sequence_length": model.config.max_length}
                export.to_tflite(model, path, cache=fault.cache and model.generates, **sizes, **options)
            else:
                target = "onnxruntime" if format == "onnxruntime" else None
                export.to_onnx(model, path, cache=fault.cache and model.generates, target=target, **options)
        return path

    def _once(self, key: Any, convert: Callable[..., Any], *args: Any) -> Any:
        """Convert a model to TFLite, or return the conversion of the same model for another precision."""
        file = args[-1]
        if key not in self.converted:
            weights, joint, runner = convert(*args)
            self.converted = {key: (runner.path.read_bytes(), weights, joint)}
            return weights, joint, runner
        content, weights, joint = self.converted[key]
        file.write_bytes(content)
        return weights, joint, TFLiteRunner(file)


def cells(format: str | None = None, precision: str | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield the names of faults, formats and precisions, of which two may be given."""
    for (name, fault), own, kind in itertools.product(FAULTS.items(), PRECISIONS, ALL):
        possible = kind in fault.formats and own in fault.precisions
        if possible and format in (None, kind) and precision in (None, own):
            yield name, kind, own


def found_by(planting: Planting, name: str, format: str, precision: str) -> str:
    """Return the first check that fails and what it says, "load" if the file cannot be loaded, or ""."""
    path = planting.planted(name, format, precision)
    try:
        check = first_fault(planting.model(FAULTS[name]), path)
    except ValueError as error:
        return f"load: {error}"
    return "" if check is None else f"{check.name}: {check.detail}"


def placed(name: str, said: str) -> bool:
    """Return whether a message names the place of a fault."""
    return any(place in said for place in FAULTS[name].place)


def tables(results: dict[tuple[str, str, str], str]) -> Iterator[str]:
    """Yield the lines of two tables: what was found of each fault, and in each format and precision."""
    yield f"| fault | {' | '.join(FORMATS)} | found by |\n|---|{'---:|' * len(FORMATS)}---|"
    for name in dict.fromkeys(name for name, *_ in results):
        said: dict[str, list[str]] = defaultdict(list)
        for (one, format, _), found in results.items():
            if one == name:
                said[format].append(found)
        row = [f"{sum(map(bool, said[f]))} of {len(said[f])}" if f in said else "" for f in FORMATS.values()]
        checks = {kind(found) for each in said.values() for found in each if found}
        yield f"| {name} | {' | '.join(row)} | {', '.join(sorted(checks))} |"
    yield "\n| | planted | found | have a place | placed |\n|---|---:|---:|---:|---:|"
    groups = [
        (f"{column}, {precision}", (format, precision))
        for column, format in FORMATS.items()
        for precision in PRECISIONS
    ]
    for title, group in [*groups, ("all", None)]:
        own = {name: found for name, found in results.items() if group in (None, name[1:])}
        if own:
            with_place = [found for name, found in own.items() if FAULTS[name[0]].place]
            at = sum(placed(name[0], found) for name, found in own.items())
            yield f"| {title} | {len(own)} | {sum(map(bool, own.values()))} | {len(with_place)} | {at} |"


def kind(said: str) -> str:
    """Return the kind of the check that failed."""
    name = said.partition(":")[0]
    known = ("load", "weights", "precision", "config", "settings", "sections", "in float32", "names and dimensions")
    return name if name in known or name.startswith("tokenizer") else "results"


def main(format: str | None = None, precision: str | None = None) -> None:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        planting = Planting(Path(folder))
        for name, *where in cells(format, precision):
            said = found_by(planting, name, *where)
            results[name, *where] = said
            mark = "" if placed(name, said) or not FAULTS[name].place else "(no place) "
            print(f"{' '.join(where)}: {name}: {mark}{said[:300] or 'NOT FOUND'}", file=sys.stderr, flush=True)
    print(*tables(results), sep="\n", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
